"""reports.numerics: the bound holds, and what is measured is what it says."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import numerics
from sim.model import noise
from sim.model.quantise import quantise

COUNTS = [1, 2, 4, 8]


@st.composite
def tensors(draw):
    """Gradients of samples and channels whose sizes lie far apart, with zeros among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 24)), draw(st.integers(1, 12))
    spread = draw(st.sampled_from([0, 0.5, 1.5, 4]))
    x = (rng.standard_normal(shape) * rng.lognormal(0, spread, (shape[0], 1))
         * rng.lognormal(0, draw(st.sampled_from([0, 1, 3])), (1, shape[1])))
    if draw(st.booleans()):
        x[rng.random(shape) < 0.5] = 0
    x[0, 0] = x[0, 0] or 1.0
    return x * 2.0 ** draw(st.integers(-20, 20))


@given(tensors(), st.integers(2, 8), st.sampled_from(COUNTS), st.sampled_from(COUNTS))
@settings(max_examples=300, deadline=None)
def test_the_variance_is_below_its_bound(x, bits, samples, channels):
    steps = numerics._steps(x, bits, (samples, channels))
    assert numerics.variance(x, steps) <= numerics.bound(x, bits, (samples, channels)) * (1 + 1e-9)


@pytest.mark.parametrize("groups", [(1, 1), (1, 4), (4, 1), (4, 4), (8, 2)])
def test_the_steps_are_those_of_the_quantiser(groups):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((16, 8)) * rng.lognormal(0, 2, (16, 1)) * 2**12).astype(np.int64)
    q = quantise(x, bits=4, signed=True, groups=groups)
    steps = 2.0 ** (q.exponent[0] - q.rows[:, None] - q.cols)
    assert (numerics._steps(x, 4, groups) == steps).all()


def test_the_variance_is_that_of_stochastic_rounding():
    rng = np.random.default_rng(0)
    x, step = rng.standard_normal(50), 0.5
    rounded = np.floor(x / step + rng.random((20_000, 50))) * step
    assert rounded.var(axis=0).sum() == pytest.approx(numerics.variance(x, step), rel=0.02)


def test_the_hash_is_left_as_it_was():
    before = noise.ROUNDS, noise._hash32
    rows, sums = numerics.random_bits(count=2**10, keys=2)
    assert (noise.ROUNDS, noise._hash32) == before
    assert [row["rounds"] for row in rows][-3:] == [10, "ideal", "ideal"]
    assert sums["elements"] == 2**10


def test_committed_figures_have_the_ratios_that_the_documents_name():
    rows = json.loads(numerics.OUT.read_text())["groups"]
    ratios = [row["bound"] / row["power_of_two"] for row in rows]
    assert (round(min(ratios), 1), round(max(ratios), 1)) == (1.1, 3.0)
