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

from dataclasses import replace

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.chain import SelectAdd

__all__ = ["Dot", "PlainMac", "ShiftMac"]


class Dot(wiring.Component):
    """``o = sum_d a[d] * w[d]``, of partial products, without a multiplier.

    ``a`` lies in ``-2**(bits-1) .. 2**(bits-1) - 1`` and ``w`` in ``-B .. B``. Bit i of every
    weight selects its operand; those of the same i are added first, while they are narrow. The
    adders form a tree with a register after every second level and one at the end. One
    result per clock, lock step.

    Parameters
    ----------
    bits : int
    depth : int
        Products.

    Attributes
    ----------
    latency : int
        Cycles from the operands to ``o``, 1 for ``bits <= 4`` at depth 1.

    Members
    -------
    a, w : In(ArrayLayout(signed(bits), depth))
    o : Out(signed(exact))
        Wide enough for ``depth * 2**(bits-1) * B``.
    """
    #: Adders that one clock passes.
    LEVELS = 2

    def __init__(self, bits, depth):
        self.bits = bits
        self.depth = depth
        self._tree_levels = (depth - 1).bit_length() + (bits - 1).bit_length()
        self.latency = max(1, -(-self._tree_levels // self.LEVELS))
        operands = data.ArrayLayout(signed(bits), depth)
        largest = depth * 2 ** (bits - 1) * (2 ** (bits - 1) - 1)
        super().__init__({"a": In(operands), "w": In(operands),
                          "o": Out(signed(largest.bit_length() + 1))})

    def elaborate(self, platform):
        m = Module()
        level = 0

        def next_level(values):
            """Register between groups of ``LEVELS`` levels; the last register is ``o``."""
            nonlocal level
            level += 1
            if level % self.LEVELS or level == self._tree_levels:
                return values
            registers = [Signal.like(value, reset_less=True) for value in values]
            m.d.sync += [register.eq(value)
                         for register, value in zip(registers, values, strict=True)]
            return registers

        # Partial products of one weight bit, added over the products.
        planes = [[Mux(self.w[lane][bit], self.a[lane], 0) for lane in range(self.depth)]
                  for bit in range(self.bits)]
        while len(planes[0]) > 1:
            planes = [_pairs(plane, lambda low, high: low + high) for plane in planes]
            flat = next_level([value for plane in planes for value in plane])
            count = len(planes[0])
            planes = [flat[start:start + count] for start in range(0, len(flat), count)]

        # Planes added over the weight bits; the sign bit's plane counts negative.
        sums = [plane[0] for plane in planes]
        sums[-1] = -sums[-1]
        distance = 1
        while len(sums) > 1:
            sums = next_level(_pairs(sums, lambda low, high, by=distance: low + (high << by)))
            distance *= 2
        m.d.sync += self.o.eq(sums[0])
        return m


def _pairs(values, add):
    """Neighbours added; an odd last one is kept."""
    added = [add(low, high) for low, high in zip(values[::2], values[1::2], strict=False)]
    return added + values[len(added) * 2:]


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
        The adder of the partial sum as cells of the ECP5, :class:`hdl.chain.SelectAdd`.
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
        self._dot = Dot(params.bits, params.depth)
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
