"""What the units of a run waited for: from the clocks that the device keeps of its instructions.

On a machine that keeps masters instructions go to their queues in program order, each when its
queue is free, and start when what they name is done (:mod:`hdl.instructions`). From when they were
queued, started and done follows what each waited for.
"""

from collections import Counter, namedtuple

from hdl.instructions import AFTER_MASK, AFTER_SHIFT, Queue, opcode_of, queue_of, unpack_instruction

__all__ = ["Step", "critical", "steps_of"]

#: Clocks between an instruction's way to its queue and its start, or between the end of the one
#: before it in that queue and its way there, where there is nothing else to wait for.
_HAND_OVER, _FREE = 1, 3

#: An instruction of a run, with clocks since the run began: its opcode and queue, the queues that
#: it names, when it was ``queued``, ``started`` and ``done``; for how many clocks its queue was
#: empty before it, ``starved``, and for how many it was there and waited, ``stalled``.
Step = namedtuple("Step", "op queue after queued started done starved stalled")


def steps_of(program, log, params):
    """The :class:`Step` of every packed instruction; ``log`` are the rows of
    :class:`hdl.protocol.LogPart`, by instruction."""
    steps, free = [], dict.fromkeys(Queue, 0)
    for packed, (queued, started, done) in zip(program, zip(*log, strict=True), strict=True):
        field = unpack_instruction(packed)["op"]
        op = opcode_of(field, params)
        queue = queue_of(op)
        after = tuple(one for one in Queue if (field & AFTER_MASK) >> AFTER_SHIFT + one & 1)
        there = queued + _HAND_OVER
        steps.append(Step(op, queue, after, queued, started, done, there - free[queue],
                          started - there))
        free[queue] = done
    return steps


def critical(steps):
    """Clocks by opcode along the critical path: from the end of the run back, always to what an
    instruction waited for last. What is missing to the run's clocks went to fetching and starting.

    >>> first = Step(1, Queue.ARRAY, (), 10, 11, 61, 11, 0)
    >>> other = Step(2, Queue.VECTOR, (), 17, 18, 30, 18, 0)
    >>> last = Step(2, Queue.VECTOR, (Queue.ARRAY,), 33, 64, 70, 3, 30)
    >>> critical([first, other, last])
    Counter({1: 50, 2: 6})
    """
    clocks = Counter()
    number = max(range(len(steps)), key=lambda one: steps[one].done, default=None)
    while number is not None:
        step = steps[number]
        clocks[step.op] += step.done - step.started
        number = _waited_for(steps, number)
    return clocks


def _waited_for(steps, number):
    """The number of the instruction whose end let this one start; None if there was none."""
    step = steps[number]
    if step.stalled:
        return max((one for one in range(number) if steps[one].queue in step.after),
                   key=lambda one: steps[one].done, default=None)
    # It came late: because of the one before it in its queue, or of one that had to go first.
    while number >= 0:
        step = steps[number]
        before = [one for one in range(number) if steps[one].queue == step.queue]
        if before and step.queued - steps[before[-1]].done <= _FREE:
            return before[-1]
        number -= 1
    return None
