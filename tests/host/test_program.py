"""host.program: products that take more than one instruction."""

import numpy as np
import pytest

from hdl.params import MAX_M, Params
from hdl.protocol import Space
from host import program
from host.device import Device
from host.tensors import Tensor, load, store
from sim.model.gemm import gemm

PARAMS = Params(rows=2, cols=2, depth=2, lanes=1, memory=16)


@pytest.mark.parametrize("m", [1, MAX_M, MAX_M + 1, 1300])
def test_a_product_of_any_number_of_rows(m):
    rng = np.random.default_rng(m)
    a, b = rng.integers(-8, 8, (m, 5)), rng.integers(-7, 8, (5, 3))
    groups = rng.integers(0, 4, m)
    source, weights, out = (Tensor(Space.QUANT, 30, m, 5), Tensor(Space.QUANT, 10, 5, 3),
                            Tensor(Space.WIDE, 7, m, 3))
    rows = program.Groups(3, m, 4)
    steps, shift = program.gemm(PARAMS, source, weights, out, unsigned=True, rows=rows)
    assert len(steps) == -(-m // MAX_M)
    with Device.open("model:", PARAMS) as device:
        device.write(Space.GROUP, rows.base, groups[:, None])
        store(device, source, a)
        store(device, weights, b)
        device.run(steps)
        y, _ = gemm(a + 8, b, shift=shift, rows=groups, row_groups=4)
        assert (load(device, out) == y).all()


def test_rows_of_rows_are_rows_of_the_whole():
    whole = Tensor(Space.QUANT, 100, 50, 9)
    assert whole.rows_from(10, 30).rows_from(5, 8) == whole.rows_from(15, 8)
