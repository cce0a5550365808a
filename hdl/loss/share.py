"""Shares of a sum, divided by the number of rows: serial dividers side by side."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.loss.logarithm import SUM_BITS
from hdl.loss.product import VALUE_BITS
from hdl.params import MAX_M

__all__ = ["GRADIENT_BITS", "Shares"]

#: Fraction bits of a share.
_FRACTION = 22
#: Width of a gradient, signed.
GRADIENT_BITS = _FRACTION + 2
#: Quotient bits of either division, which has as many steps.
_STEPS = _FRACTION + 1
#: Width of a count of rows, and how far it is shifted at most.
_COUNT_BITS = (MAX_M + 1).bit_length()
_NORMALISED = 1 << _COUNT_BITS - 1


def _add_or_subtract(remainder, low, divisor):
    """The step of a division without restoring: twice the remainder and its new low bit, less the
    divisor if the remainder is not negative, more it if it is; of the remainder's width."""
    bits = len(remainder)
    subtract = ~remainder[-1]
    # One adder, whose carry comes in as a bit below the lowest.
    first = Cat(Const(1), low, remainder[:-1])
    second = Cat(subtract, divisor ^ subtract.replicate(bits))
    return (first + second)[1:bits + 1]


class _Divider(wiring.Component):
    """One of the dividers of :class:`Shares`.

    Two divisions without restoring, the second one on the bits of the first one's quotient as they
    come: after its nine highest bits, which are less than the second divisor. A quotient bit says
    that the remainder is not negative after its step. Numbers below are clocks since ``load``; a
    ``load`` may come ``INTERVAL`` clocks after the one before.

    Members
    -------
    load : In(1)
    e : In(VALUE_BITS)
    marked : In(1)
    total : In(SUM_BITS)
        Taken with ``load``.
    divisor : In(_COUNT_BITS)
    second : In(1)
        ``SECOND`` clocks after ``load``.
    fill : In(1)
        ``FILL`` clocks after it.
    o : Out(signed(GRADIENT_BITS))
        ``LATENCY`` clocks after it, for one clock.
    """
    INTERVAL = _STEPS + 1
    #: Low bits that the numerator of the second division has beside those of the first quotient.
    _SCALE = _COUNT_BITS - 1
    SECOND = 2 + _SCALE
    FILL = SECOND + _STEPS - _SCALE
    LATENCY = SECOND + 1 + _STEPS + 1

    def __init__(self):
        super().__init__({
            "load": In(1), "e": In(VALUE_BITS), "marked": In(1), "total": In(SUM_BITS),
            "divisor": In(_COUNT_BITS), "second": In(1), "fill": In(1),
            "o": Out(signed(GRADIENT_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        # 1 to 23: steps of e / total, from e / 2 on. What |remainder| <= total fits is also what
        # total itself needs.
        remainder = Signal(signed(SUM_BITS), reset_less=True)
        total, low = Signal(SUM_BITS, reset_less=True), Signal(reset_less=True)
        marked, first = Signal(reset_less=True), Signal(2, reset_less=True)
        m.d.sync += [first.eq(Cat(self.load, first)), low.eq(0),
                     remainder.eq(_add_or_subtract(remainder, low, total))]
        with m.If(self.load):
            m.d.sync += [Cat(low, remainder).eq(self.e), total.eq(self.total),
                         marked.eq(self.marked)]

        # 2 to 24: bits of the share, less 1 if it is marked. It is negative then unless the share
        # is 1; of a negative number n the second division takes ~n.
        share, negative, bit = ~remainder[-1], Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += bit.eq(share ^ negative)
        with m.If(first[-1]):
            m.d.sync += [bit.eq(share & ~marked), negative.eq(~share & marked)]

        # 3 to 11: the highest of them; 12 to 34: steps of the second division, with the bits that
        # scale the numerator once those of the share are over.
        head = Signal(self._SCALE - 1, reset_less=True)
        rest = Signal(signed(_COUNT_BITS), reset_less=True)
        inverted, filling = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            head.eq(Cat(bit, head)),
            rest.eq(_add_or_subtract(rest, Mux(filling, inverted, bit), self.divisor)),
        ]
        with m.If(self.fill):
            m.d.sync += filling.eq(1)
        with m.If(self.second):
            m.d.sync += [rest.eq(Cat(bit, head)), inverted.eq(negative), filling.eq(0)]

        # 12 to 35: the gradient's bits, inverted again. The first one, before the first step, is
        # that of 0: the sign, the other way round.
        quotient = Signal(GRADIENT_BITS, reset_less=True)
        m.d.sync += quotient.eq(Cat(~rest[-1] ^ inverted, quotient))
        m.d.comb += self.o.eq(Cat(quotient[:-1], ~quotient[-1]))
        return m


class Shares(wiring.Component):
    """``o = floor((p - 2**22 [marked]) 2**s / m)`` with ``p = floor(2**22 e / total)`` and
    ``s = bit_length(m - 1)``; the gradient of ``sim.model.softmax.cross_entropy``.

    ``dividers`` serial dividers take elements in turn, each :attr:`Shares.INTERVAL` clocks.
    Both divisions have 23 steps: ``e <= total``, and m is scaled so that ``2**8 < m 2**(9-s) <=
    2**9``, by which ``(p - 2**22 [marked]) 2**9`` is divided. The second one begins while
    the first goes on. ``valid`` comes ``LATENCY`` clocks after ``en``.

    Parameters
    ----------
    dividers : int

    Members
    -------
    start : In(1)
        Take ``m``; no element may be inside or come within ten clocks.
    m : In(range(MAX_M + 1))
    en : In(1)
        An element comes; ``INTERVAL`` clocks or more before the one ``dividers`` after it.
    e : In(VALUE_BITS)
    marked : In(1)
    total : In(SUM_BITS)
        At least e.
    valid : Out(1)
    o : Out(signed(GRADIENT_BITS))
    """
    INTERVAL = _Divider.INTERVAL
    LATENCY = _Divider.LATENCY + 1

    def __init__(self, dividers):
        assert dividers >= 1
        self.dividers = dividers
        super().__init__({
            "start": In(1), "m": In(range(MAX_M + 1)),
            "en": In(1), "e": In(VALUE_BITS), "marked": In(1), "total": In(SUM_BITS),
            "valid": Out(1), "o": Out(signed(GRADIENT_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        divisor = Signal(_COUNT_BITS, reset_less=True)
        with m.If(self.start):
            m.d.sync += divisor.eq(self.m)
        with m.Elif(divisor <= _NORMALISED >> 1):
            m.d.sync += divisor.eq(divisor << 1)

        # Whose turn it is for each thing that happens, so many clocks after an element came.
        age = Signal(_Divider.LATENCY + 1)
        behind = Signal(_Divider.LATENCY)
        m.d.comb += age.eq(Cat(self.en, behind))
        m.d.sync += behind.eq(age)
        turns = {}
        for name, clocks in (("load", 0), ("second", _Divider.SECOND), ("fill", _Divider.FILL),
                             ("leave", _Divider.LATENCY)):
            turn = Signal(self.dividers, init=1, name=f"turn_{name}")
            with m.If(age[clocks]):
                m.d.sync += turn.eq(turn.rotate_left(1))
            turns[name] = turn & age[clocks].replicate(self.dividers)

        found = Const(0, GRADIENT_BITS)
        for number in range(self.dividers):
            m.submodules[f"divider_{number}"] = divider = _Divider()
            m.d.comb += [
                divider.load.eq(turns["load"][number]),
                divider.e.eq(self.e),
                divider.marked.eq(self.marked),
                divider.total.eq(self.total),
                divider.divisor.eq(divisor),
                divider.second.eq(turns["second"][number]),
                divider.fill.eq(turns["fill"][number]),
            ]
            found = found | divider.o & turns["leave"][number].replicate(GRADIENT_BITS)
        o = Signal(signed(GRADIENT_BITS), reset_less=True)
        m.d.sync += [o.eq(found), self.valid.eq(age[-1])]
        m.d.comb += self.o.eq(o)
        return m
