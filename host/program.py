"""Instructions for named tensors: every field of an instruction that follows from others."""

from functools import cache

from hdl.instructions import (
    COLUMN_UNIT,
    POOL_GEOMETRY,
    TABLE_HEADER,
    WINDOW_TABLE,
    BackwardFlag,
    CombineFlag,
    GemmFlag,
    LayerFlag,
    LayerRow,
    MoveFlag,
    NormFlag,
    Opcode,
    PoolFlag,
    QuantiseFlag,
    ScaleFlag,
    ScaleRow,
    instruction,
    pack_fields,
)
from hdl.params import MAX_K, MAX_M, MAX_N, WIDE_BITS
from hdl.product_cycles import product_cycles
from hdl.protocol import Space
from host.errors import ArgumentError, MemoryFullError
from host.tensors import row_parts
from sim.model.add import ACTIVATION_BITS
from sim.model.noise import key_words
from sim.model.order import inner_tiles, schedule_rows
from sim.model.requantise import safe_shift

__all__ = ["Groups", "add_gradients", "align", "clip_gradient", "column_sums", "combine",
           "convolution", "cross_entropy", "digits_product", "gemm", "gemm_shift",
           "gradient_groups", "layer_gradients", "layer_norm", "layer_norm_gradient", "move",
           "norm_backward", "norm_forward", "pool", "pool_gradient", "pool_shift", "product",
           "quantise", "quantise_masters", "scale", "slot_columns", "sort", "table_words", "update",
           "whole_words"]

#: Longest side of an image, and most positions of a window, whose sum fits a wide element.
_MAX_SIDE, _MAX_WINDOW = 255, 1 << WIDE_BITS - ACTIVATION_BITS

#: Clocks of an instruction beside its unit's, at most (:class:`hdl.program.Program`).
_BESIDE = 37


def _check(name, value, limit):
    if value > limit:
        raise MemoryFullError(f"{name} must be at most {limit} on this machine, got {value}")


def _check_shape(x, rows):
    _check("rows of a tensor", x.rows, rows)
    _check("columns of a tensor", x.cols, MAX_N)


def table_words(params, count):
    """Words of the tables that the groups and the order of ``count`` indices take."""
    rows = schedule_rows(count, params.depth, params.max_groups)
    return TABLE_HEADER + rows * params.depth


def whole_words(params, count):
    """Columns of the wide words that so many columns take."""
    return -(-count // params.vector) * params.vector


def slot_columns(params, count, groups):
    """Columns of a tensor that has ``count`` columns, of so many groups, in the order of their
    slots."""
    return inner_tiles(count, params.depth, params.rows, groups) * params.slots


class Groups:
    """The groups along one axis of a quantised tensor: ``count`` of them in use, at ``base``."""

    def __init__(self, base, length, count):
        self.base, self.length, self.count = base, length, count

    def part(self, first, length):
        """Those of so many indices from one on."""
        return Groups(self.base + first, length, self.count)


def gradient_groups(params, m, n, base=0):
    """The groups of a gradient of m samples and n channels; (None, None) without groups."""
    if params.max_groups == 1:
        return None, None
    return (Groups(base, m, params.sample_groups),
            Groups(base + table_words(params, m), n, params.channel_groups))


def gemm_shift(params, k, *, unsigned=False, groups=(), limit=32):
    """The requantising shift that makes a GEMM's result safe in ``limit`` bits."""
    shifts = sum(g.count - 1 for g in groups if g)
    return safe_shift(params.bits, k, unsigned=unsigned, shifts=shifts, limit=limit)


def gemm(params, a, b, out, *, unsigned=False, inner=None, rows=None, cols=None, limit=32):
    """``(instructions, shift)`` for ``out = (A B) 2**-shift``: one for every ``MAX_M`` rows, or for
    fewer where that is faster.

    ``a`` and ``b`` are stored tensors; ``inner``, ``rows`` and ``cols`` are the
    :class:`Groups` along the three axes of the product, or None. With ``inner`` the columns of
    ``a`` are in the order of their slots.
    """
    tiles = inner_tiles(b.rows, params.depth, params.rows, inner.count if inner else 1)
    fields, shift = _product_fields(params, b, GemmFlag.INNER_GROUPS * bool(inner), tiles,
                                    unsigned, (inner, rows, cols), limit)
    steps = []
    for first, count in _product_parts(params, a.rows, b.cols, tiles, bool(inner), bool(cols)):
        source, target = a.rows_from(first, count), out.rows_from(first, count)
        steps.append(instruction(
            Opcode.GEMM, m=count, src0=source.base, dst0=target.base,
            tab0=inner.base if inner else 0, tab1=rows.base + first if rows else 0,
            key1=source.more_rows | target.more_rows << 16, **fields))
    return steps, shift


@cache
def _product_parts(params, rows, cols, tiles, inner, grouped):
    """Rows in as few parts as there are, or in such that the results of two column tiles have room
    (:mod:`hdl.readout`), where that is faster."""
    few = row_parts(rows)
    if max(count for _, count in few) <= MAX_M // 2 or tiles > 1 + params.array_clock * (
            params.cols // params.read_cols):
        # They have room; or results are out before the next ones come.
        return few

    def clocks(parts):
        return sum(_BESIDE + product_cycles(params, count, cols, tiles, inner=inner, cols=grouped)
                   for _, count in parts)

    # Where nothing waits, one row more is as good (hdl.timing.Handover).
    return min(few, row_parts(rows, MAX_M // 2 + (not params.masters)), key=clocks)


def scan(x, found):
    """Find what scales are made of in the columns of the wide tensor ``x``: rows of a state tensor,
    of which ``found`` is the first."""
    # Only machines that keep masters have it.
    _check_shape(x, MAX_K)
    return instruction(Opcode.QUANTISE, flags=QuantiseFlag.SCAN, m=x.rows, n=x.cols, src0=x.base,
                       dst1=found.base)


def convolution(params, x, b, out, windows, *, unsigned=False, rows=None, cols=None, limit=32):
    """``(instructions, shift)`` for ``out = (A B) 2**-shift``, a row of A for each of the
    :class:`~host.windows.Windows` of the images ``x``, whose tables the device holds.

    ``b`` has a row for each tap and channel; all else is as for :func:`gemm`.
    """
    _check_convolution(windows, x, (
        ("rows of weights", b.rows, windows.rows),
        ("rows of outputs", out.rows, windows.count), ("columns of outputs", out.cols, b.cols)))
    tiles = windows.tiles(params) | windows.channels << 16
    fields, shift = _product_fields(params, b, GemmFlag.WINDOWS, tiles, unsigned,
                                    (None, rows, cols), limit)
    steps = []
    for part, (first, count) in enumerate(row_parts(windows.count)):
        target = out.rows_from(first, count)
        steps.append(instruction(
            Opcode.GEMM, m=count, src0=x.base, dst0=target.base,
            dst1=windows.base + len(WINDOW_TABLE) + part, tab0=windows.base,
            tab1=rows.base + first if rows else 0,
            key1=x.rows + x.more_rows & 0xFFFF | target.more_rows << 16, **fields))
    return steps, shift


def _check_convolution(windows, x, others):
    """Refuse images, or ``(name, size, needed)`` of other tensors, that do not fit it."""
    for name, size, needs in (
            ("rows of images", x.rows, windows.images * windows.height * windows.width),
            ("channels of images", x.cols, windows.channels), *others):
        if size != needs:
            raise ArgumentError(f"the {name} of this convolution must be {needs}, got {size}")


def product(params, a, b, out, windows, **options):
    """:func:`convolution`, or without ``windows`` :func:`gemm`."""
    if windows:
        return convolution(params, a, b, out, windows, **options)
    return gemm(params, a, b, out, **options)


def digits_product(params, a, b, out, part, ones, windows=None, *, unsigned=False, **groups):
    """The instructions for ``out = A B``, exactly, where one of the two has more bits than codes
    have: a list of tensors, its digits, least significant first.

    Of A, ``sim.model.digits.streamed``; all but the last are stored as unsigned codes are, the last
    is what A is (``unsigned``). Of B, ``sim.model.digits.stationary``. ``out = d_last``, and then
    from the last but one on ``out = out 2**bits + d``, with ``bits - 1`` for those of B, d being a
    digit's :func:`product`, which is made in ``part``; ``ones`` is a scale tensor of factors 1 and
    exponents 0. A product that more than 32 bits might be needed for is refused.
    """
    of_b = isinstance(b, list)
    digits, base = (b, params.bits - 1) if of_b else (a, params.bits)
    if not digits:
        raise ArgumentError("an operand must have a digit, got none")
    k = digits[0].rows if of_b else b.rows
    shifts = sum(g.count - 1 for g in groups.values() if g)
    bits_a = params.bits * (1 if of_b else len(digits)) - (not unsigned)
    bits_b = (params.bits - 1) * (len(digits) if of_b else 1)
    largest = k * (2**bits_a - unsigned) * (2**bits_b - 1) << shifts
    if largest >= 2**(WIDE_BITS - 1):
        raise ArgumentError(f"a product in digits must fit {WIDE_BITS} bits, got one of "
                            f"{largest.bit_length() + 1}")
    steps = []
    for number, digit in reversed(list(enumerate(digits))):
        is_last = number == len(digits) - 1
        made, _ = product(params, *((a, digit) if of_b else (digit, b)), out if is_last else part,
                          windows, unsigned=unsigned or not (of_b or is_last), **groups)
        steps += made
        if not is_last:
            steps.append(scale(out, ones, out, bits=WIDE_BITS, exponent=base, plus=part))
    return steps


def _product_fields(params, b, flags, tiles, unsigned, groups, limit):
    """``(fields, shift)`` of a GEMM with B ``b``, without what depends on its rows; ``groups`` are
    those inside, of rows and of columns."""
    _check("the inner dimension of a GEMM", b.rows, MAX_K)
    _check("output columns of a GEMM", b.cols, MAX_N)
    _, rows, cols = groups
    flags |= (GemmFlag.UNSIGNED * unsigned | GemmFlag.ROW_GROUPS * bool(rows)
              | GemmFlag.COL_GROUPS * bool(cols))
    shift = gemm_shift(params, b.rows, unsigned=unsigned, groups=groups, limit=limit)
    arg = (rows.count - 1 if rows else 0) | (cols.count - 1 if cols else 0) << 4
    return {"flags": flags, "k": b.rows, "n": b.cols, "src1": b.base,
            "tab2": cols.base if cols else 0, "shift": shift, "arg": arg, "key0": tiles}, shift


def quantise(params, x, q, exponents, *, unsigned=False, per_column=False, clip=0, key=None,
             rows=None, cols=None, scanned=None):
    """Quantise the wide tensor ``x`` to ``q``, the exponents of its scales to ``exponents``.

    ``key`` (stochastic rounding) is four 16-bit words; ``rows`` and ``cols`` are the
    :class:`Groups` to fill (separable ShiftQuant). ``scanned`` is where :func:`scan` or a norm has
    left what the scale is made of; all rows are in group 0 then.
    """
    _check_shape(x, params.max_rows)
    flags = (QuantiseFlag.UNSIGNED * unsigned | QuantiseFlag.PER_COLUMN * per_column
             | QuantiseFlag.STOCHASTIC * bool(key) | QuantiseFlag.GROUPED * bool(rows)
             | QuantiseFlag.SCANNED * bool(scanned))
    key0, key1 = key_words(key) if key else (0, 0)
    return instruction(
        Opcode.QUANTISE, flags=flags, m=x.rows, n=x.cols, src0=x.base, dst0=q.base,
        dst1=exponents.base, src1=scanned.base if scanned else 0,
        tab1=rows.base if rows else 0, tab2=cols.base if cols else 0, arg=clip,
        key0=key0, key1=key1)


def quantise_masters(masters, q, scales, *, clip):
    """Quantise master weights to ``q``; their mantissas and exponents go to the scale tensor."""
    return instruction(
        Opcode.QUANTISE, flags=QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN, m=masters.rows,
        n=masters.cols, src0=masters.base, dst0=q.base, dst1=scales.base, arg=clip)


def scale(x, scales, out, *, bits, exponent=0, scalar=None, divide=False, negate=False, bias=False,
          plus=None):
    """``out = x`` times or divided by a scale tensor's factors and powers of two, in ``bits``; and
    a ``bias`` by columns or the tensor ``plus`` is added.

    ``exponent`` and the number in the tensor ``scalar`` are added to the columns' exponents, which
    count negative with ``negate``. ``x`` may be masters.
    """
    if bias and plus:
        raise ArgumentError("a scale adds a bias or a tensor, got both")
    if plus and (plus.rows, plus.cols) != (x.rows, x.cols):
        raise ArgumentError(f"what a scale adds must be {x.rows} x {x.cols}, "
                            f"got {plus.rows} x {plus.cols}")
    flags = (ScaleFlag.DIVIDE * divide | ScaleFlag.NEGATE * negate | ScaleFlag.BIAS * bias
             | ScaleFlag.PLUS * bool(plus) | ScaleFlag.MASTER * (x.space == Space.MASTER))
    return _scale(x, scales, flags, exponent, scalar, dst0=out.base,
                  dst1=plus.base if plus else 0, arg=bits)


def align(x, scales, out, exponents, *, exponent=0, scalar=None):
    """``out = x`` times a scale tensor's factors and powers of two, all in the unit of
    ``exponents``."""
    return _scale(x, scales, ScaleFlag.ALIGN, exponent, scalar, dst0=out.base,
                  dst1=exponents.base, arg=WIDE_BITS)


def add_gradients(params, gradients, parts, out, exponents, scales, ones):
    """The instructions for the sum ``out`` of gradients in different units, as
    :func:`sim.model.add.add_gradients`; its exponent goes to each of ``exponents``.

    Parameters
    ----------
    gradients : list of (Tensor, Tensor)
        Tensors [m, n], each with one whose first number is its exponent.
    parts : Tensor
        [m, n] for each gradient, side by side, every one from a new word: all are aligned there
        at once. A gradient that is not in its place is copied to it.
    out : Tensor
        Where it likes, the place of any gradient among them.
    exponents : Tensor
        [1, columns of parts].
    scales : Tensor
        A scale tensor for ``parts``, with factor 1 for what the gradients have and 0 for the rest
        of their last words. Its row EXPONENT is written.
    ones : Tensor
        A scale tensor of factors 1 and exponents 0 of n columns.
    """
    count = out.cols
    width = whole_words(params, count)
    if (parts.rows, parts.cols) != (out.rows, width * len(gradients)):
        raise ArgumentError(f"the parts of {len(gradients)} gradients must be {out.rows} x "
                            f"{width * len(gradients)}, got {parts.rows} x {parts.cols}")
    places = [parts.columns_from(width * number, count, params)
              for number in range(len(gradients))]
    steps = [scale(x, ones, place, bits=WIDE_BITS)
             for (x, _), place in zip(gradients, places, strict=True) if x.base != place.base]
    row, zeros = (tensor.rows_from(ScaleRow.EXPONENT, 1) for tensor in (scales, ones))
    steps += [combine(zeros, exponent, row.columns_from(width * number, count, params),
                      broadcast=True) for number, (_, exponent) in enumerate(gradients)]
    steps.append(align(parts, scales, parts, exponents))
    total = places[0]
    for place in places[1:]:
        steps.append(scale(total, ones, out, bits=WIDE_BITS, plus=place))
        total = out
    return steps


def pool(x, out, ones, images, window):
    """The instructions for ``out``, the averages of ``images``, ``(count, height, width)``, over
    windows of ``(height, width)``, as :func:`sim.model.pool.average`, of 24 bits.

    ``ones`` is a scale tensor of factors 1 and exponents 0.
    """
    shift = _checked_shift(x, out, images, window)
    return [_pool(PoolFlag(0), x, out, images, window),
            scale(out, ones, out, bits=ACTIVATION_BITS, exponent=-shift)]


def clip_gradient(dy, codes):
    """The gradient ``dy``, in its place, of what was quantised to unsigned ``codes``: 0 where they
    are the largest, as :func:`sim.model.relu.unclipped`."""
    # Images and windows of one position.
    return _pool(PoolFlag.SPREAD | PoolFlag.CLIPPED, dy, dy, (dy.rows, 1, 1), (1, 1),
                 tab0=codes.base)


def pool_gradient(dy, dx, exponents, ones, images, window, *, exponent=0, scalar=None, codes=None):
    """The instructions for ``dx``, the gradient of :func:`pool`'s ``x`` from that of its output, as
    :func:`sim.model.pool.average_gradient`; its exponent goes to each of ``exponents`` [1, n].

    The gradient ``dy`` has the unit of ``exponent`` and of the number in the tensor ``scalar``, and
    is aligned in its place. What the averages were quantised to are unsigned ``codes``; where they
    are the largest there is no gradient.
    """
    shift = _checked_shift(dx, dy, images, window)
    steps = []
    if codes:
        steps.append(clip_gradient(dy, codes))
    steps.append(align(dy, ones, dy, exponents, exponent=exponent, scalar=scalar))
    if shift:
        zero = ones.rows_from(ScaleRow.EXPONENT, 1)
        steps.append(combine(exponents, zero, exponents, added=-shift, broadcast=True))
    return [*steps, _pool(PoolFlag.SPREAD, dy, dx, images, window)]


def pool_shift(size, window):
    """The power of two that windows of ``(height, width)`` have positions, of images of that
    ``size``; what fits no instruction is refused.

    >>> pool_shift((8, 9), (2, 4))
    3
    """
    for name, side, limit in zip(("height", "width"), window, size, strict=True):
        if not 1 <= side <= limit <= _MAX_SIDE:
            raise ArgumentError(f"the {name} of a window must be 1 to that of an image, and that "
                                f"at most {_MAX_SIDE}, got {side} and {limit}")
    count = window[0] * window[1]
    if count & count - 1 or count > _MAX_WINDOW:
        raise ArgumentError("the device averages over windows of a power of two of positions, at "
                            f"most {_MAX_WINDOW}, got {window[0]} x {window[1]}")
    return count.bit_length() - 1


def _checked_shift(x, pooled, images, window):
    """:func:`pool_shift` for images and their averages, which must have the rows of such."""
    number, height, width = images
    shift = pool_shift((height, width), window)
    rows = number * height * width
    windows = number * (height // window[0]) * (width // window[1])
    for name, tensor, needs in (("images", x, rows), ("averages", pooled, windows)):
        if tensor.rows != needs:
            raise ArgumentError(f"the rows of {name} must be {needs}, got {tensor.rows}")
    if x.cols != pooled.cols:
        raise ArgumentError(f"the channels of averages must be those of images, {x.cols}, "
                            f"got {pooled.cols}")
    _check_shape(x, MAX_K)
    return shift


def _pool(flags, x, out, images, window, **fields):
    number, height, width = images
    geometry = pack_fields(POOL_GEOMETRY, width=width, height=height, window_width=window[1],
                           window_height=window[0])
    return instruction(Opcode.POOL, flags=flags, m=number, n=x.cols, src0=x.base, dst0=out.base,
                       key0=geometry, **fields)


def column_sums(x, out):
    """``out [1, n]``: the sums of the columns of ``x``."""
    return _scale(x, x, ScaleFlag.SUM, 0, None, dst0=out.base, arg=WIDE_BITS)


def update(masters, gradient, scales, rate, key, *, first=0, more=0, exponent=0, scalar=None,
           divide=False, negate=False):
    """One step of descent of ``masters`` along ``gradient``, brought to ``GRADIENT_FRACTION``
    fraction bits as by :func:`scale`.

    ``masters`` are the columns from ``first``, a multiple of ``COLUMN_UNIT``, of a tensor that has
    ``more`` besides.
    """
    flags = ScaleFlag.UPDATE | ScaleFlag.DIVIDE * divide | ScaleFlag.NEGATE * negate
    key0, key1 = key_words(key)
    unit, rest = divmod(first, COLUMN_UNIT)
    if rest:
        raise ValueError(f"first must be a multiple of {COLUMN_UNIT}, got {first}")
    return _scale(gradient, scales, flags, exponent, scalar, dst0=masters.base, dst1=more,
                  arg=unit, k=rate.rate, shift=rate.shift, key0=key0, key1=key1)


def _scale(x, scales, flags, exponent, scalar, **fields):
    # Only machines that keep masters have it.
    _check_shape(x, MAX_K)
    return instruction(
        Opcode.SCALE, flags=flags | ScaleFlag.ADD * bool(scalar), m=x.rows, n=x.cols, src0=x.base,
        src1=scales.base, tab1=scalar.base if scalar else 0, tab2=exponent & 0xFFFF, **fields)


def combine(a, b, out, *, added=0, subtract=False, broadcast=False, follow=None, maximum=False):
    """``out = a + b + added``, ``a - b + added`` or ``max(a, b) + added``, or a running mean ``a``
    that follows ``b``.

    All are rows; with ``broadcast`` the first number of ``b`` is used for all columns.
    """
    flags = (CombineFlag.SUBTRACT * subtract | CombineFlag.BROADCAST * broadcast
             | CombineFlag.FOLLOW * (follow is not None) | CombineFlag.MAXIMUM * maximum)
    if maximum and (subtract or follow is not None):
        raise ArgumentError("a row is a maximum, a difference or one that follows, got several")
    return instruction(
        Opcode.COMBINE, flags=flags, n=out.cols, src0=a.base, src1=b.base, dst0=out.base,
        tab0=a.rows + a.more_rows, tab1=b.rows + b.more_rows, tab2=out.rows + out.more_rows,
        shift=follow or 0, key0=added & 0xFFFFFFFF)


def cross_entropy(logits, labels, gradient, loss):
    """The gradient of the logits, and of the batch the loss and how many were predicted."""
    _check_shape(logits, MAX_M)
    return instruction(Opcode.CROSS_ENTROPY, m=logits.rows, n=logits.cols, src0=logits.base,
                       src1=labels.base, dst0=gradient.base, dst1=loss.base)


def sort(groups):
    """Build the order table of an axis."""
    return instruction(Opcode.SORT, k=groups.length, tab0=groups.base, arg=groups.count)


def move(x, out, *, transposed=False, order=None, windows=None, tap=(0, 0), unsigned=False):
    """Copy the quantised tensor ``x``, or its transpose, to ``out``.

    ``order`` are the :class:`Groups` of the columns of ``out``, which are sorted: these then come
    in the order of their slots.

    On a machine that keeps masters both may be rows of taller tensors. There ``windows`` are the
    :class:`~host.windows.Windows` of the images ``x``, whose tables the device holds: a row that is
    moved is what an output sees with the tap (ky, kx), the code of 0 where that is nothing,
    ``unsigned`` or not.
    """
    flags = (MoveFlag.TRANSPOSED * transposed | MoveFlag.SORTED * bool(order)
             | MoveFlag.WINDOWS * bool(windows) | MoveFlag.UNSIGNED * unsigned)
    rows, more_rows, fields = x.rows, x.more_rows, {"tab1": order.base if order else 0}
    if windows:
        if order:
            raise ArgumentError("what outputs see cannot be moved in the order of slots at once: "
                                "move it without order first")
        rows, more_rows = windows.count, x.rows + x.more_rows & 0xFFFF
        moved = (x.cols, rows) if transposed else (rows, x.cols)
        _check_convolution(windows, x, (("rows moved to", out.rows, moved[0]),
                                        ("columns moved to", out.cols, moved[1])))
        x_first, y_first, line = windows.tap(*tap)
        fields = {"tab0": windows.base, "src1": line & 0xFFFF,
                  "key0": x_first & 0xFFFF | (y_first & 0xFFFF) << 16}
    elif unsigned:
        raise ArgumentError("unsigned must come with windows: a plain move takes any code")
    _check("rows of a tensor to move", rows, MAX_K)
    _check("columns of a tensor to move", x.cols, MAX_K)
    return instruction(
        Opcode.MOVE, flags=flags, m=rows, n=x.cols, src0=x.base, dst0=out.base,
        key1=more_rows | out.more_rows << 16, **fields)


def norm_forward(params, x, y, context, state, *, relu, inference=False):
    """The L1 norm of ``x``."""
    _check_shape(x, params.max_rows)
    flags = NormFlag.RELU * relu | NormFlag.INFERENCE * inference
    return instruction(
        Opcode.NORM_FORWARD, flags=flags, m=x.rows, n=x.cols, src0=x.base, src1=state.base,
        dst0=y.base, dst1=context.base)


def norm_backward(params, dy, dx, context, state, codes=None, *, scan=False):
    """The gradient of the L1 norm, whose output was quantised to the unsigned ``codes``; with
    ``scan`` its largest magnitudes stay in the state."""
    _check_shape(dy, params.max_rows)
    flags = BackwardFlag.CLIPPED * bool(codes) | BackwardFlag.SCAN * scan
    return instruction(
        Opcode.NORM_BACKWARD, flags=flags, m=dy.rows, n=dy.cols,
        src0=dy.base, src1=state.base, dst0=dx.base, dst1=context.base,
        tab0=codes.base if codes else 0)


def layer_norm(params, x, y, context, state, deviations, *, inference=False):
    """The L1 norm of the rows of ``x`` [m, n], as :func:`sim.model.norm.layer_forward`; its
    ``deviations`` [m, 1] are for the way back, as ``context`` is."""
    _check_layer_norm(params, x, deviations)
    return instruction(
        Opcode.LAYER_FORWARD, flags=LayerFlag.INFERENCE * inference, m=x.rows, n=x.cols,
        src0=x.base, src1=state.base, dst0=y.base, dst1=context.base, tab0=deviations.base)


def layer_norm_gradient(params, dy, dx, context, state, deviations):
    """The gradient of the L1 norm of rows, as :func:`sim.model.norm.layer_backward`; those of beta
    and gamma are in the state, :class:`hdl.instructions.LayerRow`."""
    _check_layer_norm(params, dy, deviations)
    return instruction(
        Opcode.LAYER_BACKWARD, m=dy.rows, n=dy.cols, src0=dy.base, src1=state.base, dst0=dx.base,
        dst1=context.base, tab0=deviations.base)


def layer_gradients(state):
    """``(grad_beta, grad_gamma)`` of a state tensor [8, n] after :func:`layer_norm_gradient`.

    >>> import numpy as np
    >>> found = layer_gradients(np.array([[0], [0], [0], [5], [-2], [-1], [0], [0]]))
    >>> [gradient.tolist() for gradient in found]
    [[5], [-2]]
    """
    low = state[LayerRow.GRAD_GAMMA_LOW] & (1 << WIDE_BITS) - 1
    return state[LayerRow.GRAD_BETA], (state[LayerRow.GRAD_GAMMA_HIGH] << WIDE_BITS) + low


def _check_layer_norm(params, x, deviations):
    if not params.layer_norm:
        raise ArgumentError("the norm of channels needs a machine that has it: add --layer-norm, "
                            f"got {params.name}")
    _check_shape(x, params.max_rows)
    if (deviations.rows, deviations.cols) != (x.rows, 1):
        raise ArgumentError(f"deviations must be [{x.rows}, 1], one for each row, got "
                            f"[{deviations.rows}, {deviations.cols}]")
