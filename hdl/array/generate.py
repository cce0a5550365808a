"""What fills the tables: a generator on top of each column."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import Delay
from hdl.array.table import entry_shape, signed_width, write_layout
from hdl.chain import Add, SelectAdd
from hdl.timing import STEPS_LATENCY, row_entries

__all__ = ["ColumnTable", "Steps"]


class Steps(wiring.Component):
    """Control of the generators: in which cycle which entry is made and where it goes.

    Entry number e of a row is that of the Gray code of e; the first is the sum of all weights.

    Parameters
    ----------
    params : hdl.params.Params

    Attributes
    ----------
    entries : int
        Of a row, :func:`~hdl.timing.row_entries`.
    LATENCY : int
        Cycles from ``load`` to the first entry.

    Members
    -------
    load : In(1)
    pick : Out(range(depth))
        What the generator's step is next: that weight, the last one for the sum's other half.
    subtract : Out(1)
        The step is to be negative.
    first : Out(1), carry : Out(1)
        Of the step that is made.
    write : Out(write_layout), begin : Out(1)
        Of the entry; it is the first of its tile.
    """
    LATENCY = STEPS_LATENCY

    def __init__(self, params):
        self.params = params
        self.entries = row_entries(params)
        super().__init__({
            "load": In(1), "pick": Out(range(params.depth)), "subtract": Out(1),
            "first": Out(1), "carry": Out(1),
            "write": Out(write_layout(params)), "begin": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self.params.depth - 1
        busy, bank = Signal(), Signal(init=1)
        count = Signal(range(self.entries))
        row = Signal(range(self.params.rows), init=self.params.rows - 1)
        last = Signal()
        m.d.comb += last.eq(count == self.entries - 1)
        following = Signal.like(count)
        m.d.comb += following.eq(Mux(self.load | ~busy, 0, count + 1))
        m.d.sync += count.eq(following)
        with m.If(busy & last):
            m.d.sync += [busy.eq(0), row.eq(row - 1)]
            with m.If(row == 0):
                m.d.sync += [row.eq(self.params.rows - 1), bank.eq(~bank)]
        with m.If(self.load):
            m.d.sync += busy.eq(1)
        # Bit j of the Gray code changes before every entry whose number ends in 1 and j zeros.
        following_gray = (following ^ following >> 1)[:lanes]
        picked = [following[:lane + 1] == 1 << lane for lane in range(lanes)]
        m.d.sync += [
            self.pick.eq(lanes),
            self.subtract.eq((Cat(picked) & following_gray).any()),
            self.first.eq(count == 0), self.carry.eq(self.subtract),
        ]
        for lane, value in enumerate(picked):
            with m.If(value):
                m.d.sync += self.pick.eq(lane)
        gray = Signal(lanes)
        m.d.comb += gray.eq(count ^ count >> 1)
        # With the entry, which comes two cycles later.
        write = Signal(write_layout(self.params))
        m.submodules.delay = delay = Delay(write_layout(self.params), 2, reset=True)
        m.submodules.begin = begin = Delay(1, 2, reset=True)
        m.d.comb += [write.valid.eq(busy), write.end.eq(busy & last),
                     write.address.differs.eq(gray), write.address.bank.eq(bank),
                     delay.i.eq(write), self.write.eq(delay.o),
                     begin.i.eq(busy & (count == 0) & (row == self.params.rows - 1)),
                     self.begin.eq(begin.o)]
        return m


class ColumnTable(wiring.Component):
    """Makes the entries of a column's tables, row after row.

    Parameters
    ----------
    params : hdl.params.Params
    mapped : bool

    Members
    -------
    load : In(1)
    weights : In(ArrayLayout(signed(bits), depth))
        Of the row, with ``load``.
    pick, subtract, first, carry : In
        See :class:`Steps`.
    entry : Out(entry_shape)
    """
    def __init__(self, params, *, mapped=False):
        self.params = params
        self.mapped = mapped
        super().__init__({
            "load": In(1), "weights": In(data.ArrayLayout(signed(params.bits), params.depth)),
            "pick": In(range(params.depth)), "subtract": In(1), "first": In(1), "carry": In(1),
            "entry": Out(entry_shape(params)),
        })

    def elaborate(self, platform):
        m = Module()
        params = self.params
        kept = [Signal(signed(params.bits), name=f"weight{lane}", reset_less=True)
                for lane in range(params.depth - 1)]
        # Two halves of the sum, the larger one first.
        halves = []
        middle = (params.depth + 1) // 2
        for number, lanes in enumerate((range(middle), range(middle, params.depth))):
            if not lanes:
                # A single product: its only entry is the weight itself.
                halves.append(Const(0, 1))
                continue
            shape = signed(signed_width(len(lanes) * params.qmax))
            half = Signal(shape, name=f"half{number}", reset_less=True)
            halves.append(half)
            total = self.weights[lanes[0]]
            if len(lanes) == 2:
                m.submodules[f"half{number}_add"] = add = Add(
                    a=signed(params.bits), b=signed(params.bits), o=shape, mapped=self.mapped)
                m.d.comb += [add.a.eq(self.weights[lanes[0]]), add.b.eq(self.weights[lanes[1]])]
                total = add.o
            with m.If(self.load):
                m.d.sync += half.eq(total)
        with m.If(self.load):
            m.d.sync += [weight.eq(self.weights[lane]) for lane, weight in enumerate(kept)]
        step = Signal(signed(params.bits + 1), reset_less=True)
        # Twice the weight, or its negative less one.
        choices = [Cat(self.subtract, weight ^ self.subtract.replicate(params.bits))
                   for weight in kept]
        choices.append(halves[1])
        for bit in self.pick:
            choices = [Mux(bit, *reversed(pair)) if len(pair) == 2 else pair[0]
                       for pair in (choices[i:i + 2] for i in range(0, len(choices), 2))]
        m.d.sync += step.eq(Cat(choices[0][:len(step)]).as_signed())
        m.submodules.add = add = SelectAdd(a=step.shape(), b=halves[0].shape(),
                                           c=self.entry.shape(), o=self.entry.shape(),
                                           mapped=self.mapped)
        m.d.comb += [add.a.eq(step), add.b.eq(halves[0]), add.c.eq(self.entry),
                     add.select.eq(self.first), add.carry.eq(self.carry)]
        m.d.sync += self.entry.eq(add.o)
        return m
