"""From magnitudes to a range, its inverse and its shift."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.divide import Divider
from hdl.params import WIDE_BITS

__all__ = ["INVERSE_BITS", "MAGNITUDE_BITS", "RANGE_SHIFT_BITS", "Scale", "Scaling", "sum_bits"]

#: Width of a magnitude, clamped to ``2**31 - 1``.
MAGNITUDE_BITS = WIDE_BITS - 1
#: Width of an inverse.
INVERSE_BITS = 16
#: Width of the shift that brings a range to ``MAGNITUDE_BITS`` bits.
RANGE_SHIFT_BITS = 5


def sum_bits(count):
    """Narrowest width of a sum of ``count`` magnitudes.

    >>> sum_bits(1), sum_bits(511)
    (31, 40)
    """
    return (count * (2**MAGNITUDE_BITS - 1)).bit_length()


class Scaling(data.Struct):
    """How a tensor or a column is scaled to its codes."""
    #: The magnitude that the largest code stands for.
    limit: MAGNITUDE_BITS
    #: ``inverse * 2**shift`` is about ``Q / limit``, never more; 0 for a range of 0.
    inverse: INVERSE_BITS
    #: Brings ``limit`` to ``MAGNITUDE_BITS`` bits; 0 for a range of 0.
    shift: RANGE_SHIFT_BITS


class Scale(wiring.Component):
    """The scaling of some elements; ``sim.model.quantise.reciprocal`` and the clip before it.

    ``limit = largest``, or, with a clip and if ``largest`` is not 0,
    ``max(min(largest, floor(clip * total / (4 * count))), 1)``. Then
    ``shift = 31 - bit_length(limit)`` and, with ``mantissa = ceil((limit << shift) / 2**15)``,
    ``inverse = floor(Q * 2**(31 - bits) / mantissa)``.

    Everything is serial: ``done`` pulses ``latency(clip)`` cycles after ``start``, and
    ``scaling`` holds from then until the next ``start``. One divider serves both quotients.

    Parameters
    ----------
    bits : int
        Width of a code.
    count : int
        Largest number of elements.

    Members
    -------
    start : In(1)
    largest : In(MAGNITUDE_BITS)
    total : In(sum_bits(count))
    count : In(range(count + 1))
    clip : In(8)
    unsigned : In(1)
        Codes are ``0 .. 2**bits - 1`` instead of ``-B .. B``.
    done : Out(1)
    scaling : Out(Scaling)
        All inputs must hold from ``start`` to ``done``.
    """
    CLIP_BITS = 8
    #: Cycles that normalise any range but 0, one place a cycle.
    NORMALISE_CYCLES = MAGNITUDE_BITS - 1

    def __init__(self, bits, count):
        self.bits = bits
        self.max_count = count
        super().__init__({
            "start": In(1),
            "largest": In(MAGNITUDE_BITS),
            "total": In(sum_bits(count)),
            "count": In(range(count + 1)),
            "clip": In(self.CLIP_BITS),
            "unsigned": In(1),
            "done": Out(1),
            "scaling": Out(Scaling),
        })
        # The products and quotients of the worst case, and a sign.
        self.product_bits = sum_bits(count * (2**self.CLIP_BITS - 1)) + 1
        quotient_bits = sum_bits(2**self.CLIP_BITS - 1) - 2 + 1
        self.divider = Divider(self.product_bits, max(count.bit_length() + 2, INVERSE_BITS + 1),
                               quotient_bits)

    def latency(self, clip):
        """Cycles from ``start`` to ``done``."""
        clipping = self.CLIP_BITS + self.divider.latency + 1 if clip else 0
        return clipping + 1 + self.NORMALISE_CYCLES + 1 + self.divider.latency + 1

    def elaborate(self, platform):
        m = Module()
        m.submodules.divider = divider = self.divider
        limit, inverse, shift = self.scaling.limit, self.scaling.inverse, self.scaling.shift
        product = Signal(self.product_bits - 1)
        clip = Signal(self.CLIP_BITS)
        normal = Signal(MAGNITUDE_BITS)
        step = Signal(range(max(self.CLIP_BITS, self.NORMALISE_CYCLES)))
        mantissa = Signal(INVERSE_BITS + 1)
        m.d.comb += mantissa.eq(normal + 0x7FFF >> 15)
        m.d.sync += [self.done.eq(0), step.eq(step - 1)]

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [limit.eq(self.largest), product.eq(0), clip.eq(self.clip),
                             step.eq(self.CLIP_BITS - 1)]
                m.next = "LOAD"
                with m.If(self.clip != 0):
                    m.next = "MULTIPLY"

            # limit = max(min(largest, floor(clip * total / (4 * count))), 1).
            with m.State("MULTIPLY"):
                m.d.sync += [product.eq((product << 1) + Mux(clip[-1], self.total, 0)),
                             clip.eq(clip << 1)]
                with m.If(step == 0):
                    m.next = "CLIP"
            with m.State("CLIP"):
                m.d.comb += [divider.start.eq(1), divider.numerator.eq(product),
                             divider.denominator.eq(self.count << 2)]
                m.next = "CLIPPING"
            with m.State("CLIPPING"), m.If(divider.done):
                with m.If((self.largest != 0) & (divider.quotient < self.largest)):
                    m.d.sync += limit.eq(Mux(divider.quotient == 0, 1, divider.quotient))
                m.next = "LOAD"

            # shift = 31 - bit_length(limit).
            with m.State("LOAD"):
                m.d.sync += [normal.eq(limit), shift.eq(0), step.eq(self.NORMALISE_CYCLES - 1)]
                m.next = "NORMALISE"
            with m.State("NORMALISE"):
                with m.If(~normal[-1]):
                    m.d.sync += [normal.eq(normal << 1), shift.eq(shift + 1)]
                with m.If(step == 0):
                    m.next = "INVERT"

            # inverse = floor(Q * 2**(31 - bits) / mantissa).
            with m.State("INVERT"):
                top = Mux(self.unsigned, 2**self.bits - 1, 2**(self.bits - 1) - 1)
                m.d.comb += [divider.start.eq(1),
                             divider.numerator.eq(top << MAGNITUDE_BITS - self.bits),
                             divider.denominator.eq(mantissa)]
                m.next = "INVERTING"
            with m.State("INVERTING"), m.If(divider.done):
                m.d.sync += [inverse.eq(divider.quotient), self.done.eq(1)]
                with m.If(limit == 0):
                    m.d.sync += [inverse.eq(0), shift.eq(0)]
                m.next = "IDLE"
        return m
