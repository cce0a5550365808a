"""How long instructions take, from the ``start`` of their unit to its ``done``, on machines that
keep masters.

That does not depend on data but for ``SORT``, whose padding does, and is exact, but for products
that wait for other units at a memory. The units' own ``cycles``
(:data:`hdl.instructions.OPERATIONS` has where) say the same of what they are made of, which is
gateware; a test holds these formulas to them.
"""

from functools import cache
from math import gcd

from hdl.instructions import (
    POOL_GEOMETRY,
    BackwardFlag,
    GemmFlag,
    MoveFlag,
    NormFlag,
    Opcode,
    QuantiseFlag,
    ScaleFlag,
    ScanRow,
    unpack_fields,
)
from hdl.params import MAX_N
from hdl.product_cycles import product_cycles
from hdl.timing import lookup_latency

__all__ = ["clocks", "move_accesses", "pool_rows"]

#: ``SCALE``: before a tile's first row, shortest tile, behind the last row; with ``ALIGN`` behind a
#: tile's first pass, and behind the last one's; with ``PLUS`` between tiles.
_LEAD, _SHORTEST, _DEPTH, _DRAIN, _SETTLE, _GAP = 5, 10, 18, 8, 5, 5
#: ``QUANTISE``: of masters the steps of a scale beside those for each lane, and the clocks behind
#: them; the scale of a tensor; a clip as large as there is.
_QUARTERS, _COLUMN_SCALE, _SCALE, _CLIP = 4, 16, 38, 255
#: ``NORM_BACKWARD``: a reciprocal, and the way of a row.
_RECIPROCAL, _ROW = 42, 14
#: ``CROSS_ENTROPY``: of an element; rows that are shorter take as long; around all.
_ELEMENT, _SHORTEST_ROW, _LOSS = 2, 8, 99
#: Behind the last element the loss takes so long at the least, and its gradient beside the row.
_SUM, _GRADIENT = 116, 43
#: A word of ``COMBINE``.
_WORD = 10
#: ``POOL`` beside its positions, and more of them on a machine with groups.
_POOL, _POOL_GROUPS = 7, 4
#: ``LAYER_FORWARD``: of a row beside its elements. ``LAYER_BACKWARD``: the same, of a column, and
#: around all.
_LAYER_ROW, _GRADIENT_ROW, _GRADIENT_COLUMN, _LENGTHS = 135, 196, 24, 19
#: ``MOVE``: lanes of a block, or as many as divide a word's; columns of the buffer; clocks of the
#: first pass and of another, clocks behind it.
_BLOCK, _COLUMNS, _FIRST_PASS, _PASS, _BEHIND = 16, 512, 5, 2, 13
#: ``SORT``: of a group beside its indices, and of the header.
_GROUP, _HEADER = 5, 9


def clocks(opcode, fields, params, *, padding=0.5):
    """Clocks of an instruction of these fields; of ``SORT`` with that share of the padding that
    there may be, on average half of it.

    >>> from hdl.params import Params
    >>> fields = {"flags": 0, "m": 100, "n": 3}
    >>> clocks(Opcode.SCALE, fields, Params(masters=8))
    334
    """
    flags, m, n = fields["flags"], fields["m"], fields["n"]
    tiles = -(-n // params.vector)
    if opcode == Opcode.GEMM:
        return _product(params, m, n, fields["key0"] & 0xFFFF,
                        inner=bool(flags & GemmFlag.INNER_GROUPS),
                        cols=bool(flags & GemmFlag.COL_GROUPS))
    if opcode == Opcode.QUANTISE:
        return _quantise(params, flags, m, tiles, fields["arg"])
    if opcode == Opcode.SORT:
        padded = int((params.depth - 1) * padding)
        return fields["arg"] * (fields["k"] + _GROUP + padded) + _HEADER
    if opcode == Opcode.NORM_FORWARD:
        return tiles * (2 * m + 80 if flags & NormFlag.INFERENCE else 4 * m + 164) + 1
    if opcode == Opcode.NORM_BACKWARD:
        ahead = 2 + lookup_latency(params)
        rest = max(0, _RECIPROCAL + 2 - (2 * m + _ROW + ahead))
        return tiles * (5 * m + 187 + 2 * ahead + rest + bool(flags & BackwardFlag.SCAN)) + 24
    if opcode == Opcode.MOVE:
        return _move(params, flags, m, n)
    if opcode == Opcode.SCALE:
        return _scale(params, m, tiles, flags)
    if opcode == Opcode.COMBINE:
        return _WORD * tiles
    if opcode == Opcode.POOL:
        positions, _ = pool_rows(fields)
        return tiles * positions + _POOL + _POOL_GROUPS * (params.max_groups > 1)
    if opcode == Opcode.LAYER_FORWARD:
        return m * (5 * n + _LAYER_ROW) + 1
    if opcode == Opcode.LAYER_BACKWARD:
        return m * (10 * n + _GRADIENT_ROW) + _GRADIENT_COLUMN * n + _LENGTHS
    row = max(n + 1, _SHORTEST_ROW)
    return _LOSS + _ELEMENT * (m * row + n) + max(_ELEMENT * (n - 1) + _GRADIENT, _SUM)


_product = cache(product_cycles)


def _quantise(params, flags, m, tiles, clip):
    """Phases, each with its way through the datapath; clips and scales."""
    depth = 10
    if params.sample_groups > 1:
        # Where many lanes' maxima are compared.
        depth = max(depth, 5 + (params.vector - 1).bit_length())

    def phase(steps):
        return 1 + steps + depth + 1

    grouped, scanned = flags & QuantiseFlag.GROUPED, flags & QuantiseFlag.SCANNED
    if flags & QuantiseFlag.MASTER:
        find = 1 + 2 * (_QUARTERS + params.vector) + _COLUMN_SCALE
        return tiles * (2 * (phase(m) + find) + 2 + phase(m + (m - 1) // 2))
    if flags & QuantiseFlag.SCAN:
        return tiles * (phase(m) + len(ScanRow))
    scale = 1 + _SCALE
    if clip:
        # Of as many elements as there may be all magnitudes are added up, and compared bit by bit.
        most = min(params.max_rows * MAX_N, params.tensor_words * params.vector)
        scale += params.bits + 4 + (7 * _CLIP * most << 31).bit_length()
    searched = (len(ScanRow) if clip else 1) if scanned else m
    taken = tiles * (phase(searched) + 1 + phase(m))
    if flags & QuantiseFlag.PER_COLUMN:
        return taken + tiles * params.vector * (phase(1) + scale)
    lanes = phase(params.vector)
    if not grouped:
        return taken + lanes + scale
    if params.channel_groups > 1:
        taken += tiles * phase(1 if scanned else m)
    return taken + lanes + scale + phase(m) + tiles * lanes


def _scale(params, m, tiles, flags):
    plus = flags & ScaleFlag.PLUS == ScaleFlag.PLUS
    read = _LEAD + (2 * m - 1 if plus else m)
    taken = (tiles - 1) * (read + _GAP if plus else max(read, _SHORTEST)) + read + _DEPTH + 1
    if flags & ScaleFlag.ALIGN and not plus:
        taken += tiles * (_LEAD + m + _DRAIN + params.vector) + _SETTLE + tiles
    return taken


def _passes(params, flags, m, n):
    """Steps of the passes of MOVE over the quantised memory: over blocks and behind the last; what
    is sorted alone goes through a buffer, in and out."""
    width, depth = gcd(params.slots, _BLOCK), params.depth

    def blocks(count):
        return -(-count // width)

    def slots(count):
        bound = count + params.max_groups * depth - 1
        return bound if depth & (depth - 1) else bound & -depth

    if flags & MoveFlag.TRANSPOSED:
        return [(blocks(slots(m) if flags & MoveFlag.SORTED else m) * blocks(n) + 1) * width]
    if not flags & MoveFlag.SORTED:
        return [m * -(-n // params.slots)]
    gather = (blocks(slots(n)) + 1) * width
    return blocks(m) * [steps for first in range(0, n, _COLUMNS) for steps in (
        (blocks(min(_COLUMNS, n - first)) + 1) * width, gather)]


def _move(params, flags, m, n):
    """Of a single pass, a step in three clocks, which reads and writes; of others, two."""
    passes = _passes(params, flags, m, n)
    if len(passes) == 1:
        return _FIRST_PASS + 3 * passes[0] - 2 + _BEHIND
    return _FIRST_PASS - _PASS + sum(
        _PASS + steps + (steps - 1) // 2 + _BEHIND for steps in passes)


def move_accesses(fields, params):
    """Clocks in which MOVE is at the quantised memory."""
    flags = fields["flags"]
    passes = _passes(params, flags, fields["m"], fields["n"])
    if len(passes) > 1:
        return sum(passes) - len(passes) * gcd(params.slots, _BLOCK)
    # Into the first block and out of the last is a pass of its own.
    return 2 * passes[0] - (2 * gcd(params.slots, _BLOCK) if flags & MoveFlag.TRANSPOSED else 0)


def pool_rows(fields):
    """``(positions, windows)`` of the images of POOL, rows of tensors.

    >>> from hdl.instructions import pack_fields
    >>> size = {"width": 5, "height": 4, "window_width": 2, "window_height": 3}
    >>> pool_rows({"m": 3, "key0": pack_fields(POOL_GEOMETRY, **size)})
    (60, 6)
    """
    width, height, *window = unpack_fields(POOL_GEOMETRY, fields["key0"]).values()
    return (fields["m"] * height * width,
            fields["m"] * (height // window[1]) * (width // window[0]))
