"""The product of two significands that begin with a one."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.chain import Add, Rows

__all__ = ["BlockMultiplier", "LutMultiplier"]


class _Multiplier(wiring.Component):
    """``o = (2**bits + a) * (2**bits + w)``, ``latency`` cycles later; one per clock.

    Parameters
    ----------
    bits : int
        Fraction bits of both.
    mapped : bool
        Whether it is made of the ECP5's cells or is their generic twin.

    Members
    -------
    a, w : In(bits)
    o : Out(2 * bits + 2)
    """
    def __init__(self, bits, *, mapped=False):
        self.bits = bits
        self.mapped = mapped
        super().__init__({"a": In(bits), "w": In(bits), "o": Out(2 * bits + 2)})


class LutMultiplier(_Multiplier):
    """A multiplier of carry chains: rows in pairs, then a tree with a register at each level.

    See :class:`_Multiplier`. The last row, that of the leading one, is ``w`` itself: where the
    rows without it are even in number, it is added to the last pair in the tree's next level.
    """
    def __init__(self, bits, *, mapped=False):
        super().__init__(bits, mapped=mapped)
        self.latency = 1 + ((bits + 2) // 2 - 1).bit_length()

    def elaborate(self, platform):
        m = Module()
        w, a = Cat(self.w, 1), Cat(self.a, 1)
        # (value, its place, what stands above it and is not registered), lowest first.
        terms, nothing = [], Const(0, 0)
        for place in range(0, self.bits + 1, 2):
            if place == self.bits:
                # The leading one is no register: all elements would share it.
                terms.append((self.w, place, Const(1, 1)))
                continue
            pair = Rows(a=len(w), b=len(w), o=len(w) + 2, shift=1, mapped=self.mapped)
            m.submodules[f"rows{place}"] = pair
            m.d.comb += [pair.a.eq(w), pair.b.eq(w), pair.x.eq(a[place]), pair.y.eq(a[place + 1])]
            terms.append((pair.o, place, nothing))
        terms = self._register(m, "rows", terms)
        level = 0
        while len(terms) > 1:
            added = [(*self._add(m, f"sum{level}_{place}", low, Cat(high, lead), place, above),
                      nothing)
                     for (low, place, _), (high, above, lead)
                     in zip(terms[::2], terms[1::2], strict=False)]
            terms = self._register(m, f"level{level}", added + terms[len(added) * 2:])
            level += 1
        m.d.comb += self.o.eq(terms[0][0])
        return m

    def _add(self, m, name, low, high, place, above):
        """Two terms added; the lowest bits of the first stay as they are."""
        kept = above - place
        width = min(max(len(low) - kept, len(high)) + 1, 2 * self.bits + 2 - above)
        adder = Add(a=len(low) - kept, b=len(high), o=width, mapped=self.mapped)
        m.submodules[name] = adder
        m.d.comb += [adder.a.eq(low[kept:]), adder.b.eq(high)]
        return Cat(low[:kept], adder.o), place

    @staticmethod
    def _register(m, name, terms):
        registers = []
        for value, place, lead in terms:
            register = Signal(len(value), name=f"{name}_{place}", reset_less=True)
            m.d.sync += register.eq(value)
            registers.append((register, place, lead))
        return registers


class BlockMultiplier(_Multiplier):
    """A multiplier block, MULT18X18D, with its registers at both sides and inside.

    See :class:`_Multiplier`.
    """
    latency = 3

    def elaborate(self, platform):
        m = Module()
        a, w = Cat(self.a, 1), Cat(self.w, 1)
        if not self.mapped:
            a_in, w_in = (Signal(self.bits + 1, name=name, reset_less=True)
                          for name in ("a_in", "w_in"))
            inside, out = (Signal(2 * self.bits + 2, name=name, reset_less=True)
                           for name in ("inside", "out"))
            m.d.sync += [a_in.eq(a), w_in.eq(w), inside.eq(a_in * w_in), out.eq(inside)]
            m.d.comb += self.o.eq(out)
            return m
        ports = {}
        for name, value in (("A", a), ("B", w)):
            ports |= {f"i_{name}{i}": value[i] if i < len(value) else Const(0, 1)
                      for i in range(18)}
            ports |= {f"i_SIGNED{name}": Const(0, 1), f"i_SOURCE{name}": Const(0, 1)}
        ports |= {f"o_P{i}": self.o[i] for i in range(len(self.o))}
        ports |= {"i_CLK0": ClockSignal(), "i_CE0": Const(1, 1), "i_RST0": Const(0, 1)}
        for register in ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT"):
            ports |= {f"p_REG_{register}_CLK": "CLK0", f"p_REG_{register}_CE": "CE0",
                      f"p_REG_{register}_RST": "RST0"}
        m.submodules.block = Instance("MULT18X18D", **ports)
        return m
