"""Norm units against their models, a tensor at a time."""

import numpy as np

from hdl.instructions import STATE_ROWS, BackwardFlag, NormFlag, Opcode, StateRow
from hdl.params import PARAMETER_FRACTION
from sim.model.relu import unclipped
from tests.support.memories import UnitBench

__all__ = ["WIDE", "check_slopes", "column", "norm_backward", "norm_forward", "random_backward",
           "random_forward", "relative_error", "tensors"]

#: Limits of a wide element.
WIDE = (-2**31, 2**31 - 1)


def column(m, rest, *first):
    """A column that begins with ``first``."""
    return np.array([*first] + [rest] * (m - len(first)))


def _room(unit, cases):
    """Words for any of the cases' tensors, or 1,024."""
    return max(1024, *(1 << (len(case["x"]) * -(-np.shape(case["x"])[1] // unit.params.vector) - 1
                             ).bit_length() for case in cases))


def norm_forward(unit, model, cases):
    """Every case, keyword arguments of :func:`_check_forward`, equals ``model``, one after the
    other."""
    bench = UnitBench(unit, unit.params, words={"wide": 4 * _room(unit, cases)})

    async def process(ctx):
        for case in cases:
            await _check_forward(ctx, bench, unit, model, **case)

    bench.simulate(process)
    return unit


async def _check_forward(ctx, bench, unit, model, x, gamma=None, beta=None, mean=None,
                         deviation=None, rectify=True, in_place=False):
    x = np.asarray(x, np.int64)
    m, n = x.shape
    gamma = np.broadcast_to(4096 if gamma is None else gamma, n)
    beta = np.broadcast_to(0 if beta is None else beta, n)
    inference = mean is not None
    state = np.random.default_rng(7).integers(*WIDE, (STATE_ROWS, n))
    state[StateRow.GAMMA], state[StateRow.BETA] = gamma, beta
    if inference:
        state[StateRow.MEAN], state[StateRow.DEVIATION] = mean, deviation
    src0, dst0, src1, dst1 = range(0, bench.memories["wide"].depth,
                                   bench.memories["wide"].depth // 4)
    bench.load(ctx, "wide", src0, x)
    bench.load(ctx, "wide", src1, state)
    before = bench.dump(ctx, "wide", dst1, m, n)
    dst0 = src0 if in_place else dst0
    cycles, clamped = await bench.run(
        ctx, Opcode.NORM_FORWARD, m=m, n=n, src0=src0, src1=src1, dst0=dst0, dst1=dst1,
        flags=NormFlag.RELU * rectify | NormFlag.INFERENCE * inference)
    y, context, mean, deviation, count = model(
        x, gamma, beta, apply_relu=rectify, mean=state[StateRow.MEAN] if inference else None,
        deviation=state[StateRow.DEVIATION] if inference else None)
    state[StateRow.MEAN], state[StateRow.DEVIATION] = mean, deviation
    assert (bench.dump(ctx, "wide", src1, STATE_ROWS, n) == state).all()
    assert (bench.dump(ctx, "wide", dst0, m, n) == y).all()
    expected = before if inference else context.pack()
    assert (bench.dump(ctx, "wide", dst1, m, n) == expected).all()
    assert clamped == count
    assert cycles == unit.cycles(m, n, inference=inference)


def random_forward(rng, m, n, scale, **more):
    """A case for :func:`norm_forward`."""
    x = rng.integers(-scale, scale + 1, (m, n)) + rng.integers(-scale, scale + 1, n)
    return {"x": np.clip(x, *WIDE), "gamma": rng.integers(-2**15, 2**15, n),
            "beta": rng.integers(-2**15, 2**15, n), "rectify": bool(rng.integers(2)), **more}


def norm_backward(unit, models, cases, largest):
    """Every case, keyword arguments of :func:`_check_backward`, equals the forward and backward
    ``models``, one after the other; no |dx| is above ``largest``. A unit that can scan does, but
    for the first case."""
    bench = UnitBench(unit, unit.params, words={"wide": 4 * _room(unit, cases), "quant": 1024})

    async def process(ctx):
        for number, case in enumerate(cases):
            await _check_backward(ctx, bench, unit, models, largest,
                                  scan=unit.params.masters > 0 < number, **case)

    bench.simulate(process)
    return unit


async def _check_backward(ctx, bench, unit, models, largest, x, dy, gamma=4096, beta=0,
                          rectify=True, in_place=False, beyond=0, codes=None, scan=False):
    """``beyond`` columns of x and dy lie in the tile, but beyond the tensor; ``codes`` are what
    the output was quantised to."""
    forward, backward = models
    x, dy = np.asarray(x, np.int64), np.asarray(dy, np.int64)
    m, n = x.shape
    gamma, beta = np.broadcast_to(gamma, n), np.broadcast_to(beta, n)
    _, context, _, deviation, _ = forward(x, gamma, beta, apply_relu=rectify)
    state = np.random.default_rng(7).integers(*WIDE, (STATE_ROWS, n))
    state[StateRow.GAMMA], state[StateRow.DEVIATION] = gamma, deviation
    src0, src1, dst0, dst1 = range(0, bench.memories["wide"].depth,
                                   bench.memories["wide"].depth // 4)
    bench.load(ctx, "wide", src0, dy)
    bench.load(ctx, "wide", src1, state)
    bench.load(ctx, "wide", dst1, context.pack())
    dst0 = src0 if in_place else dst0
    n -= beyond
    passed, tab0 = context.mask, 0
    if codes is not None:
        bits, slots = unit.params.bits, unit.params.slots
        passed = passed & unclipped(codes, bits)
        # At the end of the memory.
        tab0 = bench.memories["quant"].depth - m * -(-codes.shape[1] // slots)
        bench.load(ctx, "quant", tab0, codes - (1 << bits - 1))
    cycles, clamped = await bench.run(
        ctx, Opcode.NORM_BACKWARD, m=m, n=n, src0=src0, src1=src1, dst0=dst0, dst1=dst1,
        flags=BackwardFlag.CLIPPED * (codes is not None) | BackwardFlag.SCAN * scan, tab0=tab0)
    used = type(context)(context.xhat[:, :n], context.sign[:, :n], passed[:, :n])
    dx, grad_beta, grad_gamma, grad_bits, deviation_bits = backward(
        dy[:, :n], used, gamma[:n], deviation[:n])
    assert np.abs(dx).max() <= largest
    state = state[:, :n]
    state[StateRow.GRAD_BETA], state[StateRow.GRAD_GAMMA] = grad_beta, grad_gamma
    state[StateRow.GRAD_BITS], state[StateRow.DEVIATION_BITS] = grad_bits, deviation_bits
    if scan:
        state[StateRow.LARGEST] = np.abs(dx).max(axis=0)
    found = bench.dump(ctx, "wide", src1, STATE_ROWS, n)
    for row in StateRow:
        assert (found[row] == state[row]).all(), row.name
    assert (bench.dump(ctx, "wide", dst0, m, n) == dx).all()
    assert (bench.dump(ctx, "wide", dst1, m, n) == context.pack()[:, :n]).all()
    assert clamped == 0
    assert cycles == unit.cycles(m, n, **({"scan": True} if scan else {}))


def random_backward(rng, m, n, x_scale, dy_scale, **more):
    """A case for :func:`norm_backward`."""
    x = rng.integers(-x_scale, x_scale + 1, (m, n)) >> rng.integers(0, 6, n)
    return {"x": np.clip(x, *WIDE), "dy": np.clip(rng.integers(-dy_scale, dy_scale + 1, (m, n)),
                                                  *WIDE),
            "gamma": rng.integers(-2**15, 2**15, n), "beta": rng.integers(-2**13, 2**13, n),
            "rectify": bool(rng.integers(2)), **more}


def tensors(seed, m=48, n=6, scale=3000):
    """Integers x and dy, and gamma and beta in fixed point; channels of different deviation."""
    rng = np.random.default_rng(seed)
    x = np.rint(rng.normal(size=(m, n)) * scale * 2.0 ** rng.integers(-3, 1, n)
                + rng.normal(size=n) * scale).astype(np.int64)
    dy = np.rint(rng.normal(size=(m, n)) * 5000).astype(np.int64)
    gamma = rng.integers(2048, 8192, n) * rng.choice([-1, 1], n)
    beta = rng.integers(-4096, 4096, n)
    return x, dy, gamma, beta


def relative_error(found, expected):
    """Of the L2 norm."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def slopes(loss, x, gamma, beta):
    """Central differences of ``loss(x, gamma, beta)`` by each, in the order of a backward pass."""
    def slope(array, index, step):
        kept = array[index]
        ends = []
        for value in (kept + step, kept - step):
            array[index] = value
            ends.append(loss(x, gamma, beta))
        array[index] = kept
        return (ends[0] - ends[1]) / (2 * step)

    return tuple(np.array([slope(array, index, step) for index in np.ndindex(array.shape)]
                          ).reshape(array.shape)
                 for array, step in ((x, 1e-3), (gamma, 1e-6), (beta, 1e-6)))


def check_slopes(forward, backward, seed):
    """``backward`` gives the slopes of ``forward``, both in real numbers."""
    x, dy, gamma, beta = tensors(seed, m=9, n=2)
    gamma, beta = gamma / 2**PARAMETER_FRACTION, beta / 2**PARAMETER_FRACTION
    x = x.astype(float)

    def loss(x, gamma, beta):
        return (dy * forward(x, gamma, beta)).sum()

    for found, expected in zip(slopes(loss, x, gamma, beta), backward(x, dy, gamma, beta),
                               strict=True):
        assert relative_error(found, expected) < 1e-5
