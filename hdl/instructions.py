"""The instruction set, written once: fields, operations, and what is refused.

:data:`OPERATIONS` is what everybody reads: the gateware's check (:mod:`hdl.program`), the model's
(:mod:`sim.model.machine`), the host (:mod:`host.program`) and docs/machine.md, whose tables are
drawn from it. It needs neither Amaranth nor NumPy. A change raises the protocol version.

An instruction is 32 bytes, the fields of :data:`INSTRUCTION` in order from bit 0. One is refused
with ``BAD_INSTRUCTION`` if its opcode is unknown or its unit is not on the machine; if it has a
flag that its operation has not, or one of groups on a machine without groups; if a size that it
uses is 0 or beyond its limit; and if one of its rules does not hold.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from hdl.params import MAX_K, MAX_M, MAX_N

__all__ = [
    "INSTRUCTION",
    "INSTRUCTION_BYTES",
    "MAX_SHIFT",
    "OPERATIONS",
    "STATE_ROWS",
    "TABLE_HEADER",
    "BackwardFlag",
    "CombineFlag",
    "GemmFlag",
    "LossRow",
    "MoveFlag",
    "NormFlag",
    "Opcode",
    "Operation",
    "QuantiseFlag",
    "Rule",
    "ScaleFlag",
    "ScaleRow",
    "StateRow",
    "instruction",
    "is_lawful",
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
#: ``(offset, width)`` by name.
_PLACES = {name: (sum(width for _, width in INSTRUCTION[:place]), width)
           for place, (name, width) in enumerate(INSTRUCTION)}

#: Largest right shift of a GEMM's result.
MAX_SHIFT = 31

#: Words at the start of an order table before the entries: the first is the number of slots in
#: use, the next seven are the schedule rows before which the array shifts (all ones: none).
TABLE_HEADER = 8


class Opcode(IntEnum):
    """Operations; each is one model function and runs on the unit of the same number."""
    GEMM = 1
    QUANTISE = 2
    SORT = 3
    NORM_FORWARD = 4
    NORM_BACKWARD = 5
    MOVE = 6


class GemmFlag(IntFlag):
    """Flags of ``GEMM``."""
    UNSIGNED = 1
    INNER_GROUPS = 2
    ROW_GROUPS = 4
    COL_GROUPS = 8


class QuantiseFlag(IntFlag):
    """Flags of ``QUANTISE``."""
    UNSIGNED = 1
    PER_COLUMN = 2
    STOCHASTIC = 4
    GROUPED = 8
    MASTER = 16


class MoveFlag(IntFlag):
    """Flags of ``MOVE``."""
    TRANSPOSED = 1
    SORTED = 2


class NormFlag(IntFlag):
    """Flags of ``NORM_FORWARD``."""
    RELU = 1
    INFERENCE = 2


class BackwardFlag(IntFlag):
    """Flags of ``NORM_BACKWARD``."""
    CLIPPED = 1


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


class CombineFlag(IntFlag):
    """Flags of ``COMBINE``."""
    BROADCAST = 1
    SUBTRACT = 2
    FOLLOW = 4


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
    needs_groups : bool or IntFlag
        It, or these of its flags, are refused on a machine without groups.
    rules : tuple of Rule
    """
    equation: str
    text: str
    model: str
    clocks: str
    sizes: dict
    fields: dict
    flags: dict = field(default_factory=dict)
    needs_groups: bool | IntFlag = False
    rules: tuple = ()

    def exists(self, groups):
        """Whether a machine of so many groups has it."""
        return groups > 1 or self.needs_groups is not True

    def known_flags(self, groups):
        """The flags that such a machine has, as a number."""
        known = sum(int(flag) for flag in self.flags)
        return known if groups > 1 else known & ~int(self.needs_groups)

    def conditions(self, fields, groups, *, within):
        """All that must hold, in order; ``within(name, limit)`` says that a size is 1 to that."""
        yield from (within(name, limit) for name, limit in self.sizes.items())
        yield (fields.flags & (0xFF & ~self.known_flags(groups))) == 0
        yield from (rule.holds(fields, groups) for rule in self.rules)


def _plain_or_grouped(fields, groups):
    flags, plain = fields.flags, QuantiseFlag.PER_COLUMN | QuantiseFlag.UNSIGNED
    return ~((flags & QuantiseFlag.GROUPED).any() & ((flags & plain).any() | fields.arg.any()))


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
             "them begins.",
        model="sim.model.gemm.gemm", clocks="hdl.gemm.Gemm",
        sizes={"m": MAX_M, "k": MAX_K, "n": MAX_N},
        fields={
            "shift": "rounding right shift",
            "key0": "low half: tiles along the inner dimension, ``ceil((ceil(k / depth) + G - 1) "
                    "/ rows)`` with G = 1 without inner groups",
            "key1": "rows that A (low half) and the result (high half) have beyond the m",
            "tab0": "(t) order table of the inner dimension",
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
        },
        needs_groups=GemmFlag.INNER_GROUPS | GemmFlag.ROW_GROUPS | GemmFlag.COL_GROUPS,
        rules=(
            Rule(f"``shift`` above {MAX_SHIFT}", lambda f, groups: f.shift <= MAX_SHIFT),
            Rule("no tiles", lambda f, groups: f.key0[:16].any()),
            Rule("with ``ROW_GROUPS``, a low half of ``arg`` that is not below the machine's "
                 "number of groups",
                 lambda f, groups: ~(f.flags & GemmFlag.ROW_GROUPS).any() | (f.arg[:4] < groups)),
            Rule("with ``COL_GROUPS``, such a high half",
                 lambda f, groups: ~(f.flags & GemmFlag.COL_GROUPS).any() | (f.arg[4:] < groups)),
        )),
    Opcode.QUANTISE: Operation(
        equation="dst0(q)[m,n], dst1(w)[1,n] = quantise(src0(w)[m,n])",
        text="dst1 is the exponent s of every column's scale: q stands for ``q * 2**(s - groups)`` "
             "in the unit of src0.",
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
        },
        needs_groups=QuantiseFlag.GROUPED,
        rules=(Rule("``GROUPED`` with ``PER_COLUMN``, ``UNSIGNED`` or a clip",
                    _plain_or_grouped),)),
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
        }),
    Opcode.NORM_BACKWARD: Operation(
        equation="dst0(w)[m,n] = gradient of the norm's input from src0(w)[m,n]",
        text="From the context dst1(w)[m,n] and the state src1(w)[8,n]. Source and destination may "
             "be the same.",
        model="sim.model.norm.l1_backward", clocks="hdl.norm.backward.NormBackward.cycles",
        sizes={"m": MAX_M, "n": MAX_N},
        fields={"tab0": "(q) with ``CLIPPED``, what the output was quantised to, [m,n]"},
        flags={BackwardFlag.CLIPPED: "no gradient passes an element whose code is the largest"}),
    Opcode.MOVE: Operation(
        equation="dst0(q)[m,n] = src0(q)[m,n]",
        text="Lanes that take nothing keep what they held. Source and destination must not "
             "overlap.",
        model="a copy", clocks="hdl.move.Move.cycles",
        sizes={"m": MAX_K, "n": MAX_K},
        fields={"tab1": "(t) with ``SORTED``, column c goes to the slot in word group[tab1 + c]"},
        flags={
            MoveFlag.TRANSPOSED: "dst0(q)[n,m], the transpose",
            MoveFlag.SORTED: "columns of the destination in the order of their slots",
        },
        needs_groups=MoveFlag.SORTED),
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


def is_lawful(values, groups):
    """Whether a machine of so many groups runs an instruction of these fields.

    >>> is_lawful({"op": Opcode.SORT, "flags": 0, "k": 64, "arg": 4}, 4)
    True
    >>> is_lawful({"op": Opcode.SORT, "flags": 0, "k": 64, "arg": 4}, 1)
    False
    """
    operation = OPERATIONS.get(values["op"])
    if operation is None or not operation.exists(groups):
        return False
    return all(operation.conditions(_Fields(values), groups, within=lambda name, limit:
                                    1 <= values[name] <= limit))


def instruction(op, **fields):
    """Pack one instruction.

    >>> instruction(Opcode.SORT, k=64, tab0=0x102, arg=4).hex()
    '0300000040000000000000000000000002010000000000040000000000000000'
    """
    unknown = fields.keys() - _PLACES.keys()
    if unknown:
        raise TypeError(f"no such instruction field: {', '.join(sorted(unknown))}")
    word = 0
    for name, value in {"op": op, **fields}.items():
        offset, width = _PLACES[name]
        value = int(value)
        if not 0 <= value < 1 << width:
            raise ValueError(f"instruction field {name} must fit {width} bits, got {value}")
        word |= value << offset
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def unpack_instruction(data):
    """The fields of one packed instruction.

    >>> unpack_instruction(instruction(Opcode.GEMM, m=3, key1=9))["key1"]
    9
    """
    word = int.from_bytes(data, "little")
    return {name: word >> offset & (1 << width) - 1
            for name, (offset, width) in _PLACES.items()}
