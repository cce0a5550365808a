"""About how long instructions take: a forecast, by which programs are put in order.

What a unit takes in truth its ``cycles`` say (:data:`hdl.instructions.OPERATIONS` has where), which
are gateware; a test holds the forecast to them.
"""

from math import gcd

from hdl.instructions import (
    POOL_GEOMETRY,
    GemmFlag,
    MoveFlag,
    NormFlag,
    Opcode,
    QuantiseFlag,
    ScaleFlag,
    unpack_fields,
)

__all__ = ["clocks"]

#: Clocks that a move takes for what it reads and writes, and lanes that it transposes at a time,
#: or as many as divide a word's.
_MOVE_STEP, _BLOCK = 3, 16
#: Clocks of an element of CROSS_ENTROPY, of which rows go through three places, and once; of a
#: word of COMBINE.
_ELEMENT, _LOSS, _WORD = 2, 150, 10
#: Clocks of POOL beside those of its positions, and more of them on a machine with groups.
_POOL, _POOL_GROUPS = 7, 4
#: Clocks on the way through weights, array and readout.
_ARRAY_DEPTH = 60


def clocks(opcode, fields, params):
    """Clocks from ``start`` to ``done`` of an instruction of these fields.

    >>> from hdl.params import Params
    >>> fields = {"flags": 0, "m": 100, "n": 3}
    >>> clocks(Opcode.SCALE, fields, Params(masters=8))
    334
    """
    flags, m, n = fields["flags"], fields["m"], fields["n"]
    if opcode == Opcode.GEMM:
        return _product(flags, m, n, fields["key0"] & 0xFFFF, params)
    if opcode == Opcode.MOVE:
        return _move(flags, m, n, params)
    if opcode == Opcode.SORT:
        return fields["arg"] * fields["k"]
    if opcode == Opcode.COMBINE:
        return _WORD * -(-n // params.vector)
    if opcode == Opcode.POOL:
        geometry = unpack_fields(POOL_GEOMETRY, fields["key0"])
        return (-(-n // params.vector) * m * geometry["width"] * geometry["height"]
                + _POOL + _POOL_GROUPS * (params.max_groups > 1))
    if opcode == Opcode.CROSS_ENTROPY:
        return _ELEMENT * (m + 2) * (n + 1) + _LOSS
    halves, tile, once = _passes(opcode, flags)
    return -(-n // params.vector) * (halves * m // 2 + tile) + once


def _product(flags, m, n, tiles, params):
    """The first weights; all tiles and the last column tile's readouts, or the first column tile
    and all readouts (:mod:`hdl.product_cycles` has it exactly)."""
    ratio, width = params.array_clock, params.read_cols
    weights = params.rows * params.depth * params.cols // params.span
    inner = tiles * max(m + 1, params.rows << params.depth - 1, weights * ratio) / ratio
    read = m + (width if flags & GemmFlag.COL_GROUPS else 1)
    column_tiles, readouts = -(-n // params.cols), -(-n // width)
    last = readouts - (column_tiles - 1) * params.cols // width
    return int(weights + max(column_tiles * inner + last * read, inner + readouts * read)
               + _ARRAY_DEPTH)


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
        if flags & QuantiseFlag.SCAN:
            return 2, 14, 0
        if flags & QuantiseFlag.SCANNED:
            return (2, 72, 220) if flags & QuantiseFlag.GROUPED else (2, 25, 130)
        return (6, 57, 220) if flags & QuantiseFlag.GROUPED else (4, 25, 130)
    if opcode == Opcode.SCALE:
        if flags & ScaleFlag.PLUS == ScaleFlag.PLUS:
            return 4, 9, 14
        return (4, 27, 24) if flags & ScaleFlag.ALIGN else (2, 5, 19)
    if opcode == Opcode.NORM_FORWARD:
        return (4, 80, 1) if flags & NormFlag.INFERENCE else (8, 164, 1)
    return 10, 199, 24
