"""Elements of the array: what one crossing of a row and a column computes.

An element is a class ``pe(params, row, *, mapped=False)`` that :class:`hdl.array.mesh.Mesh`
instantiates once per crossing. The mesh moves operands, marks and partial sums and knows nothing of
their arithmetic; an element keeps weights, and has these attributes and members. Where it is
``mapped`` it may hold cells of the ECP5.

Attributes
    operand_shape, weight_shape
        Shapes of one streamed and one stationary operand.
    sum_shape
        Shape of the partial sum that leaves an element of this row.
    sum_shape_above
        Shape of the partial sum that enters it, None in row 0, which has none above it.
    has_mark
        Whether a mark changes what the element does.
    latency
        Cycles from ``a`` to the ``sum_o`` that contains it.
    STEP
        Cycles from ``sum_i`` to ``sum_o``: the skew between two rows.

Members
    load : In(1)
        Take the next shadow weights from ``w_i``.
    w_i : In(ArrayLayout(weight_shape, depth)), w_o : Out(the same)
        The shadow chain: ``w_o`` are the element's own shadow weights.
    swap : In(1)
        Use the shadow weights from the next cycle on: one cycle ahead of the first operand.
    a : In(ArrayLayout(operand_shape, depth))
    mark : In(1)
        Modify the partial sum that enters in this cycle; only where ``has_mark``.
    sum_i : In(sum_shape_above)
        Not in row 0.
    sum_o : Out(sum_shape)
"""

from dataclasses import dataclass, replace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.chain import Add, Rows, SelectAdd

__all__ = ["Dot", "PlainMac", "ShiftMac"]


@dataclass(frozen=True)
class _Term:
    """``value * 2**place`` of a sum, or its negative; ``low`` and ``high`` bound the value."""
    value: Value
    place: int
    negative: bool
    low: int
    high: int


class Dot(wiring.Component):
    """``o = sum_d a[d] * w[d]``, of partial products, without a multiplier.

    ``a`` lies in ``-2**(bits-1) .. 2**(bits-1) - 1`` and ``w`` in ``-B .. B``. Bit i of every
    weight selects its operand, a *row*. A first level adds rows in pairs, of two products for the
    same i; a product left over pairs its own. The others add what there is in pairs, that of the
    same place first, while it is narrow. Each level is one carry chain and a register. One result
    per clock, lock step.

    Parameters
    ----------
    bits : int
    depth : int
        Products.
    mapped : bool
        Adders as cells of the ECP5, :mod:`hdl.chain`.

    Attributes
    ----------
    latency : int
        Cycles from the operands to ``o``.

    Members
    -------
    a, w : In(ArrayLayout(signed(bits), depth))
    o : Out(signed(exact))
        Wide enough for ``depth * 2**(bits-1) * B``.
    """
    def __init__(self, bits, depth, *, mapped=False):
        self.bits = bits
        self.depth = depth
        self.mapped = mapped
        pairs = bits * (depth // 2) + (depth % 2) * -(-bits // 2)
        self.latency = 1 + (pairs - 1).bit_length()
        operands = data.ArrayLayout(signed(bits), depth)
        largest = depth * 2 ** (bits - 1) * (2 ** (bits - 1) - 1)
        super().__init__({"a": In(operands), "w": In(operands),
                          "o": Out(signed(largest.bit_length() + 1))})

    def elaborate(self, platform):
        m = Module()
        terms = self._registered(m, 0, self._rows(m))
        level = 1
        while len(terms) > 1:
            # Positive ones first: what is subtracted is then never the lower one.
            terms.sort(key=lambda term: (term.place, term.negative))
            added = [self._add(m, f"level{level}_{index}", low, high) for index, (low, high)
                     in enumerate(zip(terms[::2], terms[1::2], strict=False))]
            terms = self._registered(m, level, added + terms[len(added) * 2:])
            level += 1
        (total,) = terms
        assert level == self.latency and not total.negative and total.place == 0
        m.d.comb += self.o.eq(total.value)
        return m

    def _rows(self, m):
        """Sums of two rows each; the rows of a weight's sign count negative."""
        top, half = self.bits - 1, 1 << self.bits - 1
        terms = []

        def add(name, place, first, second, shift=0):
            (a, x), (b, y) = ((self.a[lane], self.w[lane][bit]) for lane, bit in (first, second))
            subtract = second[1] == top != first[1]
            low, high = _sum_bounds((-half, half - 1), (-half, half - 1), shift, subtract)
            rows = Rows(a=a.shape(), b=b.shape(), o=signed(_width(low, high)), shift=shift,
                        subtract=subtract, mapped=self.mapped)
            m.submodules[name] = rows
            m.d.comb += [rows.a.eq(a), rows.x.eq(x), rows.b.eq(b), rows.y.eq(y)]
            terms.append(_Term(rows.o, place, first[1] == top, low, high))

        for lane in range(0, self.depth - 1, 2):
            for bit in range(self.bits):
                add(f"rows{lane}_{bit}", bit, (lane, bit), (lane + 1, bit))
        if self.depth % 2:
            lane = self.depth - 1
            for bit in range(0, self.bits - 1, 2):
                add(f"rows{lane}_{bit}", bit, (lane, bit), (lane, bit + 1), shift=1)
            if self.bits % 2:
                value = Mux(self.w[lane][top], self.a[lane], 0)
                terms.append(_Term(value, top, True, -half, half - 1))
        return terms

    def _add(self, m, name, first, second):
        """Two terms added; the lowest bits of the first stay as they are."""
        kept = second.place - first.place
        subtract = second.negative != first.negative
        assert not (first.negative and subtract)
        low, high = _sum_bounds((first.low, first.high), (second.low, second.high), kept, subtract)
        # Bits above those of the result are not needed: sums are exact modulo its width.
        width = min(_width(low, high), len(self.o) - first.place)
        upper = first.value[kept:].as_signed()
        adder = Add(a=upper.shape(), b=second.value.shape(), o=signed(width - kept),
                    subtract=subtract, mapped=self.mapped)
        m.submodules[name] = adder
        m.d.comb += [adder.a.eq(upper), adder.b.eq(second.value)]
        value = Cat(first.value[:kept], adder.o).as_signed()
        return _Term(value, first.place, first.negative, low, high)

    @staticmethod
    def _registered(m, level, terms):
        registered = []
        for index, term in enumerate(terms):
            register = Signal(term.value.shape(), name=f"register{level}_{index}", reset_less=True)
            m.d.sync += register.eq(term.value)
            registered.append(replace(term, value=register))
        return registered


def _sum_bounds(first, second, shift, subtract):
    """Bounds of ``first + second * 2**shift``, or of the difference."""
    low, high = (bound << shift for bound in second)
    return ((first[0] - high, first[1] - low) if subtract
            else (first[0] + low, first[1] + high))


def _width(low, high):
    """Bits of a signed number between two bounds.

    >>> _width(-8, 7), _width(-16, 14), _width(0, 8)
    (4, 5, 5)
    """
    return max((~low).bit_length(), high.bit_length()) + 1


class PlainMac(wiring.Component):
    """An integer element: ``sum_o = sum_i + sum_d a[d] * w[d]``.

    Partial sums are as wide as the worst case of the rows down to this one needs, see
    :attr:`hdl.params.Params.psum_bits`. Attributes and members: see :mod:`hdl.array.mac`.

    Parameters
    ----------
    params : hdl.params.Params
    row : int
        Row of the array, 0 at the top.
    mapped : bool
        Adders as cells of the ECP5, :mod:`hdl.chain`.
    """
    STEP = 1
    has_mark = False

    def __init__(self, params, row, *, mapped=False):
        self.params = params
        self.row = row
        self.mapped = mapped
        self.operand_shape = self.weight_shape = signed(params.bits)
        self.sum_shape = signed(replace(params, rows=row + 1).psum_bits)
        self.sum_shape_above = signed(replace(params, rows=row).psum_bits) if row else None
        self._dot = Dot(params.bits, params.depth, mapped=mapped)
        self.latency = self._dot.latency + self.STEP
        operands = data.ArrayLayout(self.operand_shape, params.depth)
        weights = data.ArrayLayout(self.weight_shape, params.depth)
        members = {
            "load": In(1), "w_i": In(weights), "w_o": Out(weights), "swap": In(1),
            "a": In(operands), "sum_o": Out(self.sum_shape),
        }
        if self.has_mark:
            members["mark"] = In(1)
        if row:
            members["sum_i"] = In(self.sum_shape_above)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.dot = dot = self._dot
        # Weights.
        shadow = Signal(self.w_i.shape(), reset_less=True)
        active = Signal(self.w_i.shape(), reset_less=True)
        with m.If(self.load):
            m.d.sync += shadow.eq(self.w_i)
        with m.If(self.swap):
            m.d.sync += active.eq(shadow)
        # Products.
        m.d.comb += [self.w_o.eq(shadow), dot.a.eq(self.a), dot.w.eq(active)]
        # Sum.
        if self.row:
            m.submodules.add = add = SelectAdd(
                a=dot.o.shape(), b=signed(self.sum_i.shape().width + 1),
                c=self.sum_shape_above, o=self.sum_shape, mapped=self.mapped)
            m.d.comb += [add.a.eq(dot.o), add.b.eq(self.sum_i << 1), add.c.eq(self.sum_i),
                         add.select.eq(self.mark if self.has_mark else 0)]
            m.d.sync += self.sum_o.eq(add.o)
        else:
            m.d.sync += self.sum_o.eq(dot.o)
        return m


class ShiftMac(PlainMac):
    """A ShiftQuant element: ``sum_o = (mark ? 2 * sum_i : sum_i) + sum_d a[d] * w[d]``.

    With channels sorted by group, largest scale first, a mark where each group begins gives
    every product its power of two by Horner's rule. Row 0 has no mark: nothing enters it. The
    choice costs nothing: it is in the same LUTs as the sum.
    """
    def __init__(self, params, row, *, mapped=False):
        self.has_mark = row > 0 and params.max_groups > 1
        super().__init__(params, row, mapped=mapped)
