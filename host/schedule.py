"""Programs that overlap: in which order instructions go to their queues, and what each waits for.

A program is written in an order in which it could run one instruction at a time. Two instructions
are *bound* if one writes a word that the other reads or writes: they stay in that order. Two of
different queues *meet* if both use a port that takes no turns (:func:`host.accesses.meet`): they
may come in either order, but not at a time.

An instruction waits for what the queues that it names hold when it is loaded, and of a queue all
but the last instruction loaded before it have ended by then (:mod:`hdl.dispatch`). So it names a
queue if and only if it is bound to, or meets, the last instruction before it in that queue.

A program that is longer than what can be stored runs in parts, each of which begins when the one
before has ended.
"""

from bisect import bisect, insort
from collections import namedtuple
from functools import cache
from itertools import accumulate, pairwise
from random import Random

from hdl.instructions import Queue, naming, unpack_instruction
from hdl.protocol import MAX_STORED
from host.accesses import accesses, bound, ports
from host.predict import Work, timed

__all__ = ["Schedule", "after", "schedule", "scheduled"]

#: Of an instruction beside the clocks of its unit, and at least between two of them.
_BESIDE, _FETCH = 4, 7
#: How often an order is improved with the clocks that were predicted for the one before.
_ROUNDS = 4
#: Instructions of all orders that are tried to improve the best one, and how many these are at
#: most; clocks from which on one is moved as often as any that is longer.
_TRIED, _MOST, _LONG = 100_000, 1500, 2000
#: Where it takes so many times what the busiest queue does, none is tried.
_ENOUGH = 1.004
#: Of an order that is tried, by how much it may be slower than the best one, times the square of
#: its length.
_SLACK = 25

#: ``order``: places in the program as it was written, as they follow each other; ``after``: the
#: queues that each of them names; ``parts``: how many of them each part has.
Schedule = namedtuple("Schedule", "order after parts")


class _Step:
    """What there is to know of an instruction."""

    def __init__(self, packed, params):
        fields = unpack_instruction(packed)
        self.work = Work(packed, params)
        self.queue = self.work.queue
        self.accesses = accesses(fields, params)
        self.ports = ports(params, fields)
        self.clocks = self.work.clocks + _BESIDE

    def meets(self, other):
        """Whether the two, of different queues, would be at one port."""
        return self.queue != other.queue and bool(self.ports & other.ports)


class _Program:
    """Instructions, and what each of them must not run beside."""

    def __init__(self, program, params):
        self.steps = steps = [_Step(packed, params) for packed in program]
        #: By instruction those before it that it is bound to, and those behind it.
        self.needs = [{j for j in range(i) if bound(steps[j].accesses, step.accesses)}
                      for i, step in enumerate(steps)]
        self.needed = [set() for _ in steps]
        for i, needs in enumerate(self.needs):
            for j in needs:
                self.needed[j].add(i)
        #: Those that it must not run beside, with all of its own queue.
        self.excludes = [
            {j for j, other in enumerate(steps) if other.queue == step.queue or other.meets(step)}
            | self.needs[i] | self.needed[i] for i, step in enumerate(steps)]
        self.run = cache(self._run)

    def after(self, order):
        """The queues that each names, a bit for each of them."""
        last, found = [None] * len(Queue), []
        for i in order:
            own, excludes, named = self.steps[i].queue, self.excludes[i], 0
            for queue, before in enumerate(last):
                if before in excludes and queue != own:
                    named |= 1 << queue
            found.append(named)
            last[own] = i
        return found

    def _run(self, order):
        """``(clocks, times)`` of an order, as :func:`host.predict.timed` has them."""
        return timed([self.steps[i].work for i in order], self.after(order))


def after(program, params):
    """The queues that every instruction names, in the order in which they stand.

    >>> from hdl.instructions import Opcode, instruction
    >>> from hdl.params import Params
    >>> sort, move = instruction(Opcode.SORT, k=9, arg=4), instruction(Opcode.MOVE, m=3, n=4)
    >>> after([sort, move, instruction(Opcode.GEMM, m=4, k=4, n=2, key0=1)], Params(masters=8))
    [(), (), (<Queue.MOVER: 2>,)]
    """
    return _queues(_Program(program, params).after(range(len(program))))


def _queues(named):
    """Queues that a bit each stands for."""
    return [tuple(queue for queue in Queue if each >> queue & 1) for each in named]


def schedule(program, params):
    """The :class:`Schedule` of a program, such that it takes as few clocks as may be.

    Orders to begin with are that in which it was written and two that list scheduling makes of it:
    of all instructions that may be next the one that can start first is, and of those that can
    start at once the one that most clocks follow; or such an instruction is even waited for. They
    are improved (:func:`_settled`), and that of all orders which is predicted to be over first
    (:func:`host.predict.timed`) is searched for a better one (:func:`_searched`).
    """
    of = _Program(program, params)
    orders = [tuple(_listed(of, waits)) for waits in (False, True)]
    orders.append(tuple(range(len(program))))
    orders += [better for order in orders for better in _settled(of, order)]
    order = _searched(of, min(orders, key=lambda order: of.run(order)[0]))
    return Schedule(list(order), _queues(of.after(order)), _cut(of.run(order)[1]))


def _cut(runs):
    """The lengths of as few parts as there may be of a program, such that these take as little as
    may be one after the other; ``runs`` are the times of its instructions, without a cut.

    What a part takes is from its first instruction's queueing to its last one's end.
    """
    size, count = len(runs), -(-len(runs) // MAX_STORED)
    last = list(accumulate((done for *_, done in runs), max))
    #: By instructions of the parts before: what these take, and where they end.
    least = {0: (0, (0,))}
    for left in reversed(range(count)):
        longer = {}
        for first, (taken, ends) in least.items():
            for end in range(max(first + 1, size - left * MAX_STORED),
                             min(first + MAX_STORED, size) + 1):
                found = taken + last[end - 1] - runs[first][0], (*ends, end)
                longer[end] = min(longer.get(end, found), found)
        least = longer
    return [b - a for a, b in pairwise(least[size][1])]


def _settled(of, order):
    """Orders that may be better than one. Each is improved with clocks that products are predicted
    to take beside the instructions that were beside them in the one before."""
    taken, found = [step.clocks for step in of.steps], []
    for _ in range(_ROUNDS):
        order = tuple(_justified(of, taken, order))
        if found and order == found[-1]:
            break
        found.append(order)
        taken = [step.clocks for step in of.steps]
        for i, (_, started, done) in zip(order, of.run(order)[1], strict=True):
            taken[i] = max(taken[i], done - started + _BESIDE)
    return found


def _searched(of, order):
    """An order that is as fast at least: instructions, the longer the more often, are taken out of
    it and put somewhere else where they may be, if the whole takes no longer by that, or little
    longer than the best one (threshold accepting): the less the later that is tried, and the longer
    the program, of which few are tried."""
    count = len(order)
    best, now, found = order, of.run(order)[0], order
    least, tries = now, min(_MOST, _TRIED // count) if count else 0
    weights = list(accumulate(min(step.clocks, _LONG) for step in of.steps))
    busiest = max(sum(step.clocks for step in of.steps if step.queue == queue) for queue in Queue)
    # The same in every run.
    random = Random(0)
    for left in reversed(range(tries)):
        if least <= _ENOUGH * busiest:
            break
        i = bisect(weights, random.randrange(weights[-1]))
        at = low = high = found.index(i)
        while low and found[low - 1] not in of.needs[i]:
            low -= 1
        while high + 1 < count and found[high + 1] not in of.needed[i]:
            high += 1
        to = random.randint(low, high)
        if to == at:
            continue
        rest = found[:at] + found[at + 1:]
        other = *rest[:to], i, *rest[to:]
        clocks, _ = of.run(other)
        if clocks <= max(now, least * (1 + _SLACK * left / tries / count**2)):
            now, found = clocks, other
        if clocks < least:
            least, best = clocks, other
    return best


def _justified(of, taken, order):
    """An order that ends no later (forward-backward improvement): what ends last is moved as far
    behind as it can, and what then starts first as far ahead, as long as that is better."""
    best, count = None, len(taken)
    while True:
        start = _inserted(order, of.needs, of.excludes, taken)
        end = max(map(int.__add__, start, taken), default=0)
        if best and best[0] <= end:
            return best[1]
        best = end, sorted(range(count), key=lambda i: (start[i], i))
        order = sorted(range(count), key=lambda i: (-start[i] - taken[i], -start[i], -i))
        start = _inserted(order, of.needed, of.excludes, taken)
        order = sorted(range(count), key=lambda i: (-start[i] - taken[i], -start[i], i))


def _inserted(order, needs, excludes, taken):
    """When each starts, if one after the other is put where it fits first: after all that it needs,
    and beside none of those that it excludes."""
    found, runs = [0] * len(taken), []
    for i in order:
        begin = max((found[j] + taken[j] for j in needs[i]), default=0)
        for start, end, j in runs:
            if end > begin and j in excludes[i]:
                if start >= begin + taken[i]:
                    break
                begin = end
        found[i] = begin
        insort(runs, (begin, begin + taken[i], i))
    return found


def _listed(of, waits):
    """An order of all instructions, one chosen after the other. If it ``waits``, one that would
    delay another that more clocks follow comes after that."""
    steps, forecast, order = of.steps, _Forecast(of), []
    follow = [step.clocks for step in steps]
    for i in reversed(range(len(steps))):
        for j in of.needs[i]:
            follow[j] = max(follow[j], steps[j].clocks + follow[i])
    missing = list(map(len, of.needs))
    ready = {i for i, count in enumerate(missing) if not count}
    while ready:
        start = {i: forecast.start(i) for i in ready}

        def rank(i, start=start):
            return start[i], -follow[i], i

        chosen, delayed = min(start, key=rank), list(start)
        while waits and delayed:
            end = start[chosen] + steps[chosen].clocks
            delayed = [i for i in start if follow[i] > follow[chosen] and start[i] < end and (
                steps[i].queue == steps[chosen].queue or steps[i].meets(steps[chosen]))]
            if delayed:
                chosen = min(delayed, key=rank)
        forecast.load(chosen)
        order.append(chosen)
        ready.remove(chosen)
        for i in of.needed[chosen]:
            missing[i] -= 1
            if not missing[i]:
                ready.add(i)
    return order


class _Forecast:
    """When instructions run that are loaded one after the other."""

    def __init__(self, of):
        self.steps, self.needs = of.steps, of.needs
        #: When each ends that was loaded; when its queue is free; when the next one is fetched.
        self.ends, self.free, self.fetched = {}, dict.fromkeys(Queue, 0), 0
        #: The last one of every queue.
        self.last = {}

    def start(self, i):
        """When an instruction would start if it were loaded next."""
        step = self.steps[i]
        others = [i for i in self.last.values() if step.meets(self.steps[i])]
        return max([self.fetched, self.free[step.queue],
                    *(self.ends[j] for j in (*self.needs[i], *others))])

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
