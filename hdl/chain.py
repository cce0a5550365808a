"""Carry chains of the ECP5, filled to the last input.

A position of a CCU2C is a LUT of four inputs whose output is added to the carry. Where that
output is one the carry goes on; where it is zero the carry is what the LUT's lowest four entries
hold for inputs A and B. Yosys uses two of the inputs; these chains use all four, and begin and
end without the four LUTs that nextpnr adds for a constant carry-in and an unread carry-out, if
:func:`hdl.build.netlist.open_carries` has gone over the netlist.

Each is a component with a generic twin: ``mapped`` decides, and nothing else differs.
"""

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RowPair", "SelectAdd"]

#: With C high nothing propagates, and the carry out is A, whatever comes in.
_BEGIN = 0x000A
#: ``A + (D ? B : C)``.
_SELECT = 0x665A
#: ``(A & B) + (C & D)``.
_ROWS = 0x7888


def _chain(m, positions, carry):
    """Sums of ``positions``, each ``(init, a, b, c, d)``, with a carry in; the carry out is not
    available, a last position of zeros reads it."""
    positions = [(_BEGIN, carry, 0, 1, 1), *positions]
    if len(positions) % 2:
        positions.append((0, 0, 0, 0, 0))
    sums, carries = [], None
    for index in range(0, len(positions), 2):
        (init0, a0, b0, c0, d0), (init1, a1, b1, c1, d1) = positions[index:index + 2]
        s0, s1 = Signal(name=f"s{index}"), Signal(name=f"s{index + 1}")
        ports = {"i_A0": a0, "i_B0": b0, "i_C0": c0, "i_D0": d0, "o_S0": s0,
                 "i_A1": a1, "i_B1": b1, "i_C1": c1, "i_D1": d1, "o_S1": s1}
        ports = {name: Const(value, 1) if isinstance(value, int) else value
                 for name, value in ports.items()}
        if carries is not None:
            ports["i_CIN"] = carries
        if index + 2 < len(positions):
            carries = Signal(name=f"carry{index}")
            ports["o_COUT"] = carries
        m.submodules[f"pair{index // 2}"] = Instance(
            "CCU2C", p_INIT0=Const(init0, 16), p_INIT1=Const(init1, 16),
            p_INJECT1_0="NO", p_INJECT1_1="NO", **ports)
        sums += [s0, s1]
    return sums[1:]


def _bits(value, count):
    """``count`` bits of a value, its sign extended."""
    value = Value.cast(value)
    fill = value[-1] if value.shape().signed and len(value) else Const(0, 1)
    return [value[i] if i < len(value) else fill for i in range(count)]


class RowPair(wiring.Component):
    """``o = (x ? a : 0) + 2 * (y ? a : 0)``: two rows of a product, one chain.

    Parameters
    ----------
    width : int
    mapped : bool

    Members
    -------
    a : In(width)
    x, y : In(1)
    o : Out(width + 2)
    """
    def __init__(self, width, *, mapped=False):
        self.width = width
        self.mapped = mapped
        super().__init__({"a": In(width), "x": In(1), "y": In(1), "o": Out(width + 2)})

    def elaborate(self, platform):
        m = Module()
        if self.mapped:
            low, high = [*self.a, 0, 0], [0, *self.a, 0]
            sums = _chain(m, [(_ROWS, a, self.x, b, self.y)
                              for a, b in zip(low, high, strict=True)], 0)
            m.d.comb += self.o.eq(Cat(sums))
        else:
            m.d.comb += self.o.eq(Mux(self.x, self.a, 0) + (Mux(self.y, self.a, 0) << 1))
        return m


class SelectAdd(wiring.Component):
    """``o = a + (select ? b : c) + carry``, modulo its width; signed operands are extended.

    Parameters
    ----------
    a, b, c, o : shape-like
    mapped : bool

    Members
    -------
    a, b, c : In
    select, carry : In(1)
    o : Out
    """
    def __init__(self, *, a, b, c, o, mapped=False):
        self.mapped = mapped
        super().__init__({"a": In(a), "b": In(b), "c": In(c), "select": In(1), "carry": In(1),
                          "o": Out(o)})

    def elaborate(self, platform):
        m = Module()
        if self.mapped:
            width = len(Value.cast(self.o))
            bits = [_bits(value, width) for value in (self.a, self.b, self.c)]
            sums = _chain(m, [(_SELECT, a, b, c, self.select)
                              for a, b, c in zip(*bits, strict=True)], self.carry)
            m.d.comb += Value.cast(self.o).eq(Cat(sums))
        else:
            m.d.comb += self.o.eq(self.a + Mux(self.select, self.b, self.c) + self.carry)
        return m
