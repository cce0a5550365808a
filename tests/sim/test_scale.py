"""sim.model.scale: where it meets what is defined elsewhere, and its edges."""

import numpy as np
import pytest

from hdl.instructions import ScaleRow
from sim.model.checks import ModelError
from sim.model.noise import element_noise
from sim.model.quantise import divide_by_mantissa, fold
from sim.model.scale import align, column_exponents, column_sums, product, read_scale, scale, update
from sim.model.update import sgd

LOW, HIGH = -(2**31), 2**31 - 1


def exact(z, exponent, bits):
    """``z * 2**exponent`` half up and clamped, in Python's integers."""
    half = z << exponent + 1 if exponent >= 0 else z >> -exponent - 1
    return min(max(half + 1 >> 1, -(1 << bits - 1)), (1 << bits - 1) - 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("divide", [False, True])
def test_scale_equals_whole_numbers_of_any_size(seed, divide):
    rng = np.random.default_rng(seed)
    x = np.rint(rng.choice([-1, 1], (20, 6)) * 2.0 ** rng.uniform(0, 31, (20, 6))).astype(np.int64)
    x = np.clip(x, LOW, HIGH)
    x[0] = LOW
    x[1] = HIGH
    factor = rng.integers(4, 8, 6) if divide else rng.integers(0, 1024, 6)
    exponent = np.array([0, -1, -44, 40, int(rng.integers(-40, 10)), int(rng.integers(-40, 10))])
    for bits in (1, 8, 24, 32):
        y, clamped = scale(x, factor, exponent, bits, divide=divide)
        z = [[(int(e) << 14) // int(f) if divide else int(e) * int(f)
              for e, f in zip(row, factor, strict=True)] for row in x]
        assert y.tolist() == [[exact(e, int(s), bits) for e, s in zip(row, exponent, strict=True)]
                              for row in z]
        assert clamped == sum(exact(e, int(s), bits) != exact(e, int(s), 200)
                              for row in z for e, s in zip(row, exponent, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_align_is_fold(seed):
    """A gradient times the weights' scales; fold's exponents are those of quarters."""
    rng = np.random.default_rng(seed)
    gradient = rng.integers(-(2**22), 2**22, (7, 5)) >> rng.integers(0, 20)
    exponent, mantissa = rng.integers(-20, 3, 5), rng.integers(4, 8, 5)
    folded, least = fold(gradient, exponent, mantissa)
    y, unit = align(gradient, mantissa, exponent - 2)
    assert y.tolist() == folded.tolist() and unit == least


def test_align_of_zeros_and_of_one_column():
    zeros = np.zeros((2, 3), np.int64)
    y, least = align(zeros, np.array([5, 6, 7]), np.array([100, 0, -100]))
    assert not y.any() and least == -22
    assert least == fold(zeros, np.array([20, 0, -20]), np.array([5, 6, 7]))[1]
    # A column of zeros decides nothing, however large its exponent.
    x = np.array([[0, 1], [0, -1]])
    y, least = align(x, np.array([1023, 1]), np.array([30000, -30000]))
    assert y.tolist() == [[0, 1 << 21], [0, -(1 << 21)]] and least == -30021
    # -2**k is one bit longer than what lies below.
    assert align(np.array([[-4, 3]]), np.array([1, 1]), np.array([0, 0]))[1] == -19


def test_quotients_are_those_of_the_mantissas():
    x = np.array([[LOW, HIGH, -1, 1], [5, -5, 6, -6]])
    mantissa = np.array([4, 5, 6, 7])
    assert (product(x, mantissa, divide=True) == divide_by_mantissa(x, mantissa)[0]).all()


def test_update_is_a_step_with_the_scaled_gradient():
    rng = np.random.default_rng(0)
    weight, velocity = rng.integers(-(2**23), 2**23, (2, 4, 3))
    x, factor = rng.integers(LOW, HIGH, (4, 3)), rng.integers(0, 1024, 3)
    exponent, noise = np.array([-18, -9, 0]), element_noise((1, 2, 3, 4), 4, 3)
    gradient, clamped = scale(x, factor, exponent, 24)
    assert clamped
    w, v = sgd(weight, velocity, gradient, 99, 10, noise, decay=5)
    got = update(weight, velocity, x, factor, exponent, 99, 10, noise, decay=5)
    assert (got[0] == w).all() and (got[1] == v).all() and got[2] == clamped


def test_numbers_are_read_as_the_device_has_them():
    rows = np.zeros((len(ScaleRow), 2), np.int64)
    rows[ScaleRow.FACTOR] = -1, 13
    rows[ScaleRow.EXPONENT] = 2**15, -(2**15) - 1
    rows[ScaleRow.BIAS] = LOW, HIGH
    factor, exponent, bias = read_scale(rows)
    assert factor.tolist() == [1023, 13] and exponent.tolist() == [-(2**15), 2**15 - 1]
    assert bias.tolist() == [LOW, HIGH]
    assert read_scale(rows, divide=True)[0].tolist() == [7, 5]
    assert column_exponents(exponent, negate=True, offset=-(2**15), scalar=2**15).tolist() == [
        -(2**15), -(2**15) * 3 + 1]


def test_sums_wrap_around():
    assert column_sums(np.array([[HIGH, LOW], [1, -1]])).tolist() == [LOW, HIGH]


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: product(np.zeros((2, 2)), [1, 1024]), "factors must lie between 0 and 1023, got 1"),
    (lambda: product(np.zeros((2, 2)), [3, 4], divide=True), "mantissa must lie between 4 and 7"),
    (lambda: product(np.full((1, 1), 2**31), [1]), "x must lie between"),
    (lambda: product(np.zeros((2, 2)), [1]), r"a tensor \[m, n\] needs n factors"),
    (lambda: scale(np.zeros((1, 1)), [1], [0, 1], 8), r"a tensor \[m, n\] needs n exponents"),
    (lambda: scale(np.zeros((1, 1)), [1], [0], 33), "bits must be a whole number from 1 to 32"),
    (lambda: scale(np.zeros((1, 1)), [1], [0], 8, bias=[1, 2]), "needs n biases"),
    (lambda: column_exponents([2**15]), "exponents must lie between"),
    (lambda: column_exponents([0], offset=2**15), "offset must lie between"),
    (lambda: read_scale(np.zeros((2, 1))), "a scale tensor must have 3 rows"),
])
def test_what_no_device_could_take_is_refused(call, sentence):
    with pytest.raises(ModelError, match=sentence):
        call()
