"""From an accumulator to a wide element: rounding shift and saturation."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import MAX_SHIFT
from hdl.params import ACC_BITS, WIDE_BITS
from hdl.timing import REQUANTISE_LATENCY

__all__ = ["Requantise", "left_shift"]


def left_shift(params):
    """Largest exponent of a row and a column together: the margin of :class:`Requantise`."""
    return 2 * (params.max_groups - 1)


class Requantise(wiring.Component):
    """``requantise(i * 2**left, shift)``, one lane of ``sim.model.requantise``.

    The rounding right shift, half up, of an accumulator that has first been scaled by a constant,
    then clamped to a wide element. An exponent ``e <= left`` is a smaller ``shift``, exactly:
    ``requantise(i * 2**e, s) == requantise(i * 2**left, s + left - e)``.

    Pipeline of four stages: two halves of the shifter, rounding, clamping. One element per clock,
    lock step.

    Parameters
    ----------
    left : int

    Members
    -------
    i : In(signed(ACC_BITS))
    shift : In(range(MAX_SHIFT + left + 1))
    o : Out(signed(WIDE_BITS))
    clamped : Out(1)
        ``o`` is not the rounded value.
    """
    LATENCY = REQUANTISE_LATENCY

    def __init__(self, left):
        self.left = left
        super().__init__({
            "i": In(signed(ACC_BITS)), "shift": In(range(MAX_SHIFT + left + 1)),
            "o": Out(signed(WIDE_BITS)), "clamped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # One fraction bit is kept for the rounding.
        wide = signed(ACC_BITS + self.left + 1)
        split = (len(self.shift) + 1) // 2

        # Stage 1: the coarse half of the shift.
        coarse = Signal(wide, reset_less=True)
        fine_shift = Signal(split, reset_less=True)
        m.d.sync += [
            coarse.eq((self.i << (self.left + 1)) >> (self.shift[split:] << split)),
            fine_shift.eq(self.shift[:split]),
        ]
        # Stage 2: the fine half.
        fine = Signal(wide, reset_less=True)
        m.d.sync += fine.eq(coarse >> fine_shift)
        # Stage 3: half up.
        rounded = Signal(signed(ACC_BITS + self.left + 1), reset_less=True)
        m.d.sync += rounded.eq((fine >> 1) + fine[0])
        # Stage 4: saturation. It is in range if all bits above the sign bit equal it.
        upper = rounded[WIDE_BITS - 1:]
        beyond = upper.any() & ~upper.all()
        largest = (1 << WIDE_BITS - 1) - 1
        m.d.sync += [
            self.o.eq(Mux(beyond, largest ^ rounded[-1].replicate(WIDE_BITS), rounded)),
            self.clamped.eq(beyond),
        ]
        return m
