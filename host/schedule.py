"""Programs that overlap: in which order instructions go to their queues, and what each waits for.

A program is written in an order in which it could run one instruction at a time. Two instructions
are *bound* if one writes a word that the other reads or writes: they stay in that order. Two of
different queues *meet* if both use a port that takes no turns (:func:`host.accesses.meet`): they
may come in either order, but not at a time.

An instruction waits for what the queues that it names hold when it is loaded, and of a queue all
but the last instruction loaded before it have ended by then (:mod:`hdl.dispatch`). So it names a
queue if and only if it is bound to, or meets, the last instruction before it in that queue.
"""

from collections import namedtuple

from hdl.instructions import Opcode, Queue, naming, opcode_of, queue_of, unpack_instruction
from host.accesses import accesses, bound, meet
from host.clocks import clocks

__all__ = ["Schedule", "after", "schedule", "scheduled"]

#: Of an instruction beside the clocks of its unit, and at least between two of them.
_BESIDE, _FETCH = 4, 7

#: ``order``: places in the program as it was written, as they follow each other; ``after``: the
#: queues that each of them names.
Schedule = namedtuple("Schedule", "order after")


class _Step:
    """What there is to know of an instruction."""

    def __init__(self, packed, params):
        self.params = params
        self.fields = unpack_instruction(packed)
        opcode = Opcode(opcode_of(self.fields["op"], params))
        self.queue = queue_of(opcode)
        self.accesses = accesses(self.fields, params)
        self.clocks = clocks(opcode, self.fields, params) + _BESIDE

    def excludes(self, other):
        """Whether the two must not run at a time."""
        return bound(self.accesses, other.accesses) or self.meets(other)

    def meets(self, other):
        """Whether the two, of different queues, would be at one port."""
        return self.queue != other.queue and meet(self.params, self.fields, other.fields)


def after(program, params):
    """The queues that every instruction names, in the order in which they stand.

    >>> from hdl.instructions import instruction
    >>> from hdl.params import Params
    >>> sort, move = instruction(Opcode.SORT, k=9, arg=4), instruction(Opcode.MOVE, m=3, n=4)
    >>> after([sort, move, instruction(Opcode.GEMM, m=4, k=4, n=2, key0=1)], Params(masters=8))
    [(), (), (<Queue.MOVER: 2>,)]
    """
    return _after([_Step(packed, params) for packed in program])


def _after(steps):
    last, found = {}, []
    for step in steps:
        found.append(tuple(queue for queue, before in sorted(last.items())
                           if queue != step.queue and step.excludes(before)))
        last[step.queue] = step
    return found


def schedule(program, params):
    """The :class:`Schedule` of a program, such that queues are idle as little as may be.

    Of all instructions that may be next the one that can start first is, and of those that can
    start at once the one that most clocks follow (list scheduling); or such an instruction is even
    waited for, if that ends sooner. Instructions take what :mod:`host.clocks` says; that products
    give way to other units is left out (:mod:`host.predict` has it), which costs time, but nothing
    else.
    """
    steps = [_Step(packed, params) for packed in program]
    before = [[j for j in range(i) if bound(steps[j].accesses, step.accesses)]
              for i, step in enumerate(steps)]
    behind = [step.clocks for step in steps]
    for i in reversed(range(len(steps))):
        for j in before[i]:
            behind[j] = max(behind[j], steps[j].clocks + behind[i])

    orders = [_listed(steps, before, behind, waits) for waits in (False, True)]
    _, order = min(orders, key=lambda found: found[0])
    return Schedule(order, _after([steps[i] for i in order]))


def _listed(steps, before, behind, waits):
    """``(end, order)`` of all instructions, one chosen after the other. If it ``waits``, one that
    would delay another that more clocks follow comes after that."""
    forecast, order, left = _Forecast(steps, before), [], set(range(len(steps)))
    while left:
        start = {i: forecast.start(i) for i in left
                 if all(j in forecast.ends for j in before[i])}

        def rank(i, start=start):
            return start[i], -behind[i], i

        chosen, delayed = min(start, key=rank), list(start)
        while waits and delayed:
            end = start[chosen] + steps[chosen].clocks
            delayed = [i for i in start if behind[i] > behind[chosen] and start[i] < end and (
                steps[i].queue == steps[chosen].queue or steps[i].meets(steps[chosen]))]
            if delayed:
                chosen = min(delayed, key=rank)
        forecast.load(chosen)
        order.append(chosen)
        left.remove(chosen)
    return max(forecast.ends.values()), order


class _Forecast:
    """When instructions run that are loaded one after the other."""

    def __init__(self, steps, before):
        self.steps, self.before = steps, before
        #: When each ends that was loaded; when its queue is free; when the next one is fetched.
        self.ends, self.free, self.fetched = {}, dict.fromkeys(Queue, 0), 0
        #: The last one of every queue.
        self.last = {}

    def start(self, i):
        """When an instruction would start if it were loaded next."""
        step = self.steps[i]
        others = [i for i in self.last.values() if step.meets(self.steps[i])]
        return max([self.fetched, self.free[step.queue],
                    *(self.ends[j] for j in (*self.before[i], *others))])

    def load(self, i):
        """Load it."""
        step, start = self.steps[i], self.start(i)
        # It goes to its queue when that is free, whatever else it waits for.
        self.fetched = max(self.fetched, self.free[step.queue]) + _FETCH
        self.ends[i] = self.free[step.queue] = start + step.clocks
        self.last[step.queue] = i


def scheduled(program, plan):
    """The instructions of a program by the plan of one that differs in numbers alone."""
    return [naming(program[i], queues) for i, queues in zip(plan.order, plan.after, strict=True)]
