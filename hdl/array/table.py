"""Elements of the array: distributed arithmetic in LUT RAM.

Operands are taken apart into bit planes. With ``e = 2 b - 1`` for a bit b, an operand x of
``bits`` bits is ``2 x + 1 = sum_i s_i 2**i e_i``, where ``s_i`` is -1 for the sign and 1 for the
others. So for the lanes of an element

    D = 2 dot + sum_j w_j = sum_i (-1)**n_i 2**i T(d_i),   T(d) = w_last + sum_j (d_j ? -w_j : w_j)

with ``d_ij`` = bit i of lane j differs from that of the last lane, and ``n_i`` = the factor of the
last lane, ``s_i e_i,last``, is -1. T has ``2**(depth - 1)`` entries. At depth 4 one bit of the
address of a LUT RAM is left, and selects one of two *banks*: one is written while the other is
read.

d and n depend on the row alone. They are made once, at its left edge, and travel instead of the
operands. All the arithmetic of an element is then additions:

* ``-T = ~T + 1``: what is added is ``(T ^ n) + n``. The XOR costs nothing, since a place of a carry
  chain has four inputs: ``(T_i ^ n_i) + (T_k ^ n_k)``. The ``n`` enter as carries, of which every
  chain has one.
* All entries of a table have the parity p of the sum of its weights, and ``T_0 ^ n_0 + n_0`` is
  p in its lowest place, with a carry ``n_0 & ~p``. So D's lowest bit is p whatever the operands,
  nothing computes it, and an element adds ``D >> 1 = dot + (sum_j w_j >> 1)``.

Which carry goes where, for four planes, in units of ``D >> 1``:

    A = (T_0 ^ n_0 >> 1) + (T_1 ^ n_1) + (n_0 & ~p)
    B = (T_2 ^ n_2) + 2 (T_3 ^ n_3) + 2 n_3
    M = A + 2 B + 2 n_2
    sum_o = (mark ? 2 sum_i : sum_i) + M + n_1

The lowest place of B stays apart until M, T_2[0] and n_2, since M's lowest place has three inputs
and would waste one.

What the array adds up is so ``dot + K``, where K depends on the weights and marks alone: it is what
a row of zeros gives. Whoever reads the sums subtracts the sum of such a row, or of a row of
whatever stands for zero (:mod:`hdl.readout`).
"""

from dataclasses import dataclass, replace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import register
from hdl.chain import HighAdd, SelectAdd, SignedAdd
from hdl.params import MAX_DEPTH
from hdl.timing import ELEMENT_STEP, element_latency

__all__ = ["PlaneSums", "TableMac", "entry_shape", "recode", "signed_width",
           "sum_shape", "wave_layout", "write_layout"]


def _largest(params):
    """Largest entry of a table."""
    return params.depth * params.qmax


def signed_width(largest):
    """Bits of a signed number in ``-largest - 1 .. largest``.

    >>> signed_width(28), signed_width(210)
    (6, 9)
    """
    return largest.bit_length() + 1


def entry_shape(params):
    """Shape of an entry of a table."""
    return signed(signed_width(_largest(params)))


def sum_shape(params, rows):
    """Shape of the partial sum of so many rows, that of their K included."""
    return signed(replace(params, rows=rows, lanes=1).psum_bits)


def wave_layout(params):
    """What travels right: by plane which lanes differ from the last one and whether that counts
    negative, and the bank to read."""
    return data.StructLayout({
        "differs": data.ArrayLayout(params.depth - 1, params.bits), "negative": params.bits,
        "bank": 1})


def recode(params, operands, bank):
    """A row's operands as its wave."""
    *others, last = [Value.cast(operand) for operand in operands]
    planes = range(params.bits)
    differs = [Cat(other[i] ^ last[i] for other in others) for i in planes]
    negative = [last[i] if i == params.bits - 1 else ~last[i] for i in planes]
    return Cat(*differs, *negative, bank)


def write_layout(params):
    """What travels down beside the entries: whether there is one, whether it is the last of its
    row, and its address."""
    return data.StructLayout({
        "valid": 1, "end": 1, "address": data.StructLayout({
            "differs": params.depth - 1, "bank": 1})})


@dataclass(frozen=True)
class _Term:
    """Planes added up. Of any but the first the lowest place is not inverted yet: ``value`` holds
    T's there, and the plane's ``negative`` is to be added, too."""
    plane: int
    planes: int
    value: Value
    negative: Value


class TableMac(wiring.Component):
    """Elements of neighbouring columns that share their addresses:
    ``sum_o[c] = (mark ? 2 * sum_i[c] : sum_i[c]) + (D[c] >> 1)``, see :mod:`hdl.array.table`.

    Parameters
    ----------
    params : hdl.params.Params
    row : int
    columns : int
        At 4 bits and depth 4 one column has 8 LUT RAMs, two have 12 and four have 21.
    marks : bool
        Whether a mark doubles what comes from above, where there are groups.
    mapped : bool
        Adders as cells of the ECP5, :mod:`hdl.chain`.

    Attributes
    ----------
    latency : int
        Cycles from ``wave_i`` to the ``sum_o`` that contains it.
    STEP : int
        Cycles from ``sum_i`` to ``sum_o``.
    has_mark : bool

    Members
    -------
    write_i : In(write_layout), entries_i : In(ArrayLayout(entry_shape, columns))
        From above;
    write_o, entries_o : Out(the same)
        a cycle later, to the element below.
    token_i : In(1), token_o : Out(1)
        The entries are for the row below; for this row. That of the last row begins with
        ``begin`` : In(1), when the first entry of a tile comes in.
    written : Out(1)
        The entry that goes out is for this row.
    wave_i : In(wave_layout), wave_o : Out(the same)
        From the left, and a cycle later to the right.
    mark_i : In(1), mark_o : Out(1)
        The same, ``latency - 1 - STEP`` cycles after the wave; only where ``has_mark``.
    sum_i : In(ArrayLayout(sum_shape, columns))
        Not in row 0.
    sum_o : Out(ArrayLayout(sum_shape, columns))
    """
    STEP = ELEMENT_STEP
    #: Columns that share what else every chain needs.
    PART = 2

    def __init__(self, params, row, *, columns=1, marks=True, mapped=False):
        assert params.depth <= MAX_DEPTH
        self.params = params
        self.row = row
        self.columns = columns
        self.mapped = mapped
        self.parts = [PlaneSums(params, row, columns=min(self.PART, columns - first),
                                marks=marks, mapped=mapped)
                      for first in range(0, columns, self.PART)]
        self.has_mark = self.parts[0].has_mark
        self.latency = element_latency(params)
        entries = data.ArrayLayout(entry_shape(params), columns)
        members = {
            "write_i": In(write_layout(params)), "write_o": Out(write_layout(params)),
            "entries_i": In(entries), "entries_o": Out(entries),
            "token_i" if row < params.rows - 1 else "begin": In(1), "token_o": Out(1),
            "written": Out(1),
            "wave_i": In(wave_layout(params)), "wave_o": Out(wave_layout(params)),
            "sum_o": Out(data.ArrayLayout(sum_shape(params, row + 1), columns)),
        }
        if self.has_mark:
            members |= {"mark_i": In(1), "mark_o": Out(1)}
        if row:
            members["sum_i"] = In(data.ArrayLayout(sum_shape(params, row), columns))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        # What travels. These registers are the element's own: those of others may be equal.
        for name in ("wave", "entries", "write"):
            self._keep(m, name + "_o", getattr(self, name + "_i"))
        # Nothing here needs a reset: a row's own entries come after all that a lost token lets in.
        token = Signal()
        if self.row < self.params.rows - 1:
            m.d.comb += token.eq(Mux(self.write_o.end, self.token_i, self.token_o))
        else:
            m.d.comb += token.eq(self.begin | self.token_o & ~self.write_o.end)
        self._keep(m, "token_o", token)
        self._keep(m, "written", token & self.write_i.valid)

        tables = [self._table(m, plane) for plane in range(self.params.bits)]
        for number, part in enumerate(self.parts):
            m.submodules[f"part{number}"] = part
            first = number * self.PART
            columns = slice(first, first + part.columns)
            m.d.comb += part.negative.eq(self.wave_o.negative)
            for plane, values in enumerate(tables):
                m.d.comb += getattr(part, f"table{plane}").as_value().eq(Cat(values[columns]))
            if self.has_mark:
                m.d.comb += part.mark_i.eq(self.mark_i)
            if self.row:
                m.d.comb += part.sum_i.as_value().eq(Cat(
                    self.sum_i[col] for col in range(self.columns)[columns]))
            m.d.comb += Cat(Value.cast(self.sum_o[col]) for col in
                            range(self.columns)[columns]).eq(part.sum_o.as_value())
        if self.has_mark:
            m.d.comb += self.mark_o.eq(self.parts[0].mark_o)
        return m

    def _table(self, m, plane):
        """What the tables of a plane hold. Their lowest places are equal: the first has it."""
        skipped = int(plane > 0)
        width = entry_shape(self.params).width - skipped
        table = memory.Memory(shape=unsigned(width * self.columns),
                              depth=1 << self.params.depth, init=[])
        m.submodules[f"plane{plane}"] = table
        write, read = table.write_port(), table.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.written),
            write.data.eq(Cat(Value.cast(entry)[skipped:] for entry in self.entries_o)),
            write.addr.eq(self.write_o.address.as_value()),
            read.addr.eq(Cat(self.wave_o.differs[plane], self.wave_o.bank)),
        ]
        return [read.data[width * col:width * (col + 1)].as_signed()
                for col in range(self.columns)]

    def _keep(self, m, name, value):
        m.d.comb += Value.cast(getattr(self, name)).eq(
            register(m, f"{name}_register", Value.cast(value)))


class PlaneSums(wiring.Component):
    """What neighbouring columns make of the entries that their planes read.

    Parameters
    ----------
    params, row, marks, mapped : as of :class:`TableMac`
    columns : int

    Members
    -------
    table0, table1, ... : In(ArrayLayout(signed, columns))
        By plane, with ``negative``; all but the first without the lowest place, which all have in
        common.
    negative : In(bits)
    mark_i, mark_o, sum_i, sum_o : as of :class:`TableMac`
    """
    def __init__(self, params, row, *, columns, marks=True, mapped=False):
        self.params = params
        self.row = row
        self.columns = columns
        self.mapped = mapped
        self.has_mark = marks and row > 0 and params.max_groups > 1
        self.latency = element_latency(params) - 1
        width = entry_shape(params).width
        members = {f"table{plane}": In(data.ArrayLayout(signed(width - (plane > 0)), columns))
                   for plane in range(params.bits)}
        members |= {"negative": In(params.bits),
                    "sum_o": Out(data.ArrayLayout(sum_shape(params, row + 1), columns))}
        if self.has_mark:
            members |= {"mark_i": In(1), "mark_o": Out(1)}
        if row:
            members["sum_i"] = In(data.ArrayLayout(sum_shape(params, row), columns))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        if self.has_mark:
            m.d.comb += self.mark_o.eq(register(m, "mark_register", self.mark_i))
        negative = list(self.negative)
        tables = [list(getattr(self, f"table{plane}")) for plane in range(self.params.bits)]
        negative = [register(m, f"negative{plane}", value)
                    for plane, value in enumerate(negative)]
        tables = [[register(m, f"table{plane}_{col}", value) for col, value in enumerate(values)]
                  for plane, values in enumerate(tables)]
        tables[1:] = [[Cat(first[0], value).as_signed()
                       for first, value in zip(tables[0], values, strict=True)]
                      for values in tables[1:]]
        terms = self._pairs(m, tables, negative)
        # The carry that is left for the last chain comes with the sum.
        carry = register(m, "carry0", negative[1])
        level = 1
        while len(terms) > 1:
            terms = [self._add(m, level, *terms[i:i + 2]) for i in range(0, len(terms), 2)]
            carry = register(m, f"carry{level}", carry)
            level += 1
        ((term),) = terms
        for col, value in enumerate(term.value):
            above = self.sum_i[col] if self.row else Const(0, signed(1))
            add = SelectAdd(a=value.shape(), b=signed(len(above) + 1), c=above.shape(),
                            o=self.sum_o[col].shape(), mapped=self.mapped)
            m.submodules[f"sum{col}"] = add
            m.d.comb += [add.a.eq(value), add.b.eq(above << 1), add.c.eq(above),
                         add.select.eq(self.mark_o if self.has_mark else 0), add.carry.eq(carry)]
            m.d.comb += self.sum_o[col].eq(register(m, f"sum_o{col}", add.o))
        return m

    def _pairs(self, m, tables, negative):
        terms = []
        for plane in range(0, self.params.bits, 2):
            values = []
            if plane + 1 == self.params.bits:
                values = [register(m, f"single{col}", value)
                          for col, value in enumerate(tables[plane])]
            else:
                for col, (a, b) in enumerate(zip(*tables[plane:plane + 2], strict=True)):
                    # Half of a's negative is in its carry, or a is not the first, whose own stays.
                    width = signed_width((3 * _largest(self.params) + 1) // 2)
                    add = SignedAdd(a=a.shape(), b=b.shape(), o=signed(width),
                                    own_carry=plane == 0, mapped=self.mapped)
                    m.submodules[f"pair{plane}_{col}"] = add
                    m.d.comb += [add.a.eq(a), add.x.eq(negative[plane]),
                                 add.b.eq(b), add.y.eq(negative[plane + 1])]
                    low = [a[0]] if plane else []
                    values.append(register(m, f"pair{plane}_{col}",
                                                 Cat(*low, add.o).as_signed()))
            terms.append(_Term(plane, min(2, self.params.bits - plane), values,
                               register(m, f"negative{plane}_1", negative[plane])))
        return terms

    def _add(self, m, level, low, high=None):
        """Two terms, the places of the lower one below the other stay as they are; one is kept."""
        if high is None:
            values = [register(m, f"kept{level}_{col}", value)
                      for col, value in enumerate(low.value)]
            return _Term(low.plane, low.planes, values,
                         register(m, f"kept{level}", low.negative))
        planes = low.planes + high.planes
        kept = low.planes - (low.plane == 0)
        largest = _largest(self.params) * (2 ** planes - 1) + 1
        width = signed_width((largest >> (low.plane == 0)) + 1 if low.plane else largest // 2)
        single = high.planes == 1
        values = []
        for col, (a, b) in enumerate(zip(low.value, high.value, strict=True)):
            upper = a[kept:].as_signed()
            add = HighAdd(a=upper.shape(), b=b.shape(), o=signed(width - kept), whole=single,
                           mapped=self.mapped)
            m.submodules[f"add{level}_{low.plane}_{col}"] = add
            m.d.comb += [add.a.eq(upper), add.b.eq(b), add.x.eq(high.negative)]
            values.append(register(m, f"sum{level}_{low.plane}_{col}",
                                         Cat(a[:kept], add.o).as_signed()))
        return _Term(low.plane, planes, values,
                     register(m, f"negative{low.plane}_{level + 1}", low.negative))
