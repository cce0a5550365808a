"""hdl.chain: cells of the ECP5, proven equal to their generic twins."""

from functools import partial

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Value, signed

from hdl.chain import RowPair, SelectAdd
from tests.support.verilated import run_yosys


def prove_equal(make, folder):
    """Prove a mapped component equal to its twin, whatever the carry is that enters a chain."""
    for name in ("twin", "mapped"):
        dut = make(mapped=name == "mapped")
        ports = {path[0]: (Value.cast(signal), None)
                 for path, _, signal in dut.signature.flatten(dut)}
        (folder / f"{name}.il").write_text(rtlil.convert(dut, name=name, ports=ports))
    (folder / "prove.ys").write_text("""
read_verilog -nooverwrite +/lattice/cells_sim_ecp5.v
read_rtlil twin.il
read_rtlil mapped.il
miter -equiv -make_outputs twin mapped both
hierarchy -top both
proc
flatten
sat -verify -prove trigger 0 both
""")
    done = run_yosys(["-q", "-s", "prove.ys"], folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("make", [
    partial(RowPair, 5), partial(RowPair, 11),
    partial(SelectAdd, a=7, b=5, c=6, o=8), partial(SelectAdd, a=6, b=signed(4), c=signed(5), o=7),
    # A partial sum of the array.
    partial(SelectAdd, a=signed(9), b=signed(12), c=signed(11), o=signed(13)),
], ids=["rows5", "rows11", "add8", "add7", "add13"])
def test_chains_are_their_twins(make, tmp_path):
    prove_equal(make, tmp_path)
