"""What a GPU does in one pass where PyTorch's own operations would take dozens.

PyTorch compiles these at first use. Their twins, on which the rest of the suite rests, are in
:mod:`host.torch.numbers`; ``tests/host/torch/test_gpu.py`` compares the two.
"""

from functools import lru_cache

import torch

from sim.model.noise import ROUND_CONSTANT, ROUNDS

__all__ = ["noise", "round_up_where"]

_NOISE = """
template <typename T> T noise(T index, T k0, T k1, T k2, T k3) {
    const unsigned words[] = {(unsigned)k0, (unsigned)k1, (unsigned)k2, (unsigned)k3};
    unsigned x = (unsigned)index >> 19 & 0xffff, y = (unsigned)index >> 3 & 0xffff;
    for (int r = 0; r < ROUNDS; r++) {
        unsigned k = words[r % 4] + r / 4 * CONSTANT;
        x = (((x << 9 | x >> 7) + y) ^ k) & 0xffff;
        y = ((y << 2 | y >> 14) ^ x) & 0xffff;
    }
    for (int bit = 0; bit < 3; bit++) {
        if (index >> bit & 1) y ^= x;
        x = (x << 1 ^ (x >> 15) * 0x2d) & 0xffff;
    }
    return (T)y;
}""".replace("ROUNDS", str(ROUNDS)).replace("CONSTANT", f"0x{ROUND_CONSTANT:x}u")

_ROUND = """
template <typename T> T round_up_where(T t, T noise) {
    T f = floor(t);
    return f + (t - f >= (T)1 - (2 * noise + 1) * (T)7.62939453125e-06 ? (T)1 : (T)0);
}"""


@lru_cache
def _compiled(source, numbers=False):
    """``numbers``: the words are numbers of the call, not tensors."""
    options = dict.fromkeys(("k0", "k1", "k2", "k3"), 0) if numbers else {}
    return torch.cuda.jiterator._create_jit_fn(source, **options)


def noise(index, words):
    """16 bits, int32, of int32 places ``8 block + place`` under a key: four numbers, or int32."""
    if isinstance(words, torch.Tensor):
        return _compiled(_NOISE)(index, *words.unbind())
    return _compiled(_NOISE, True)(index, **{f"k{i}": word for i, word in enumerate(words)})


def round_up_where(t, noise):
    """``floor(t + (2 noise + 1) 2**-17)`` of float32 t and bits from 0 to 65535."""
    return _compiled(_ROUND)(t, noise)
