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

__all__ = ["Bound", "Prediction", "Timed", "bound", "one_at_a_time", "predict"]

#: An instruction, with clocks since the run began.
Timed = namedtuple("Timed", "opcode queue queued started done")

#: ``clocks`` of the run, and a :class:`Timed` for each instruction, in order.
Prediction = namedtuple("Prediction", "clocks steps")

#: Clocks of each queue's instructions alone; of all that are at the quantised memory's shared port,
#: where no two may meet; of the longest chain of instructions that need each other's results; and
#: of the program, if its queues were of any length but ran one instruction at a time, and so did
#: that port: the ``path`` is longer than all others.
Bound = namedtuple("Bound", "array vector mover port chain path")

#: The clock in which the first instruction goes to its queue; from one to the next at least; from
#: there to its start; from ``done`` to the clock in which the queue may be loaded again and others
#: begin; and from there to the run's end.
_FIRST, _FETCH, _START, _FREE, _END = 10, 7, 1, 3, 1
#: Largest share of clocks in which others are at a memory: every third one is left.
_OTHERS = 2 / 3


class _Run:
    """An instruction in its queue."""

    def __init__(self, packed, params):
        fields = unpack_instruction(packed)
        self.opcode = Opcode(opcode_of(fields["op"], params))
        self.queue = queue_of(self.opcode)
        self.named = {queue for queue in Queue
                      if (fields["op"] & AFTER_MASK) >> AFTER_SHIFT + queue & 1}
        #: Clocks of work, those that are left.
        self.left = self.clocks = clocks(self.opcode, fields, params)
        self.quant, self.wide = _shares(self.opcode, fields, params, self.clocks)
        self.product = (_Product(fields, params, self.clocks)
                        if self.opcode == Opcode.GEMM else None)
        #: From which clock it may start, and queues that must be free before.
        self.ready, self.waits = None, set()
        self.queued = self.started = self.done = None

    def pace(self, others):
        """How many clocks one of its own takes beside others, and for how many that holds."""
        return self.product.pace(*_busy(others)) if self.product else (1, inf)

    def work(self, count, others):
        """Do so many clocks beside others."""
        self.left -= count / self.pace(others)[0]
        if self.product:
            self.product.fetch(count, *_busy(others))


def _busy(others):
    """Shares of clocks in which others are at the quantised memory, and write to the wide one."""
    return (min(_OTHERS, sum(other.quant for other in others)),
            min(_OTHERS, sum(other.wide for other in others)))


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
        #: Clocks in which those that are ahead were fetched, and the most of them.
        self.ahead, self.most = 0, (ROW_QUEUE_DEPTH + params.rows) * row

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

    def fetch(self, count, quant, wide):
        """Weights that come and go in so many clocks."""
        self.ahead = min(self.most, max(0, self.ahead - count * self._fall(quant)))


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
    runs = [_Run(packed, params) for packed in program]
    held, waiting, fetched, now = {}, list(reversed(runs)), _FIRST, 0
    while held or waiting:
        # Those that are done leave their queues; others may start then.
        for queue in [queue for queue, run in held.items()
                      if run.done is not None and run.done + _FREE <= now]:
            del held[queue]
            for run in held.values():
                if queue in run.waits:
                    run.waits.remove(queue)
                    run.ready = max(run.ready, now)
        if waiting and fetched <= now and waiting[-1].queue not in held:
            run = waiting.pop()
            run.queued, run.ready, run.waits = now, now + _START, run.named & set(held)
            held[run.queue], fetched = run, now + _FETCH
        for run in held.values():
            if run.started is None and not run.waits and run.ready <= now:
                run.started = now
        if held or waiting:
            loads = waiting and waiting[-1].queue not in held
            now = _work(held.values(), now, fetched if loads else now)
    last = max((run.done for run in runs), default=0)
    return Prediction(last + _FREE + _END, [
        Timed(run.opcode, run.queue, run.queued, run.started, run.done) for run in runs])


def _work(held, now, fetched):
    """Go on to the clock in which something happens next."""
    working = [run for run in held if run.started is not None and run.done is None]
    beside = [[other for other in working if other is not run] for run in working]
    times = [run.done + _FREE for run in held if run.done is not None]
    times += [run.ready for run in held if run.started is None and not run.waits]
    times += [fetched] * (fetched > now)
    for run, others in zip(working, beside, strict=True):
        pace, holds = run.pace(others)
        times.append(now + max(1, ceil(min(run.left * pace, holds))))
    after = min(times)
    for run, others in zip(working, beside, strict=True):
        run.work(after - now, others)
        # Fractions are nothing.
        if run.left < 1e-6:
            run.done = after
    return after


def bound(program, params):
    """The :class:`Bound` of a program, without a clock between instructions and without waits at
    memories.

    No order is faster. Of a set of instructions of which two never run at a time, each begins no
    sooner than its *head*, by when all that it needs can be over, and is followed by its *tail*,
    the longest chain from its end to the instruction that is asked about; so that one begins no
    sooner than :func:`one_at_a_time` of the set. Such sets are the queues, and whoever is at the
    quantised memory's shared port (:func:`host.accesses.meet`), in whichever queue; of each those
    that the instruction needs. Heads follow from each other in the program's order.
    """
    runs = [_Run(packed, params) for packed in program]
    fields = [unpack_instruction(packed) for packed in program]
    words = [accesses(each, params) for each in fields]
    alone = [{i for i, run in enumerate(runs) if run.queue == queue} for queue in Queue]
    alone.append({i for i, each in enumerate(fields) if Memory.QUANT in ports(params, each)})
    #: By instruction: how long all that it needs takes, and of each of these how long what is
    #: between the two does.
    ends, heads, between = [], [], []
    for i in range(len(runs) + 1):
        # The last one is the end of the program.
        needs = [j for j in range(i) if i == len(runs) or depends(words[j], words[i])]
        tails = {}
        for j in needs:
            tails.setdefault(j, 0)
            for k, clocks_ in between[j].items():
                tails[k] = max(tails.get(k, 0), clocks_ + runs[j].clocks)
        own = runs[i].clocks if i < len(runs) else 0
        ends.append(max((ends[j] for j in needs), default=0) + own)
        between.append(tails)
        heads.append(max([*(heads[j] + runs[j].clocks for j in needs), *(
            one_at_a_time([(heads[j], runs[j].clocks, tail) for j, tail in tails.items()
                            if j in each]) for each in alone)], default=0))
    return Bound(*(sum(runs[i].clocks for i in each) for each in alone), ends[-1], heads[-1])


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
