"""RUN on machines that keep masters: instructions of several queues at a time.

Bytes of a frame are collected (:mod:`hdl.dispatch.quarters`) or words come from the program memory
(:mod:`hdl.stored`) -> instructions, checked (:mod:`hdl.dispatch.fetch`) -> in program order to the
queue of their unit (:mod:`hdl.dispatch.dispatcher`) -> which waits for other queues and runs them
(:mod:`hdl.dispatch.queue`). What :mod:`hdl.dispatch.faults` sees of the memories' ports stops it.
When each was queued, started and done is kept (:mod:`hdl.dispatch.log`).

Queues and what an instruction says of them: :mod:`hdl.instructions`.
"""

from hdl.dispatch.dispatcher import Dispatcher
from hdl.dispatch.faults import AccessFaults, Watched
from hdl.dispatch.log import CLOCK_BITS
from hdl.dispatch.quarters import Quarters

__all__ = ["CLOCK_BITS", "AccessFaults", "Dispatcher", "Quarters", "Watched"]
