"""About how long instructions take: a forecast, by which programs are put in order.

What a unit takes in truth its ``cycles`` say (:data:`hdl.instructions.OPERATIONS` has where), which
are gateware; a test holds the forecast to them.
"""

from math import gcd

from hdl.instructions import MoveFlag, NormFlag, Opcode, QuantiseFlag, ScaleFlag

__all__ = ["clocks"]

#: Clocks that a move takes for what it reads and writes, and lanes that it transposes at a time,
#: or as many as divide a word's.
_MOVE_STEP, _BLOCK = 3, 16
#: Clocks of an element of CROSS_ENTROPY, of which rows go through three places, and once; of a
#: word of COMBINE.
_ELEMENT, _LOSS, _WORD = 2, 150, 10
#: Clocks beside those of rows: of a product, of a column tile's results; those that weights take.
_ARRAY_DEPTH, _READ_OUT, _WEIGHTS = 150, 60, 80


def clocks(opcode, fields, params):
    """Clocks from ``start`` to ``done`` of an instruction of these fields.

    >>> from hdl.params import Params
    >>> fields = {"flags": 0, "m": 100, "n": 3}
    >>> clocks(Opcode.SCALE, fields, Params(masters=8))
    334
    """
    flags, m, n = fields["flags"], fields["m"], fields["n"]
    if opcode == Opcode.GEMM:
        inner = (fields["key0"] & 0xFFFF) * max(m + 1, _WEIGHTS)
        # The last tile waits until results of the column tile before it are read out.
        rest = (-(-n // params.cols) - 1) * max(inner, 2 * m + _READ_OUT)
        return inner + rest + m + _ARRAY_DEPTH
    if opcode == Opcode.MOVE:
        return _move(flags, m, n, params)
    if opcode == Opcode.SORT:
        return fields["arg"] * fields["k"]
    if opcode == Opcode.COMBINE:
        return _WORD * -(-n // params.vector)
    if opcode == Opcode.CROSS_ENTROPY:
        return _ELEMENT * (m + 2) * (n + 1) + _LOSS
    halves, tile, once = _passes(opcode, flags)
    return -(-n // params.vector) * (halves * m // 2 + tile) + once


def _move(flags, m, n, params):
    """A word in three clocks, or a row of a block; what is sorted alone goes through a buffer, in
    and out, a row in three clocks for either two."""
    block = gcd(params.slots, _BLOCK)

    def blocks(count):
        return -(-count // block)

    more = (params.max_groups - 1) * params.depth if flags & MoveFlag.SORTED else 0
    if flags & MoveFlag.TRANSPOSED:
        return _MOVE_STEP * block * (blocks(m + more) * blocks(n) + 1)
    if flags & MoveFlag.SORTED:
        return _MOVE_STEP * block // 2 * blocks(m) * (blocks(n) + blocks(n + more) + 4)
    return _MOVE_STEP * m * -(-n // params.slots)


def _passes(opcode, flags):
    """Half clocks per row of a tile, clocks per tile, and once, with 8 lanes."""
    if opcode == Opcode.QUANTISE:
        if flags & QuantiseFlag.MASTER:
            return 7, 120, 0
        if flags & QuantiseFlag.PER_COLUMN:
            return 4, 1000, 0
        return (6, 57, 220) if flags & QuantiseFlag.GROUPED else (4, 25, 130)
    if opcode == Opcode.SCALE:
        return (4, 27, 24) if flags & ScaleFlag.ALIGN else (2, 5, 19)
    if opcode == Opcode.NORM_FORWARD:
        return (4, 113, 1) if flags & NormFlag.INFERENCE else (8, 233, 1)
    return 12, 273, 39
