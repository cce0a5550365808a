"""Random bits: the counter-based hash ``arx16`` and all that is drawn from it.

Every random bit is a pure function of (seed, optimiser step, tensor, place of the element). One
hash serves eight neighbours of a row (:func:`element_noise`). The hash is eight add-rotate-xor
rounds on a 32-bit counter under a 64-bit key, the round of Speck32 (Beaulieu et al. 2013) with a
simpler key schedule: round ``r`` uses key word ``r mod 4`` plus ``0x9e37 * (r div 4)``. It is for
rounding, not for secrecy. Six rounds leave neighbouring counters uncorrelated over 2**15
counters; eight leave a margin.

Test vectors:

>>> [hex(v) for v in bits16((0x0123, 0x4567, 0x89AB, 0xCDEF), np.array([0, 1, 2, 65536]))]
['0xa1a7', '0xa6e2', '0x5deb', '0x53d3']
>>> [hex(word) for word in key(0, 0, 0)]
['0x327c', '0x48c4', '0xf6d8', '0x2c1f']
>>> [hex(v) for v in element_noise((0x0123, 0x4567, 0x89AB, 0xCDEF), 2, 9)[:, :3].ravel()]
['0x33fb', '0x925c', '0x7098', '0xfbc5', '0xa62e', '0x4013']
"""

from functools import lru_cache

import numpy as np

from sim.model.checks import ModelError, check_number, check_within, whole

__all__ = ["ROUNDS", "ROUND_CONSTANT", "bits16", "element_noise", "hash32", "key",
           "key_words", "permutation"]

ROUNDS = 8
ROUND_CONSTANT = 0x9E37

#: The key under which seeds are absorbed: the first 64 bits of the fraction of pi.
_ROOT = (0x08D3, 0x85A3, 0x6A88, 0x243F)


#: Neighbours in a row that share one hash.
BLOCK = 8
#: ``x**16`` modulo the polynomial ``x**16 + x**5 + x**3 + x**2 + 1`` of GF(2**16).
_POLYNOMIAL = 0x2D


def hash32(words, index):
    """Two 16-bit words ``(x, y)`` for each 32-bit counter in ``index`` under the key ``words``.

    A round maps ``(x, y)`` to ``x' = (rotl(x, 9) + y) ^ k``, ``y' = rotl(y, 2) ^ x'`` in 16
    bits; it starts from the counter's halves, ``x`` the high one. Under one key it permutes the
    counters, so over all of them every pair ``(x, y)`` comes exactly once.
    """
    index = whole(index, "index")
    check_within(index, "index", 0, 2**32 - 1)
    return _hash32(_key(words), index)


def _key(words):
    """Four words of 16 bits."""
    if len(words) != 4 or not all(0 <= word <= 0xFFFF for word in words):
        raise ModelError(f"a key must be four words from 0 to 65535, got {words}")
    return words


def _hash32(words, index):
    x, y = np.asarray(index >> 16).astype(np.uint16), np.asarray(index).astype(np.uint16)
    high = np.empty_like(x)
    # In place, and 16-bit words wrap around by themselves.
    for r in range(ROUNDS):
        np.right_shift(x, 7, out=high)
        np.left_shift(x, 9, out=x)
        np.bitwise_or(x, high, out=x)
        np.add(x, y, out=x)
        np.bitwise_xor(x, np.uint16((words[r % 4] + r // 4 * ROUND_CONSTANT) & 0xFFFF), out=x)
        np.right_shift(y, 14, out=high)
        np.left_shift(y, 2, out=y)
        np.bitwise_or(y, high, out=y)
        np.bitwise_xor(y, x, out=y)
    return x, y


def bits16(words, index):
    """16 random bits for each 32-bit counter: ``x`` of :func:`hash32`."""
    return hash32(words, index)[0].astype(np.int64)


def element_noise(words, rows, cols, *, first=0, more=0):
    """[rows, cols] of 16 random bits for the elements of a tensor; or of columns of a wider one, of
    ``cols + more`` columns, from a multiple of 8, ``first``, on.

    Element (i, j) is place ``p = j mod 8`` of block ``i ceil((cols + more) / 8) + (first + j) //
    8``. With
    ``(x, y)`` the hash of the block's number, its bits are ``y + p x`` in GF(2**16), where p
    stands for the polynomial of its three bits. For uniform ``(x, y)`` the eight are uniform and
    pairwise independent (the construction of Carter and Wegman, 1979).
    """
    blocks, whole = -(-cols // BLOCK), -(-(cols + more) // BLOCK)
    for value, name in ((rows, "rows"), (cols, "cols"), (more, "more")):
        check_number(value, name, 0, 2**32)
    check_number(first, "first", 0, 2**32)
    if first % BLOCK:
        raise ModelError(f"first must be a multiple of {BLOCK}, got {first}")
    check_number(rows * whole + first // BLOCK + blocks, "hashes", 0, 2**32)
    index = np.arange(rows)[:, None] * whole + first // BLOCK + np.arange(blocks)
    x, y = _hash32(_key(words), index)
    noise = np.empty((rows, blocks, BLOCK), np.uint16)
    noise[..., 0] = y
    for bit in range(3):
        half = 1 << bit
        noise[..., half:2 * half] = noise[..., :half] ^ x[..., None]
        x = x << 1 ^ (x >> 15) * np.uint16(_POLYNOMIAL)
    return noise.reshape(rows, blocks * BLOCK)[:, :cols].astype(np.int64)


def _absorb(words, number):
    """:func:`bits16` of four counters, in plain integers, which is faster for so few."""
    absorbed = []
    for counter in range(4 * number, 4 * number + 4):
        x, y = counter >> 16 & 0xFFFF, counter & 0xFFFF
        for r in range(ROUNDS):
            x = ((x << 9 | x >> 7) + y & 0xFFFF) ^ (words[r % 4] + r // 4 * ROUND_CONSTANT
                                                    & 0xFFFF)
            y = (y << 2 & 0xFFFF | y >> 14) ^ x
        absorbed.append(x)
    return tuple(absorbed)


@lru_cache(maxsize=64)
def _step_key(seed, step):
    return _absorb(_absorb(_absorb(_ROOT, seed >> 16), seed & 0xFFFF), step)


def key(seed, step, tensor):
    """The key of one tensor at one optimiser step: four 16-bit words.

    ``seed`` is below 2**32, ``step`` and ``tensor`` below 2**30. Each number in turn is a
    counter under the key so far.
    """
    for value, name, bits in ((seed, "seed", 32), (step, "step", 30), (tensor, "tensor", 30)):
        check_number(value, name, 0, (1 << bits) - 1)
    return _absorb(_step_key(seed, step), tensor)


def key_words(words):
    """A key as the two 32-bit fields of an instruction.

    >>> [hex(field) for field in key_words((0x0123, 0x4567, 0x89AB, 0xCDEF))]
    ['0x45670123', '0xcdef89ab']
    """
    words = _key(words)
    return words[0] | words[1] << 16, words[2] | words[3] << 16


def permutation(words, count):
    """A shuffling of ``range(count)``: indices sorted stably by 32 random bits.

    >>> sorted(permutation((1, 2, 3, 4), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    check_number(count, "count", 0, 2**31)
    index = np.arange(count, dtype=np.int64)
    high, low = bits16(words, 2 * index), bits16(words, 2 * index + 1)
    return np.argsort(high << 16 | low, kind="stable")
