"""The exponential: a product of constants, and a shift."""

from math import isqrt

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.loss.product import FRACTION, VALUE_BITS, Product
from hdl.norm.arithmetic import Multiplier

__all__ = ["DISTANCE_BITS", "Exponential"]

#: Width of an argument, unsigned: the difference of two logits of 24 bits.
DISTANCE_BITS = 24
#: Fraction bits of a logit.
_LOGIT_FRACTION = 12
#: ``floor(2**16 log2(e))``.
_LOG2_E = 94548
#: Fraction bits of the exponent u, each with its constant.
_STEPS = 16
#: Width of a shift; the largest one leaves nothing.
_AMOUNT_BITS = 5


def _roots():
    """``2**30 * 2**-(2**-j)`` for j = 1..16, each the integer square root of the one before."""
    roots, value = [], 1 << FRACTION - 1
    for _ in range(_STEPS):
        value = isqrt(value << FRACTION)
        roots.append(value)
    return tuple(roots)


def _item(bits, carried):
    """What passes from step to step."""
    return data.StructLayout({
        "value": VALUE_BITS,
        #: Bits of the exponent whose constants are still to come, the next one at the top.
        "bits": bits,
        "carried": carried,
        "valid": 1,
    })


class _Steps(wiring.Component):
    """Some steps of the exponential on one multiplier: the value times the constant of each bit
    that is set, times 1 for one that is not.

    An element comes in with phase 0 and passes the multiplier as many times as there are steps,
    ``Product.LATENCY`` clocks apart. That is odd and the number of steps a power of two, so the
    passes of an element fall on different phases, each always on the same one, and elements
    that come in one after the other do not meet. It goes out with phase 0.

    Parameters
    ----------
    roots : sequence of int
        The constants; a power of two of them.
    bits, carried : int
        Widths of ``i``.

    Members
    -------
    phase : In(range(len(roots)))
    i : In(_item(bits, carried))
    o : Out(_item(bits - len(roots), carried))
        ``len(roots) * Product.LATENCY`` clocks later.
    """
    def __init__(self, roots, bits, carried):
        self.roots = roots
        self.bits = bits
        self.carried = carried
        super().__init__({
            "phase": In(range(len(roots))),
            "i": In(_item(bits, carried)),
            "o": Out(_item(bits - len(roots), carried)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.product = product = Product()
        count = len(self.roots)
        # Which step a phase is.
        by_phase = [self.roots[0]] * count
        for step, root in enumerate(self.roots):
            by_phase[step * Product.LATENCY % count] = root

        again, now = Signal(_item(self.bits, self.carried)), Signal(_item(self.bits, self.carried))
        m.d.comb += [
            now.eq(Mux(self.phase == 0, self.i, again) if count > 1 else self.i),
            product.a.eq(now.value),
            product.b.eq(Mux(now.bits[-1], Array(by_phase)[self.phase] if count > 1 else
                             by_phase[0], 1 << FRACTION)),
        ]
        m.submodules.valid = valid = Delay(1, Product.LATENCY, reset=True)
        m.submodules.rest = rest = Delay(self.bits + self.carried, Product.LATENCY)
        m.d.comb += [
            valid.i.eq(now.valid),
            rest.i.eq(Cat(0, now.bits[:-1], now.carried)),
            again.value.eq(product.o),
            again.valid.eq(valid.o),
            Cat(again.bits, again.carried).eq(rest.o),
            self.o.value.eq(again.value),
            self.o.bits.eq(again.bits[count:]),
            self.o.carried.eq(again.carried),
            # Between two phases 0 the passes of those that stay go by.
            self.o.valid.eq(again.valid),
        ]
        return m


class Exponential(wiring.Component):
    """``e = floor(2**30 exp(-t))`` as ``sim.model.softmax.exponential`` has it.

    ``u = t log2(e)``; the value begins as ``2**30``, the 16 bits of u's fraction choose whether it
    is multiplied by their constants, and u's integer part is a shift to the right. Each of the
    ``multipliers`` does 16 / ``multipliers`` of the steps. One element every ``interval``
    clocks, ``latency`` clocks from ``en`` to ``valid``, whatever the bits: one that is 0 is a
    multiplication by 1.

    Parameters
    ----------
    multipliers : int
        1, 2, 4, 8 or 16.
    tag_bits : int

    Members
    -------
    en : In(1)
        A multiple of ``interval`` clocks after another one, unless all elements have come out.
    t : In(DISTANCE_BITS)
    tag : In(tag_bits)
        Whatever comes out beside the element.
    valid : Out(1)
    e : Out(VALUE_BITS)
        Up to ``2**30``.
    tag_o : Out(tag_bits)
    """
    def __init__(self, multipliers, tag_bits):
        assert multipliers in (1, 2, 4, 8, 16)
        self.multipliers = multipliers
        self.tag_bits = tag_bits
        #: Clocks from one element to the next.
        self.interval = _STEPS // multipliers
        self.latency = Multiplier.LATENCY + 1 + _STEPS * Product.LATENCY + 2
        super().__init__({
            "en": In(1),
            "t": In(DISTANCE_BITS),
            "tag": In(tag_bits),
            "valid": Out(1),
            "e": Out(VALUE_BITS),
            "tag_o": Out(tag_bits),
        })

    def elaborate(self, platform):
        m = Module()
        # Stages 1 to 3: the exponent u.
        m.submodules.exponent = exponent = Multiplier(DISTANCE_BITS + 1)
        m.submodules.tags = tags = Delay(self.tag_bits, Multiplier.LATENCY)
        m.d.comb += [exponent.en.eq(self.en), exponent.a.eq(self.t), exponent.b.eq(_LOG2_E),
                     tags.i.eq(self.tag)]
        u = exponent.o[_LOGIT_FRACTION:]
        # Stage 4: its integer part as a shift. The phase is 0 when an element leaves this stage.
        carried = self.tag_bits + _AMOUNT_BITS
        first = Signal(_item(_STEPS, carried), reset_less=True)
        valid, phase = Signal(), Signal(range(self.interval))
        whole = u[_STEPS:]
        m.d.sync += [
            first.value.eq(1 << FRACTION),
            first.bits.eq(u[:_STEPS]),
            first.carried.eq(Cat(whole[:_AMOUNT_BITS] | whole[_AMOUNT_BITS:].any().replicate(
                _AMOUNT_BITS), tags.o)),
            valid.eq(exponent.valid),
            phase.eq(Mux(exponent.valid, 0, phase + 1)),
        ]
        item = Signal(first.shape())
        m.d.comb += [item.eq(first), item.valid.eq(valid)]

        # The steps.
        for number in range(self.multipliers):
            begin = number * self.interval
            steps = _Steps(_roots()[begin:begin + self.interval], _STEPS - begin, carried)
            m.submodules[f"steps_{number}"] = steps
            m.d.comb += [steps.phase.eq(phase), steps.i.eq(item)]
            item = steps.o

        # The shift, by multiples of 8 and by what is left.
        coarse, fine = Signal(VALUE_BITS, reset_less=True), Signal(VALUE_BITS, reset_less=True)
        amount, left = item.carried[:_AMOUNT_BITS], Signal(3, reset_less=True)
        tag, leaving = Signal(self.tag_bits, reset_less=True), Signal()
        m.d.sync += [
            coarse.eq(item.value >> Cat(Const(0, 3), amount[3:])),
            left.eq(amount[:3]),
            tag.eq(item.carried[_AMOUNT_BITS:]),
            leaving.eq(item.valid & (phase == 0)),
            fine.eq(coarse >> left),
            self.tag_o.eq(tag),
            self.valid.eq(leaving),
        ]
        m.d.comb += self.e.eq(fine)
        return m
