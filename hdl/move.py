"""Moving a tensor within the quantised memory: the unit of ``MOVE``."""

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.skew import delayed
from hdl.instructions import MoveFlag
from hdl.memory import ADDRESS_BITS, READ_LATENCY, LaneWritePort, ReadPort
from hdl.params import INDEX_BITS
from hdl.unit import GROUP_BITS, GROUP_WORD, INSTRUCTION_LAYOUT, UnitPort, quant_word

__all__ = ["Move"]

#: What is done in a cycle of the walk, and again, stage by stage, by all that follow it.
_STEP = data.StructLayout({
    #: Request the next word.
    "fetch": 1,
    #: The next element of the present word.
    "element": 1,
    #: The end of a word, with its last element or later; of the last row of a tile; of the tensor.
    "word": 1, "tile": 1, "last": 1,
})

# Stages, counted in cycles from the walk.
#: The group word of a column is requested.
_LOOK = 1
#: It is in a register, as what is counted instead.
_FOUND = _LOOK + READ_LATENCY + 1
#: An element's slot is in a register, and its place in the source: a row of the word is chosen.
_SLOT = _FOUND + 1
#: The slot's tile times the rows of the destination is there.
_PRODUCT = _SLOT + 1
#: The element is written. Here a word is requested, too: the memory has one port for both.
_WRITE = _PRODUCT + 1
#: A word that was requested is on the port.
_ARRIVE = _WRITE + READ_LATENCY
#: Cycles of the walk between the request of a word and its first element.
_GAP = _ARRIVE + 1 - _SLOT - 1


class Move(wiring.Component):
    """Copies or transposes a quantised tensor, its columns in the order of their slots or not.

    Words are read once, tile by tile and row by row, and their elements written one per clock,
    columns beyond the last left out. A word is requested while the elements of the one before it
    are written, in a clock in which none of them is. Nothing stalls: :meth:`cycles`.

    The column of an element in the destination is its column in the source, or its row with
    ``TRANSPOSED``. The word of the group table for it has its slot with ``SORTED``, otherwise
    slots are counted. Addresses are modulo ``2**ADDRESS_BITS``.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    control : Out(UnitPort())
        Of the instruction: flags, m, n, src0, dst0, tab1.
    quant_r : Out(ReadPort(quant_word(params)))
    quant_w : Out(LaneWritePort(quant_word(params)))
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
        On a machine with groups.
    """
    def __init__(self, params):
        self.params = params
        members = {
            "control": Out(UnitPort()),
            "quant_r": Out(ReadPort(quant_word(params))),
            "quant_w": Out(LaneWritePort(quant_word(params))),
        }
        if params.max_groups > 1:
            members["group_r"] = Out(ReadPort(unsigned(GROUP_BITS)))
        super().__init__(members)

    def cycles(self, m, n):
        """Cycles from ``start`` to ``done``: 14, and ``max(w, 5) + 1`` for every word of which w
        elements are the tensor's.
        """
        whole, rest = divmod(n, self.params.slots)
        row = whole * (max(self.params.slots, _GAP) + 1)
        if rest:
            row += max(rest, _GAP) + 1
        return m * row + _GAP + 1 + _WRITE

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = _Walk(self.params.slots)
        m.submodules.slot = slot = _Slot(self.params)
        m.submodules.rows = rows = _Axis(self.params.slots)
        control, fields = self.control, self.control.instruction
        transposed, height = Signal(), Signal(INDEX_BITS)
        m.d.sync += [
            transposed.eq((fields.flags & MoveFlag.TRANSPOSED).any()),
            height.eq(Mux(transposed, fields.n, fields.m)),
        ]

        # The walk's steps on their way.
        steps = [walk.step]
        for stage in range(1, _ARRIVE + 1):
            steps.append(Signal(_STEP, name=f"step{stage}"))
            m.d.sync += steps[stage].eq(steps[stage - 1])
        m.d.comb += [
            walk.start.eq(control.start),
            walk.instruction.eq(fields),
            control.done.eq(steps[_WRITE].last),
        ]

        # The slot of an element's column.
        m.d.comb += [
            slot.start.eq(control.start),
            slot.instruction.eq(fields),
            slot.transposed.eq(transposed),
            slot.look.eq(steps[_LOOK]),
            slot.found.eq(steps[_FOUND]),
        ]
        if self.params.max_groups > 1:
            wiring.connect(m, wiring.flipped(self.group_r), slot.group_r)

        # The address of its row in the column's tile.
        m.d.comb += [
            rows.start.eq(control.start),
            rows.base.eq(fields.dst0),
            rows.across.eq(transposed),
            rows.step.eq(steps[_PRODUCT]),
        ]
        product = Signal(ADDRESS_BITS, reset_less=True)
        address = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += [product.eq(slot.tile * height), address.eq(product + rows.o)]

        # A word of the source, and the element.
        source = Signal(ADDRESS_BITS)
        word = Signal(quant_word(self.params), reset_less=True)
        with m.If(control.start):
            m.d.sync += source.eq(fields.src0)
        with m.Elif(self.quant_r.en):
            m.d.sync += source.eq(source + 1)
        m.d.comb += [self.quant_r.en.eq(steps[_WRITE].fetch), self.quant_r.addr.eq(source)]
        with m.If(steps[_ARRIVE].fetch):
            m.d.sync += Value.cast(word).eq(Value.cast(self.quant_r.data))
        element = _chosen(m, word, slot.from_row, slot.from_place, self.params)

        # The lane that it is written to, by row and by place.
        m.d.comb += [
            self.quant_w.en.eq(steps[_WRITE].element),
            self.quant_w.addr.eq(address),
        ]
        to_row, to_place = delayed(m, "to_row", slot.row, 1), delayed(m, "to_place", slot.place, 1)
        by_row, by_place = (Signal(self.params.rows, reset_less=True),
                            Signal(self.params.depth, reset_less=True))
        m.d.sync += [by_row.eq(1 << to_row), by_place.eq(1 << to_place)]
        for lane in range(self.params.slots):
            row, place = divmod(lane, self.params.depth)
            m.d.comb += [self.quant_w.lanes[lane].eq(by_row[row] & by_place[place]),
                         self.quant_w.data[lane].eq(element)]
        return m


def _chosen(m, word, row, place, params):
    """The element in a place of a row of a word; ``place`` comes a cycle after ``row``, the element
    a cycle after that."""
    part = Signal(data.ArrayLayout(signed(params.bits), params.depth), name="element_row",
                  reset_less=True)
    chosen = Signal(signed(params.bits), name="element", reset_less=True)
    with m.Switch(row):
        for number in range(params.rows):
            with m.Case(number):
                m.d.sync += (part[lane].eq(word[number * params.depth + lane])
                             for lane in range(params.depth))
    with m.Switch(place):
        for number in range(params.depth):
            with m.Case(number):
                m.d.sync += chosen.eq(part[number])
    return chosen


class _Walk(wiring.Component):
    """Goes over the elements of a tensor: tile by tile, row by row, column by column.

    The steps of a word are its elements, as many as the tensor has columns there, and one more in
    which the word after it is requested, ``_GAP`` cycles before that begins; a word with fewer
    elements waits. The first word is requested in the cycle after ``start``.

    Parameters
    ----------
    slots : int
        Elements of a word.

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields m and n.
    step : Out(_STEP)
    """
    def __init__(self, slots):
        self.slots = slots
        super().__init__({
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "step": Out(_STEP),
        })

    def elaborate(self, platform):
        m = Module()
        fields, step, slots = self.instruction, self.step, self.slots
        # The next word's: rows and columns from there on, its elements, and the steps it takes but
        # one.
        more, rows, left = Signal(), Signal(INDEX_BITS), Signal(INDEX_BITS)
        width, period = Signal(range(slots + 1)), Signal(range(max(slots, _GAP) + 1))
        m.d.sync += [
            width.eq(Mux(left > slots, slots, left)),
            period.eq(Mux(width > _GAP, width, _GAP)),
        ]
        # The present word's: elements and steps to go, and whether its row is the tile's last.
        present, elements, steps = Signal(), Signal.like(width), Signal.like(period)
        last_row = Signal()
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    rows.eq(fields.m), left.eq(fields.n), more.eq(1),
                    present.eq(0), elements.eq(0), steps.eq(_GAP),
                ]
                with m.If(self.start):
                    m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += [
                    step.fetch.eq(more & (steps == _GAP)),
                    step.element.eq((elements != 0) & (steps != _GAP)),
                    step.word.eq(present & (steps == 0)),
                    step.tile.eq(step.word & last_row),
                    step.last.eq(step.word & ~more),
                ]
                m.d.sync += [steps.eq(steps - 1), elements.eq(elements - step.element)]
                with m.If(steps == 0):
                    m.d.sync += [
                        present.eq(1), elements.eq(width), steps.eq(period),
                        rows.eq(rows - 1), last_row.eq(rows == 1),
                    ]
                    with m.If(rows == 1):
                        m.d.sync += [rows.eq(fields.m), left.eq(left - slots)]
                        m.d.sync += more.eq(left > slots)
                    with m.If(~more):
                        m.next = "IDLE"
        return m


class _Axis(wiring.Component):
    """Counts words along an axis of the tensor, with the walk: from row to row, or across them.

    Parameters
    ----------
    slots : int
        Elements of a word.

    Members
    -------
    start : In(1)
    base : In(ADDRESS_BITS)
        Where the axis begins.
    across : In(1)
        From column to column, and back at the end of a row to the tile's first.
    step : In(_STEP)
    o : Out(ADDRESS_BITS)
        For the element of ``step``.
    """
    def __init__(self, slots):
        self.slots = slots
        super().__init__({
            "start": In(1), "base": In(ADDRESS_BITS), "across": In(1), "step": In(_STEP),
            "o": Out(ADDRESS_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        step, first, following = self.step, Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += following.eq(first + self.slots)
        with m.If(self.start):
            m.d.sync += [self.o.eq(self.base), first.eq(self.base)]
        with m.Elif(step.word & self.across):
            m.d.sync += self.o.eq(first)
            with m.If(step.tile):
                m.d.sync += [self.o.eq(following), first.eq(following)]
        with m.Elif(step.word & step.tile):
            m.d.sync += self.o.eq(self.base)
        with m.Elif(Mux(self.across, step.element, step.word)):
            m.d.sync += self.o.eq(self.o + 1)
        return m


class _Slot(wiring.Component):
    """Where an element comes from in its word, and the slot of its column in the destination.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    start : In(1)
    instruction : In(INSTRUCTION_LAYOUT)
        The fields flags and tab1.
    transposed : In(1)
        The columns are the source's rows.
    look, found : In(_STEP)
        Stages ``_LOOK`` and ``_FOUND``.
    from_row : Out(range(rows))
        In stage ``_SLOT``, as what follows but ``from_place``, which comes a cycle later.
    from_place : Out(range(depth))
    place : Out(range(depth))
    row : Out(range(rows))
    tile : Out(ADDRESS_BITS)
    group_r : Out(ReadPort(unsigned(GROUP_BITS)))
        On a machine with groups.
    """
    def __init__(self, params):
        self.params = params
        places, rows = range(params.depth), range(params.rows)
        members = {
            "start": In(1), "instruction": In(INSTRUCTION_LAYOUT), "transposed": In(1),
            "look": In(_STEP), "found": In(_STEP),
            "from_row": Out(rows), "from_place": Out(places),
            "place": Out(places), "row": Out(rows), "tile": Out(ADDRESS_BITS),
        }
        if params.max_groups > 1:
            members["group_r"] = Out(ReadPort(unsigned(GROUP_BITS)))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fields, found = self.instruction, self.found

        # Counted: the element's lane in the source, and the row's in its tile.
        m.submodules.lane = lane = _Lane(self.params)
        m.submodules.line = line = _Lane(self.params)
        tile = Signal(ADDRESS_BITS)
        m.d.comb += [
            lane.step.eq(found.element), lane.clear.eq(found.word | self.start),
            line.step.eq(found.word), line.clear.eq(found.tile | self.start),
        ]
        with m.If(self.start | self.transposed & found.tile):
            m.d.sync += tile.eq(0)
        with m.Elif(Mux(self.transposed, found.word & line.last, found.tile)):
            m.d.sync += tile.eq(tile + 1)
        m.d.sync += [
            self.from_row.eq(lane.row),
            self.place.eq(Mux(self.transposed, line.place, lane.place)),
            self.row.eq(Mux(self.transposed, line.row, lane.row)),
            self.tile.eq(tile),
        ]
        m.d.comb += self.from_place.eq(delayed(m, "from_place", lane.place, 2))

        # Or looked up.
        if self.params.max_groups > 1:
            m.submodules.columns = columns = _Axis(self.params.slots)
            is_sorted, word = Signal(), Signal(GROUP_WORD, reset_less=True)
            m.d.sync += [
                is_sorted.eq((fields.flags & MoveFlag.SORTED).any()),
                Value.cast(word).eq(self.group_r.data),
            ]
            m.d.comb += [
                columns.start.eq(self.start),
                columns.base.eq(fields.tab1),
                columns.across.eq(~self.transposed),
                columns.step.eq(self.look),
                self.group_r.en.eq(self.look.element & is_sorted),
                self.group_r.addr.eq(columns.o),
            ]
            with m.If(is_sorted):
                m.d.sync += [self.place.eq(word.place), self.row.eq(word.row),
                             self.tile.eq(word.tile)]
        return m


class _Lane(wiring.Component):
    """Counts lanes of a word, as a place in a row.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    step, clear : In(1)
    place : Out(range(depth))
    row : Out(range(rows))
    last : Out(1)
    """
    def __init__(self, params):
        self.params = params
        super().__init__({
            "step": In(1), "clear": In(1), "place": Out(range(params.depth)),
            "row": Out(range(params.rows)), "last": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        last_place = self.place == self.params.depth - 1
        last_row = self.row == self.params.rows - 1
        m.d.comb += self.last.eq(last_place & last_row)
        with m.If(self.step):
            m.d.sync += self.place.eq(Mux(last_place, 0, self.place + 1))
            with m.If(last_place):
                m.d.sync += self.row.eq(Mux(last_row, 0, self.row + 1))
        with m.If(self.clear):
            m.d.sync += [self.place.eq(0), self.row.eq(0)]
        return m
