"""sim.model: bounds, exactness and randomness that the doctests do not show."""

import numpy as np
import pytest

from sim.model import noise
from sim.model.order import order, schedule_rows
from sim.model.quantise import quantise, quantise_gradient
from sim.model.requantise import requantise, safe_shift
from sim.model.rounding import bit_length
from sim.model.scale import Scale
from sim.model.softmax import (
    GRADIENT_FRACTION,
    LOGIT_FRACTION,
    LOSS_FRACTION,
    cross_entropy,
    exponential,
    logarithm,
)
from sim.model.update import sgd


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_unbiased_and_neighbours_are_uncorrelated(seed):
    count = 1 << 15
    u = (noise.bits16(noise.key(seed, 7, 3), np.arange(count)) + 0.5) / 65536 - 0.5
    sigma = 1 / np.sqrt(12)
    assert abs(u.mean()) < 4 * sigma / np.sqrt(count)
    assert abs(u.std() - sigma) < 0.01
    for lag in (1, 2, 3, 4, 8, 10, 64):
        assert abs((u[lag:] * u[:-lag]).mean()) < 4 * sigma**2 / np.sqrt(count - lag)


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
        random = noise.bits16(noise.key(0, 0, 1), np.arange(x.size).reshape(x.shape))
        q = quantise_gradient(x, bits=bits, groups=groups, noise=random).q
        assert abs(q).max() <= top
    q = quantise(abs(x), bits=bits, signed=False).q
    assert q.min() >= 0 and q.max() == 2**bits - 1
    assert abs(quantise(x, bits=bits, signed=True, per_column=True, clip=13).q).max() == top


@pytest.mark.parametrize("value", [-2**31, -(2**31) + 1, 2**31 - 1])
def test_the_extremes_of_a_wide_element(value):
    result = quantise(np.array([[value, 0]]), bits=4, signed=True, groups=(8, 8))
    assert result.q.tolist() == [[7 if value > 0 else -7, 0]]
    assert result.range.tolist() == [2**31 - 1] * 2


def test_an_all_zero_tensor():
    result = quantise(np.zeros((3, 2)), bits=4, signed=True, groups=(4, 8))
    assert not result.q.any() and not result.range.any()
    assert result.rows.tolist() == [3] * 3 and result.cols.tolist() == [7] * 2


def test_stochastic_rounding_is_unbiased():
    rng = np.random.default_rng(5)
    x = np.broadcast_to(rng.integers(-1000, 1001, 64), (511, 64))
    x = np.vstack([x[:-1], np.full((1, 64), 1000)])
    total = np.zeros(64)
    for step in range(40):
        random = noise.bits16(noise.key(0, step, 2), np.arange(x.size).reshape(x.shape))
        total += quantise_gradient(x, bits=4, groups=(1, 1), noise=random).q[:-1].mean(axis=0)
    # A uniform rounding error has a deviation of at most 1/2.
    assert np.abs(total / 40 - x[0] * 7 / 1000).max() < 5 * 0.5 / np.sqrt(40 * 510)


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


def test_scales_follow_their_real_values():
    rng = np.random.default_rng(2)
    for a, b in rng.integers(1, 2**40, (200, 2)):
        s, t = Scale.of(a), Scale.of(b)
        assert 1 - 2**-15 <= float(s) / a <= 1
        assert 1 - 3 * 2**-15 <= float(s.times(t)) / (float(a) * float(b)) <= 1
        assert abs(float(s.over(t)) * b / a - 1) < 3 * 2**-15
    zero = Scale.of(0)
    assert float(zero.times(Scale.of(7)).power(9)) == 0
    assert float(Scale.of(7).over(zero)) == 0


def test_applying_a_scale_clamps_instead_of_overflowing():
    huge = Scale.of(2**40).power(20)
    assert huge.apply(np.array([-5, 0, 5]), 24).tolist() == [-2**31, 0, 2**31 - 1]
    assert Scale.of(1).power(-200).apply(np.array([-5, 5]), 24).tolist() == [0, 0]


def test_exponential_and_logarithm_follow_their_real_functions():
    t = np.arange(0, 20 << LOGIT_FRACTION, 9973)
    real = np.exp(-t / 2.0**LOGIT_FRACTION) * 2**30
    assert np.abs(exponential(t) - real).max() < 2**30 * 2e-5
    x = np.unique(np.geomspace(1, 2**51, 999).astype(np.int64))
    assert np.abs(logarithm(x) / 65536 - np.log(x / 2**30)).max() < 5e-4


def test_cross_entropy_follows_its_real_function():
    rng = np.random.default_rng(4)
    logits = rng.integers(-8 << 16, 8 << 16, (40, 10))
    labels = rng.integers(0, 10, 40)
    losses, gradient, predicted = cross_entropy(logits, labels)
    z = logits / 65536
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert np.abs(losses / 2**LOSS_FRACTION + np.log(p[np.arange(40), labels])).max() < 1e-3
    p[np.arange(40), labels] -= 1
    assert np.abs(gradient / 2**GRADIENT_FRACTION - p).max() < 1e-4
    assert (predicted == logits.argmax(axis=1)).all()


def test_extreme_logits_have_a_finite_loss():
    losses, gradient, _ = cross_entropy(np.array([[2**31 - 1, -2**31], [-2**31, -2**31]]),
                                        np.array([1, 0]))
    assert losses[0] == 2**32 - 1 and abs(losses[1] - 45426) <= 1
    assert gradient[0].tolist() == [2**24, -2**24]


def test_the_update_is_unbiased_and_clamped():
    n = 20000
    random = noise.bits16(noise.key(0, 0, 1), np.arange(n))
    weight, velocity = sgd(np.zeros(n), np.zeros(n), np.full(n, 100), 3, 10, random)
    assert abs(weight.mean() + 300 / 1024) < 5 * 0.5 / np.sqrt(n)
    assert (velocity == 100).all()
    weight, velocity = sgd(np.array([-2**31]), np.array([2**31 - 1]), np.array([2**31 - 1]),
                           4095, 0, np.array([0]))
    assert weight.tolist() == [-2**31] and velocity.tolist() == [2**31 - 1]


def test_bit_length_at_every_power_of_two():
    for n in range(53):
        assert bit_length(np.array([2**n - 1, 2**n])).tolist() == [n, n + 1]
