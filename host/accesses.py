"""What an instruction reads and writes, word by word, and which ports it takes.

A set of words is a number with a bit for each; :func:`accesses` has one for every memory. The words
are those of :mod:`hdl.instructions`, whole words even where some lanes are meant, and of tables all
that they could need.
"""

from collections import Counter, namedtuple
from enum import Enum, auto

from hdl.instructions import (
    STATE_ROWS,
    TABLE_HEADER,
    WINDOW_TABLE,
    BackwardFlag,
    CombineFlag,
    GemmFlag,
    LayerFlag,
    LayerRow,
    LossRow,
    MoveFlag,
    NormFlag,
    Opcode,
    PoolFlag,
    QuantiseFlag,
    ScaleFlag,
    ScaleRow,
    ScanRow,
    StateRow,
    opcode_of,
)
from host.clocks import pool_rows
from sim.model.order import schedule_rows

__all__ = ["Accesses", "Memory", "accesses", "bound", "meet", "ports"]


class Memory(Enum):
    """Memories, apart as the device has them."""
    WIDE = auto()
    QUANT = auto()
    #: Groups, and orders: the two tables.
    GROUP = auto()
    ORDER = auto()
    MASTER = auto()
    VELOCITY = auto()


#: Sets of words by memory.
Accesses = namedtuple("Accesses", "read written")

#: Rows of a state tensor that either norm reads and writes.
_FORWARD_READ = (StateRow.GAMMA, StateRow.BETA, StateRow.MEAN, StateRow.DEVIATION)
_FORWARD_WRITTEN = (StateRow.MEAN, StateRow.DEVIATION)
_BACKWARD_READ = (StateRow.GAMMA, StateRow.DEVIATION)
_BACKWARD_WRITTEN = (StateRow.GRAD_BETA, StateRow.GRAD_GAMMA, StateRow.GRAD_BITS,
                     StateRow.DEVIATION_BITS)
#: And of a norm of channels.
_LAYER_WRITTEN = (LayerRow.GRAD_BETA, LayerRow.GRAD_GAMMA_LOW, LayerRow.GRAD_GAMMA_HIGH,
                  LayerRow.GRAD_BITS, LayerRow.DEVIATION_BITS)
#: Rows of a scale tensor that QUANTISE of masters writes.
_SCALE_WRITTEN = (ScaleRow.FACTOR, ScaleRow.EXPONENT)


class _Words:
    """Sets of words of a machine's memories, added up."""

    def __init__(self, params):
        self._lanes = Counter({Memory.WIDE: params.vector, Memory.QUANT: params.slots,
                               Memory.MASTER: params.vector, Memory.VELOCITY: params.vector})
        self.sets = Counter()

    def words(self, memory, base, count):
        """So many words from a base."""
        self.sets[memory] |= ((1 << count) - 1) << base

    def tensor(self, memory, base, rows, cols, more_rows=0):
        """A tensor, or rows of a taller one."""
        for tile in range(-(-cols // self._lanes[memory])):
            self.words(memory, base + tile * (rows + more_rows), rows)

    def rows(self, base, height, cols, rows):
        """Some rows of a wide tensor of so many rows."""
        for row in rows:
            self.tensor(Memory.WIDE, base + row, 1, cols, height - 1)


def accesses(fields, params):
    """The :class:`Accesses` of an instruction of these fields.

    >>> from hdl.params import Params
    >>> fields = dict.fromkeys("flags m k src1 dst0 dst1 tab0 tab1 arg".split(), 0)
    >>> found = accesses({**fields, "op": Opcode.COMBINE, "n": 3, "src0": 8, "src1": 9, "dst0": 20,
    ...                   "tab0": 2, "tab1": 1, "tab2": 1}, Params(masters=8))
    >>> [bin(words[Memory.WIDE]) for words in found]
    ['0b1111100000000', '0b11100000000000000000000']
    """
    read, written = _Words(params), _Words(params)
    _OPERATIONS[opcode_of(fields["op"], params)](fields, params, read, written)
    return Accesses(read.sets, written.sets)


def _gemm(f, params, read, written):
    flags, m, k, n = f["flags"], f["m"], f["k"], f["n"]
    slots = (f["key0"] & 0xFFFF) * params.slots
    if flags & GemmFlag.WINDOWS:
        # Any of the images.
        read.tensor(Memory.QUANT, f["src0"], f["key1"] & 0xFFFF, f["key0"] >> 16)
        read.words(Memory.GROUP, f["tab0"], len(WINDOW_TABLE))
        read.words(Memory.GROUP, f["dst1"], 1)
    else:
        read.tensor(Memory.QUANT, f["src0"], m, slots, f["key1"] & 0xFFFF)
    read.tensor(Memory.QUANT, f["src1"], k, n)
    if flags & GemmFlag.INNER_GROUPS:
        read.words(Memory.ORDER, f["tab0"], TABLE_HEADER + slots)
    if flags & GemmFlag.ROW_GROUPS:
        read.words(Memory.GROUP, f["tab1"], m)
    if flags & GemmFlag.COL_GROUPS:
        read.words(Memory.GROUP, f["tab2"], n)
    written.tensor(Memory.WIDE, f["dst0"], m, n, f["key1"] >> 16)


def _quantise(f, params, read, written):
    flags, m, n = f["flags"], f["m"], f["n"]
    if flags & QuantiseFlag.SCAN:
        read.tensor(Memory.WIDE, f["src0"], m, n)
        written.rows(f["dst1"], STATE_ROWS, n, ScanRow)
        return
    if flags & QuantiseFlag.SCANNED:
        read.rows(f["src1"], STATE_ROWS, n, ScanRow if f["arg"] else (ScanRow.LARGEST,))
    written.tensor(Memory.QUANT, f["dst0"], m, n)
    if flags & QuantiseFlag.MASTER:
        read.tensor(Memory.MASTER, f["src0"], m, n)
        written.rows(f["dst1"], len(ScaleRow), n, _SCALE_WRITTEN)
        return
    read.tensor(Memory.WIDE, f["src0"], m, n)
    written.tensor(Memory.WIDE, f["dst1"], 1, n)
    if flags & QuantiseFlag.GROUPED:
        for words in read, written:
            words.words(Memory.GROUP, f["tab1"], m)
            words.words(Memory.GROUP, f["tab2"], n)


def _sort(f, params, read, written):
    rows = schedule_rows(f["k"], params.depth, params.max_groups)
    read.words(Memory.GROUP, f["tab0"], f["k"])
    written.words(Memory.GROUP, f["tab0"], f["k"])
    # It reads what it has written there.
    for words in read, written:
        words.words(Memory.ORDER, f["tab0"], TABLE_HEADER + rows * params.depth)


def _norm_forward(f, params, read, written):
    m, n = f["m"], f["n"]
    read.tensor(Memory.WIDE, f["src0"], m, n)
    read.rows(f["src1"], STATE_ROWS, n, _FORWARD_READ)
    written.tensor(Memory.WIDE, f["dst0"], m, n)
    if not f["flags"] & NormFlag.INFERENCE:
        written.tensor(Memory.WIDE, f["dst1"], m, n)
        written.rows(f["src1"], STATE_ROWS, n, _FORWARD_WRITTEN)


def _norm_backward(f, params, read, written):
    m, n = f["m"], f["n"]
    read.tensor(Memory.WIDE, f["src0"], m, n)
    read.tensor(Memory.WIDE, f["dst1"], m, n)
    read.rows(f["src1"], STATE_ROWS, n, _BACKWARD_READ)
    if f["flags"] & BackwardFlag.CLIPPED:
        read.tensor(Memory.QUANT, f["tab0"], m, n)
    written.tensor(Memory.WIDE, f["dst0"], m, n)
    written.rows(f["src1"], STATE_ROWS, n, _BACKWARD_WRITTEN)
    if f["flags"] & BackwardFlag.SCAN:
        written.rows(f["src1"], STATE_ROWS, n, (StateRow.LARGEST,))


def _move(f, params, read, written):
    flags, m, n = f["flags"], f["m"], f["n"]
    more, more_out = (f["key1"] & 0xFFFF, f["key1"] >> 16) if params.masters else (0, 0)
    if flags & MoveFlag.WINDOWS:
        # Any of the images.
        read.tensor(Memory.QUANT, f["src0"], more, n)
        read.words(Memory.GROUP, f["tab0"], len(WINDOW_TABLE))
    else:
        read.tensor(Memory.QUANT, f["src0"], m, n, more)
    rows, cols = (n, m) if flags & MoveFlag.TRANSPOSED else (m, n)
    if flags & MoveFlag.SORTED:
        cols = schedule_rows(cols, params.depth, params.max_groups) * params.depth
        read.words(Memory.ORDER, f["tab1"], TABLE_HEADER + cols)
    written.tensor(Memory.QUANT, f["dst0"], rows, cols, more_out)


def _scale(f, params, read, written):
    flags, m, n = f["flags"], f["m"], f["n"]
    read.tensor(Memory.MASTER if flags & ScaleFlag.MASTER else Memory.WIDE, f["src0"], m, n)
    if flags & ScaleFlag.PLUS == ScaleFlag.SUM:
        written.tensor(Memory.WIDE, f["dst0"], 1, n)
        return
    read.tensor(Memory.WIDE, f["src1"], len(ScaleRow), n)
    if flags & ScaleFlag.ADD:
        read.words(Memory.WIDE, f["tab1"], 1)
    if flags & ScaleFlag.UPDATE:
        for words in read, written:
            for memory in Memory.MASTER, Memory.VELOCITY:
                words.tensor(memory, f["dst0"], m, n)
        return
    if flags & ScaleFlag.PLUS == ScaleFlag.PLUS:
        read.tensor(Memory.WIDE, f["dst1"], m, n)
    written.tensor(Memory.WIDE, f["dst0"], m, n)
    if flags & ScaleFlag.ALIGN:
        written.tensor(Memory.WIDE, f["dst1"], 1, n)


def _combine(f, params, read, written):
    n = f["n"]
    read.tensor(Memory.WIDE, f["src0"], 1, n, f["tab0"] - 1)
    if f["flags"] & CombineFlag.BROADCAST:
        read.words(Memory.WIDE, f["src1"], 1)
    else:
        read.tensor(Memory.WIDE, f["src1"], 1, n, f["tab1"] - 1)
    written.tensor(Memory.WIDE, f["dst0"], 1, n, f["tab2"] - 1)


def _cross_entropy(f, params, read, written):
    m, n = f["m"], f["n"]
    read.tensor(Memory.WIDE, f["src0"], m, n)
    read.tensor(Memory.WIDE, f["src1"], m, 1)
    written.tensor(Memory.WIDE, f["dst0"], m, n)
    written.tensor(Memory.WIDE, f["dst1"], len(LossRow), 1)


def _pool(f, params, read, written):
    flags, n = f["flags"], f["n"]
    positions, windows = pool_rows(f)
    source, target = (windows, positions) if flags & PoolFlag.SPREAD else (positions, windows)
    read.tensor(Memory.WIDE, f["src0"], source, n)
    written.tensor(Memory.WIDE, f["dst0"], target, n)
    if flags & PoolFlag.CLIPPED:
        read.tensor(Memory.QUANT, f["tab0"], windows, n)


def _layer_forward(f, params, read, written):
    m, n = f["m"], f["n"]
    read.tensor(Memory.WIDE, f["src0"], m, n)
    read.rows(f["src1"], STATE_ROWS, n, (LayerRow.GAMMA, LayerRow.BETA))
    written.tensor(Memory.WIDE, f["dst0"], m, n)
    if not f["flags"] & LayerFlag.INFERENCE:
        written.tensor(Memory.WIDE, f["dst1"], m, n)
        written.tensor(Memory.WIDE, f["tab0"], m, 1)


def _layer_backward(f, params, read, written):
    m, n = f["m"], f["n"]
    for name in "src0", "dst1":
        read.tensor(Memory.WIDE, f[name], m, n)
    read.tensor(Memory.WIDE, f["tab0"], m, 1)
    # Words of rows that are written keep their other columns.
    read.rows(f["src1"], STATE_ROWS, n, (LayerRow.GAMMA, *_LAYER_WRITTEN))
    written.tensor(Memory.WIDE, f["dst0"], m, n)
    written.rows(f["src1"], STATE_ROWS, n, _LAYER_WRITTEN)


_OPERATIONS = {
    Opcode.GEMM: _gemm, Opcode.QUANTISE: _quantise, Opcode.SORT: _sort,
    Opcode.NORM_FORWARD: _norm_forward, Opcode.NORM_BACKWARD: _norm_backward, Opcode.MOVE: _move,
    Opcode.SCALE: _scale, Opcode.COMBINE: _combine, Opcode.CROSS_ENTROPY: _cross_entropy,
    Opcode.POOL: _pool, Opcode.LAYER_FORWARD: _layer_forward,
    Opcode.LAYER_BACKWARD: _layer_backward,
}


def bound(first, second):
    """Whether one of two instructions with these :class:`Accesses` writes a word that the other
    reads or writes."""
    for written, others in (first.written, second), (second.written, first):
        for memory, words in written.items():
            for other in others:
                # A Counter takes long to say that it has nothing.
                if memory in other and words & other[memory]:
                    return True
    return False


def meet(params, first, second):
    """Whether two units of different queues would be at one port, which takes no turns: that of
    the quantised memory or that of the tables. Products have ports of their own or wait."""
    return bool(ports(params, first) & ports(params, second))


def ports(params, fields):
    """Memories at whose shared ports an instruction is."""
    flags, opcode = fields["flags"], opcode_of(fields["op"], params)
    if opcode == Opcode.QUANTISE:
        if flags & QuantiseFlag.SCAN:
            return set()
        return {Memory.QUANT} | ({Memory.GROUP} if flags & QuantiseFlag.GROUPED else set())
    if opcode == Opcode.NORM_BACKWARD:
        return {Memory.QUANT} if flags & BackwardFlag.CLIPPED else set()
    if opcode == Opcode.POOL:
        return {Memory.QUANT} if flags & PoolFlag.CLIPPED else set()
    if opcode == Opcode.MOVE:
        tables = {MoveFlag.SORTED: Memory.ORDER, MoveFlag.WINDOWS: Memory.GROUP}
        return {Memory.QUANT} | {memory for flag, memory in tables.items() if flags & flag}
    return {Memory.GROUP, Memory.ORDER} if opcode == Opcode.SORT else set()
