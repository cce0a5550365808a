"""The order in which the quantiser walks over a tensor."""

from contextlib import nullcontext

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from hdl.instructions import STATE_ROWS, ScanRow
from hdl.memory import ADDRESS_BITS
from hdl.params import INDEX_BITS, MAX_K, MAX_M
from hdl.unit import INSTRUCTION_LAYOUT

__all__ = ["Phase", "Schedule"]


class Phase(enum.Enum, shape=3):
    """What the steps of a phase do, one step a clock."""
    #: A step for every row of a tile: search magnitudes.
    SCAN = 0
    #: A step for every lane: gather the lanes' maxima and sums.
    REDUCE = 1
    #: A step for every row: choose its group.
    ROWS = 2
    #: A step for every row of a tile: search magnitudes times the rows' groups.
    COLUMNS = 3
    #: A step for every lane: choose its column's group.
    CHOOSE = 4
    #: A step for every row of a tile: quantise.
    ROUND = 5


class Schedule(wiring.Component):
    """Phases of ``QUANTISE``, one after the other, each drained before the next begins.

    Of a tensor: ``SCAN`` of every tile, ``REDUCE``, scale; with groups ``ROWS``; then for every
    tile, with groups, ``COLUMNS`` (if there are channel groups) and ``CHOOSE``; write the
    exponents; ``ROUND``. Per column, for every tile: ``SCAN``; for every lane a step of
    ``REDUCE``, scale; write the exponents, ``ROUND``. Of masters, for every tile: ``SCAN`` and
    ``REDUCE`` for the mantissas, the same of what is ``normalised`` by them for the exponents;
    write the mantissas and the exponents; ``ROUND``, with steps in two of three cycles.

    A phase of ``s`` steps takes ``s + 1`` cycles and then one until ``drained``; a scaling one
    and then until ``scaled``; the mantissas and the exponents one each.

    Parameters
    ----------
    cols : int
        Lanes.
    sample_groups, channel_groups : int
    finding : int
        Steps of ``REDUCE`` of masters; 0 without masters, and without ``master``, ``normalised``
        and ``write_mantissas``. With them a tensor may have ``MAX_K`` rows, else ``MAX_M``.

    Members
    -------
    start : In(1)
    per_column, grouped : In(1)
    master : In(1)
        Only with ``per_column``.
    instruction : In(INSTRUCTION_LAYOUT)
        The fields m, n, src0, dst1.
    drained, scaled : In(1)
        All steps have left the datapath; the exponent is there.
    phase : Out(Phase)
        Steady while steps are inside the datapath.
    searching, joining, rounding : Out(1)
        The phase searches the rows of a tile, searches them once more with their groups, or
        quantises them.
    enter : Out(1)
        The cycle before the first step of a phase.
    step : Out(1)
    clear : Out(1)
        With ``enter``: the lanes begin a new search.
    restart : Out(1)
        With ``enter``: steps that take a lane begin with lane 0.
    scale : Out(1)
        Begin to find the exponent of what was found.
    load : Out(cols)
        The lanes that take the exponent.
    normalised : Out(1)
        The mantissas of the tile are known.
    write_mantissas, write_exponents : Out(1)
    scan, scanned : In(1)
        Only find what a scale is made of; it has been found.
    write_found : Out(len(ScanRow))
        The row that is written of what was found in the tile.
    done : Out(1)
    source : Out(ADDRESS_BITS)
        Address of the tile's first row.
    channel, left : Out(INDEX_BITS)
        Number of the tile's first channel; channels from there on.
    """
    def __init__(self, cols, sample_groups, channel_groups, finding=0):
        self.cols = cols
        self.finding = finding
        self.channel_groups = channel_groups
        self.groups = max(sample_groups, channel_groups) > 1
        members = {
            "start": In(1), "per_column": In(1), "grouped": In(1),
            "instruction": In(INSTRUCTION_LAYOUT),
            "drained": In(1), "scaled": In(1),
            "phase": Out(Phase), "searching": Out(1), "joining": Out(1), "rounding": Out(1),
            "enter": Out(1), "step": Out(1), "clear": Out(1),
            "restart": Out(1), "scale": Out(1), "load": Out(cols),
            "write_exponents": Out(1), "done": Out(1),
            "source": Out(ADDRESS_BITS), "channel": Out(INDEX_BITS), "left": Out(INDEX_BITS),
        }
        if finding:
            members |= {"master": In(1), "normalised": Out(1), "write_mantissas": Out(1),
                        "scan": In(1), "scanned": In(1), "write_found": Out(len(ScanRow))}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        fields = self.instruction
        most = MAX_K if self.finding else MAX_M
        rows, steps = Signal(range(most + 1)), Signal(range(most + 1))
        last = Signal()
        lane = Signal(range(self.cols))
        m.d.comb += [
            rows.eq(fields.m),
            last.eq(self.left <= self.cols),
            self.searching.eq(self.phase == Phase.SCAN),
            self.joining.eq(self.phase == Phase.COLUMNS),
            self.rounding.eq(self.phase == Phase.ROUND),
        ]

        if self.finding:
            # Where what was found before is.
            source, found = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
            m.d.comb += self.source.eq(
                Mux(self.scanned & (self.searching | self.joining), found, source))
            # Of three clocks one without a step while masters are rounded.
            beat, held = Signal(range(3)), Signal()
            m.d.comb += held.eq((beat == 2) & self.rounding & self.master)
            m.d.sync += beat.eq(Mux(self.enter | (beat == 2), 0, beat + 1))

        else:
            source, found = self.source, None

        def first_tile():
            m.d.sync += [source.eq(fields.src0), self.channel.eq(0), self.left.eq(fields.n)]
            if found is not None:
                m.d.sync += found.eq(fields.src1)

        def next_tile():
            m.d.sync += [source.eq(source + rows),
                         self.channel.eq(self.channel + self.cols),
                         self.left.eq(self.left - self.cols)]
            if found is not None:
                m.d.sync += found.eq(found + STATE_ROWS)

        def go(phase):
            m.d.sync += self.phase.eq(phase)
            m.next = "ENTER"

        def begin_rounding():
            m.next = "EXPONENTS"
            if self.groups:
                with m.If(self.grouped):
                    go(Phase.COLUMNS if self.channel_groups > 1 else Phase.CHOOSE)

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                first_tile()
                go(Phase.SCAN)

            with m.State("ENTER"):
                m.d.comb += [
                    self.enter.eq(1),
                    self.restart.eq(lane == 0),
                    self.clear.eq((self.phase == Phase.COLUMNS) | (self.phase == Phase.SCAN)
                                  & (self.per_column | (self.channel == 0))),
                ]
                m.d.sync += steps.eq(rows)
                if self.finding:
                    with m.If(self.scan):
                        m.d.comb += self.clear.eq(1)
                    with m.If(self.scanned & self.joining):
                        m.d.sync += steps.eq(1)
                    with m.If(self.scanned & self.searching):
                        m.d.sync += steps.eq(Mux(fields.arg.any(), len(ScanRow), 1))
                with m.If((self.phase == Phase.REDUCE) | (self.phase == Phase.CHOOSE)):
                    m.d.sync += steps.eq(Mux(self.per_column, 1, self.cols))
                    if self.finding:
                        with m.If(self.master):
                            m.d.sync += steps.eq(self.finding)
                m.next = "STEP"
            with m.State("STEP"), m.If(~held) if self.finding else nullcontext():
                m.d.comb += self.step.eq(1)
                m.d.sync += steps.eq(steps - 1)
                with m.If(steps == 1):
                    m.next = "DRAIN"
            with m.State("DRAIN"), m.If(self.drained), m.Switch(self.phase):
                with m.Case(Phase.SCAN):
                    otherwise = m.If
                    if self.finding:
                        otherwise = m.Elif
                        with m.If(self.scan):
                            m.next = ScanRow(0).name
                    with otherwise(self.per_column | last):
                        go(Phase.REDUCE)
                    with m.Else():
                        next_tile()
                        go(Phase.SCAN)
                with m.Case(Phase.REDUCE):
                    m.next = "SCALE"
                    if self.finding:
                        with m.If(self.master):
                            m.d.sync += self.normalised.eq(~self.normalised)
                            m.next = "MANTISSAS"
                            with m.If(~self.normalised):
                                go(Phase.SCAN)
                with m.Case(Phase.ROWS):
                    begin_rounding()
                with m.Case(Phase.COLUMNS):
                    go(Phase.CHOOSE)
                with m.Case(Phase.CHOOSE):
                    m.next = "EXPONENTS"
                with m.Case(Phase.ROUND):
                    with m.If(last):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        next_tile()
                        with m.If(self.per_column):
                            go(Phase.SCAN)
                        with m.Else():
                            begin_rounding()

            with m.State("SCALE"):
                m.d.comb += self.scale.eq(1)
                m.next = "SCALING"
            with m.State("SCALING"), m.If(self.scaled):
                m.next = "EXPONENTS"
                m.d.comb += self.load.eq(-1)
                with m.If(self.per_column):
                    m.d.comb += self.load.eq(1 << lane)
                    m.d.sync += lane.eq(lane + 1)
                    with m.If(lane == self.cols - 1):
                        m.d.sync += lane.eq(0)
                    with m.Else():
                        go(Phase.REDUCE)
                with m.Else():
                    first_tile()
                    if self.groups:
                        with m.If(self.grouped):
                            go(Phase.ROWS)
            if self.finding:
                with m.State("MANTISSAS"):
                    m.d.comb += self.write_mantissas.eq(1)
                    m.next = "EXPONENTS"
                for row in ScanRow:
                    with m.State(row.name):
                        m.d.comb += self.write_found[row].eq(1)
                        if row + 1 < len(ScanRow):
                            m.next = ScanRow(row + 1).name
                        else:
                            next_tile()
                            go(Phase.SCAN)
                            with m.If(last):
                                m.d.comb += self.done.eq(1)
                                m.next = "IDLE"
            with m.State("EXPONENTS"):
                m.d.comb += self.write_exponents.eq(1)
                go(Phase.ROUND)
        return m
