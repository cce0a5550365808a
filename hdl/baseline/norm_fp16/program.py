"""Operations of a channel, at fixed cycles."""

from hdl.baseline.norm_fp16.lane import NARROWED, OPERAND, SUM_IN, SUM_OUT, Addend, Factor

__all__ = ["CENTRE_CYCLES", "CENTRE_HIGH", "CENTRE_LOW", "centre", "operation"]


def operation(m, lanes, count, start, *, issue=True, one=False, factor=Factor.ONE, negate=False,
              addend=Addend.ZERO, hold=False, keep=False, first=False, second=False):
    """Tell the lanes of an operation whose cycle 0 is that in which ``count`` is ``start``.

    The operand is what was narrowed, unless ``lanes.memory`` is set elsewhere, or with ``one`` 1;
    without ``issue`` there is no product. ``hold`` and ``keep`` the sum; ``first`` and ``second``:
    the operand itself becomes that factor.
    """
    if one:
        with m.If(count == start):
            m.d.comb += lanes.one.eq(1)
    with m.If(count == start + OPERAND):
        m.d.comb += [lanes.issue.eq(issue), lanes.factor.eq(factor), lanes.negate.eq(negate),
                     lanes.load_first.eq(first), lanes.load_second.eq(second)]
    with m.If(count == start + SUM_IN):
        m.d.comb += lanes.addend.eq(addend)
    if hold or keep:
        with m.If(count == start + SUM_OUT):
            m.d.comb += [lanes.hold.eq(hold), lanes.keep.eq(keep)]


# The kept sum is rounded to binary16, what is lacking is another such number, and each is
# multiplied. The first is made twice, the second time when the product of the other is there.
_REST = NARROWED
_LOW = _REST + NARROWED
_HIGH = _LOW + SUM_OUT - SUM_IN
_AGAIN = _HIGH - NARROWED
#: Cycles from the start in which the kept sum rounded to binary16, and what that lacks, can be
#: written.
CENTRE_HIGH, CENTRE_LOW = NARROWED, _LOW
#: Cycles from the start to that in which the product is kept.
CENTRE_CYCLES = _HIGH + SUM_OUT


def centre(m, lanes, count, start=0):
    """The kept sum becomes its product with the first factor, negated;
    ``sim.model.norm_fp16.centre``. ``lanes.addend`` is ``ZERO`` unless told otherwise."""
    for begin in (start, start + _AGAIN):
        operation(m, lanes, count, begin, issue=False, addend=Addend.KEPT)
    operation(m, lanes, count, start + _REST, negate=True, addend=Addend.KEPT)
    operation(m, lanes, count, start + _LOW, factor=Factor.FIRST, negate=True)
    operation(m, lanes, count, start + _HIGH, factor=Factor.FIRST, negate=True,
              addend=Addend.FEEDBACK, keep=True)
