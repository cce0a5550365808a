"""The serial divider: the only division in the machine."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Divider"]


class Divider(wiring.Component):
    """Restoring division, a quotient bit per clock or two; ``sim.model.rounding.floor_divide``.

    ``quotient = floor(numerator / denominator)`` for a signed numerator and a positive
    denominator: a negative numerator n is divided as ``~floor(~n / d)``.

    ``done`` pulses ``latency`` cycles after ``start``; ``quotient`` then holds until the next
    ``start``. Dividing by 0 gives all ones (or its complement) and no other harm.

    Parameters
    ----------
    numerator_bits : int
        Width of the signed numerator.
    denominator_bits : int
        Width of the unsigned denominator.
    quotient_bits : int
        Width of the signed quotient; the caller knows that it fits. Bits above are not kept.
    short_bits : int or None
        Width of numerators that are divided in ``short_latency`` cycles; None: there are none.
    per_clock : int
        Quotient bits per clock, one step after the other in the same clock.

    Members
    -------
    start : In(1)
    numerator : In(signed(numerator_bits))
    denominator : In(unsigned(denominator_bits))
        Both are taken with ``start``.
    short : In(1)
        Taken with ``start``: divide the top ``short_bits`` of the numerator, those below being 0.
        Only if there are such.
    done : Out(1)
    quotient : Out(signed(quotient_bits))
    """
    def __init__(self, numerator_bits, denominator_bits, quotient_bits, short_bits=None,
                 *, per_clock=1):
        self.per_clock = per_clock
        self.numerator_bits = numerator_bits
        self.denominator_bits = denominator_bits
        self.quotient_bits = quotient_bits
        self.short_bits = short_bits or numerator_bits
        self.has_short = self.short_bits < numerator_bits
        assert not self.has_short or per_clock == 1
        self.latency = -(-numerator_bits // per_clock) + 1
        self.short_latency = self.short_bits + 1 if self.has_short else self.latency
        super().__init__({
            "start": In(1),
            "numerator": In(signed(numerator_bits)),
            "denominator": In(unsigned(denominator_bits)),
            **({"short": In(1)} if self.has_short else {}),
            "done": Out(1),
            "quotient": Out(signed(quotient_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        steps = self.latency - 1
        left = Signal(range(steps + 1))
        negative = Signal()
        # Numerator bits leave at the top while quotient bits enter at the bottom.
        work = Signal(steps * self.per_clock)
        remainder = Signal(self.denominator_bits)
        denominator = Signal(self.denominator_bits)

        following, quotient = remainder, []
        for bit in range(self.per_clock):
            shifted = Signal(self.denominator_bits + 1)
            difference = Signal(self.denominator_bits + 2)
            fits = Signal()
            m.d.comb += [
                shifted.eq(Cat(work[-1 - bit], following)),
                difference.eq(shifted - denominator),
                fits.eq(~difference[-1]),
            ]
            following = Mux(fits, difference, shifted)[:self.denominator_bits]
            quotient.insert(0, fits)
        m.d.sync += self.done.eq(0)
        with m.If(self.start):
            m.d.sync += [
                negative.eq(self.numerator < 0),
                work.eq(self.numerator.as_unsigned()
                        ^ (self.numerator < 0).replicate(self.numerator_bits)),
                remainder.eq(0),
                denominator.eq(self.denominator),
                left.eq(Mux(self.short, self.short_bits, steps) if self.has_short else steps),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                remainder.eq(following),
                work.eq(Cat(*quotient, work)),
                left.eq(left - 1),
                self.done.eq(left == 1),
            ]
        m.d.comb += self.quotient.eq(
            work[:self.quotient_bits] ^ negative.replicate(self.quotient_bits))
        return m
