"""The instruction set, written once: fields, operations, and what is refused.

:data:`OPERATIONS` is what everybody reads: the gateware's check (:mod:`hdl.program`), the model's
(:mod:`sim.model.machine`), the host (:mod:`host.program`) and docs/machine.md, whose tables are
drawn from it. It needs neither Amaranth nor NumPy. A change raises the protocol version.

An instruction is 32 bytes, the fields of :data:`INSTRUCTION` in order from bit 0. One is refused
with ``BAD_INSTRUCTION`` if its opcode is unknown or its unit is not on the machine; if it has a
flag that its operation has not, or one of groups on a machine without groups; if a size that it
uses is 0 or beyond its limit; and if one of its rules does not hold.

On a machine that keeps masters units overlap. Each belongs to one :class:`Queue`, ``QUEUES``, which
runs one instruction at a time; ``op`` holds the opcode in bits 0 to 3 and ``after`` in bits 4 to 6,
a mask of queues, bit 4 the first of them; bit 7 is 0. An instruction starts when all instructions
of its own queue that come before it in the program are done, and all instructions before it that
are in the queues it names. One that names none starts as soon as its queue is free, whatever is
under way elsewhere: what it reads must have been written, what it writes must not be wanted any
more, and it must not need a port of a memory while another queue does. :func:`in_order` names all
queues, and such a program runs an instruction at a time. On other machines all of ``op`` is the
opcode, and every program does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from functools import reduce
from operator import and_, or_

from hdl.params import MAX_K, MAX_M, MAX_N

__all__ = [
    "AFTER_MASK",
    "AFTER_SHIFT",
    "COLUMN_UNIT",
    "INSTRUCTION",
    "INSTRUCTION_BYTES",
    "MAX_SHIFT",
    "OPERATIONS",
    "POOL_GEOMETRY",
    "POSITION_BITS",
    "QUEUES",
    "STATE_ROWS",
    "TABLE_HEADER",
    "WINDOW_RUN",
    "WINDOW_TABLE",
    "BackwardFlag",
    "CombineFlag",
    "GemmFlag",
    "LayerFlag",
    "LayerRow",
    "LossRow",
    "MoveFlag",
    "NormFlag",
    "Opcode",
    "Operation",
    "PoolFlag",
    "QuantiseFlag",
    "Queue",
    "Rule",
    "ScaleFlag",
    "ScaleRow",
    "StateRow",
    "in_order",
    "instruction",
    "is_lawful",
    "naming",
    "opcode_of",
    "pack_fields",
    "queue_of",
    "unpack_fields",
    "unpack_instruction",
]

#: Name and width in bits of each field of an instruction, from bit 0.
INSTRUCTION = (
    ("op", 8), ("flags", 8),
    ("m", 16), ("k", 16), ("n", 16),
    ("src0", 16), ("src1", 16), ("dst0", 16), ("dst1", 16),
    ("tab0", 16), ("tab1", 16), ("tab2", 16),
    ("shift", 8), ("arg", 8),
    ("key0", 32), ("key1", 32),
)
INSTRUCTION_BYTES = sum(width for _, width in INSTRUCTION) // 8
_NAMES = [name for name, _ in INSTRUCTION]

#: Columns of which SCALE with UPDATE counts the first one's place in a wider tensor.
COLUMN_UNIT = 16
#: Largest right shift of a GEMM's result.
MAX_SHIFT = 31

#: Words at the start of an order table before the entries: the first is the number of slots in
#: use, the next seven are the schedule rows before which the array shifts (all ones: none).
TABLE_HEADER = 8

#: Words of the group table, each of fields from bit 0, that say which rows of images a GEMM with
#: ``WINDOWS`` streams. Positions count in half inputs, so that the gradient of a convolution of
#: stride 2, for which a zero stands between any two inputs, is one as well: what lies at a half, or
#: outside of the image, is 0. Addresses count in half words. ``x`` is along a line of the image,
#: ``y`` across. MOVE with ``WINDOWS`` takes one tap, and of these words only sizes, ``image_step``
#: and strides.
WINDOW_TABLE = (
    #: Of the image and of the outputs, 1 to 255 each.
    (("width", 8), ("height", 8), ("out_width", 8), ("out_height", 8)),
    #: From the last line of outputs of an image to the first of the next, modulo ``2**17``; how far
    #: outside the first window begins, in half inputs; width of the kernel, in taps.
    (("image_step", 17), ("pad_x", 5), ("pad_y", 5), ("kernel_width", 3)),
    #: Words for the channels of one tap; from an output to the next, and from a tap to the next:
    #: ``2**stride`` and ``2**dilation`` half inputs.
    (("channel_tiles", 13), ("stride_x", 2), ("stride_y", 2), ("dilation", 2)),
)
#: And the word of a GEMM's own: its first output, from 0, and the word of A, counted from
#: src0 and rounded down, of position 0 of the line on which that output's first tap is.
WINDOW_RUN = (("first_line", 16), ("first_x", 8), ("first_y", 8))
#: Bits of a position, with its sign.
POSITION_BITS = 11

#: What key0 of POOL says of its images and windows, 1 to 255 each.
POOL_GEOMETRY = (("width", 8), ("height", 8), ("window_width", 8), ("window_height", 8))


class Opcode(IntEnum):
    """Operations; each is one model function and runs on the unit of the same number."""
    GEMM = 1
    QUANTISE = 2
    SORT = 3
    NORM_FORWARD = 4
    NORM_BACKWARD = 5
    MOVE = 6
    SCALE = 7
    COMBINE = 8
    CROSS_ENTROPY = 9
    POOL = 10
    LAYER_FORWARD = 11
    LAYER_BACKWARD = 12


class Queue(IntEnum):
    """What runs one instruction at a time; the number is that of the bit in ``after``."""
    ARRAY = 0
    VECTOR = 1
    MOVER = 2


#: The operations of every queue, on machines that keep masters.
QUEUES = {
    Queue.ARRAY: (Opcode.GEMM,),
    Queue.VECTOR: (Opcode.QUANTISE, Opcode.NORM_FORWARD, Opcode.NORM_BACKWARD, Opcode.SCALE,
                   Opcode.COMBINE, Opcode.CROSS_ENTROPY, Opcode.POOL, Opcode.LAYER_FORWARD,
                   Opcode.LAYER_BACKWARD),
    Queue.MOVER: (Opcode.MOVE, Opcode.SORT),
}
#: Where ``after`` is in ``op``, on machines that keep masters: from this bit on, and a mask.
AFTER_SHIFT = 4
AFTER_MASK = ((1 << len(Queue)) - 1) << AFTER_SHIFT


class GemmFlag(IntFlag):
    """Flags of ``GEMM``."""
    UNSIGNED = 1
    INNER_GROUPS = 2
    ROW_GROUPS = 4
    COL_GROUPS = 8
    WINDOWS = 16


class QuantiseFlag(IntFlag):
    """Flags of ``QUANTISE``."""
    UNSIGNED = 1
    PER_COLUMN = 2
    STOCHASTIC = 4
    GROUPED = 8
    MASTER = 16
    SCAN = 32
    SCANNED = 64


class MoveFlag(IntFlag):
    """Flags of ``MOVE``."""
    TRANSPOSED = 1
    SORTED = 2
    WINDOWS = 4
    UNSIGNED = 8


class NormFlag(IntFlag):
    """Flags of ``NORM_FORWARD``."""
    RELU = 1
    INFERENCE = 2


class BackwardFlag(IntFlag):
    """Flags of ``NORM_BACKWARD``."""
    CLIPPED = 1
    SCAN = 2


class ScaleFlag(IntFlag):
    """Flags of ``SCALE``."""
    DIVIDE = 1
    MASTER = 2
    UPDATE = 4
    BIAS = 8
    ALIGN = 16
    SUM = 32
    NEGATE = 64
    ADD = 128
    #: The byte is full: what ``BIAS`` and ``SUM``, which exclude each other, mean together.
    PLUS = BIAS | SUM


class CombineFlag(IntFlag):
    """Flags of ``COMBINE``."""
    BROADCAST = 1
    SUBTRACT = 2
    FOLLOW = 4
    MAXIMUM = 8


class PoolFlag(IntFlag):
    """Flags of ``POOL``."""
    SPREAD = 1
    CLIPPED = 2


class LayerFlag(IntFlag):
    """Flags of ``LAYER_FORWARD``."""
    INFERENCE = 1


class ScaleRow(IntEnum):
    """Rows of a scale tensor, a wide tensor of ``len(ScaleRow)`` rows."""
    FACTOR = 0
    EXPONENT = 1
    BIAS = 2


class LossRow(IntEnum):
    """Rows of what ``CROSS_ENTROPY`` leaves of a batch, a wide tensor of one column."""
    #: The sum of the losses, with ``LOSS_FRACTION`` fraction bits: its low 32 bits, and the rest.
    LOSS_LOW = 0
    LOSS_HIGH = 1
    #: Samples whose label was predicted.
    CORRECT = 2


class StateRow(IntEnum):
    """Rows of a norm's state tensor, a wide tensor of ``STATE_ROWS`` rows."""
    #: gamma, signed 16 bits, ``PARAMETER_FRACTION`` fraction bits.
    GAMMA = 0
    #: beta, ``PARAMETER_FRACTION`` fraction bits.
    BETA = 1
    #: With ``SCAN``, on the way back: the largest magnitude of the input's gradient.
    LARGEST = 1
    #: Mean of the input, ``NORM_FRACTION`` fraction bits.
    MEAN = 2
    #: Mean magnitude of the deviation from it, ``NORM_FRACTION`` fraction bits.
    DEVIATION = 3
    #: Mean of the normalised output gradient.
    GRAD_BETA = 4
    #: Mean of the normalised output gradient times xhat.
    GRAD_GAMMA = 5
    #: Bit length of the largest magnitude of the output gradient.
    GRAD_BITS = 6
    #: Bit length of the smallest non-zero deviation.
    DEVIATION_BITS = 7


STATE_ROWS = len(StateRow)


class LayerRow(IntEnum):
    """Rows of the state tensor of a norm of channels, which has ``STATE_ROWS`` of them, too, and
    the same numbers for what both have; row 2 is not used."""
    GAMMA = StateRow.GAMMA
    BETA = StateRow.BETA
    #: Over the rows of the tensor, the sum of the output gradient, normalised.
    GRAD_BETA = 3
    #: And of that times xhat, modulo ``2**64``: its low 32 bits, and the rest.
    GRAD_GAMMA_LOW = 4
    GRAD_GAMMA_HIGH = 5
    #: Bit length of the largest magnitude of the output gradient, the same for all columns.
    GRAD_BITS = StateRow.GRAD_BITS
    #: Bit length of the smallest non-zero deviation of a row, the same for all columns.
    DEVIATION_BITS = StateRow.DEVIATION_BITS


class ScanRow(IntEnum):
    """Rows of a state tensor, one after the other, that QUANTISE keeps of a tensor's columns."""
    #: The largest magnitude.
    LARGEST = 0
    #: The sum of magnitudes: its low ``SCAN_SHIFT`` bits, and the rest.
    TOTAL_LOW = 1
    TOTAL_HIGH = 2


SCAN_SHIFT = 24


@dataclass(frozen=True)
class Rule:
    """Something that must hold of an instruction.

    Parameters
    ----------
    text : str
        What is refused, in words.
    holds : callable
        ``holds(fields, groups)`` with the machine's number of groups, 1 without. An expression of
        gateware, which plain numbers evaluate as :class:`_Number`.
    """
    text: str
    holds: Callable


@dataclass(frozen=True)
class Operation:
    """One operation of the instruction set.

    Parameters
    ----------
    equation : str
        What it does. ``w`` is a base in the wide memory, ``q`` in the quantised memory, ``t`` in
        the tables.
    text : str
        What the equation leaves out.
    model : str
        The model's function.
    clocks : str
        Where the length of an instruction stands.
    sizes : dict of str to int
        The sizes that it uses, from 1 to these limits.
    fields : dict of str to str
        What other fields mean; those that are not here are not looked at.
    flags : dict of IntFlag to str
    needs_groups, needs_masters : bool or IntFlag
        It, or these of its flags, are refused on a machine without groups, or one that keeps no
        masters.
    needs_layer_norm : bool
        It is refused on a machine without the norm of channels.
    rules : tuple of Rule
    with_masters : (dict, tuple of Rule)
        On a machine that keeps masters: other limits of sizes, and rules besides.
    """
    equation: str
    text: str
    model: str
    clocks: str
    sizes: dict
    fields: dict
    flags: dict = field(default_factory=dict)
    needs_groups: bool | IntFlag = False
    needs_masters: bool | IntFlag = False
    needs_layer_norm: bool = False
    rules: tuple = ()
    with_masters: tuple = ({}, ())

    def exists(self, params):
        """Whether the machine has it."""
        return self._missing(params) is not True

    def known_flags(self, params):
        """The flags that the machine has, as a number."""
        return reduce(or_, map(int, self.flags), 0) & ~self._missing(params)

    def conditions(self, fields, params, *, within):
        """All that must hold, in order; ``within(name, limit)`` says that a size is 1 to that."""
        larger, others = self.with_masters if params.masters else ({}, ())
        yield from (within(name, limit) for name, limit in {**self.sizes, **larger}.items())
        yield (fields.flags & (0xFF & ~self.known_flags(params))) == 0
        yield from (rule.holds(fields, params.max_groups) for rule in (*self.rules, *others))

    def _missing(self, params):
        """True, or what flags are not there."""
        lacks = [need for need, there in ((self.needs_groups, params.max_groups > 1),
                                          (self.needs_masters, params.masters > 0),
                                          (self.needs_layer_norm, params.layer_norm)) if not there]
        return True if True in lacks else sum(int(need) for need in lacks)


def _plain_or_grouped(fields, groups):
    flags, plain = fields.flags, QuantiseFlag.PER_COLUMN | QuantiseFlag.UNSIGNED
    return ~((flags & QuantiseFlag.GROUPED).any() & ((flags & plain).any() | fields.arg.any()))


def _masters_by_columns(fields, groups):
    flags = fields.flags
    others = QuantiseFlag.UNSIGNED | QuantiseFlag.STOCHASTIC | QuantiseFlag.GROUPED
    return (~(flags & QuantiseFlag.MASTER).any()
            | (flags & QuantiseFlag.PER_COLUMN).any() & ~(flags & others).any())


def _scanned_apart(fields, groups):
    flags = fields.flags
    others = QuantiseFlag.PER_COLUMN | QuantiseFlag.MASTER
    return (~(flags & QuantiseFlag.SCAN).any() | (flags == QuantiseFlag.SCAN)) & (
        ~(flags & QuantiseFlag.SCANNED).any() | ~(flags & others).any())


def _windows(holds):
    """What holds of an instruction with ``WINDOWS``."""
    return lambda f, groups: ~(f.flags & GemmFlag.WINDOWS).any() | holds(f)


def _moved_apart(fields, groups):
    flags = fields.flags
    windows = (flags & MoveFlag.WINDOWS).any()
    return (~(windows & (flags & MoveFlag.SORTED).any())
            & (windows | ~(flags & MoveFlag.UNSIGNED).any()))


def _one_way(fields, groups):
    """What SCALE cannot do at once."""
    def has(*flags):
        return (fields.flags & sum(flags)).any()
    F = ScaleFlag
    return (~(has(F.UPDATE) & has(F.ALIGN, F.SUM, F.BIAS, F.MASTER))
            & ~(has(F.ALIGN) & has(F.BIAS, F.SUM)))


#: By opcode.
OPERATIONS = {
    Opcode.GEMM: Operation(
        equation="dst0(w)[m,n] = requantise(A[m,k] . B[k,n])",
        text="A = src0(q), the operand that streams, B = src1(q), the one that stays. With "
             "``INNER_GROUPS`` the order table at tab0(t) says which index each slot takes and "
             "between which rows to shift, and A has its columns in the order of the slots, "
             "padding included, as ``MOVE`` with ``SORTED`` leaves them: a tensor of tiles x slots "
             "columns. What lies in columns of A that stand for no index does not matter. A and "
             "the result may be m rows of taller tensors; src0 and dst0 are where the first of "
             "them begins. With ``WINDOWS`` A[m,k] is not stored: src0(q) is a tensor of images, "
             "a row for each input position, line after line and image after image, a column for "
             "each channel. Row i of A is what output i sees of it, counted from a given output on "
             "in the same order; k goes through the taps of the kernel, line after line, and "
             "through the channels of each. The tables at tab0(t) and dst1(t) say which inputs "
             "those are (``WINDOW_TABLE``, ``WINDOW_RUN``); where there is none A is 0. What they "
             "say must not contradict k, the channels and the tiles.",
        model="sim.model.gemm.gemm", clocks="hdl.gemm.Gemm",
        sizes={"m": MAX_M, "k": MAX_K, "n": MAX_N},
        fields={
            "shift": "rounding right shift",
            "key0": "low half: tiles along the inner dimension, ``ceil((ceil(k / depth) + G - 1) "
                    "/ rows)`` with G = 1 without inner groups; with ``WINDOWS`` those of a tap's "
                    "channels, for every tap, and in the high half the channels",
            "key1": "rows that A (low half) and the result (high half) have beyond the m; with "
                    "``WINDOWS`` all rows of the images",
            "dst1": "(t) with ``WINDOWS``, the word ``WINDOW_RUN``",
            "tab0": "(t) order table of the inner dimension; with ``WINDOWS``, the words "
                    "``WINDOW_TABLE``",
            "tab1": "(t) row groups: row i is shifted left by ``(arg & 15) - group[tab1 + i]``",
            "tab2": "(t) column groups: column j is shifted left by ``(arg >> 4) - "
                    "group[tab2 + j]``",
            "arg": "largest row group (low half) and column group (high half)",
        },
        flags={
            GemmFlag.UNSIGNED: "A holds ``u - 2**(bits-1)`` for unsigned u; the result is that of "
                               "u",
            GemmFlag.INNER_GROUPS: "groups along k",
            GemmFlag.ROW_GROUPS: "groups along m",
            GemmFlag.COL_GROUPS: "groups along n",
            GemmFlag.WINDOWS: "A are windows of images: a convolution, "
                              "``sim.model.convolution.windows``",
        },
        needs_masters=GemmFlag.WINDOWS,
        needs_groups=GemmFlag.INNER_GROUPS | GemmFlag.ROW_GROUPS | GemmFlag.COL_GROUPS,
        rules=(
            Rule(f"``shift`` above {MAX_SHIFT}", lambda f, groups: f.shift <= MAX_SHIFT),
            Rule("no tiles", lambda f, groups: f.key0[:16].any()),
            Rule("with ``ROW_GROUPS``, a low half of ``arg`` that is not below the machine's "
                 "number of groups",
                 lambda f, groups: ~(f.flags & GemmFlag.ROW_GROUPS).any() | (f.arg[:4] < groups)),
            Rule("with ``COL_GROUPS``, such a high half",
                 lambda f, groups: ~(f.flags & GemmFlag.COL_GROUPS).any() | (f.arg[4:] < groups)),
        ),
        with_masters=({}, (
            Rule("``WINDOWS`` with ``INNER_GROUPS``",
                 _windows(lambda f: ~(f.flags & GemmFlag.INNER_GROUPS).any())),
            Rule(f"with ``WINDOWS``, no channels or more than {MAX_K:,}",
                 _windows(lambda f: f.key0[16:].any() & (f.key0[16:] <= MAX_K)))))),
    Opcode.QUANTISE: Operation(
        equation="dst0(q)[m,n], dst1(w)[1,n] = quantise(src0(w)[m,n])",
        text="dst1 is the exponent s of every column's scale: q stands for ``q * 2**(s - groups)`` "
             "in the unit of src0. With ``MASTER``, ``src0(p)`` are master weights, and their "
             "columns are normalised first: ``dst1(w)[3,n]`` is then a scale tensor, with the "
             "mantissa in row FACTOR and s in row EXPONENT. What a scale takes of the columns, "
             "the largest magnitude and the sum of magnitudes, can be found before: ``SCAN`` "
             "leaves it in three rows of a state tensor, the first of them at dst1(w), and nothing "
             "else; with ``SCANNED`` they are at src1(w), and src0 is read once. Without a clip "
             "the sum is not looked at, so that the row LARGEST that the norm leaves on the way "
             "back is enough.",
        model="sim.model.quantise.quantise", clocks="hdl.quantise.quantiser.Quantiser.cycles",
        sizes={"m": MAX_M, "n": MAX_N},
        fields={
            "arg": "clip in quarters of the mean magnitude, 0 for the maximum",
            "key0": "noise key, low half", "key1": "noise key, high half",
            "tab1": "(t) with ``GROUPED``, sample groups go to group[tab1 + i]",
            "tab2": "(t) and channel groups to group[tab2 + j]",
        },
        flags={
            QuantiseFlag.UNSIGNED: "to ``0 .. 2**bits-1``, stored less ``2**(bits-1)``; negative "
                                   "inputs become 0",
            QuantiseFlag.PER_COLUMN: "a scale for every column instead of one for the tensor",
            QuantiseFlag.STOCHASTIC: "stochastic instead of nearest rounding",
            QuantiseFlag.GROUPED: "separable ShiftQuant",
            QuantiseFlag.MASTER: "master weights: ``sim.model.quantise.quantise_weights``",
            QuantiseFlag.SCAN: "only find what a scale takes of the columns",
            QuantiseFlag.SCANNED: "it has been found; with ``GROUPED`` all rows are in group 0",
        },
        needs_groups=QuantiseFlag.GROUPED,
        needs_masters=QuantiseFlag.MASTER | QuantiseFlag.SCAN | QuantiseFlag.SCANNED,
        rules=(Rule("``GROUPED`` with ``PER_COLUMN``, ``UNSIGNED`` or a clip",
                    _plain_or_grouped),),
        with_masters=({"m": MAX_K}, (
            Rule("``MASTER`` without ``PER_COLUMN``, or with another flag",
                 _masters_by_columns),
            Rule("``SCAN`` with another flag; ``SCANNED`` with ``PER_COLUMN`` or ``MASTER``",
                 _scanned_apart)))),
    Opcode.SORT: Operation(
        equation="order table at tab0(t) of the groups group[tab0 + i], i below k",
        text="Adds to each of those words the slot that its index takes. An index whose group is "
             "``arg`` or more takes no slot, and its word stays as it is.",
        model="sim.model.order.order", clocks="hdl.sort.Sorter",
        sizes={"k": MAX_K},
        fields={"tab0": "(t) groups, and the table", "arg": "number of groups"},
        needs_groups=True,
        rules=(Rule("``arg`` that is 0 or above the machine's number of groups",
                    lambda f, groups: (f.arg != 0) & (f.arg <= groups)),)),
    Opcode.NORM_FORWARD: Operation(
        equation="dst0(w)[m,n], dst1(w)[m,n] = norm(src0(w)[m,n])",
        text="dst1 is the context that the way back needs. Statistics and parameters are in the "
             "state tensor src1(w)[8,n]. Source and destination may be the same.",
        model="sim.model.norm.l1_forward", clocks="hdl.norm.forward.NormForward.cycles",
        sizes={"m": MAX_M, "n": MAX_N}, fields={},
        flags={
            NormFlag.RELU: "apply a ReLU to the output and keep its mask in the context",
            NormFlag.INFERENCE: "use the mean and deviation of the state tensor, and write no "
                                "context",
        },
        with_masters=({"m": MAX_K}, ())),
    Opcode.NORM_BACKWARD: Operation(
        equation="dst0(w)[m,n] = gradient of the norm's input from src0(w)[m,n]",
        text="From the context dst1(w)[m,n] and the state src1(w)[8,n]. Source and destination may "
             "be the same.",
        model="sim.model.norm.l1_backward", clocks="hdl.norm.backward.NormBackward.cycles",
        sizes={"m": MAX_M, "n": MAX_N},
        fields={"tab0": "(q) with ``CLIPPED``, what the output was quantised to, [m,n]"},
        flags={BackwardFlag.CLIPPED: "no gradient passes an element whose code is the largest",
               BackwardFlag.SCAN: "row LARGEST of the state becomes the largest magnitude of each "
                                  "column of the result"},
        needs_masters=BackwardFlag.SCAN,
        with_masters=({"m": MAX_K}, ())),
    Opcode.MOVE: Operation(
        equation="dst0(q)[m,n] = src0(q)[m,n]",
        text="Lanes that take nothing keep what they held. Source and destination must not "
             "overlap. On a machine that keeps masters ``SORTED`` goes by the order table of "
             "tab1, made of no more indices than there are columns to move, and source and "
             "destination may be rows of taller tensors; src0 and dst0 are where the first of them "
             "begins. With ``WINDOWS`` src0(q) is a tensor of images of n channels, as for "
             "``GEMM``, and row i of what is moved is the input that output i sees with one tap, "
             "counted from the first output on; where there is none it is the code of 0. The "
             "tables at tab0(t) say which inputs those are (``WINDOW_TABLE``), ``key0`` and "
             "``src1`` where the first one is.",
        model="a copy", clocks="hdl.move.Move.cycles",
        sizes={"m": MAX_K, "n": MAX_K},
        fields={
            "tab1": "(t) with ``SORTED``, column c goes to the slot in word group[tab1 + c]",
            "tab0": "(t) with ``WINDOWS``, the words ``WINDOW_TABLE``",
            "key0": "with ``WINDOWS``, what the first output sees: the input at x, along a line, "
                    "in the low half, and y in the high half, in half inputs, from -1,024 to 1,023",
            "src1": "with ``WINDOWS``, the word of position 0 of that line, counted from src0: "
                    "``floor(y width / 2)``, modulo ``2**16``",
            "key1": "on a machine that keeps masters, rows that the source (low half) and the "
                    "destination (high half) have beyond those moved; with ``WINDOWS`` all rows of "
                    "the images",
        },
        flags={
            MoveFlag.TRANSPOSED: "dst0(q)[n,m], the transpose",
            MoveFlag.SORTED: "columns of the destination in the order of their slots",
            MoveFlag.WINDOWS: "what each output of a convolution sees with one tap, "
                              "``sim.model.convolution.windows``",
            MoveFlag.UNSIGNED: "the code of 0 is ``-2**(bits-1)``",
        },
        needs_groups=MoveFlag.SORTED, needs_masters=MoveFlag.WINDOWS | MoveFlag.UNSIGNED,
        with_masters=({}, (
            Rule("``WINDOWS`` with ``SORTED``, ``UNSIGNED`` without ``WINDOWS``",
                 _moved_apart),))),
    Opcode.SCALE: Operation(
        equation="dst0(w)[m,n] = rescale(src0(w)[m,n] * f, e, arg)",
        text="By columns: f is row FACTOR of the scale tensor src1(w)[3,n], 0 to 1,023, and e row "
             "EXPONENT, plus ``tab2`` as a signed number, from -32,768 to 32,767 each. With "
             "``UPDATE`` the result, of 24 bits, is the gradient of the parameters dst0(p)[m,n], "
             "which make one step of descent; they may be columns of a wider tensor, from a "
             f"multiple of {COLUMN_UNIT} on. Source and destination may be the same, and with "
             "``PLUS`` what is added and the destination.",
        model="sim.model.scale.scale", clocks="hdl.scale.scaler.Scaler.cycles",
        sizes={"m": MAX_K, "n": MAX_N},
        fields={
            "arg": "bits of the result, 1 to 32; with ``UPDATE``: the first column, in units of "
                   f"{COLUMN_UNIT}",
            "dst1": "(w) with ``ALIGN``, the exponent [1,n]; with ``PLUS``, what is added, [m,n]; "
                    "with ``UPDATE``: columns that the whole tensor has beyond the n, below 4,096",
            "tab1": "(w) with ``ADD``, a word whose first element is added to e, from -32,768 to "
                    "32,767",
            "tab2": "added to e", "k": "with ``UPDATE``: the learning rate, below 4,096",
            "shift": "places it is shifted right, up to 17", "tab0": "weight decay, below 4,096",
            "key0": "noise key, low half", "key1": "noise key, high half",
        },
        flags={
            ScaleFlag.DIVIDE: "divided by f, 4 to 7, instead: ``floor(2**14 x / f)``; by others "
                              "the result is not defined",
            ScaleFlag.MASTER: "src0(p): masters",
            ScaleFlag.UPDATE: "``sim.model.update.sgd``",
            ScaleFlag.BIAS: "row BIAS is added, and the sum clamped to ``arg`` bits",
            ScaleFlag.ALIGN: "all to one exponent, so that the largest has 22 bits",
            ScaleFlag.SUM: "dst0(w)[1,n] = the sum over rows of src0(w)[m,n], modulo 2**32",
            ScaleFlag.PLUS: "``BIAS`` and ``SUM`` together: the tensor at dst1 is added in the "
                            "place of row BIAS",
            ScaleFlag.NEGATE: "row EXPONENT counts negative",
            ScaleFlag.ADD: "the word at tab1 is added to e",
        },
        needs_masters=True,
        rules=(
            Rule("``arg`` that is 0 or above 32 without ``UPDATE``",
                 lambda f, groups: (f.flags & ScaleFlag.UPDATE).any()
                 | (f.arg != 0) & (f.arg <= 32)),
            Rule("``dst1`` from 4,096 on with ``UPDATE``",
                 lambda f, groups: ~(f.flags & ScaleFlag.UPDATE).any() | (f.dst1 <= 4095)),
            Rule("``k`` or ``tab0`` from 4,096 on, ``shift`` above 17",
                 lambda f, groups: (f.k <= 4095) & (f.tab0 <= 4095) & (f.shift <= 17)),
            Rule("``UPDATE`` with ``MASTER``, ``BIAS``, ``ALIGN`` or ``SUM``, ``ALIGN`` with "
                 "``BIAS`` or ``SUM``", _one_way))),
    Opcode.COMBINE: Operation(
        equation="dst0(w)[1,n] = src0(w)[1,n] + src1(w)[1,n] + key0",
        text="Modulo 2**32. All three may be rows of taller tensors. Words follow each other: the "
             "result may take the place of a source, and must not overlap one otherwise.",
        model="sim.model.combine.combine", clocks="hdl.combine.Combine.cycles",
        sizes={"n": MAX_N},
        fields={
            "tab0": "rows of the tensor at src0", "tab1": "of that at src1",
            "tab2": "of that at dst0",
            "key0": "a number that is added", "shift": "with ``FOLLOW``, up to 31",
        },
        flags={
            CombineFlag.BROADCAST: "the first element of src1 for all",
            CombineFlag.SUBTRACT: "less src1",
            CombineFlag.FOLLOW: "``src0 + round_shift(src1 - src0, shift)`` instead",
            CombineFlag.MAXIMUM: "``max(src0, src1) + key0`` instead, of signed numbers",
        },
        needs_masters=True,
        rules=(
            Rule("``shift`` above 31", lambda f, groups: f.shift <= 31),
            Rule("``MAXIMUM`` with ``SUBTRACT`` or ``FOLLOW``", lambda f, groups:
                 ~(f.flags & CombineFlag.MAXIMUM).any()
                 | ~(f.flags & (CombineFlag.SUBTRACT | CombineFlag.FOLLOW)).any()))),
    Opcode.CROSS_ENTROPY: Operation(
        equation="dst0(w)[m,n], dst1(w)[3,1] = cross_entropy(src0(w)[m,n], src1(w)[m,1])",
        text="From logits and labels the gradient, in units of ``2**(-22 - s)`` with s the bits of "
             "m - 1, and of the batch the sum of the losses in two rows, low half first, and how "
             "many labels were predicted. A label that is no column's counts as none. Source and "
             "destination may be the same.",
        model="sim.model.softmax.cross_entropy",
        clocks="hdl.loss.cross_entropy.CrossEntropy.cycles",
        sizes={"m": MAX_M, "n": MAX_N}, fields={}, needs_masters=True),
    Opcode.POOL: Operation(
        equation="dst0(w)[m h w,n] = sums over windows of src0(w)[m height width,n]",
        text="Of m images, a row for each position, line after line and image after image, a "
             "column for each channel; key0 says their height and width, and those of the windows, "
             "of which there are ``h = height // window_height`` below each other and ``w = width "
             "// window_width`` beside each other in an image. What is left over at the right and "
             "at the bottom is in none. Sums are modulo 2**32. Source and destination may be the "
             "same. With ``SPREAD``, the way back, ``dst0(w)[m height width,n]``: each position "
             "gets the row of its window in ``src0(w)[m h w,n]``, and those in none get 0; source "
             "and destination must not overlap, but with windows of one position they may be the "
             "same.",
        model="sim.model.pool.sums", clocks="hdl.pool.Pool.cycles",
        sizes={"m": MAX_K, "n": MAX_N},
        fields={
            "key0": "bytes from the lowest: " + ", ".join(f"``{name}``"
                                                          for name, _ in POOL_GEOMETRY),
            "tab0": "(q) with ``CLIPPED``, what the windows were quantised to, [m h w,n]",
        },
        flags={PoolFlag.SPREAD: "the way back, ``sim.model.pool.spread``",
               PoolFlag.CLIPPED: "windows whose unsigned code is the largest count as 0"},
        needs_masters=True,
        rules=(
            Rule("a byte of ``key0`` that is 0", lambda f, groups: reduce(and_, (
                f.key0[bit:bit + 8].any() for bit in range(0, 32, 8)))),
            Rule("``CLIPPED`` without ``SPREAD``", lambda f, groups:
                 ~(f.flags & PoolFlag.CLIPPED).any() | (f.flags & PoolFlag.SPREAD).any()))),
    Opcode.LAYER_FORWARD: Operation(
        equation="dst0(w)[m,n] = L1 norm of the rows of src0(w)[m,n]",
        text="Rows GAMMA and BETA of the state tensor src1(w)[8,n] are read. The context "
             "dst1(w)[m,n] is written, and the deviation of every row to tab0(w)[m,1]. Source and "
             "destination may be the same.",
        model="sim.model.norm.layer_forward", clocks="hdl.norm.layer_forward.LayerForward.cycles",
        sizes={"m": MAX_K, "n": MAX_N},
        fields={"tab0": "(w) the deviations [m,1]"},
        flags={LayerFlag.INFERENCE: "write no context and no deviations"},
        needs_layer_norm=True),
    Opcode.LAYER_BACKWARD: Operation(
        equation="dst0(w)[m,n] = gradient of the norm's input from src0(w)[m,n]",
        text="From the context dst1(w)[m,n], row GAMMA of the state src1(w)[8,n] and the "
             "deviations tab0(w)[m,1], all of one ``LAYER_FORWARD``, of whose context the mask "
             "does not matter. Of the state, rows GRAD_BETA, and GRAD_GAMMA_LOW and "
             "GRAD_GAMMA_HIGH, which are one number, become the model's exact sums, and GRAD_BITS "
             "and DEVIATION_BITS are written. Source and destination may be the same.",
        model="sim.model.norm.layer_backward",
        clocks="hdl.norm.layer_backward.LayerBackward.cycles",
        sizes={"m": MAX_K, "n": MAX_N},
        fields={"tab0": "(w) the deviations [m,1]"},
        needs_layer_norm=True),
}


class _Number(int):
    """A number that rules evaluate as gateware does a signal; low bits first."""

    def __getitem__(self, bits):
        low, high = bits.start or 0, 64 if bits.stop is None else bits.stop
        return _Number(int(self) >> low & (1 << high - low) - 1)

    def __and__(self, other):
        return _Number(int(self) & int(other))

    def any(self):
        """Whether a bit is set."""
        return _Truth(self != 0)


class _Truth(int):
    """A bit: ``~`` of it is a bit too."""

    def __invert__(self):
        return _Truth(not self)

    def __and__(self, other):
        return _Truth(bool(self) and bool(other))

    def __or__(self, other):
        return _Truth(bool(self) or bool(other))


class _Fields:
    def __init__(self, values):
        vars(self).update({name: _Number(value) for name, value in values.items()})


def is_lawful(values, params):
    """Whether a machine runs an instruction of these fields.

    >>> from hdl.params import Params
    >>> sort = {"op": Opcode.SORT, "flags": 0, "k": 64, "arg": 4}
    >>> is_lawful(sort, Params()), is_lawful(sort, Params(sample_groups=1, channel_groups=1))
    (True, False)
    """
    operation = OPERATIONS.get(opcode_of(values["op"], params))
    if operation is None or not operation.exists(params):
        return False
    return all(operation.conditions(_Fields(values), params, within=lambda name, limit:
                                    1 <= values[name] <= limit))


def queue_of(op):
    """The queue of an operation, or of its unit.

    >>> queue_of(Opcode.SORT).name
    'MOVER'
    """
    return next(queue for queue, operations in QUEUES.items() if op in operations)


def opcode_of(op, params):
    """The opcode in the field ``op``, a number or gateware; known or not.

    >>> from hdl.params import Params
    >>> opcode_of(0x63, Params(masters=8)), opcode_of(0x63, Params())
    (3, 99)
    """
    return op & (0xFF & ~AFTER_MASK) if params.masters else op


def naming(packed, queues):
    """A packed instruction that names these queues, and no others.

    >>> naming(instruction(Opcode.SORT, after=Queue), [Queue.VECTOR])[0] == 0x23
    True
    """
    named = sum(1 << AFTER_SHIFT + queue for queue in set(queues))
    return bytes([packed[0] & ~AFTER_MASK | named]) + bytes(packed[1:])


def in_order(packed):
    """A packed instruction that starts after all before it: it names all queues. What is no opcode
    stays as it is.

    >>> in_order(instruction(Opcode.SORT))[0] == instruction(Opcode.SORT, after=Queue)[0] == 0x73
    True
    >>> in_order(instruction(15))[0]
    15
    """
    known = packed[0] & ~AFTER_MASK in set(Opcode)
    return naming(packed, Queue) if known else bytes(packed)


def instruction(op, *, after=(), **fields):
    """Pack one instruction; ``after`` are the queues that it names.

    >>> instruction(Opcode.SORT, k=64, tab0=0x102, arg=4).hex()
    '0300000040000000000000000000000002010000000000040000000000000000'
    """
    unknown = fields.keys() - set(_NAMES)
    if unknown:
        raise TypeError(f"no such instruction field: {', '.join(sorted(unknown))}")
    named = sum(1 << AFTER_SHIFT + queue for queue in set(after))
    values = {**dict.fromkeys(_NAMES, 0), "op": op | named, **fields}
    return pack_fields(INSTRUCTION, of="instruction", **values).to_bytes(INSTRUCTION_BYTES,
                                                                         "little")


def pack_fields(layout, *, of="table", **fields):
    """One word of these fields, as a number.

    >>> hex(pack_fields(WINDOW_RUN, first_line=3, first_x=1, first_y=2))
    '0x2010003'
    """
    word = offset = 0
    for name, width in layout:
        value = int(fields[name])
        if not 0 <= value < 1 << width:
            raise ValueError(f"{of} field {name} must fit {width} bits, got {value}")
        word |= value << offset
        offset += width
    return word


def unpack_fields(layout, word):
    """The fields of one word.

    >>> unpack_fields(WINDOW_RUN, 0x2010003)
    {'first_line': 3, 'first_x': 1, 'first_y': 2}
    """
    fields = {}
    for name, width in layout:
        fields[name] = word & (1 << width) - 1
        word >>= width
    return fields


def unpack_instruction(data):
    """The fields of one packed instruction.

    >>> unpack_instruction(instruction(Opcode.GEMM, m=3, key1=9))["key1"]
    9
    """
    return unpack_fields(INSTRUCTION, int.from_bytes(data, "little"))
