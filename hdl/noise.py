"""Random bits for stochastic rounding: the hash ``arx16`` as a pipeline, shared by neighbours."""

from math import gcd

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Hash", "Noise"]

#: The two words of a hash.
_WORDS = data.StructLayout({"x": 16, "y": 16})


class Hash(wiring.Component):
    """Two random words of 16 bits per counter; ``sim.model.noise.hash32``.

    Eight rounds ``x' = (rotl(x, 9) + y) ^ k``, ``y' = rotl(y, 2) ^ x'`` on the counter's halves,
    two to a stage. ``o`` belongs to the ``counter`` of ``LATENCY`` cycles before; one a clock,
    and nothing stalls.

    The round is that of Speck32 (Beaulieu et al. 2013), see :mod:`sim.model.noise`.

    Members
    -------
    keys : In(8 x 16)
        Key of every round; steady from the first counter until the last word.
    counter : In(32)
        Bits that are constant 0 cost nothing.
    o : Out(x 16, y 16)
    """
    ROUNDS = 8
    ROUNDS_PER_STAGE = 2
    #: Cycles from ``counter`` to ``o``.
    LATENCY = ROUNDS // ROUNDS_PER_STAGE

    def __init__(self):
        super().__init__({
            "keys": In(data.ArrayLayout(16, self.ROUNDS)),
            "counter": In(32),
            "o": Out(_WORDS),
        })

    def elaborate(self, platform):
        m = Module()
        x, y = self.counter[16:], self.counter[:16]
        for r in range(self.ROUNDS):
            total = Signal(16, name=f"total_{r}")
            m.d.comb += total.eq(x.rotate_left(9) + y)
            x = total ^ self.keys[r]
            y = y.rotate_left(2) ^ x
            if r % self.ROUNDS_PER_STAGE == self.ROUNDS_PER_STAGE - 1:
                stage = Signal(_WORDS, name=f"stage_{r}", reset_less=True)
                m.d.sync += Cat(stage).eq(Cat(x, y))
                x, y = stage.x, stage.y
        m.d.comb += [self.o.x.eq(x), self.o.y.eq(y)]
        return m


class Noise(wiring.Component):
    """16 random bits for neighbours in a row; ``sim.model.noise.element_noise``.

    Eight elements of a row are a block and share one hash ``(x, y)``: place p of it gets
    ``y + p x`` in GF(2**16) (the construction of Carter and Wegman, 1979). Lane 0 is place
    ``place`` of block ``block``, and the lanes after it follow, into as many blocks as they
    reach. ``bits`` belongs to the ``block`` of ``LATENCY`` cycles before; every lane gets a word
    every clock, and nothing stalls.

    There are ``hashes`` pipelines: ``place`` is a multiple of ``lanes`` modulo 8, so one where
    ``lanes`` divides 8, ``lanes / 8`` where 8 divides it, and else one for every block that any
    such place reaches.

    Parameters
    ----------
    lanes : int

    Members
    -------
    key : In(4 x 16)
        Steady, as ``place`` is, from one cycle before the first block until the last word.
    block : In(32)
        Bits that are constant 0 cost nothing.
    place : In(3)
        A multiple of ``lanes`` modulo 8.
    bits : Out(lanes x 16)
    """
    ROUND_CONSTANT = 0x9E37
    #: Neighbours in a row that share a hash.
    BLOCK = 8
    #: ``x**16`` modulo the polynomial of GF(2**16).
    POLYNOMIAL = 0x2D
    #: Cycles from ``block`` to ``bits``.
    LATENCY = Hash.LATENCY

    def __init__(self, lanes):
        self.lanes = lanes
        #: Every place that lane 0 may have is a multiple of this.
        self.stride = gcd(lanes, self.BLOCK)
        self.hashes = self.pipelines(lanes)
        super().__init__({
            "key": In(data.ArrayLayout(16, 4)),
            "block": In(32),
            "place": In(3),
            "bits": Out(data.ArrayLayout(16, lanes)),
        })

    @classmethod
    def pipelines(cls, lanes):
        """Hashes that so many lanes need: the most blocks that a tile of them touches.

        >>> [Noise.pipelines(lanes) for lanes in (1, 3, 7, 8, 9, 12, 16)]
        [1, 2, 2, 1, 2, 2, 2]
        """
        return (cls.BLOCK - gcd(lanes, cls.BLOCK) + lanes - 1) // cls.BLOCK + 1

    def elaborate(self, platform):
        m = Module()

        # The key schedule, once for all.
        keys = Signal(data.ArrayLayout(16, Hash.ROUNDS), reset_less=True)
        m.d.sync += [keys[r].eq(self.key[r % 4] + r // 4 * self.ROUND_CONSTANT)
                     for r in range(Hash.ROUNDS)]

        # The words of every block, and the multiples x, 2 x and 4 x of its x.
        blocks = []
        for h in range(self.hashes):
            m.submodules[f"hash_{h}"] = pipeline = Hash()
            m.d.comb += [Cat(pipeline.keys).eq(Cat(keys)), pipeline.counter.eq(self.block + h)]
            power = pipeline.o.x
            multiples = [power]
            for _ in range(2):
                power = (power << 1)[:16] ^ (power[-1].replicate(16) & self.POLYNOMIAL)
                multiples.append(power)
            blocks.append((pipeline.o.y, multiples))

        # Every lane takes its place of its block: the first that it may be in, or the next.
        low = self.stride.bit_length() - 1
        for lane in range(self.lanes):
            offset = lane % self.BLOCK
            sum_ = Signal(4 - low, name=f"sum_{lane}")
            m.d.comb += sum_.eq(self.place[low:] + (offset >> low))
            place = Cat(C(offset & self.stride - 1, low), sum_[:-1])
            y, multiples = blocks[lane // self.BLOCK]
            if offset + self.BLOCK - self.stride >= self.BLOCK:
                following = blocks[lane // self.BLOCK + 1]
                y = Mux(sum_[-1], following[0], y)
                multiples = [Mux(sum_[-1], b, a)
                             for a, b in zip(multiples, following[1], strict=True)]
            m.d.comb += self.bits[lane].eq(
                y ^ (multiples[0] & place[0].replicate(16))
                ^ (multiples[1] & place[1].replicate(16))
                ^ (multiples[2] & place[2].replicate(16)))
        return m
