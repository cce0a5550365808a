"""An integer element on multiplier blocks: four products of 4 bits in each.

With the operands of two rows, ``A = a_0 + 2**7 a_1``, and the weights of two columns,
``W = w_0 + 2**14 w_1``, one product of a block is four::

    A W = a_0 w_0 + 2**7 a_1 w_0 + 2**14 a_0 w_1 + 2**21 a_1 w_1

Each lies within -56 .. 56, since weights are never -8, and so within the 7 bits of its field. A
negative field borrows one from the field above it:

    product[i] = field[i] + (field[i - 1] < 0)

A sum of such words is such a word: where every field is made one bit wider by its sign, a plain
addition of the whole words gives fields that hold the sums, by the same equation. So a tree of
chains adds the words of the blocks, and there is one correction left for each sum, the carry that
its last chain has to spare.

That products share a multiplier is common; ``tests/hdl/test_baseline_packed.py`` checks these
fields on all inputs.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import register
from hdl.chain import Add, SelectAdd
from hdl.params import ParameterError

__all__ = ["FIELD", "OPERANDS", "WEIGHTS", "PackedBlock", "PackedMac", "pack", "packed_sum_bits"]

#: Bits of a product, which is a field of a block's word, and operand rows and columns.
FIELD, ROWS, COLUMNS = 7, 2, 2
_FIELDS = ROWS * COLUMNS
#: Operands of two rows, weights of two columns, as they travel: what :func:`pack` makes of them.
OPERANDS = data.StructLayout({"low": signed(4), "high": signed(5)})
WEIGHTS = data.StructLayout({"low": signed(4), "high": signed(4)})


def pack(first, second):
    """``(low, high)`` of two numbers, so that the bits of both side by side are those of their
    packed sum; made once for each row and column of an array, at its edge.

    >>> pack(-8, 3), pack(5, -7)
    ((-8, 2), (5, -7))
    """
    return first, second - (first < 0)


def packed_sum_bits(params, row):
    """Signed width of the exact sum of ``row + 1`` elements, weights being symmetric.

    >>> from hdl.params import Params
    >>> packed_sum_bits(Params(rows=2), 0), packed_sum_bits(Params(rows=2), 1)
    (9, 10)
    """
    largest = (row + 1) * params.depth * 2 ** (params.bits - 1) * params.qmax
    return largest.bit_length() + 1


class PackedBlock(wiring.Component):
    """``o = A W``, ``LATENCY`` cycles later; one per clock. A multiplier block, MULT18X18D, with
    its registers at both sides and inside, of which the weights' register is the active weights.

    Parameters
    ----------
    mapped : bool

    Members
    -------
    a : In(OPERANDS), w : In(WEIGHTS)
    swap : In(1)
        Take ``w``, which meets the ``a`` of the same cycle and all after it.
    o : Out(28)
        Four fields.
    """
    LATENCY = 3

    def __init__(self, *, mapped=False):
        self.mapped = mapped
        super().__init__({"a": In(OPERANDS), "w": In(WEIGHTS), "swap": In(1),
                          "o": Out(_FIELDS * FIELD)})

    def elaborate(self, platform):
        m = Module()
        a, w = (Cat(_signs(value.low, place), value.high).as_signed()
                for value, place in ((self.a, FIELD), (self.w, ROWS * FIELD)))
        if not self.mapped:
            active = Signal(w.shape(), reset_less=True)
            with m.If(self.swap):
                m.d.sync += active.eq(w)
            inside = register(m, "inside", register(m, "a_in", a) * active)
            m.d.comb += self.o.eq(register(m, "out", inside))
            return m
        ports = {"i_CLK0": ClockSignal(), "i_RST0": Const(0, 1), "i_CE0": Const(1, 1),
                 "i_CE1": self.swap}
        for name, value in (("A", a), ("B", w)):
            ports |= {f"i_{name}{i}": bit for i, bit in enumerate(_signs(value, 18))}
            ports |= {f"i_SIGNED{name}": Const(1, 1), f"i_SOURCE{name}": Const(0, 1)}
        ports |= {f"o_P{i}": bit for i, bit in enumerate(self.o)}
        for name, enable in (("INPUTA", "CE0"), ("INPUTB", "CE1"), ("PIPELINE", "CE0"),
                             ("OUTPUT", "CE0")):
            ports |= {f"p_REG_{name}_CLK": "CLK0", f"p_REG_{name}_CE": enable,
                      f"p_REG_{name}_RST": "RST0"}
        m.submodules.block = Instance("MULT18X18D", **ports)
        return m


class PackedMac(wiring.Component):
    """``sum_o[j][i] = sum_i[j][i] + a[0][i] w[0][j] + ... + a[3][i] w[3][j]`` for two operand rows
    i and two columns j: 16 products per clock on four multiplier blocks.

    Parameters
    ----------
    params : hdl.params.Params
        Of 4 bits and four products per element.
    row : int
        Row of the array, 0 at the top.
    mapped : bool
        Blocks and adders as cells of the ECP5.

    Attributes
    ----------
    latency : int
        Cycles from ``a_i`` to the ``sum_o`` that contains it.
    STEP : int
        Cycles from ``sum_i`` to ``sum_o``.
    PRODUCTS : int
        Per clock.

    Members
    -------
    load : In(1)
        Take the next shadow weights from ``w_i``.
    w_i : In(ArrayLayout(WEIGHTS, 4)), w_o : Out(the same)
        The shadow chain: ``w_o`` are the element's own shadow weights.
    a_i : In(ArrayLayout(OPERANDS, 4)), a_o : Out(the same)
        From the left, and a cycle later to the right;
    swap_i : In(1), swap_o : Out(1)
        the same, with the first operands of a tile: they and all after them meet the shadow
        weights of the cycle after.
    sum_i : In(ArrayLayout(signed, 4))
        By column and operand row. Not in row 0.
    sum_o : Out(ArrayLayout(signed, 4))
    """
    STEP = 1
    BLOCKS = 4
    PRODUCTS = BLOCKS * _FIELDS
    # Travel; blocks; two levels of chains; the sum.
    latency = 1 + PackedBlock.LATENCY + 2 + STEP

    def __init__(self, params, row, *, mapped=False):
        if (params.bits, params.depth) != (4, self.BLOCKS):
            raise ParameterError("bits and depth must be 4 where products are packed, got "
                                 f"{params.bits} and {params.depth}")
        self.row = row
        self.mapped = mapped
        operands, weights = (data.ArrayLayout(of, self.BLOCKS) for of in (OPERANDS, WEIGHTS))
        above, sums = (data.ArrayLayout(signed(packed_sum_bits(params, number)), _FIELDS)
                       for number in (row - 1, row))
        members = {
            "load": In(1), "w_i": In(weights), "w_o": Out(weights),
            "a_i": In(operands), "a_o": Out(operands), "swap_i": In(1), "swap_o": Out(1),
            "sum_o": Out(sums),
        }
        if row:
            members["sum_i"] = In(above)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        # What travels.
        shadow = Signal(self.w_i.shape(), reset_less=True)
        with m.If(self.load):
            m.d.sync += shadow.eq(self.w_i)
        m.d.comb += [self.w_o.eq(shadow), self.swap_o.eq(register(m, "swap", self.swap_i)),
                     self.a_o.as_value().eq(register(m, "a", self.a_i.as_value()))]

        # Products.
        words = []
        for number in range(self.BLOCKS):
            m.submodules[f"block{number}"] = block = PackedBlock(mapped=self.mapped)
            m.d.comb += [block.a.eq(self.a_o[number]), block.w.eq(shadow[number]),
                         block.swap.eq(self.swap_o)]
            words.append(block.o)

        # Words added up in pairs.
        width = FIELD
        while len(words) > 1:
            words = [self._add(m, f"words{width}_{place}", width, *words[place:place + 2])
                     for place in range(0, len(words), 2)]
            width += 1

        # Sums.
        borrowed = Const(0, 1)
        for number in range(_FIELDS):
            field = words[0].word_select(number, width).as_signed()
            above = self.sum_i[number] if self.row else Const(0, signed(1))
            m.submodules[f"sum{number}"] = add = SelectAdd(
                a=field.shape(), b=above.shape(), c=above.shape(), o=self.sum_o[number].shape(),
                mapped=self.mapped)
            m.d.comb += [add.a.eq(field), add.c.eq(above), add.carry.eq(borrowed),
                         self.sum_o[number].eq(register(m, f"sum_o{number}", add.o))]
            borrowed = field[-1]
        return m

    def _add(self, m, name, width, *words):
        """Two words of fields of ``width`` bits added up, with fields of one bit more."""
        wider = [Cat(_signs(word.word_select(number, width).as_signed(), width + 1)
                     for number in range(_FIELDS)) for word in words]
        m.submodules[name] = add = Add(a=len(wider[0]), b=len(wider[1]), o=len(wider[0]),
                                       mapped=self.mapped)
        m.d.comb += [add.a.eq(wider[0]), add.b.eq(wider[1])]
        return register(m, f"{name}_register", add.o)


def _signs(value, width):
    """Bits of a signed value, its sign repeated up to ``width``."""
    value = Value.cast(value)
    return Cat(value, value[-1].replicate(width - len(value)))
