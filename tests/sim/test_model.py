"""sim.model: bounds, exactness and randomness that the doctests do not show."""

import numpy as np
import pytest

from sim.model import noise
from sim.model.order import order, schedule_rows
from sim.model.quantise import (
    least_exponent,
    quantise,
    quantise_gradient,
    scale_exponent,
)
from sim.model.requantise import requantise, safe_shift
from sim.model.rounding import bit_length, rescale
from sim.model.softmax import (
    LOGIT_FRACTION,
    LOSS_FRACTION,
    PROBABILITY_FRACTION,
    cross_entropy,
    exponential,
    logarithm,
    softmax,
    softmax_gradient,
)
from sim.model.update import DECAY_SHIFT, MOMENTUM, sgd
from tests.support.field import multiplied


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("of_elements", [False, True])
def test_noise_is_unbiased_and_neighbours_are_uncorrelated(seed, of_elements):
    count, key = 1 << 15, noise.key(seed, 7, 3)
    words = (noise.element_noise(key, 64, count // 64).ravel() if of_elements
             else noise.bits16(key, np.arange(count)))
    u = (words + 0.5) / 65536 - 0.5
    sigma = 1 / np.sqrt(12)
    assert abs(u.mean()) < 4 * sigma / np.sqrt(count)
    assert abs(u.std() - sigma) < 0.01
    for lag in (1, 2, 3, 4, 8, 10, 64):
        assert abs((u[lag:] * u[:-lag]).mean()) < 4 * sigma**2 / np.sqrt(count - lag)


def test_elements_of_a_block_are_pairwise_independent_and_cover_all_words():
    # Over all hashes of a field of the same polynomial, each pair of places sees every pair once.
    for p in range(8):
        for q in range(p):
            pairs = {(multiplied(y, x, p), multiplied(y, x, q))
                     for x in range(0, 1 << 16, 4099) for y in range(0, 1 << 16, 4099)}
            assert len(pairs) == 256


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 8), (5, 17)])
def test_noise_of_an_element_is_that_of_its_place_in_its_block(shape):
    key, (rows, cols) = noise.key(1, 2, 3), shape
    found = noise.element_noise(key, rows, cols)
    assert found.shape == shape
    for i in range(rows):
        for j in range(cols):
            x, y = noise.hash32(key, i * -(-cols // 8) + j // 8)
            assert found[i, j] == multiplied(int(y), int(x), j % 8)


def test_noise_of_neighbouring_seeds_steps_and_tensors_is_independent():
    count = 1 << 14
    index = np.arange(count)
    base = noise.bits16(noise.key(1, 1, 1), index) / 65536 - 0.5
    for other in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2), (65537, 1, 1)):
        u = noise.bits16(noise.key(*other), index) / 65536 - 0.5
        assert abs((u * base).mean()) < 4 / 12 / np.sqrt(count), other


def test_a_permutation_is_one():
    order_ = noise.permutation(noise.key(3, 0, 15), 1437)
    assert sorted(order_.tolist()) == list(range(1437))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("scale", [1, 9, 1000, 2**31 - 1])
def test_quantised_magnitudes_stay_within_the_codes(bits, scale):
    rng = np.random.default_rng(bits * scale)
    x = rng.integers(-scale, scale + 1, (17, 13))
    top = 2 ** (bits - 1) - 1
    for groups in ((1, 1), (4, 8)):
        random = noise.element_noise(noise.key(0, 0, 1), *x.shape)
        q = quantise_gradient(x, bits=bits, groups=groups, noise=random).q
        assert abs(q).max() <= top
    q = quantise(abs(x), bits=bits, signed=False).q
    # A power of two leaves at most half of the codes unused.
    assert q.min() >= 0 and 2 ** (bits - 1) <= q.max() < 2**bits
    q = quantise(x, bits=bits, signed=True, per_column=True, clip=13).q
    assert top // 2 < abs(q).max() <= top


@pytest.mark.parametrize("groups", [(1, 1), (4, 4), (8, 8)])
@pytest.mark.parametrize("stochastic", [False, True])
def test_the_error_without_a_clip_is_that_of_one_step(groups, stochastic):
    rng = np.random.default_rng(groups)
    x = np.floor(rng.normal(size=(31, 9)) * 2.0 ** rng.uniform(0, 25, (31, 1))).astype(np.int64)
    random = noise.element_noise(noise.key(1, 0, 1), *x.shape) if stochastic else None
    found = quantise(x, bits=4, signed=True, groups=groups, noise=random)
    step = 2.0 ** (found.exponent - found.rows[:, None] - found.cols)
    assert (abs(found.q * step - x) <= step / (1 if stochastic else 2)).all()
    assert groups == (1, 1) or len(set(step.flat)) > 3
    # No group may be larger: a row or column that has not the last one nearly fills the range.
    top, groups_left = 7 * 2.0 ** found.exponent[0], groups[1] - 1
    magnitude = (abs(x) * 2.0 ** found.rows[:, None]).max(axis=0) * 2.0 ** found.cols
    assert (magnitude <= top).all()
    assert ((magnitude > top / 2) | (found.cols == groups_left)).all()


def test_least_exponents_and_scales_by_their_definition():
    rng = np.random.default_rng(1)
    for top in (1, 3, 7, 15, 127, 255):
        for need in [*range(1, 70), *(int(2 ** e) for e in rng.uniform(0, 31, 200)), 2**31]:
            e = int(least_exponent(top, need))
            assert top * 2.0**e >= need > top * 2.0 ** (e - 1)
        for _ in range(200):
            count, clip = int(rng.integers(1, 2000)), int(rng.integers(1, 256))
            largest = int(2 ** rng.uniform(0, 31))
            total = largest + int(largest * (count - 1) * 2 ** rng.uniform(-9, 0))
            limits = 7 / 8 * largest, 7 / 8 * min(largest, clip / 4 * total / count)
            highest, wanted = (int(np.ceil(np.log2(limit / top))) for limit in limits)
            assert scale_exponent(largest, total, count, top, clip) == max(wanted, highest - 7)


def test_scales_do_not_depend_on_the_unit():
    rng = np.random.default_rng(0)
    x = rng.integers(-999, 1000, (20, 5))
    for options in ({"signed": True}, {"signed": False, "clip": 22},
                    {"signed": True, "clip": 14, "per_column": True},
                    {"signed": True, "groups": (4, 4)}):
        once, larger = (quantise(x << shift, bits=4, **options) for shift in (0, 20))
        assert (once.q == larger.q).all() and (once.exponent + 20 == larger.exponent).all()


@pytest.mark.parametrize("value", [-2**31, -(2**31) + 1, 2**31 - 1])
def test_the_extremes_of_a_wide_element(value):
    result = quantise(np.array([[value, 0]]), bits=4, signed=True, groups=(8, 8))
    # 2**31 and about as much are 4 steps of 2**29.
    assert result.q.tolist() == [[4 if value > 0 else -4, 0]]
    assert result.exponent.tolist() == [29] * 2


def test_an_all_zero_tensor():
    result = quantise(np.zeros((3, 2)), bits=4, signed=True, groups=(4, 8))
    assert not result.q.any() and not result.exponent.any()
    assert result.rows.tolist() == [3] * 3 and result.cols.tolist() == [7] * 2


def test_stochastic_rounding_is_unbiased():
    rng = np.random.default_rng(5)
    x = np.broadcast_to(rng.integers(-1000, 1001, 64), (511, 64))
    x = np.vstack([x[:-1], np.full((1, 64), 1000)])
    total = np.zeros(64)
    for step in range(40):
        random = noise.element_noise(noise.key(0, step, 2), *x.shape)
        total += quantise_gradient(x, bits=4, groups=(1, 1), noise=random).q[:-1].mean(axis=0)
    # A uniform rounding error has a deviation of at most 1/2.
    assert np.abs(total / 40 - x[0] / 2.0**8).max() < 5 * 0.5 / np.sqrt(40 * 510)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 16])
def test_an_order_never_exceeds_the_schedule(groups, depth):
    rng = np.random.default_rng(groups * depth)
    for count in (1, 2, 5, 17, 64):
        for case in range(groups + 3):
            g = np.full(count, case) if case < groups else rng.integers(0, groups, count)
            slots, marks = order(g, groups, depth)
            assert len(slots) <= schedule_rows(count, depth, groups) * depth
            assert len(slots) % depth == 0
            taken = slots[slots >= 0]
            assert sorted(taken.tolist()) == list(range(count))
            assert len(set(marks)) == groups - 1
            row_group = np.searchsorted(marks, np.arange(len(slots)) // depth, side="right")
            assert (row_group[slots >= 0] == g[taken]).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("unsigned", [False, True])
def test_the_safe_shift_is_safe_and_one_less_is_not(bits, unsigned):
    for k, shifts in ((64, 0), (4096, 14), (511, 7)):
        shift = safe_shift(bits, k, unsigned=unsigned, shifts=shifts)
        largest = 2**bits - 1 if unsigned else 2 ** (bits - 1)
        worst = k * largest * (2 ** (bits - 1) - 1) << shifts
        assert requantise(np.array([worst]), shift)[1] == 0
        assert shift == 0 or requantise(np.array([worst]), shift - 1)[1] == 1


@pytest.mark.parametrize("bits", [8, 24, 32])
def test_rescaling_follows_its_definition(bits):
    rng = np.random.default_rng(bits)
    x = np.array([0, 1, -1, 2**35 - 1, -2**35, *rng.integers(-2**35, 2**35, 50)])
    high = 2 ** (bits - 1) - 1
    for shift in (-70, -40, -36, -1, 0, 1, 5, 30, 70):
        y, clamped = rescale(x, shift, bits)
        real = [int(v) << shift if shift >= 0 else (int(v) + (1 << -shift - 1)) >> -shift
                for v in x]
        assert y.tolist() == [min(max(v, -high - 1), high) for v in real]
        assert clamped == sum(not -high - 1 <= v <= high for v in real)
    by_column = rescale(np.array([[5, 5, 5]]), np.array([-1, 0, 2]), 24)[0]
    assert by_column.tolist() == [[3, 5, 20]]


def test_exponential_and_logarithm_follow_their_real_functions():
    t = np.arange(0, 20 << LOGIT_FRACTION, 9973)
    real = np.exp(-t / 2.0**LOGIT_FRACTION) * 2**30
    assert np.abs(exponential(t) - real).max() < 2**30 * 2e-5
    x = np.unique(np.geomspace(1, 2**51, 999).astype(np.int64))
    assert np.abs(logarithm(x) / 65536 - np.log(x / 2**30)).max() < 5e-4


def real_softmax(logits):
    p = np.exp((logits - logits.max(axis=1, keepdims=True)) / 2.0**LOGIT_FRACTION)
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("m", [1, 2, 40, 511])
def test_cross_entropy_follows_its_real_function(m):
    rng = np.random.default_rng(m)
    logits = rng.integers(-8 << LOGIT_FRACTION, 8 << LOGIT_FRACTION, (m, 10))
    labels, sample = rng.integers(0, 10, m), np.arange(m)
    losses, gradient, exponent, predicted = cross_entropy(logits, labels)
    p = real_softmax(logits)
    assert np.abs(losses / 2**LOSS_FRACTION + np.log(p[sample, labels])).max() < 1e-3
    p[sample, labels] -= 1
    # Of the mean: errors relative to 1 / m, with as many bits for a large batch as for one.
    assert np.abs(gradient * 2.0**exponent - p / m).max() < 1.5e-4 / m
    assert (predicted == logits.argmax(axis=1)).all()


def test_softmax_and_its_gradient_follow_their_real_functions():
    rng = np.random.default_rng(4)
    logits = rng.integers(-6 << LOGIT_FRACTION, 6 << LOGIT_FRACTION, (40, 10))
    p, dp = real_softmax(logits), rng.integers(-2**20, 2**20, (40, 10))
    found = softmax(logits)
    assert (np.abs(found / 2**PROBABILITY_FRACTION - p) < 2**-13 * p + 2.0**-22).all()
    real = found / 2**PROBABILITY_FRACTION
    for by in 0, -14:
        # Small gradients are as exact as large ones.
        small = dp >> -by
        expected = real * (small - (real * small).sum(axis=1, keepdims=True))
        gradient, exponent = softmax_gradient(small, found)
        unit = 2.0**exponent
        assert 2**21 <= np.abs(gradient).max() <= 2**22
        assert (np.abs(gradient * unit - expected) <= unit / 2 + 2.0**-7 * real).all()


def test_extreme_logits_have_a_finite_loss():
    losses, gradient, exponent, _ = cross_entropy(
        np.array([[2**23 - 1, -2**23], [-2**23, -2**23]]), np.array([1, 0]))
    assert losses[0] == 2**24 - 1 << LOSS_FRACTION - LOGIT_FRACTION
    assert abs(losses[1] - 45426) <= 1
    assert (gradient[0] * 2.0**exponent).tolist() == [0.5, -0.5]


def test_the_update_is_unbiased_and_clamped():
    n = 20000
    random = noise.element_noise(noise.key(0, 0, 1), 1, n)[0]
    weight, velocity = sgd(np.zeros(n), np.full(n, 10), np.full(n, 401), 3, 10, random)
    expected = 10 * MOMENTUM / 256 + 401 / 4
    assert abs(velocity.mean() - expected) < 5 * 0.5 / np.sqrt(n)
    assert abs(weight.mean() + expected * 3 / 1024) < 5 * 0.5 / np.sqrt(n)
    assert set(velocity) == {109, 110} and set(weight) == {0, -1}
    decayed, _ = sgd(np.full(n, 10000), np.zeros(n), np.zeros(n), 1, 0, random, decay=100)
    assert abs(decayed.mean() - 10000 + 10000 * 100 / 2**DECAY_SHIFT) < 5 * 0.5 / np.sqrt(n)
    low, high = -2**23, 2**23 - 1
    weight, velocity = sgd(np.array([low, high]), np.array([high, low]), np.array([high, low]),
                           4095, 0, np.array([0, 0]))
    assert weight.tolist() == [low, high] and velocity.tolist() == [high, low]


def mean_step(v, g, rate, master=(24, 20), speed=(24, 20)):
    """``(velocity, weight)`` after a step from rest, means over all words, less the exact ones."""
    words = np.arange(1 << 16)
    weight, velocity = sgd(0 * words, 0 * words + v, 0 * words + g, rate, 12, words, master=master,
                           speed=speed)
    exact = v * MOMENTUM / 256 + g * 2.0 ** (speed[1] - 22)
    return (velocity.mean() - exact,
            weight.mean() + rate * 2.0 ** (master[1] - speed[1] - 12) * exact)


@pytest.mark.parametrize(("v", "g", "exact", "found"), [
    (0, 2, -0.0500, 0), (1, 0, -0.0899, 0), (2, 0, -0.1799, -0.1001),
    (100000, -77777, -7046.825, -7046.875)])
def test_the_bias_of_the_update_is_what_the_documentation_says(v, g, exact, found):
    of_velocity, of_weight = mean_step(v, g, 410)
    assert abs(of_velocity) < 2.0**-16
    assert abs(found - exact - of_weight) < 1e-3


@pytest.mark.parametrize("formats", [{}, {"master": (16, 12), "speed": (8, 6)}])
def test_the_bias_of_the_update_is_bounded(formats):
    rng = np.random.default_rng(7)
    fractions = formats.get("master", (24, 20))[1] - formats.get("speed", (24, 20))[1]
    worst = 0
    for rate in (1, 41, 410, 2048, 4095):
        r = rate * 2.0 ** (fractions - 12)
        for _ in range(12):
            v, g = int(rng.integers(-60, 60)), int(rng.integers(-2**16, 2**16))
            f = (v * MOMENTUM / 256 + g * 2.0 ** (formats.get("speed", (24, 20))[1] - 22)) % 1
            below = v * MOMENTUM / 256 + g * 2.0 ** (formats.get("speed", (24, 20))[1] - 22) - f
            a, b = r * below % 1, r * (below + 1) % 1
            predicted = -sum(sign * (min(x, 1 - f) - (1 - f) * x) for sign, x in ((1, a), (-1, b)))
            of_velocity, of_weight = mean_step(v, g, rate, **formats)
            resolution = 2.0**-16 * (1 + r)
            assert abs(of_velocity) <= 2.0**-16
            assert abs(of_weight - predicted) <= resolution
            assert abs(of_weight) <= min(r, 0.25) + resolution
            worst = max(worst, abs(of_weight) / (min(r, 0.25) + resolution))
    assert worst > 0.5


@pytest.mark.parametrize("formats", [{}, {"master": (16, 12), "speed": (8, 6)}])
def test_the_error_of_the_update_is_bounded(formats):
    rng, n = np.random.default_rng(8), 20000
    (_, fraction), (_, coarse) = (formats.get(name, (24, 20)) for name in ("master", "speed"))
    for rate in (1, 410, 4095):
        v, g = rng.integers(-50, 51, n), rng.integers(-2**16, 2**16, n)
        weight, velocity = sgd(0 * v, v, g, rate, 12, rng.integers(0, 1 << 16, n), **formats)
        exact = v * MOMENTUM / 256 + g * 2.0 ** (coarse - 22)
        assert np.abs(velocity - exact).max() < 1
        r = rate * 2.0 ** (fraction - coarse - 12)
        assert 0.7 * max(r, 1) < np.abs(weight + r * exact).max() < 1 + r


def test_bit_length_at_every_power_of_two():
    for n in range(53):
        assert bit_length(np.array([2**n - 1, 2**n])).tolist() == [n, n + 1]
