"""hdl.baseline.packed: four products of 4 bits in a block, all of them, against NumPy."""

import gc
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.sim import Simulator

from hdl.baseline.packed import OPERANDS, WEIGHTS, PackedMac, pack, packed_sum_bits
from hdl.build.flow import SYNTHESIS
from hdl.params import ParameterError, Params
from tests.hdl.test_netlist import LOWERING, Netlist

#: Products of signed numbers as the block is used here: its registers have clock 0, that of B the
#: enable 1. Anything else is x, and the netlist does not lower.
BLOCK = """
module MULT18X18D(%(ports)s);
  parameter REG_INPUTA_CLK = "", REG_INPUTA_CE = "", REG_INPUTA_RST = "";
  parameter REG_INPUTB_CLK = "", REG_INPUTB_CE = "", REG_INPUTB_RST = "";
  parameter REG_PIPELINE_CLK = "", REG_PIPELINE_CE = "", REG_PIPELINE_RST = "";
  parameter REG_OUTPUT_CLK = "", REG_OUTPUT_CE = "", REG_OUTPUT_RST = "";
  input CLK0, CE0, CE1, RST0, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB;
  input %(a)s, %(b)s;
  output %(p)s;
  reg signed [17:0] a, b;
  reg signed [35:0] pipeline, out;
  always @(posedge CLK0) begin
    if (REG_INPUTA_CE == "CE0" && CE0) a <= {%(a)s};
    if (REG_INPUTB_CE == "CE1" && CE1) b <= {%(b)s};
    if (REG_PIPELINE_CE == "CE0" && CE0 && SIGNEDA && SIGNEDB) pipeline <= a * b;
    if (REG_OUTPUT_CE == "CE0" && CE0) out <= pipeline;
  end
  assign {%(p)s} = out;
endmodule
"""
SCRIPT = f"""
read_rtlil top.il
proc
flatten
opt_clean -purge
synth_ecp5 -top top {SYNTHESIS}
select -assert-count 4 t:MULT18X18D
write_verilog -noattr netlist.v
design -reset
read_verilog block.v
read_verilog netlist.v
hierarchy -top top
proc
techmap
{LOWERING}"""


def packed(pairs, layout):
    """Pairs of numbers side by side as the element takes them, the first in the low bits."""
    return sum(layout.const(dict(zip(("low", "high"), pack(*pair), strict=True))).as_bits()
               << number * layout.size for number, pair in enumerate(np.asarray(pairs).tolist()))


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(partial(bench, dut))
    simulator.run()


def sums(operands, weights):
    """By column and operand row, of arrays ``[..., product, row or column]``."""
    return np.einsum("...ki,...kj->...ji", operands, weights).reshape(*operands.shape[:-2], 4)


def test_every_product_of_two_operands_and_two_weights():
    """With other weights in every clock; a quarter of all in each of the four blocks."""
    every = np.stack(np.meshgrid(*[range(-8, 8)] * 2, *[range(-7, 8)] * 2), -1).reshape(-1, 4)
    every = np.random.default_rng(0).permutation(every).reshape(-1, 4, 4)
    assert every.size == 4 * 16**2 * 15**2
    operands, weights = every[..., :2], every[..., 2:]
    found = []

    async def bench(dut, ctx):
        ctx.set(dut.load, 1)
        ctx.set(dut.swap_i, 1)
        for cycle in range(len(every) + dut.latency):
            if cycle < len(every):
                ctx.set(dut.a_i.as_value(), packed(operands[cycle], OPERANDS))
                ctx.set(dut.w_i.as_value(), packed(weights[cycle], WEIGHTS))
            if cycle >= dut.latency:
                found.append([ctx.get(value) for value in dut.sum_o])
            await ctx.tick()

    simulate(PackedMac(Params(rows=1), 0), bench)
    assert found == sums(operands, weights).tolist()


class Column(Elaboratable):
    """Elements below each other."""
    def __init__(self, rows):
        self.elements = [PackedMac(Params(rows=rows), row) for row in range(rows)]
        self.latency = self.elements[-1].latency + (rows - 1) * PackedMac.STEP

    def elaborate(self, platform):
        m = Module()
        m.submodules += self.elements
        for above, below in pairwise(self.elements):
            m.d.comb += [below.sum_i.eq(above.sum_o), below.w_i.eq(above.w_o)]
        return m


@pytest.mark.parametrize("rows", [1, 3])
def test_tiles_of_random_and_of_extreme_codes_follow_each_other(rows):
    rng = np.random.default_rng(rows)
    # Loading a tile begins when the one before has reached the last row.
    lengths = [rows + more + rows - 1 for more in (5, 0, 0, 9, 2)]
    tiles = [(rng.integers(-7, 8, (rows, 4, 2)), rng.integers(-8, 8, (length, rows, 4, 2)))
             for length in lengths]
    tiles += [(np.full((rows, 4, 2), weight), np.full((2 * rows, rows, 4, 2), -8))
              for weight in (-7, 7)]
    starts = np.cumsum([rows - 1, *(len(streamed) for _, streamed in tiles)])
    loads = {start - row: weights[row] for start, (weights, _) in zip(starts, tiles, strict=False)
             for row in range(rows)}
    streamed = np.concatenate([operands for _, operands in tiles])
    found = []

    async def bench(dut, ctx):
        for cycle in range(starts[-1] + dut.latency):
            ctx.set(dut.elements[0].w_i.as_value(), packed(loads.get(cycle, tiles[0][0][0]),
                                                           WEIGHTS))
            for row, element in enumerate(dut.elements):
                now = cycle - row * PackedMac.STEP
                ctx.set(element.load, cycle in loads)
                ctx.set(element.swap_i, now in starts[:-1])
                operands = streamed[min(max(0, now - starts[0]), len(streamed) - 1), row]
                ctx.set(element.a_i.as_value(), packed(operands, OPERANDS))
            if cycle >= starts[0] + dut.latency:
                found.append([ctx.get(value) for value in dut.elements[-1].sum_o])
            await ctx.tick()

    simulate(Column(rows), bench)
    assert found == [value for weights, operands in tiles
                     for value in sums(operands, weights).sum(1).tolist()]


def test_the_netlist_adds_as_numpy_does(tmp_path):
    """With a model of the block in the place of blocks."""
    a, b, p = (", ".join(f"{name}{i}" for i in reversed(range(count)))
               for name, count in (("A", 18), ("B", 18), ("P", 36)))
    ports = "CLK0, CE0, CE1, RST0, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB"
    (tmp_path / "block.v").write_text(BLOCK % {"ports": f"{ports}, {a}, {b}, {p}",
                                               "a": a, "b": b, "p": p})
    dut = PackedMac(Params(rows=2), 1, mapped=True)
    netlist = Netlist(dut, tmp_path, SCRIPT)
    rng, count = np.random.default_rng(2), 200
    operands, weights = rng.integers(-8, 8, (count, 4, 2)), rng.integers(-7, 8, (count, 4, 2))
    above = rng.integers(-224, 225, (count, 4))
    operands[:2], weights[:2], above[:2] = -8, [[[-7]], [[7]]], [[224], [-224]]
    swaps = rng.random(count) < 0.5
    swaps[:2] = True
    found = []
    for cycle in range(count + dut.latency):
        now, before = min(cycle, count - 1), min(max(0, cycle - dut.latency + 1), count - 1)
        outputs = netlist.clock(
            rst=0, load=1, swap_i=int(swaps[now]), a_i=packed(operands[now], OPERANDS),
            w_i=packed(weights[now], WEIGHTS),
            sum_i=sum((int(value) & 0x1FF) << 9 * i for i, value in enumerate(above[before])))
        if cycle >= dut.latency:
            found.append([((outputs["sum_o"] >> 10 * i & 0x3FF) ^ 0x200) - 0x200
                          for i in range(4)])
    # The weights of the last swap.
    active = weights[np.maximum.accumulate(np.where(swaps, np.arange(count), 0))]
    assert found == (above + sums(operands, active)).tolist()


def test_sums_are_as_wide_as_the_worst_case_and_no_wider():
    params = Params(rows=64)
    for row in range(64):
        worst = (row + 1) * 4 * -8 * -7
        sign = packed_sum_bits(params, row) - 1
        assert 1 << sign - 1 <= worst < 1 << sign


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_other_widths_and_depths_are_refused():
    with pytest.raises(ParameterError, match=r"^bits and depth must be 4 where products are "
                                             r"packed, got 4 and 2$"):
        PackedMac(Params(depth=2), 0)
    # Amaranth warns of what was not used, which this cannot be, where it is dropped.
    gc.collect()
