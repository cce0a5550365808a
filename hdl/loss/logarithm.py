"""The logarithm: sixteen squarings."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.loss.product import FRACTION, VALUE_BITS, Product
from hdl.norm.arithmetic import Multiplier

__all__ = ["LOG_BITS", "SUM_BITS", "Logarithm"]

#: Width of an argument, unsigned: a sum of 4,096 exponentials, each up to ``2**FRACTION``.
SUM_BITS = (4096 << FRACTION).bit_length()
#: Width of the result, unsigned: of the largest sum it is ``12 ln(2) 2**16``.
LOG_BITS = 20
#: ``floor(2**16 ln(2))``.
_LN_2 = 45426
#: Squarings, each a fraction bit of the binary logarithm.
_STEPS = 16
#: Places that an argument can have above those of a value.
_ABOVE = SUM_BITS - VALUE_BITS

_ITEM = data.StructLayout({
    #: The fraction of the binary logarithm, as far as it is known.
    "fraction": _STEPS,
    "whole": range(_ABOVE + 1),
})


class Logarithm(wiring.Component):
    """``floor(2**16 ln(x 2**-30))`` as ``sim.model.softmax.logarithm`` has it, for
    ``2**30 <= x <= 2**42``.

    x is shifted until its top bit is set, one place per clock. Its mantissa then passes a
    multiplier sixteen times, squared each time; ``Product.LATENCY`` is odd, so that an argument can
    enter this ring every 16 clocks. An argument waits for its turn up to 15 clocks, which depends
    on when it comes but not on what it is: ``valid`` comes at most ``LONGEST`` clocks after
    ``start``, in the order of the arguments.

    Members
    -------
    start : In(1)
        At least ``INTERVAL`` clocks after another one.
    x : In(SUM_BITS)
    valid : Out(1)
    o : Out(LOG_BITS)
    """
    INTERVAL = _STEPS
    LONGEST = 1 + _ABOVE + 1 + _STEPS - 1 + _STEPS * Product.LATENCY + 1 + Multiplier.LATENCY

    def __init__(self):
        super().__init__({"start": In(1), "x": In(SUM_BITS), "valid": Out(1), "o": Out(LOG_BITS)})

    def elaborate(self, platform):
        m = Module()
        # Normalise: the same time for all.
        x, whole = Signal(SUM_BITS, reset_less=True), Signal(range(_ABOVE + 1), reset_less=True)
        m.submodules.shifting = shifting = Delay(1, 1 + _ABOVE, reset=True)
        m.d.comb += shifting.i.eq(self.start)
        with m.If(self.start):
            m.d.sync += [x.eq(self.x), whole.eq(_ABOVE)]
        with m.Elif(~x[-1]):
            m.d.sync += [x.eq(x << 1), whole.eq(whole - 1)]

        # Wait for phase 0.
        phase = Signal(range(_STEPS))
        mantissa, waiting = Signal(VALUE_BITS, reset_less=True), Signal()
        held = Signal(range(_ABOVE + 1), reset_less=True)
        enter = Signal()
        m.d.comb += enter.eq(phase == 0)
        m.d.sync += phase.eq(phase + 1)
        with m.If(enter):
            m.d.sync += waiting.eq(0)
        with m.If(shifting.o):
            m.d.sync += [mantissa.eq(x[_ABOVE:]), held.eq(whole), waiting.eq(1)]

        # Square; what reaches 2 is halved, and that is a bit of the logarithm.
        m.submodules.product = product = Product()
        m.submodules.item = item = Delay(_ITEM, Product.LATENCY)
        m.submodules.inside = inside = Delay(1, Product.LATENCY, reset=True)
        now, again = Signal(_ITEM), Signal(_ITEM)
        square, high = Signal(VALUE_BITS), product.o[-1]
        m.d.comb += [
            again.eq(item.o),
            again.fraction.eq(Cat(high, item.o.fraction)),
            now.eq(again),
            square.eq(Mux(enter, mantissa, Mux(high, product.o[1:], product.o[:-1]))),
            inside.i.eq(Mux(enter, waiting, inside.o)),
            product.a.eq(square), product.b.eq(square), item.i.eq(now),
        ]
        with m.If(enter):
            m.d.comb += now.whole.eq(held)

        # From base 2 to base e.
        binary, found = Signal(LOG_BITS, reset_less=True), Signal()
        m.d.sync += [binary.eq(again.as_value()), found.eq(enter & inside.o)]
        m.submodules.scale = scale = Multiplier(LOG_BITS + 1)
        m.d.comb += [
            scale.en.eq(found), scale.a.eq(binary), scale.b.eq(_LN_2),
            self.valid.eq(scale.valid),
            self.o.eq(scale.o[_STEPS:]),
        ]
        return m
