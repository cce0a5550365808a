"""What a GPU does in one pass where PyTorch's own operations would take dozens.

PyTorch compiles these at first use. Their twins, on which the rest of the suite rests, are in
:mod:`host.torch.numbers`; ``tests/host/torch/test_gpu.py`` compares the two.
"""

from functools import lru_cache

import torch

from sim.model.noise import ROUNDS

__all__ = ["noise", "round_up_where"]

_NOISE = """
template <typename T> T noise(T index, {keys}) {{
    unsigned x = (unsigned)index >> 19 & 0xffff, y = (unsigned)index >> 3 & 0xffff;
    const T keys[] = {{ {names} }};
    for (int r = 0; r < {rounds}; r++) {{
        x = (((x << 9 | x >> 7) + y) ^ (unsigned)keys[r]) & 0xffff;
        y = ((y << 2 | y >> 14) ^ x) & 0xffff;
    }}
    for (int bit = 0; bit < 3; bit++) {{
        if (index >> bit & 1) y ^= x;
        x = (x << 1 ^ (x >> 15) * 0x2d) & 0xffff;
    }}
    return (T)y;
}}"""

_ROUND = """
template <typename T> T round_up_where(T t, T noise) {
    T f = floor(t);
    return f + (t - f >= (T)1 - (2 * noise + 1) * (T)7.62939453125e-06 ? (T)1 : (T)0);
}"""


@lru_cache
def _compiled(name):
    create = torch.cuda.jiterator._create_jit_fn
    if name == "round":
        return create(_ROUND)
    names = [f"k{r}" for r in range(ROUNDS)]
    return create(_NOISE.format(keys=", ".join(f"T {k}" for k in names), names=", ".join(names),
                                rounds=ROUNDS), **dict.fromkeys(names, 0))


def noise(index, keys):
    """16 bits, int32, of int32 places ``8 block + place`` under the keys of the rounds."""
    return _compiled("noise")(index, **{f"k{r}": k for r, k in enumerate(keys)})


def round_up_where(t, noise):
    """``floor(t + (2 noise + 1) 2**-17)`` of float32 t and bits from 0 to 65535."""
    return _compiled("round")(t, noise)
