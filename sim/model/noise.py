"""Random bits: the counter-based hash ``arx16`` and all that is drawn from it.

Every random bit is a pure function of (seed, optimiser step, tensor, logical row-major element
index). The hash is eight add-rotate-xor rounds on a 32-bit counter under a 64-bit key, the round
of Speck32 (Beaulieu et al. 2013) with a simpler key schedule: round ``r`` uses key word
``r mod 4`` plus ``0x9e37 * (r div 4)``. It is for rounding, not for secrecy. Six rounds leave
neighbouring counters uncorrelated over 2**15 counters; eight leave a margin.

Test vectors:

>>> [hex(v) for v in bits16((0x0123, 0x4567, 0x89AB, 0xCDEF), np.array([0, 1, 2, 65536]))]
['0xa1a7', '0xa6e2', '0x5deb', '0x53d3']
>>> [hex(word) for word in key(0, 0, 0)]
['0x327c', '0x48c4', '0xf6d8', '0x2c1f']
"""

import numpy as np

__all__ = ["ROUNDS", "ROUND_CONSTANT", "bits16", "key", "key_words", "permutation"]

ROUNDS = 8
ROUND_CONSTANT = 0x9E37

#: The key under which seeds are absorbed: the first 64 bits of the fraction of pi.
_ROOT = (0x08D3, 0x85A3, 0x6A88, 0x243F)


def bits16(words, index):
    """16 random bits for each 32-bit counter in ``index`` under the key ``words`` (4 x 16 bits).

    A round maps ``(x, y)`` to ``x' = (rotl(x, 9) + y) ^ k``, ``y' = rotl(y, 2) ^ x'`` in 16
    bits; it starts from the counter's halves, ``x`` the high one, and ends with ``x``.
    """
    index = np.asarray(index, np.int64)
    x, y = index >> 16 & 0xFFFF, index & 0xFFFF
    for r in range(ROUNDS):
        k = (words[r % 4] + r // 4 * ROUND_CONSTANT) & 0xFFFF
        x = ((((x << 9) | (x >> 7)) & 0xFFFF) + y & 0xFFFF) ^ k
        y = (((y << 2) | (y >> 14)) & 0xFFFF) ^ x
    return x


def _absorb(words, number):
    return tuple(int(word) for word in bits16(words, 4 * number + np.arange(4)))


def key(seed, step, tensor):
    """The key of one tensor at one optimiser step: four 16-bit words.

    ``seed`` is below 2**32, ``step`` and ``tensor`` below 2**30. Each number in turn is a
    counter under the key so far.
    """
    words = _absorb(_absorb(_ROOT, seed >> 16), seed & 0xFFFF)
    return _absorb(_absorb(words, step), tensor)


def key_words(words):
    """A key as the two 32-bit fields of an instruction.

    >>> [hex(field) for field in key_words((0x0123, 0x4567, 0x89AB, 0xCDEF))]
    ['0x45670123', '0xcdef89ab']
    """
    return words[0] | words[1] << 16, words[2] | words[3] << 16


def permutation(words, count):
    """A shuffling of ``range(count)``: indices sorted stably by 32 random bits.

    >>> sorted(permutation((1, 2, 3, 4), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    index = np.arange(count, dtype=np.int64)
    high, low = bits16(words, 2 * index), bits16(words, 2 * index + 1)
    return np.argsort(high << 16 | low, kind="stable")
