"""When the instructions of a stored program are queued, started and done, before it ever runs.

What :mod:`hdl.dispatch` does is imitated clock by clock, with units that take what
:mod:`host.clocks` says. Of a run none of that depends on data. Products alone give way: while
others use the quantised memory, weights come more slowly, and while others write to the wide
memory, results leave more slowly. What is predicted is how fast a product then goes on average.

:func:`bound` is what no order of the same instructions can be faster than.
"""

from collections import namedtuple
from heapq import heappop, heappush
from math import ceil, inf

from hdl.instructions import (
    AFTER_MASK,
    AFTER_SHIFT,
    BackwardFlag,
    GemmFlag,
    LayerFlag,
    NormFlag,
    Opcode,
    PoolFlag,
    QuantiseFlag,
    Queue,
    ScaleFlag,
    opcode_of,
    queue_of,
    unpack_instruction,
)
from hdl.timing import ROW_QUEUE_DEPTH, row_entries
from host.accesses import Memory, accesses, ports
from host.accesses import bound as depends
from host.clocks import clocks, move_accesses, pool_rows

__all__ = ["Bound", "Prediction", "Timed", "Work", "bound", "one_at_a_time", "predict", "timed"]

#: An instruction, with clocks since the run began.
Timed = namedtuple("Timed", "opcode queue queued started done")

#: ``clocks`` of the run, and a :class:`Timed` for each instruction, in order.
Prediction = namedtuple("Prediction", "clocks steps")

#: Clocks of a run of each queue's instructions alone; of all that are at the quantised memory's
#: shared port, where no two may meet, or of its accesses; of the longest chain of instructions that
#: need each other's results; and of the program, if its queues were of any length but ran one
#: instruction at a time, and so did that port: the ``path`` is longer than all others.
Bound = namedtuple("Bound", "array vector mover port chain path")

#: The clock in which the first instruction goes to its queue; from one to the next at least; from
#: there to its start; from ``done`` to the clock in which the queue may be loaded again and others
#: begin; and from there to the run's end.
_FIRST, _FETCH, _START, _FREE, _END = 10, 7, 1, 3, 1
#: Times of an instruction.
_QUEUED, _STARTED, _DONE = range(3)
#: Queues; and products, which depend on what is beside them, as the last.
_QUEUES, _BACKWARDS = tuple(map(int, Queue)), tuple(map(int, reversed(Queue)))
#: Largest share of clocks in which others are at a memory: every third one is left.
_OTHERS = 2 / 3


class Work:
    """What an instruction asks of its unit: its ``queue``, its ``clocks``, in which shares of these
    it is at the quantised memory's shared port, ``quant``, and writes to the wide one, ``wide``;
    and of a product what that waits for."""

    def __init__(self, packed, params):
        fields = unpack_instruction(packed)
        self.opcode = Opcode(opcode_of(fields["op"], params))
        self.queue = queue_of(self.opcode)
        #: The queues that it names, a bit each.
        self.named = (fields["op"] & AFTER_MASK) >> AFTER_SHIFT
        self.clocks = clocks(self.opcode, fields, params)
        #: Of any data.
        self.least = clocks(self.opcode, fields, params, padding=0)
        self.quant, self.wide = _shares(self.opcode, fields, params, self.clocks)
        self.product = (_Product(fields, params, self.clocks)
                        if self.opcode == Opcode.GEMM else None)


class _Product:
    """What a product waits for. It has weights of some rows ahead of those that it needs."""

    def __init__(self, f, params, taken):
        m, n, tiles = f["m"], f["n"], f["key0"] & 0xFFFF
        columns, row = -(-n // params.cols), params.depth * params.cols // params.span
        streamed = max(m + 1, params.rows * row_entries(params)) / params.array_clock
        groups = params.read_cols - 1 if f["flags"] & GemmFlag.COL_GROUPS else 0
        #: Clocks in all; to stream, to fetch weights, to read results, each by itself; and the
        #: longest of these. The rest, at both ends, waits for nothing.
        self.taken = taken
        self.stream = columns * tiles * streamed
        self.weights = columns * tiles * params.rows * row
        self.results = -(-n // params.read_cols) * (m + 1 + groups)
        self.alone = max(self.stream, self.weights, self.results)
        #: Clocks in which those that are ahead were fetched, and the most of them; clocks of work
        #: that are left.
        self.most = (ROW_QUEUE_DEPTH + params.rows) * row
        self.start()

    def start(self):
        """Begin, with no weights ahead."""
        self.ahead, self.left = 0, self.taken

    def _fall(self, quant):
        """By how much ``ahead`` falls in a clock, at full pace."""
        return self.weights / self.alone - (1 - quant)

    def pace(self, quant, wide):
        """How many clocks one of its own takes, and for how many that holds."""
        slowest, holds, fall = max(self.alone, self.results / (1 - wide)), inf, self._fall(quant)
        if fall > 0 and self.ahead > 0:
            holds = self.ahead / fall
        elif fall > 0:
            slowest = max(slowest, self.weights / (1 - quant))
        return 1 + (slowest - self.alone) / self.taken, holds

    def event(self, quant, wide):
        """Clocks until something changes: it has done all, or has no weights ahead any more."""
        pace, holds = self.pace(quant, wide)
        return max(1, ceil(min(self.left * pace, holds)))

    def work(self, count, quant, wide):
        """Do so many clocks beside others; whether that was all."""
        self.left -= count / self.pace(quant, wide)[0]
        self.ahead = min(self.most, max(0, self.ahead - count * self._fall(quant)))
        # Fractions are nothing.
        return self.left < 1e-6


def _shares(opcode, f, params, taken):
    """In which shares of its clocks an instruction is at the shared port of the quantised memory,
    and writes to the wide one."""
    flags, rows = f["flags"], f["m"] * -(-f["n"] // params.vector)
    if opcode == Opcode.MOVE:
        return move_accesses(f, params) / taken, 0
    if opcode == Opcode.QUANTISE and not flags & QuantiseFlag.SCAN:
        return rows / taken, 0
    if opcode == Opcode.NORM_FORWARD:
        return 0, (1 if flags & NormFlag.INFERENCE else 2) * rows / taken
    if opcode == Opcode.NORM_BACKWARD:
        # Codes are read for the largest gradient and for the sums.
        return (2 * rows / taken if flags & BackwardFlag.CLIPPED else 0), 2 * rows / taken
    if opcode in (Opcode.LAYER_FORWARD, Opcode.LAYER_BACKWARD):
        both = opcode == Opcode.LAYER_FORWARD and not flags & LayerFlag.INFERENCE
        return 0, (2 if both else 1) * rows / taken
    if opcode == Opcode.SCALE and not flags & (ScaleFlag.UPDATE | ScaleFlag.SUM):
        return 0, rows / taken
    if opcode == Opcode.POOL:
        tiles, (positions, windows) = -(-f["n"] // params.vector), pool_rows(f)
        return ((tiles * windows / taken if flags & PoolFlag.CLIPPED else 0),
                tiles * (positions if flags & PoolFlag.SPREAD else windows) / taken)
    return 0, 0


def predict(program, params):
    """The :class:`Prediction` of a list of packed instructions.

    >>> from hdl.instructions import instruction
    >>> from hdl.params import Params
    >>> move, scale = instruction(Opcode.MOVE, m=3, n=4), instruction(Opcode.SCALE, m=4, n=1, arg=9)
    >>> predict([move, scale], Params(masters=8)).steps[1]
    Timed(opcode=<Opcode.SCALE: 7>, queue=<Queue.VECTOR: 1>, queued=17, started=18, done=46)
    """
    works = [Work(packed, params) for packed in program]
    taken, times = timed(works, [work.named for work in works])
    return Prediction(taken, [Timed(work.opcode, work.queue, *each)
                              for work, each in zip(works, times, strict=True)])


def timed(works, named):
    """``(clocks of the run, times)`` of a list of :class:`Work` that names such queues, a bit each;
    of each it is said when it is ``[queued, started, done]``."""
    times = [[inf] * 3 for _ in works]
    #: Of each queue the times of what it holds, what that is, when it may start, and queues that
    #: must be free before.
    held, holds, ready, waits = [None] * 3, [None] * 3, [0] * 3, [0] * 3
    occupied, number, fetched, now = 0, 0, _FIRST, 0
    while occupied or number < len(works):
        # Those that are done leave their queues; others may start then.
        for queue in _QUEUES:
            if occupied >> queue & 1 and held[queue][_DONE] + _FREE <= now:
                occupied ^= 1 << queue
                for other in _QUEUES:
                    if waits[other] >> queue & 1:
                        waits[other] ^= 1 << queue
                        ready[other] = max(ready[other], now)
        if number < len(works) and fetched <= now:
            queue = works[number].queue
            if not occupied >> queue & 1:
                held[queue], holds[queue] = times[number], works[number]
                ready[queue], waits[queue] = now + _START, named[number] & occupied
                held[queue][_QUEUED], fetched = now, now + _FETCH
                occupied |= 1 << queue
                number += 1
        # The next clock in which something happens.
        after = fetched if (fetched > now and number < len(works)
                            and not occupied >> works[number].queue & 1) else inf
        quant = wide = 0
        for queue in _BACKWARDS:
            if not occupied >> queue & 1:
                continue
            each, work = held[queue], holds[queue]
            if each[_STARTED] > now and not waits[queue]:
                if ready[queue] > now:
                    after = min(after, ready[queue])
                    continue
                each[_STARTED] = now
                if work.product:
                    work.product.start()
                else:
                    each[_DONE] = now + work.clocks
            if each[_STARTED] > now:
                continue
            if each[_DONE] <= now:
                after = min(after, each[_DONE] + _FREE)
            elif work.product:
                # Behind all others.
                quant, wide = min(_OTHERS, quant), min(_OTHERS, wide)
                after = min(after, now + work.product.event(quant, wide))
                if work.product.work(after - now, quant, wide):
                    each[_DONE] = after
            else:
                after = min(after, each[_DONE])
                quant, wide = quant + work.quant, wide + work.wide
        now = after
    return max((each[_DONE] for each in times), default=0) + _FREE + _END, times


def bound(program, params):
    """The :class:`Bound` of a program.

    No order is faster. Of a set of instructions of which two never run at a time, each begins no
    sooner than its *head*, by when all that it needs can be over, and is followed by its *tail*,
    the longest chain from its end to the instruction that is asked about; so that one begins no
    sooner than :func:`one_at_a_time` of the set. Such sets are the queues, and whoever is at the
    quantised memory's shared port (:func:`host.accesses.meet`), in whichever queue; of each those
    that the instruction needs. Heads follow from each other in the program's order.

    From an instruction's ``done`` to the start of one that waits for it there are ``_FREE`` clocks,
    in its own queue ``_START`` more (:mod:`hdl.dispatch`). An instruction is over when others may
    start: an earlier one of a set takes its clocks, and these. Before an instruction all that it
    needs has been fetched, ``_FETCH`` clocks each.

    At the port there is also one access in a clock. Those of all instructions, with the requests of
    products for weights, which are made in clocks that no other takes, are one more set, of which
    each takes as many clocks as it has accesses.
    """
    works = [Work(packed, params) for packed in program]
    fields = [unpack_instruction(packed) for packed in program]
    words = [accesses(each, params) for each in fields]
    #: By set the clocks of those that are in it, and what is behind all of them but the last.
    sets = [({i: work.least for i, work in enumerate(works) if work.queue == queue}, _START)
            for queue in Queue]
    sets.append(({i: works[i].least for i, each in enumerate(fields)
                  if Memory.QUANT in ports(params, each)}, 0))
    served = {i: work.product.weights if work.product else work.quant * work.clocks
              for i, work in enumerate(works)}
    #: By instruction: when all that it needs is over, and of each of these how long what is between
    #: the two takes.
    ends, heads, between = [], [], []
    for i in range(len(works) + 1):
        # The last one is the end of the program.
        needs = [j for j in range(i) if i == len(works) or depends(words[j], words[i])]
        tails = {}
        for j in needs:
            tails.setdefault(j, 0)
            for k, clocks_ in between[j].items():
                tails[k] = max(tails.get(k, 0), clocks_ + works[j].least + _FREE)
        ends.append(max((ends[j] for j in needs), default=_FIRST + _START) + (
            works[i].least + _FREE if i < len(works) else _END))
        between.append(tails)
        heads.append(max([
            _FIRST + _START + _FETCH * len(tails),
            *(heads[j] + works[j].least + _FREE for j in needs),
            *(one_at_a_time([(heads[j], each[j] + _FREE + more, tail) for j, tail in tails.items()
                             if j in each]) - more for each, more in sets),
            ceil(one_at_a_time([(heads[j], served[j], tail + _FREE) for j, tail in tails.items()
                                if served[j]]))]))
    *queues, port = (_alone(each.values(), more) for each, more in sets)
    return Bound(*queues, max(port, ceil(_alone(filter(None, served.values()), -_FREE))), ends[-1],
                 heads[-1] + _END)


def _alone(taken, more):
    """Clocks of a program of which one instruction runs at a time, with so many more between two
    than to the end; 0 without any."""
    taken = list(taken)
    return (_FIRST + _START + sum(taken) + _FREE * len(taken) + more * (len(taken) - 1) + _END
            if taken else 0)


def one_at_a_time(jobs):
    """The clock in which the last of ``(head, clocks, tail)`` can be over at the earliest, if one
    runs at a time, from its head on and with its tail behind: of those that may run the one with
    the longest tail does, and is interrupted for one with a longer (Jackson's preemptive schedule,
    which no other is faster than).

    >>> one_at_a_time([(0, 10, 0), (2, 5, 20)]), one_at_a_time([])
    (27, 0)
    """
    jobs, ready, now, over = sorted(jobs), [], 0, 0
    while jobs or ready:
        if not ready:
            now = max(now, jobs[0][0])
        while jobs and jobs[0][0] <= now:
            _, left, tail = jobs.pop(0)
            heappush(ready, (-tail, left))
        tail, left = heappop(ready)
        taken = min(left, jobs[0][0] - now) if jobs else left
        now += taken
        if taken < left:
            heappush(ready, (tail, left - taken))
        else:
            over = max(over, now - tail)
    return over
