"""The cocotb bench: one session with the generated Verilog, every answer compared.

It is given by environment variables: ``SHIFTGRAD_SESSION``, the file of a
:class:`~sim.bench.exchange.Session`; ``SHIFTGRAD_IDLE`` and ``SHIFTGRAD_STALL``, the
probabilities that a byte waits in a clock on its way in or out; ``SHIFTGRAD_SEED`` of this
weather; ``SHIFTGRAD_ARRAY_CLOCK``, the machine's ``array_clock``.
"""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import Event, RisingEdge, SimTimeoutError, Timer, with_timeout

from sim.bench.exchange import Mismatch, Session, complete, frames

__all__ = ["replay"]

#: Clock period, ns; half a period of any array's clock is whole in ps.
_PERIOD = 12
#: What edges of the array's clock come after those of the machine's, ns.
_OFFSET = 0.5
#: Clocks that an answer may take beyond those of the link.
_PATIENCE = 200_000
#: Clocks after the last answer in which nothing may follow.
_SILENCE = 300


class Bench:
    """The machine's two byte streams."""

    def __init__(self, dut, idle, stall, seed):
        self.dut = dut
        self.received = bytearray()
        self._idle, self._stall = idle, stall
        self._coming, self._going = random.Random(f"{seed} in"), random.Random(f"{seed} out")
        self._byte = Event()

    async def start(self, array_clock):
        """Reset, then take bytes for good."""
        dut = self.dut
        dut.rst.value, dut.i__valid.value, dut.o__ready.value, dut.i__payload.value = 1, 0, 0, 0
        Clock(dut.clk, _PERIOD, unit="ns").start()
        if array_clock > 1:
            dut.clk_array.value = 0
            await Timer(_OFFSET, "ns")
            Clock(dut.clk_array, _PERIOD / array_clock, unit="ns").start()
        for _ in range(8):
            await RisingEdge(dut.clk)
        dut.rst.value = 0
        cocotb.start_soon(self._receive())

    async def send(self, data):
        """Give bytes to the machine."""
        dut = self.dut
        for byte in data:
            while self._coming.random() < self._idle:
                await RisingEdge(dut.clk)
            dut.i__payload.value, dut.i__valid.value = byte, 1
            await RisingEdge(dut.clk)
            while not dut.i__ready.value:
                await RisingEdge(dut.clk)
            dut.i__valid.value = 0

    async def _receive(self):
        """Take bytes; what is offered must hold until it is taken."""
        dut = self.dut
        offered = None
        while True:
            ready = self._going.random() >= self._stall
            dut.o__ready.value = ready
            await RisingEdge(dut.clk)
            if not dut.o__valid.value:
                assert offered is None, f"the byte {offered:#x} was taken back"
                # Nothing to watch until there is something.
                await RisingEdge(dut.o__valid)
                continue
            byte = int(dut.o__payload.value)
            assert offered in (None, byte), f"the byte {offered:#x} became {byte:#x}"
            offered = None if ready else byte
            if ready:
                self.received.append(byte)
                self._byte.set()

    async def answer(self, count):
        """The bytes of ``count`` frames."""
        while not complete(self.received, count):
            self._byte.clear()
            await self._byte.wait()
        data = bytes(self.received)
        self.received.clear()
        return data


@cocotb.test()
async def replay(dut):
    """Every answer is the one that the model gave."""
    session = Session.load(os.environ["SHIFTGRAD_SESSION"])
    idle, stall = (float(os.environ.get(f"SHIFTGRAD_{name}", 0)) for name in ("IDLE", "STALL"))
    bench = Bench(dut, idle, stall, os.environ.get("SHIFTGRAD_SEED", "0"))
    await bench.start(int(os.environ.get("SHIFTGRAD_ARRAY_CLOCK", "1")))
    for number, exchange in enumerate(session.exchanges):
        before = session.exchanges[:number]
        link = (len(exchange.request) / (1 - idle) + len(exchange.answer) / (1 - stall))
        sender = cocotb.start_soon(bench.send(exchange.request))
        try:
            limit = int(_PATIENCE + 4 * link)
            await with_timeout(sender, limit * _PERIOD, "ns")
            received = await with_timeout(bench.answer(len(frames(exchange.answer))),
                                          limit * _PERIOD, "ns")
        except SimTimeoutError:
            raise Mismatch(f"no answer after {limit} clocks, received {bench.received.hex()}\n"
                           f"{exchange.explain(before)}") from None
        try:
            exchange.check(received, session.shape, before)
        except Mismatch as mismatch:
            raise Mismatch(f"{session.name}, exchange {number}: {mismatch}") from None
    for _ in range(_SILENCE):
        await RisingEdge(dut.clk)
    assert not bench.received, f"bytes that nobody asked for: {bench.received.hex()}"
