"""Random bits for stochastic rounding: the hash ``arx16`` as a pipeline."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Noise"]


class Noise(wiring.Component):
    """16 random bits per counter; ``sim.model.noise.bits16``.

    Eight rounds ``x' = (rotl(x, 9) + y) ^ k``, ``y' = rotl(y, 2) ^ x'`` on the counter's halves,
    two to a stage. ``bits`` belongs to the ``counter`` of ``LATENCY`` cycles before; every lane
    takes a counter and gives a word every clock, and nothing stalls. ``key`` must be steady from
    one cycle before the first counter until the last word.

    The round is that of Speck32 (Beaulieu et al. 2013), see :mod:`sim.model.noise`.

    Parameters
    ----------
    lanes : int
        Counters hashed side by side under one key.

    Members
    -------
    key : In(4 x 16)
    counter : In(lanes x 32)
        Bits that are constant 0 cost nothing.
    bits : Out(lanes x 16)
    """
    ROUNDS = 8
    ROUNDS_PER_STAGE = 2
    ROUND_CONSTANT = 0x9E37
    #: Cycles from ``counter`` to ``bits``.
    LATENCY = ROUNDS // ROUNDS_PER_STAGE

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__({
            "key": In(data.ArrayLayout(16, 4)),
            "counter": In(data.ArrayLayout(32, lanes)),
            "bits": Out(data.ArrayLayout(16, lanes)),
        })

    def elaborate(self, platform):
        m = Module()

        # The key schedule, once for all lanes.
        keys = []
        for r in range(self.ROUNDS):
            keys.append(Signal(16, name=f"key_{r}", reset_less=True))
            m.d.sync += keys[r].eq(self.key[r % 4] + r // 4 * self.ROUND_CONSTANT)

        for lane in range(self.lanes):
            counter = self.counter[lane]
            x, y = counter.word_select(1, 16), counter.word_select(0, 16)
            for r in range(self.ROUNDS):
                total = Signal(16, name=f"total_{lane}_{r}")
                m.d.comb += total.eq(x.rotate_left(9) + y)
                x = total ^ keys[r]
                y = y.rotate_left(2) ^ x
                if r % self.ROUNDS_PER_STAGE == self.ROUNDS_PER_STAGE - 1:
                    stage = Signal(data.StructLayout({"x": 16, "y": 16}),
                                   name=f"stage_{lane}_{r}", reset_less=True)
                    m.d.sync += Cat(stage).eq(Cat(x, y))
                    x, y = stage.x, stage.y
            m.d.comb += self.bits[lane].eq(x)
        return m
