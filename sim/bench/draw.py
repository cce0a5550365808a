"""What scenarios draw at random: sizes, elements of every kind, groups."""

import numpy as np

from hdl.instructions import STATE_ROWS, StateRow
from hdl.params import NORM_IN_BITS
from host.errors import MemoryFullError

__all__ = ["EDGE", "codes", "dimension", "fitting", "inputs", "random_groups", "state", "values"]


def dimension(rng, most, unit=1):
    """A size from 1 to ``most``: often 1, often next to a multiple of ``unit``."""
    near = unit * int(rng.integers(1, max(2, most // unit + 1)))
    size = rng.choice([1, near - 1, near, near + 1, *rng.integers(1, most + 1, 4)])
    return int(np.clip(size, 1, most))


def fitting(attempt, most):
    """Call ``attempt(most)``, with smaller bounds until its tensors fit the memories."""
    while True:
        try:
            return attempt(most)
        except MemoryFullError:
            most = max(1, most // 2)


def codes(rng, params, shape, *, streamed, extreme=False):
    """Quantised elements; the streamed operand may hold -2**(bits-1)."""
    low = -(1 << params.bits - 1) if streamed else -params.qmax
    if extreme:
        return rng.choice([low, low, params.qmax], shape)
    return rng.integers(low, params.qmax + 1, shape)


def random_groups(rng, length, count):
    """Groups of an axis: any, one alone, two extremes, or sorted already."""
    return [
        rng.integers(0, count, length), np.full(length, rng.integers(count)),
        rng.choice([0, count - 1], length), np.sort(rng.integers(0, count, length)),
    ][rng.integers(4)]


def values(rng, m, n):
    """Wide elements of many magnitudes: by element, by row and by column."""
    largest = int(rng.integers(1, 32))
    exponent = (rng.uniform(0, 1, (m, n)) + rng.uniform(0, 4, (m, 1)) + rng.uniform(0, 4, (1, n)))
    x = rng.choice([-1, 1], (m, n)) * np.exp2(largest - exponent)
    x = np.floor(np.clip(x, -2**31, 2**31 - 1)).astype(np.int64)
    x[:, rng.random(n) < 0.1] = 0
    x[rng.random(m) < 0.1] = 0
    x[rng.random((m, n)) < 0.05] = 0
    return x


#: The first norm input that is clamped.
EDGE = 1 << NORM_IN_BITS - 1


def state(rng, n):
    """A state tensor with random gamma and beta, junk in what the device writes."""
    state = rng.integers(-2**31, 2**31, (STATE_ROWS, n))
    if rng.random() < 0.7:
        # Of a usual size: within 16 bits, and beta such that nothing is clamped.
        state[StateRow.GAMMA] = rng.integers(-2**13, 2**13, n)
        state[StateRow.BETA] = rng.integers(-2**14, 2**14, n)
    extreme = rng.random(n) < 0.2
    state[StateRow.GAMMA, extreme] = rng.choice([-2**15, 2**15 - 1, 0], extreme.sum())
    return state


def inputs(rng, m, n):
    """Norm inputs: each channel with its mean and deviation; some constant, some with outliers."""
    width = np.exp2(rng.uniform(0, NORM_IN_BITS - 3, n))
    x = rng.normal(0, 1, (m, n)) * width + rng.normal(0, 1, n) * width * rng.integers(0, 4, n)
    outliers = rng.random((m, n)) < 0.02
    x[outliers] *= 100
    x[:, rng.random(n) < 0.1] = float(rng.integers(-EDGE, EDGE))
    return np.clip(np.floor(x), -2**31, 2**31 - 1).astype(np.int64)
