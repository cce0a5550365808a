"""hdl.params: ranges are refused in sentences, widths are derived."""

import itertools

import numpy as np
import pytest

from hdl.params import (
    ACC_BITS,
    MASTER_FRACTIONS,
    MAX_K,
    VELOCITY_FRACTIONS,
    Formats,
    ParameterError,
    Params,
    parse_groups,
)
from sim.model.update import sgd


@pytest.mark.parametrize(("field", "value"), [
    ("bits", 1), ("bits", 9), ("bits", 4.0), ("bits", True), ("rows", 0), ("rows", 65),
    ("cols", 0), ("depth", 17), ("memory", 3), ("arith", "fp99"), ("sample_groups", 3),
    ("channel_groups", 16),
])
def test_a_value_out_of_range_is_one_sentence(field, value):
    with pytest.raises(ParameterError) as refused:
        Params(**{field: value})
    assert str(value) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "x", "3", "4x", "4x4x4", "0x4", "4,4", "-1"])
def test_groups_that_are_none_are_refused(text):
    with pytest.raises(ParameterError, match="groups must be SxC or C"):
        parse_groups(text)


def test_plain_integers_have_no_groups():
    with pytest.raises(ParameterError, match="arith int has no groups"):
        Params(arith="int")
    assert Params(arith="int", sample_groups=1, channel_groups=1).max_groups == 1


@pytest.mark.parametrize(("given", "sentence"), [
    ({"master_bits": 20}, "master-bits must be 16 or 24, got 20"),
    ({"master_bits": "some"}, "master-bits must be 16 or 24, got some"),
    ({"velocity_bits": True}, "velocity-bits must be 8, 16 or 24, got True"),
    ({"master_bits": 16}, "velocity-bits must be at most the masters' 16, got 24"),
    ({"masters": 0, "velocity_bits": 8}, "master-bits and velocity-bits must be 24 and 24 on a "
     "machine that keeps no masters, got 24 and 8"),
    ({"masters": 0, "master_bits": 16}, "master-bits and velocity-bits must be 24 and 24 on a "
     "machine that keeps no masters, got 16 and 24"),
    ({"master_bits": 16.0}, "master-bits must be 16 or 24, got 16.0"),
    ({"codes": 7}, "codes must be a whole number from 8 to 512, got 7"),
    ({"tables": 3}, "tables must be a whole number from 1 to 2, got 3"),
    ({"layer_norm": 1}, "layer-norm must be True or False, got 1"),
    ({"masters": 0, "layer_norm": True}, "layer-norm needs a machine that keeps masters: masters "
     "must be at least 1, got 0"),
])
def test_formats_and_sizes_that_no_machine_has_are_refused(given, sentence):
    with pytest.raises(ParameterError) as refused:
        Params(**{"masters": 8, **given})
    assert str(refused.value) == sentence


def test_every_pair_of_widths_is_one_that_the_update_takes():
    """Numbers of the narrowest still hold what gamma begins with."""
    one = np.ones((1, 1), np.int64)
    for master_bits, velocity_bits in itertools.product(MASTER_FRACTIONS, VELOCITY_FRACTIONS):
        if velocity_bits <= master_bits:
            formats = Formats.of(master_bits, velocity_bits)
            weight, _ = sgd(one << formats.master[1], 0 * one, 0 * one, 1, 0, 0 * one,
                            **formats._asdict())
            assert weight == 1 << formats.master[1]


def test_no_gemm_of_any_machine_leaves_the_accumulators():
    bits, groups = 8, 8
    # Streamed -2**(b-1), stationary B, and the row of ones scaled by 2**(b-1).
    worst = MAX_K * (2**bits - 1) * (2 ** (bits - 1) - 1) << groups - 1
    assert worst < 2 ** (ACC_BITS - 1)


@pytest.mark.parametrize(("bits", "rows", "depth", "groups"), list(itertools.product(
    (2, 3, 8), (1, 2, 3, 9), (1, 4), (1, 2, 8))))
def test_partial_sums_need_every_bit(bits, rows, depth, groups):
    params = Params(bits=bits, rows=rows, depth=depth, sample_groups=1, channel_groups=groups)
    # Horner's rule with the marks where they hurt most: before the last rows.
    worst = 0
    for sign in (-1, 1):
        # What the array adds beside the product: half the weights.
        element = sign * depth * 2 ** (bits - 1) * params.qmax + (-sign * depth * params.qmax >> 1)
        total = 0
        for row in range(rows):
            total = (total << (row > 0 and rows - row <= groups - 1)) + element
        worst = max(worst, total, ~total)
    assert 2 ** (params.psum_bits - 2) <= worst < 2 ** (params.psum_bits - 1)


def test_everything_that_decides_the_machine_is_in_the_fingerprint():
    base = Params()
    for change in ({"bits": 5}, {"sample_groups": 1}, {"channel_groups": 8}, {"rows": 5},
                   {"cols": 5}, {"lanes": 2}, {"depth": 3}, {"memory": 16}):
        assert Params(**change).fingerprint != base.fingerprint
    keeper = {"masters": 8}
    for change in ({"masters": 4}, {"master_bits": 16, "velocity_bits": 16}, {"velocity_bits": 8},
                   {"codes": 128}, {"tables": 1}, {"layer_norm": True}):
        assert Params(**{**keeper, **change}).fingerprint != Params(**keeper).fingerprint
    flat = {"sample_groups": 1, "channel_groups": 1}
    assert Params(**flat).fingerprint != Params(**flat, arith="int").fingerprint
    assert len(base.fingerprint) == 32
