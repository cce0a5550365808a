"""hdl.relu against sim.model.relu."""

from amaranth.sim import Simulator

from hdl.relu import Relu, ReluGradient
from sim.model.relu import relu, relu_gradient

BITS = 4
VALUES = range(-(1 << BITS - 1), 1 << BITS - 1)


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()


def test_every_value():
    dut = Relu(BITS)

    async def bench(ctx):
        for value in VALUES:
            ctx.set(dut.i, value)
            ctx.set(dut.on, 1)
            assert (ctx.get(dut.o), bool(ctx.get(dut.mask))) == tuple(v.item() for v in relu(value))
            ctx.set(dut.on, 0)
            assert (ctx.get(dut.o), ctx.get(dut.mask)) == (value, 1)

    simulate(dut, bench)


def test_every_gradient():
    dut = ReluGradient(BITS)

    async def bench(ctx):
        for value in VALUES:
            for mask in (0, 1):
                ctx.set(dut.i, value)
                ctx.set(dut.mask, mask)
                assert ctx.get(dut.o) == relu_gradient(value, bool(mask))

    simulate(dut, bench)
