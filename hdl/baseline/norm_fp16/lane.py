"""The datapath of one lane, forward and backward."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from hdl.baseline.norm_fp16.adder import FusedSum
from hdl.baseline.norm_fp16.divide import QUOTIENT
from hdl.baseline.norm_fp16.edges import Narrow
from hdl.floating.edges import Decode
from hdl.floating.formats import BINARY16, FP16
from hdl.norm.reciprocal import VALUE_BITS
from hdl.params import WIDE_BITS

__all__ = ["LANE_CONTROL", "NARROWED", "OPERAND", "PARTIAL_SUMS", "SUM_IN", "SUM_OUT",
           "Addend", "Factor", "Lane"]

#: Sums on their way through the adder.
PARTIAL_SUMS = FusedSum.STEP

# An operation's way through a lane: the cycle, counted from that in which its operand is on the
# read port or narrowed, in which it is an operand, its addend is taken, and its sum is there, at
# full width and in binary16, where it can be the operand of the next.
OPERAND = Decode.latency
SUM_OUT = OPERAND + FusedSum.LATENCY
SUM_IN = SUM_OUT - FusedSum.STEP
NARROWED = SUM_OUT + Narrow.LATENCY
# Rows come every two cycles: the second operation of one and the first of another take turns.
assert NARROWED % 2 == 1 and PARTIAL_SUMS % 2 == 0


class Factor(enum.Enum, shape=2):
    """What the operand is multiplied by."""
    ONE = 0
    FIRST = 1
    SECOND = 2
    ITSELF = 3


class Addend(enum.Enum, shape=2):
    """What the product is added to."""
    #: The sum that leaves the adder.
    FEEDBACK = 0
    KEPT = 1
    HELD = 2
    ZERO = 3


#: What all lanes are told.
LANE_CONTROL = data.StructLayout({
    # In cycle 0: the operand is that on the read port, or one, or what was narrowed.
    "memory": 1, "one": 1,
    # In cycle OPERAND: there is a product, or zero; what it is of.
    "issue": 1, "factor": Factor, "negate": 1,
    # The operand is kept as a factor.
    "load_first": 1, "load_second": 1,
    # In cycle SUM_IN: what is added; the held sum is added in place of the product.
    "addend": Addend, "join": 1,
    # In cycle SUM_OUT: the sum is held, kept.
    "hold": 1, "keep": 1,
    # The divider's results are means to be kept, or the first factor.
    "divided": 1, "rooted": 1,
})


class Lane(wiring.Component):
    """The datapath of one column: memory or narrowed sum -> decode -> fused multiply-add
    -> narrow -> memory.

    An operation takes an operand, in cycle 0, a factor and an addend. With ``Addend.FEEDBACK`` and
    an operation per clock there are ``PARTIAL_SUMS`` sums in the adder, each of every tenth; with
    no operation they go round unchanged.

    What a channel has is in four registers: two factors in binary16 (decoded), and two sums, the
    *kept* and the *held* one, in binary32. The held sum is the divider's operand.

    The adder looks neither for subnormal sums nor for overflow. Sums of products are multiples of
    ``2**-48``, the divider's results are not; but what one of them is added to differs from it by
    0 or by ``2**-48`` and more. Largest is a sum of squares, below ``2**42``.

    Parameters
    ----------
    mapped : bool
        See :class:`~hdl.baseline.norm_fp16.adder.FusedSum`.

    Members
    -------
    control : In(LANE_CONTROL)
    i : In(WIDE_BITS)
        The lane's word on the read port, of which the lower half is a binary16 number.
    take : In(1)
        ``quotient`` is this lane's.
    quotient : In(QUOTIENT)
    value : Out(VALUE_BITS)
        Magnitude of the held sum.
    o : Out(WIDE_BITS)
        A binary16 number in the lower half, in cycle ``NARROWED``.
    """
    def __init__(self, *, mapped=False):
        self.mapped = mapped
        super().__init__({
            "control": In(LANE_CONTROL),
            "i": In(WIDE_BITS),
            "take": In(1),
            "quotient": In(QUOTIENT),
            "value": Out(VALUE_BITS),
            "o": Out(WIDE_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        control, quotient = self.control, self.quotient
        m.submodules.decode = decode = Decode(FP16, FP16.offset)
        m.submodules.adder = adder = FusedSum(mapped=self.mapped)
        m.submodules.narrow = narrow = Narrow()

        # The operand.
        one = BINARY16.bias << BINARY16.fraction_bits
        source = Signal(BINARY16.width)
        m.d.comb += [
            source.eq(Mux(control.memory, self.i[:BINARY16.width], narrow.o.as_value())),
            decode.i.eq(Mux(control.one, one, source)),
            adder.a.eq(decode.o),
        ]

        # What a channel keeps.
        kept, held = (Signal(FP16.total_layout, name=name, reset_less=True)
                      for name in ("kept", "held"))
        shape = FP16.operand_layout()
        itself, first, second = (Signal(shape, name=name, reset_less=True)
                                 for name in ("itself", "first", "second"))

        # What the operand is multiplied by.
        m.d.comb += [itself.eq(decode.o), itself.exponent.eq(decode.o.exponent - FP16.offset)]
        with m.If(control.load_first):
            m.d.sync += first.eq(itself)
        with m.Elif(control.rooted & self.take):
            # The root of what is no number is none.
            m.d.sync += [first.fraction.eq(quotient.root_fraction),
                         first.exponent.eq(quotient.root_exponent), first.sign.eq(0),
                         first.one.eq(~held.special), first.special.eq(held.special)]
        with m.If(control.load_second):
            m.d.sync += second.eq(itself)
        factor = Signal(shape)
        with m.Switch(control.factor):
            for choice, value in ((Factor.ONE, shape.const({"one": 1})), (Factor.FIRST, first),
                                  (Factor.SECOND, second), (Factor.ITSELF, itself)):
                with m.Case(choice):
                    m.d.comb += factor.eq(value)
        m.d.comb += [adder.w.eq(factor), adder.w.sign.eq(factor.sign ^ control.negate)]
        with m.If(~control.issue):
            m.d.comb += [adder.a.one.eq(0), adder.a.special.eq(0), adder.a.sign.eq(0),
                         adder.w.special.eq(0)]

        # What it is added to.
        with m.Switch(control.addend):
            for choice, value in ((Addend.FEEDBACK, adder.sum_o), (Addend.KEPT, kept),
                                  (Addend.HELD, held), (Addend.ZERO, 0)):
                with m.Case(choice):
                    m.d.comb += adder.sum_i.eq(value)
        m.d.comb += [adder.join.eq(control.join), adder.other.eq(held)]

        # What becomes of the sum.
        with m.If(control.hold):
            m.d.sync += held.eq(adder.sum_o)
        with m.If(control.keep):
            m.d.sync += kept.eq(adder.sum_o)
        with m.Elif(control.divided & self.take):
            m.d.sync += [kept.eq(held), kept.significand.eq(quotient.significand),
                         kept.exponent.eq(quotient.exponent)]
        m.d.comb += [
            self.value.eq(Cat(held.significand, held.exponent)),
            narrow.i.eq(adder.sum_o),
            self.o.eq(narrow.o.as_value()),
        ]
        return m
