"""Division and reciprocal of what a channel has once: serial, dividers shared by lanes."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from hdl.divide import Divider
from hdl.params import MAX_M

__all__ = ["COUNT_BITS", "LENGTH_BITS", "RECIPROCAL_BITS", "VALUE_BITS", "LaneDivider",
           "Operation", "Reciprocal", "divider_members", "divider_options"]

#: Width of a count of rows of a machine that keeps no masters.
COUNT_BITS = MAX_M.bit_length()
#: Width of a value of which the reciprocal is taken, unsigned: deviations and magnitudes.
VALUE_BITS = 31
#: Width of a value's bit length.
LENGTH_BITS = VALUE_BITS.bit_length()
#: Width of a reciprocal's mantissa, up to ``2**16``, unsigned.
RECIPROCAL_BITS = 17


class Operation(enum.Enum, shape=2):
    """What a :class:`Reciprocal` does."""
    #: quotient = floor(numerator / denominator)
    DIVIDE = 0
    #: quotient, length = reciprocal(value)
    INVERT = 1
    #: length = bit_length(value)
    LENGTH = 2
    #: quotient = floor(sqrt(numerator / denominator)); of :mod:`hdl.baseline.l2` alone
    ROOT = 3


def divider_members(numerator_bits, quotient_bits, rows=MAX_M):
    """Members of :class:`Reciprocal` and of what can take its place in a :class:`LaneDivider`, for
    divisions by up to ``rows``."""
    return {
        "start": In(1),
        "operation": In(Operation),
        "numerator": In(signed(numerator_bits)),
        "denominator": In(range(rows + 1)),
        "value": In(VALUE_BITS),
        "done": Out(1),
        "quotient": Out(signed(quotient_bits)),
        "length": Out(LENGTH_BITS),
    }


def divider_options(params):
    """Of a norm's :class:`LaneDivider`: 4 lanes share a divider of a bit per clock, but where units
    overlap the norms are what the array waits for, and every lane has its own, of two bits; and
    there may be more rows.

    >>> from hdl.params import Params
    >>> divider_options(Params()), divider_options(Params(masters=8))
    ({}, {'span': 1, 'per_clock': 2, 'rows': 4096})
    """
    return {"span": 1, "per_clock": 2, "rows": params.max_rows} if params.masters else {}


class Reciprocal(wiring.Component):
    """A divider that also takes reciprocals; ``sim.model.norm.reciprocal`` and ``floor_divide``.

    ``INVERT``: the value is shifted left until its top bit is set, a bit or two per clock, which
    gives ``length``; its top 16 bits, rounded up, are the mantissa m, and
    ``quotient = floor(2**31/m)``
    with ``1/value ~ quotient * 2**-(15 + length)``. The value 0 gives 0 and 0.

    ``done`` pulses ``latency(operation)`` cycles after ``start``, whatever the values; the
    results hold until the next ``start``.

    Parameters
    ----------
    numerator_bits, quotient_bits : int
        Signed widths; at least 33 and 18 bits.
    short_bits : int or None
        Width of the numerator of a ``DIVIDE``, which is the top of ``numerator``; None: all of it.
    per_clock : int
        Bits per clock, see :class:`~hdl.divide.Divider`.
    rows : int
        Largest denominator.

    Members
    -------
    start : In(1)
    operation : In(Operation)
        Taken with ``start``, as the operands are.
    numerator : In(signed(numerator_bits))
    denominator : In(range(rows + 1))
    value : In(VALUE_BITS)
    done : Out(1)
    quotient : Out(signed(quotient_bits))
    length : Out(LENGTH_BITS)
        Of ``INVERT`` and ``LENGTH``.
    """
    def __init__(self, numerator_bits, quotient_bits, short_bits=None, *, per_clock=1,
                 rows=MAX_M):
        self.per_clock = per_clock
        #: Clocks that it takes to normalise a value.
        self.steps = -(-VALUE_BITS // per_clock)
        self.divider = Divider(numerator_bits, RECIPROCAL_BITS, quotient_bits, short_bits,
                               per_clock=per_clock)
        assert self.divider.short_bits >= VALUE_BITS + 2 and quotient_bits > RECIPROCAL_BITS
        assert rows < 1 << RECIPROCAL_BITS
        super().__init__(divider_members(numerator_bits, quotient_bits, rows))

    def latency(self, operation):
        """Cycles from ``start`` to ``done``."""
        normalise = self.steps + 1
        return {Operation.DIVIDE: self.divider.short_latency,
                Operation.INVERT: normalise + self.divider.short_latency,
                Operation.LENGTH: normalise}[operation]

    def elaborate(self, platform):
        m = Module()
        m.submodules.divider = divider = self.divider
        value = Signal(VALUE_BITS, reset_less=True)
        left = Signal(range(self.steps + 1))
        normalised, invert = Signal(), Signal()

        # Normalise: as many steps as it may take, so that all lanes take the same time.
        m.d.sync += normalised.eq(left == 1)
        with m.If(self.start):
            m.d.sync += [
                value.eq(self.value),
                self.length.eq(VALUE_BITS),
                left.eq(Mux(self.operation == Operation.DIVIDE, 0, self.steps)),
                invert.eq(self.operation == Operation.INVERT),
            ]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
            with m.If(~value[-1]):
                m.d.sync += [value.eq(value << 1), self.length.eq(self.length - 1)]
            if self.per_clock == 2:
                with m.If(~value[-2:].any() & (left != 1)):
                    m.d.sync += [value.eq(value << 2), self.length.eq(self.length - 2)]

        # The mantissa, rounded up. Its top bit is set even for 0, of which 0 / 2**15 is taken.
        fraction = value[:-1]
        mantissa = Signal(RECIPROCAL_BITS)
        m.d.comb += mantissa.eq((fraction + 0x7FFF >> 15) + 0x8000)

        # What is short is at the numerator's top.
        place = VALUE_BITS + divider.numerator_bits - divider.short_bits
        direct = self.start & (self.operation == Operation.DIVIDE)
        m.d.comb += [
            divider.start.eq(direct | normalised & invert),
            divider.numerator.eq(Mux(direct, self.numerator,
                                     Cat(self.length.any()) << place)),
            divider.denominator.eq(Mux(direct, self.denominator, mantissa)),
            self.quotient.eq(divider.quotient),
            self.done.eq(divider.done | normalised & ~invert),
        ]
        return m


class LaneDivider(wiring.Component):
    """A :class:`Reciprocal` for every ``span`` lanes, which walk over their lanes together.

    After ``start`` each step serves one lane of every group of ``span``: group i, which is lanes
    ``i * span ...``, presents its result at ``quotient[i]`` and ``length[i]`` in the cycle in
    which ``take[lane]`` pulses. ``done`` pulses ``latency(operation)`` cycles after ``start``,
    in the cycle after the last ``take``. Operands are taken when a lane's turn comes: they must
    hold until its ``take``.

    Parameters
    ----------
    lanes : int
    numerator_bits, quotient_bits : int
        Signed widths, as of :class:`Reciprocal`.
    unit : type
        :class:`Reciprocal` or what does more operations.
    span : int
        Lanes that share one.
    options
        Of the unit, ``rows`` among them.

    Members
    -------
    start : In(1)
    operation : In(Operation)
        Taken with ``start``.
    numerator : In(signed(numerator_bits)) x lanes
    denominator : In(range(rows + 1))
        The same for all lanes.
    value : In(VALUE_BITS) x lanes
    take : Out(lanes)
    quotient : Out(signed(quotient_bits)) x groups
    length : Out(LENGTH_BITS) x groups
    done : Out(1)
    """
    #: Lanes that share one unless told otherwise.
    SPAN = 4

    def __init__(self, lanes, numerator_bits, quotient_bits, unit=Reciprocal, *, span=SPAN,
                 **options):
        self.lanes = lanes
        self.span = span
        self.steps = min(span, lanes)
        self.reciprocals = [unit(numerator_bits, quotient_bits, **options)
                            for _ in range(0, lanes, span)]
        groups = len(self.reciprocals)
        super().__init__({
            "start": In(1),
            "operation": In(Operation),
            "numerator": In(signed(numerator_bits)).array(lanes),
            "denominator": In(self.reciprocals[0].denominator.shape()),
            "value": In(VALUE_BITS).array(lanes),
            "take": Out(lanes),
            "quotient": Out(signed(quotient_bits)).array(groups),
            "length": Out(LENGTH_BITS).array(groups),
            "done": Out(1),
        })

    def latency(self, operation):
        """Cycles from ``start`` to ``done``."""
        return self.steps * (self.reciprocals[0].latency(operation) + 1) + 1

    def elaborate(self, platform):
        m = Module()
        step = Signal(range(self.span))
        launch = Signal()
        operation = Signal(Operation)
        # All take the same time, so one speaks for all.
        ready = self.reciprocals[0].done
        last = step == self.steps - 1
        m.d.sync += [launch.eq(self.start | ready & ~last), self.done.eq(ready & last)]
        with m.If(self.start):
            m.d.sync += [step.eq(0), operation.eq(self.operation)]
        with m.Elif(ready):
            m.d.sync += step.eq(step + 1)

        for group, reciprocal in enumerate(self.reciprocals):
            m.submodules[f"reciprocal_{group}"] = reciprocal
            lanes = range(group * self.span, min((group + 1) * self.span, self.lanes))
            m.d.comb += [
                reciprocal.start.eq(launch),
                reciprocal.operation.eq(operation),
                reciprocal.numerator.eq(Array(self.numerator[lane] for lane in lanes)[step]),
                reciprocal.denominator.eq(self.denominator),
                reciprocal.value.eq(Array(self.value[lane] for lane in lanes)[step]),
                self.quotient[group].eq(reciprocal.quotient),
                self.length[group].eq(reciprocal.length),
            ]
            m.d.comb += [self.take[lane].eq(ready & (step == lane % self.span)) for lane in lanes]
        return m
