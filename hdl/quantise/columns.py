"""The quantiser's datapath: one lane for every column of a word."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import READ_LATENCY
from hdl.noise import Noise
from hdl.params import INDEX_BITS, MAX_M, MAX_N
from hdl.quantise.groups import GROUP_INDEX_BITS
from hdl.quantise.lane import Lane
from hdl.quantise.scale import MAGNITUDE_BITS, Scaling, sum_bits
from hdl.unit import INSTRUCTION_LAYOUT, quant_word, wide_word

__all__ = ["Columns"]


class Columns(wiring.Component):
    """The lanes with their noise and scalings; in lock step with :class:`Schedule`.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    instruction : In(INSTRUCTION_LAYOUT)
        The fields n, key0, key1.
    unsigned, stochastic : In(1)
    searching, enter, clear : In(1)
    at : In(depth + 1)
        Bit k: a step of the phase began k cycles ago.
    channel, left : In(INDEX_BITS)
        First channel of the tile, and channels from there on.
    x : In(wide_word(params))
        ``READ_LATENCY`` cycles after the step.
    group : In(cols x GROUP_INDEX_BITS + 1)
        ``Lane.GROUP_STAGE`` cycles after ``x``.
    scaling : In(Scaling)
    load : In(cols)
        The lanes that take ``scaling``.
    magnitude, largest : Out(cols x MAGNITUDE_BITS)
    total : Out(cols x total_bits)
    ranges : Out(wide_word(params))
        Range of every lane.
    q : Out(quant_word(params))
        ``depth`` cycles after the step.
    """
    #: Cycles from a step to the word it gives.
    DEPTH = READ_LATENCY + Lane.LATENCY

    def __init__(self, params):
        cols = params.cols
        self.total_bits = sum_bits(MAX_M * -(-MAX_N // cols))
        self.lanes = [Lane(params.bits, self.total_bits) for _ in range(cols)]
        self.noise = Noise(cols)
        super().__init__({
            "instruction": In(INSTRUCTION_LAYOUT),
            "unsigned": In(1), "stochastic": In(1),
            "searching": In(1), "enter": In(1), "clear": In(1), "at": In(self.DEPTH + 1),
            "channel": In(INDEX_BITS), "left": In(INDEX_BITS),
            "x": In(wide_word(params)),
            "group": In(data.ArrayLayout(GROUP_INDEX_BITS + 1, cols)),
            "scaling": In(Scaling), "load": In(cols),
            "magnitude": Out(data.ArrayLayout(MAGNITUDE_BITS, cols)),
            "largest": Out(data.ArrayLayout(MAGNITUDE_BITS, cols)),
            "total": Out(data.ArrayLayout(self.total_bits, cols)),
            "ranges": Out(wide_word(params)),
            "q": Out(quant_word(params)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.noise = self.noise
        fields = self.instruction
        accumulate = self.at[READ_LATENCY + Lane.SEARCH_LATENCY] & self.searching
        m.d.comb += Cat(self.noise.key).eq(Cat(fields.key0, fields.key1))

        # The number of a row's first element, a stage before the lanes' counters.
        first = Signal(range(MAX_M * MAX_N))
        with m.If(self.enter):
            m.d.sync += first.eq(self.channel)
        with m.Elif(self.at[READ_LATENCY + Lane.NOISE_STAGE - Noise.LATENCY - 1]):
            m.d.sync += first.eq(first + fields.n)

        for k, lane in enumerate(self.lanes):
            m.submodules[f"lane_{k}"] = lane
            counter = Signal(first.shape(), name=f"counter_{k}", reset_less=True)
            active = Signal(name=f"active_{k}", reset_less=True)
            scaling = Signal(Scaling, name=f"scaling_{k}", reset_less=True)
            m.d.sync += [
                counter.eq(first + k),
                active.eq(self.left > k),
            ]
            with m.If(self.load[k]):
                m.d.sync += scaling.eq(self.scaling)
            m.d.comb += [
                # Random bits and groups join the row on its way.
                self.noise.counter[k].eq(counter),
                lane.x.eq(self.x[k]),
                lane.active.eq(active),
                lane.group.eq(self.group[k]),
                lane.noise.eq(self.noise.bits[k]),
                lane.searching.eq(self.searching),
                lane.unsigned.eq(self.unsigned),
                lane.stochastic.eq(self.stochastic),
                lane.scaling.eq(scaling),
                lane.clear.eq(self.clear),
                lane.accumulate.eq(accumulate),
                # What was found.
                self.magnitude[k].eq(lane.magnitude),
                self.largest[k].eq(lane.largest),
                self.total[k].eq(lane.total),
                self.ranges[k].eq(scaling.limit),
                self.q[k].eq(lane.q),
            ]
        return m
