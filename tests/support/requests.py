"""Requests to a component with byte streams ``i`` and ``o``, and the answers it gives."""

from amaranth.sim import Simulator

from hdl.protocol import END, Kind, Status, decode, encode, unescape
from tests.support.streams import consume, produce

__all__ = ["Requests", "head", "read_body", "simulate"]


class Requests:
    """The host's end of a link in a simulation; every request takes the next ``seq``."""
    def __init__(self, ctx, dut):
        self._ctx, self._dut = ctx, dut
        self.seq = 0

    async def wire(self, data):
        """Send bytes as they are and return the decoded frame that comes back."""
        await produce(self._ctx, self._dut.i, data)
        answer = []
        await consume(self._ctx, self._dut.o, answer,
                      lambda got: len(got) > 1 and got[-1] == END)
        assert answer[0] == END
        return decode(unescape(bytes(answer[1:-1])))

    async def __call__(self, kind, body=b"", *, seq=None):
        """``(status, rest of the answer)`` of one request."""
        if seq is None:
            self.seq = self.seq % 255 + 1
            seq = self.seq
        answer = await self.wire(encode(seq, kind, body))
        assert answer[:2] == (seq, kind | Kind.ANSWER)
        return Status(answer[2][0]), answer[2][1:]

    async def write(self, space, address, words):
        """Write bytes; must succeed."""
        assert await self(Kind.WRITE, head(space, address) + words) == (Status.OK, b"")

    async def read(self, space, address, count):
        """Read words as bytes; must succeed."""
        status, words = await self(Kind.READ, read_body(space, address, count))
        assert status == Status.OK
        return words


def head(space, address):
    """What the body of a WRITE or a READ begins with."""
    return bytes([space, address >> 16]) + (address & 0xFFFF).to_bytes(2, "little")


def read_body(space, address, count):
    """The body of a READ."""
    return head(space, address) + count.to_bytes(2, "little")


def simulate(dut, process, *, limit=200_000, array_clock=1, beside=None):
    """Run the testbench ``process(ctx, requests)`` to its end, and ``beside(ctx)`` meanwhile."""
    async def bench(ctx):
        await process(ctx, Requests(ctx, dut))

    async def deadline(ctx):
        for _ in range(limit):
            await ctx.tick()
        raise AssertionError(f"not finished after {limit} clocks")

    simulator = Simulator(dut)
    simulator.add_clock(1.2e-8)
    if array_clock > 1:
        simulator.add_clock(1.2e-8 / array_clock, domain="array")
    simulator.add_testbench(bench)
    simulator.add_testbench(deadline, background=True)
    if beside:
        simulator.add_testbench(beside, background=True)
    simulator.run()
