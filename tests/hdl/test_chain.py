"""hdl.chain: cells of the ECP5, proven equal to their generic twins."""

from functools import partial

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Value, signed

from hdl.chain import Add, HighAdd, Rows, SelectAdd, SignedAdd
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


def rows(a, b, o, shift=0, subtract=False):
    return partial(Rows, a=a, b=b, o=o, shift=shift, subtract=subtract)


@pytest.mark.parametrize("make", [
    # Of odd and even widths, whose lowest places are made in two ways.
    rows(5, 5, 7, 1), rows(8, 8, 10, 1), rows(11, 11, 13, 1),
    rows(signed(4), signed(4), signed(5)), rows(signed(3), signed(3), signed(4)),
    rows(signed(4), signed(4), signed(6), 1, True), rows(signed(3), signed(3), signed(5), 1, True),
    *(partial(Add, a=signed(5), b=signed(4), o=signed(width), subtract=subtract)
      for width in (5, 6) for subtract in (False, True)),
    partial(Add, a=6, b=4, o=7), partial(Add, a=signed(7), b=signed(8), o=1),
    partial(SelectAdd, a=7, b=5, c=6, o=8), partial(SelectAdd, a=6, b=signed(4), c=signed(5), o=7),
    *(partial(SignedAdd, a=signed(width), b=signed(6), o=signed(7), own_carry=own_carry)
      for width in (5, 6) for own_carry in (False, True)),
    *(partial(HighAdd, a=signed(6), b=signed(7), o=signed(width), whole=whole)
      for width in (8, 9) for whole in (False, True)),
    # A partial sum of the array.
    partial(SelectAdd, a=signed(9), b=signed(12), c=signed(11), o=signed(13)),
], ids=str)
def test_chains_are_their_twins(make, tmp_path):
    prove_equal(make, tmp_path)
