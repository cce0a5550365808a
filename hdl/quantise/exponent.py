"""From magnitudes to the exponent of their scale, bit by bit."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.params import WIDE_BITS

__all__ = ["EXPONENT_BITS", "MAGNITUDE_BITS", "ScaleExponent", "sum_bits"]

#: Width of a magnitude, up to ``2**31``.
MAGNITUDE_BITS = WIDE_BITS
#: Width of an exponent, signed: from -15 to 31.
EXPONENT_BITS = 6


def sum_bits(count):
    """Narrowest width of a sum of ``count`` magnitudes.

    >>> sum_bits(1), sum_bits(511)
    (32, 40)
    """
    return (count << MAGNITUDE_BITS - 1).bit_length()


class ScaleExponent(wiring.Component):
    """The exponent of the scale of some elements; ``sim.model.quantise.scale_exponent``.

    Without a clip it is ``highest``, the least h with ``8 top 2**h >= 8 largest``, with one that
    of ``7 largest``: the bit length of the need, less that of ``8 top``, and one more if its top
    bits are all ones, as those of ``top`` are, and more follow. With a clip the exponent is the
    first of ``highest - 7 ...`` with ``32 count top 2**s >= 7 clip total``, or ``highest``.
    If ``largest`` is 0 it is 0.

    All of it is done on numbers that pass bit by bit, the lowest first: multiples of 7 and of
    ``top`` are differences of a stream and itself some places before, a product is a stream
    through an adder of the other factor's width, and a comparison keeps one bit. The seven
    candidates are compared at the same time, against seven places of one delay line.

    ``done`` pulses ``latency(clip)`` cycles after ``start``, whatever the magnitudes; ``exponent``
    holds from then until the next ``start``.

    Parameters
    ----------
    bits : int
        Width of a code.
    count : int
        Largest number of elements.

    Members
    -------
    start : In(1)
    largest : In(MAGNITUDE_BITS)
    total : In(sum_bits(count))
    count : In(range(count + 1))
    clip : In(8)
    unsigned : In(1)
        ``top`` is ``2**bits - 1`` instead of ``2**(bits - 1) - 1``.
    done : Out(1)
    exponent : Out(signed(EXPONENT_BITS))
        All inputs must hold from ``start`` to ``done``.
    """
    CLIP_BITS = 8
    #: How far below the maximum a clip may be.
    DEEPEST = 7

    def __init__(self, bits, count):
        self.bits = bits
        #: Places of 7 or 8 times the largest magnitude.
        self.need_bits = MAGNITUDE_BITS + 3
        #: Places of 7 times the clip times the sum; those of ``count top`` end before.
        self.product_bits = sum_bits(7 * (2**self.CLIP_BITS - 1) * count)
        #: The sum starts so many cycles after the first place of ``count`` may have to be there:
        #: ``32 * 2**(highest - 7)`` is at least this far below 1.
        self.lead = self.DEEPEST + bits - 5
        super().__init__({
            "start": In(1),
            "largest": In(MAGNITUDE_BITS),
            "total": In(sum_bits(count)),
            "count": In(range(count + 1)),
            "clip": In(self.CLIP_BITS),
            "unsigned": In(1),
            "done": Out(1),
            "exponent": Out(signed(EXPONENT_BITS)),
        })

    def latency(self, clip):
        """Cycles from ``start`` to ``done``."""
        # A place is worked on in the cycle after it was selected.
        comparing = self.lead + self.product_bits + 1 + 1 if clip else 0
        return 1 + self.need_bits + 1 + comparing + 1

    def elaborate(self, platform):
        m = Module()
        clipping, comparing = Signal(), Signal()
        m.d.comb += clipping.eq(self.clip != 0)

        # The place that is selected now. Places beyond a number's width are 0, and so are those
        # before its first, which wrap around.
        place = Signal(range(2 * self.product_bits))
        assert self.product_bits + self.lead <= 1 << len(place)
        place_bit, count_bit = Signal(), Signal()
        count_place = Signal.like(place)
        m.d.comb += count_place.eq(place - self.exponent + self.DEEPEST - 5)
        m.d.sync += [
            place.eq(place + 1),
            place_bit.eq(Mux(comparing, self.total.bit_select(place, 1),
                             self.largest.bit_select(place, 1))),
            count_bit.eq(self.count.bit_select(count_place, 1) & comparing),
        ]

        # Times 7, or 8 without a clip.
        before = Signal(3)
        borrow = Signal()
        need_bit = Signal()
        less = place_bit & clipping
        m.d.comb += need_bit.eq(before[-1] ^ less ^ borrow)
        m.d.sync += [
            before.eq(Cat(place_bit, before)),
            borrow.eq(~before[-1] & (less | borrow) | less & borrow),
        ]

        # Of the need: its length so far, and whether its top bits are more than those of top.
        length = Signal(range(self.need_bits + 1))
        run, older, more = Signal(range(self.bits + 2)), Signal(), Signal()
        run_now = Signal.like(run)
        top_bits = Mux(self.unsigned, self.bits, self.bits - 1)
        m.d.comb += run_now.eq(Mux(run > self.bits, run, run + 1))
        with m.If(need_bit & ~comparing):
            m.d.sync += [run.eq(run_now), length.eq(place),
                         more.eq((run_now > top_bits) | (run_now == top_bits) & older)]
        with m.Else():
            m.d.sync += [run.eq(0), older.eq(older | run.any())]

        # Of the sum: times the clip.
        carried = Signal(self.CLIP_BITS)
        product = Signal(self.CLIP_BITS + 1)
        m.d.comb += product.eq(carried + (self.clip & need_bit.replicate(self.CLIP_BITS)))
        m.d.sync += carried.eq(Mux(comparing, product >> 1, 0))

        # Of the count: times top.
        counts = Signal(self.bits)
        count_borrow = Signal()
        shifted = Mux(self.unsigned, counts[-1], counts[-2])
        capacity = Signal(self.DEEPEST)
        m.d.comb += capacity[0].eq(shifted ^ count_bit ^ count_borrow)
        m.d.sync += [
            counts.eq(Cat(count_bit, counts)),
            count_borrow.eq(~shifted & (count_bit | count_borrow) | count_bit & count_borrow),
        ]
        later = Signal(self.DEEPEST - 1)
        m.d.sync += later.eq(capacity)
        m.d.comb += capacity[1:].eq(later)

        # Which candidates are too small.
        small = Signal(self.DEEPEST)
        bits = product[0].replicate(self.DEEPEST)
        m.d.sync += small.eq((bits & ~capacity | ~(bits ^ capacity) & small)
                             & comparing.replicate(self.DEEPEST))

        def finish():
            m.d.sync += self.done.eq(1)
            m.next = "IDLE"
            with m.If(length == 0):
                m.d.sync += self.exponent.eq(0)

        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [place.eq(0), place_bit.eq(0), length.eq(0), run.eq(0), older.eq(0),
                             more.eq(0)]
                with m.If(self.start):
                    m.next = "LENGTH"
            with m.State("LENGTH"), m.If(place == self.need_bits):
                m.next = "HIGHEST"
            with m.State("HIGHEST"):
                m.d.sync += [self.exponent.eq(length - 3 - top_bits + more), place.eq(-self.lead)]
                m.next = "COMPARE"
                with m.If(~clipping):
                    finish()
            with m.State("COMPARE"):
                m.d.comb += comparing.eq(1)
                with m.If(place == self.product_bits):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.d.sync += self.exponent.eq(self.exponent - self.DEEPEST
                                             + sum(small[k] for k in range(self.DEEPEST)))
                finish()
        return m
