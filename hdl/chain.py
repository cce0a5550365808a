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

__all__ = ["Add", "HighAdd", "Rows", "SelectAdd", "SignedAdd"]

#: With C and D high nothing propagates, and the carry out is: A, A and B, A or not B.
_CARRY, _CARRY_ADD, _CARRY_SUBTRACT = 0x000A, 0x0008, 0x000B
#: The same: A and not B.
_CARRY_NEGATE = 0x0002
#: ``A + B``, ``A - B - 1``, with C and D high.
_ADD, _SUBTRACT = 0x600A, 0x900A
#: ``A + (D ? B : C)``.
_SELECT = 0x665A
#: ``(C & D) + (A & B)``, ``(C & D) - (A & B) - 1``.
_ROWS, _ROWS_SUBTRACT = 0x7888, 0x8777
#: ``(A ^ B) + (C ^ D)``.
_SIGNED = 0x6996


def _chain(m, begin, positions):
    """Sums of ``positions``, each ``(init, a, b, c, d)``; the carry out is not available, a last
    position of zeros reads it. ``begin`` is ``(init, a, b)`` of what makes the first carry."""
    init, a, b = begin
    positions = [(init, a, b, 1, 1), *positions]
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


class Add(wiring.Component):
    """``o = a + b`` or ``o = a - b``, modulo its width; signed operands are extended.

    Where the width is even, the lowest place is outside the chain and its carry begins it: with
    the position that begins a chain, and two positions to a cell, that is a LUT4 less.

    Parameters
    ----------
    a, b, o : shape-like
    subtract : bool
    mapped : bool

    Members
    -------
    a, b : In
    o : Out
    """
    def __init__(self, *, a, b, o, subtract=False, mapped=False):
        self.subtract = subtract
        self.mapped = mapped
        super().__init__({"a": In(a), "b": In(b), "o": Out(o)})

    def elaborate(self, platform):
        m = Module()
        o = Value.cast(self.o)
        if not self.mapped:
            m.d.comb += self.o.eq(self.a - self.b if self.subtract else self.a + self.b)
            return m
        pairs = list(zip(_bits(self.a, len(o)), _bits(self.b, len(o)), strict=True))
        begin, low = (_CARRY, int(self.subtract), 0), []
        if len(pairs) % 2 == 0:
            a, b = pairs.pop(0)
            begin, low = (_CARRY_SUBTRACT if self.subtract else _CARRY_ADD, a, b), [a ^ b]
        sums = _chain(m, begin, [(_SUBTRACT if self.subtract else _ADD, a, b, 1, 1)
                                 for a, b in pairs])
        m.d.comb += o.eq(Cat(*low, *sums))
        return m


class Rows(wiring.Component):
    """Two rows of products in one chain: ``o = (x ? a : 0) + (y ? b : 0) * 2**shift``, modulo
    its width; signed operands are extended.

    Parameters
    ----------
    a, b, o : shape-like
    shift : int
    subtract : bool
        ``o = (x ? a : 0) - (y ? b : 0) * 2**shift``.
    mapped : bool

    Members
    -------
    a, b : In
    x, y : In(1)
    o : Out
    """
    def __init__(self, *, a, b, o, shift=0, subtract=False, mapped=False):
        self.shift = shift
        self.subtract = subtract
        self.mapped = mapped
        super().__init__({"a": In(a), "x": In(1), "b": In(b), "y": In(1), "o": Out(o)})

    def elaborate(self, platform):
        m = Module()
        o = Value.cast(self.o)
        if not self.mapped:
            first, second = Mux(self.x, self.a, 0), Mux(self.y, self.b, 0) << self.shift
            m.d.comb += self.o.eq(first - second if self.subtract else first + second)
            return m
        # Bits that nothing is added to need no chain; one is a place of a cell less, if it is
        # not half of one.
        kept = self.shift if (len(o) - self.shift) % 2 else 0
        a = _bits(self.a, len(o))
        b = [Const(0, 1)] * self.shift + _bits(self.b, len(o) - self.shift)
        init = _ROWS_SUBTRACT if self.subtract else _ROWS
        sums = _chain(m, (_CARRY, int(self.subtract), 0),
                      [(init, b[i], self.y, a[i], self.x) for i in range(kept, len(o))])
        m.d.comb += o.eq(Cat(*(bit & self.x for bit in a[:kept]), *sums))
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
            sums = _chain(m, (_CARRY, self.carry, 0), [(_SELECT, a, b, c, self.select)
                                                       for a, b, c in zip(*bits, strict=True)])
            m.d.comb += Value.cast(self.o).eq(Cat(sums))
        else:
            m.d.comb += self.o.eq(self.a + Mux(self.select, self.b, self.c) + self.carry)
        return m


class SignedAdd(wiring.Component):
    """Two numbers, each inverted or not, in one chain:
    ``o = ((x ? ~a : a) >> 1) + (y ? ~b : b) + carry``, modulo its width; signed operands are
    extended. The lowest place of a gives a carry at most.

    Parameters
    ----------
    a, b, o : shape-like
    own_carry : bool
        The carry is that of ``(x ? ~a : a) + x`` out of its lowest place: ``x & ~a[0]``. Without,
        it is y.
    mapped : bool

    Members
    -------
    a, b : In
    x, y : In(1)
    o : Out
    """
    def __init__(self, *, a, b, o, own_carry, mapped=False):
        self.own_carry = own_carry
        self.mapped = mapped
        super().__init__({"a": In(a), "x": In(1), "b": In(b), "y": In(1), "o": Out(o)})

    def elaborate(self, platform):
        m = Module()
        o = Value.cast(self.o)
        if self.mapped:
            begin = ((_CARRY_NEGATE, self.x, self.a[0]) if self.own_carry else
                     (_CARRY, self.y, 0))
            a, b = _bits(self.a, len(o) + 1)[1:], _bits(self.b, len(o))
            m.d.comb += o.eq(Cat(_chain(m, begin, [
                (_SIGNED, ai, self.x, bi, self.y) for ai, bi in zip(a, b, strict=True)])))
        else:
            carry = self.x & ~self.a[0] if self.own_carry else self.y
            m.d.comb += self.o.eq((Mux(self.x, ~self.a, self.a) >> 1) + Mux(self.y, ~self.b, self.b)
                                  + carry)
        return m


class HighAdd(wiring.Component):
    """``o = a + b + x`` with the lowest place of b, or all of it, inverted where x is high;
    modulo its width; signed operands are extended.

    Parameters
    ----------
    a, b, o : shape-like
    whole : bool
    mapped : bool

    Members
    -------
    a, b : In
    x : In(1)
    o : Out
    """
    def __init__(self, *, a, b, o, whole=False, mapped=False):
        self.whole = whole
        self.mapped = mapped
        super().__init__({"a": In(a), "b": In(b), "x": In(1), "o": Out(o)})

    def elaborate(self, platform):
        m = Module()
        o = Value.cast(self.o)
        if self.mapped:
            pairs = enumerate(zip(_bits(self.a, len(o)), _bits(self.b, len(o)), strict=True))
            m.d.comb += o.eq(Cat(_chain(m, (_CARRY, self.x, 0), [
                (_SIGNED, b, self.x, a, 0) if self.whole or place == 0 else (_ADD, a, b, 1, 1)
                for place, (a, b) in pairs])))
        else:
            inverted = Mux(self.x, ~self.b if self.whole else self.b ^ 1, self.b)
            m.d.comb += self.o.eq(self.a + inverted.as_signed() + self.x
                                  if self.b.shape().signed else self.a + inverted + self.x)
        return m
