"""``python -m reports.numerics``: the small measurements behind docs/numerics.md.

Scales and clips (error of a quantised tensor), groups (variance of a gradient's estimate, beside
its bound), and random bits (bias and correlation of rounded sums). NumPy alone, a minute or two;
results go to ``reports/data/numerics/numerics.json``.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from sim.model import noise
from sim.model.quantise import ACTIVATION_CLIP, WEIGHT_CLIP, quantise

__all__ = ["bound", "groups", "main", "random_bits", "scales", "variance"]

OUT = Path(__file__).resolve().parent / "data" / "numerics" / "numerics.json"
_UNIT = 2**12


def _real(x, top, signed, clip):
    """Nearest rounding with a real-valued scale, for comparison."""
    a = np.abs(x)
    limit = min(a.max(), clip / 4 * a.mean()) if clip else a.max()
    step = limit / top
    return np.clip(np.floor(x / step + 0.5), -top if signed else 0, top) * step


def _error(y, x):
    return float(((y - x) ** 2).sum() / (x.astype(float) ** 2).sum())


def scales(size=20_000, phases=8):
    """Relative squared error of quantised activations and weights, geometric means over families
    and over sizes within an octave: power-of-two scale and real one, clipped and not."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(size)
    other = rng.standard_normal(size)
    families = {
        "activation": [np.maximum(normal, 0), np.maximum(normal + 0.5, 0),
                       np.maximum(normal + np.maximum(other, 0), 0)],
        "weight": [normal[:2000], rng.laplace(size=2000), rng.uniform(-1, 1, 2000)],
    }
    rows = []
    for kind, tensors in families.items():
        signed, table = kind == "weight", WEIGHT_CLIP if kind == "weight" else ACTIVATION_CLIP
        for bits in range(2, 9):
            top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
            errors = {"power_of_two": [], "real": [], "power_of_two_maximum": [],
                      "real_maximum": []}
            for tensor in tensors:
                for phase in range(phases):
                    x = (tensor * _UNIT * 2 ** (phase / phases)).astype(np.int64)[:, None]
                    for name, clip in (("", table[bits]), ("_maximum", 0)):
                        q = quantise(x, bits=bits, signed=signed, clip=clip)
                        errors["power_of_two" + name].append(
                            _error(q.q * 2.0 ** q.exponent, x))
                        errors["real" + name].append(_error(_real(x, top, signed, clip), x))
            rows.append({"kind": kind, "bits": bits, "clip": table[bits] / 4,
                         **{name: float(np.exp(np.mean(np.log(e)))) for name, e in errors.items()}})
    return rows


def _steps(x, bits, counts, real=False):
    """The step of every element under separable ShiftQuant."""
    top = 2 ** (bits - 1) - 1
    a = np.abs(x).astype(float)
    largest = a.max()
    step = largest / top
    if not real:
        step = 2.0 ** np.ceil(np.log2(step))
    limit = step * top

    def group(m, count):
        with np.errstate(divide="ignore"):
            return np.clip(np.floor(np.log2(limit / np.maximum(m, 1e-300))), 0, count - 1)
    rows = group(a.max(axis=1), counts[0])
    cols = group((a * 2.0 ** rows[:, None]).max(axis=0), counts[1])
    return step * 2.0 ** -(rows[:, None] + cols)


def variance(x, steps):
    """Variance of stochastic rounding: ``step**2 f (1 - f)`` for the fraction f, summed."""
    f = np.abs(x) / steps % 1
    return float((steps**2 * f * (1 - f)).sum())


def bound(x, bits, counts):
    """What the variance cannot exceed, from the maxima alone (docs/numerics.md).

    L is the range, B the largest code, a_n a sample's maximum, G and C the numbers of groups.
    ``step <= s_n t_c / (L B)`` with ``s_n = max(2 a_n, 2**(1 - G) L)``, at most L, and
    ``t_c = max(2 b_c, 2**(1 - C) L)``, at most L, where ``b_c = min(2 max_n |x_nc| L / s_n, L)``
    is at least the channel's maximum after its samples were scaled. A variance is at most a
    quarter of its step squared, and at most the step times the magnitude.
    """
    steps = _steps(x, bits, counts)
    top, a = 2 ** (bits - 1) - 1, np.abs(x).astype(float)
    limit = 2.0 ** np.ceil(np.log2(a.max() / top)) * top
    rows = np.clip(2 * a.max(axis=1), limit * 2.0 ** (1 - counts[0]), limit)
    scaled = a * (limit / rows)[:, None]
    cols = np.clip(2 * np.minimum(2 * scaled.max(axis=0), limit), limit * 2.0 ** (1 - counts[1]),
                   limit)
    most = rows[:, None] * cols / limit / top
    assert (steps <= most * (1 + 1e-9)).all()
    return float(np.minimum(most**2 / 4, most * a).sum())


def groups(bits=4, trials=20):
    """Variance by groups, relative to an ideal scale per channel: log-normal samples x channels."""
    rng = np.random.default_rng(1)
    choices = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 1), (4, 4), (8, 4), (8, 8)]
    total = {(choice, real): [] for choice in choices for real in (False, True)}
    bounds = {choice: [] for choice in choices}
    for _ in range(trials):
        x = (rng.standard_normal((128, 64)) * rng.lognormal(0, 1.5, (128, 1))
             * rng.lognormal(0, 1.0, (1, 64)) * 2**10)
        top = 2 ** (bits - 1) - 1
        ideal = variance(x, np.broadcast_to(np.abs(x).max(axis=0) / top, x.shape))
        for choice in choices:
            bounds[choice].append(bound(x, bits, choice) / ideal)
            for real in (False, True):
                total[choice, real].append(variance(x, _steps(x, bits, choice, real)) / ideal)

    def mean(values):
        return float(np.exp(np.mean(np.log(values))))
    return [{"groups": f"{s}x{c}", "power_of_two": mean(total[(s, c), False]),
             "real": mean(total[(s, c), True]), "bound": mean(bounds[s, c])}
            for s, c in choices]


def _moments(bits):
    """Standardised bias, and correlations with neighbours 1..16 places on, of 16-bit words."""
    u = (bits.astype(float) + 0.5) / 65536 - 0.5
    n = len(u)
    z = [float(u.mean() * np.sqrt(12 * n))]
    z += [float((u[:-lag] * u[lag:]).mean() * 12 * np.sqrt(n - lag)) for lag in range(1, 17)]
    return z


def _statistics(count, words):
    """Those of the hash as it stands, under each key of ``words``: a word an element, shared."""
    single, shared = [], []
    for key in words:
        single += _moments(noise.bits16(key, np.arange(count)))
        shared += _moments(noise.element_noise(key, count // 64, 64).reshape(-1))

    def rms(values):
        return float(np.sqrt(np.mean(np.square(values))))
    return {"rms": rms(single), "largest": float(np.abs(single).max()),
            "rms_shared": rms(shared), "largest_shared": float(np.abs(shared).max())}


def random_bits(count=2**15, keys=24):
    """Root mean square and largest standardised statistic for each number of rounds (1 and about
    4 is chance), per word and for the eight neighbours that share a hash, and of an ideal hash,
    numpy's generator, in the same construction; and the bias of a sum of ``count`` roundings in
    LSB, beside rounding by discarded bits."""
    rows = []
    rounds, hashed = noise.ROUNDS, noise._hash32
    words = [tuple(int(w) for w in np.random.default_rng(seed).integers(0, 65536, 4))
             for seed in range(keys)]
    try:
        for r in (2, 3, 4, 5, 6, 8, 10):
            noise.ROUNDS = r
            rows.append({"rounds": r, "keys": keys, **_statistics(count, words)})
        noise.ROUNDS = rounds
        rng = np.random.default_rng(3)
        noise._hash32 = lambda _, index: tuple(
            rng.integers(0, 65536, (2, *np.shape(index)), dtype=np.uint16))
        # Chance itself, and there are more keys to it: how far 24 are from it shows beside them.
        for several in (keys, 200):
            rows.append({"rounds": "ideal", "keys": several,
                         **_statistics(count, words[:1] * several)})
    finally:
        noise.ROUNDS, noise._hash32 = rounds, hashed
    # A product of a 4-bit sum and a scale, of which 8 bits are dropped.
    rng = np.random.default_rng(2)
    x = np.round(rng.laplace(0, 300, count)).astype(np.int64) * 37
    exact = x.sum() / 256
    stochastic = (x + (noise.element_noise((1, 2, 3, 4), 1, count)[0] >> 8)) >> 8
    dropped = x & 255
    swapped = (dropped >> 4) | (dropped & 15) << 4
    discarded = (x + swapped) >> 8
    nearest = (x + 128) >> 8
    sigma = float(np.sqrt(count / 6))
    return rows, {
        "elements": count, "sigma_of_chance": sigma,
        **{name: float(y.sum() - exact) for name, y in (
            ("hash", stochastic), ("discarded_bits", discarded), ("nearest", nearest))}}


def main(arguments=None):
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.numerics",
                                     description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="file for the results")
    options = parser.parse_args(arguments)
    result = {"command": "python -m reports.numerics", "numpy": np.__version__,
              "scales": scales(), "groups": groups()}
    result["rounds"], result["rounded_sums"] = random_bits()
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("scales", "groups", "rounds"):
        rows = result[name]
        print("  ".join(f"{key:>20}" for key in rows[0]))
        for row in rows:
            print("  ".join(f"{v:>20.4g}" if isinstance(v, float) else f"{v:>20}"
                            for v in row.values()))
        print()
    print(json.dumps(result["rounded_sums"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
