"""From magnitudes of columns to the mantissas and exponents of their scales, a column a clock."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.params import MAX_K
from hdl.quantise.exponent import EXPONENT_BITS, ScaleExponent
from hdl.quantise.normalise import NormalisedProduct

__all__ = ["ColumnScale"]

#: Steps of a scale between a power of two and the next: multiples of a quarter.
_QUARTERS = 4

#: Of a step on its way.
_TAG = data.StructLayout({
    "valid": 1,
    #: It brings a limit, the first of four; else what a lane needs.
    "limit": 1, "first": 1,
    #: Of the sums, not of the maxima.
    "sums": 1,
    "last": 1,
})


class ColumnScale(wiring.Component):
    """The mantissa of every lane's scale (``sim.model.quantise.normalise_columns``), or with
    ``exponents`` the exponent (``sim.model.quantise.scale_exponent``).

    A scale is a number of steps, ``4 e + m - 4`` for ``m / 8 * 2**e`` with m in 5..8, and sought
    is the smallest that reaches a need: ``N m top * 2**e >= need``, ``N = 1`` for that of the
    maximum and ``rows`` for that of the sum. Of the four limits ``N m top``, each times some power
    of two, one lies in every place between two powers of two, so with all numbers normalised to
    ``1/2 <= f < 1`` by a shift of ``away`` bits it is

        steps = 1 + sum(away of a limit + (f of the need > f of the limit)) - 4 away of the need,

    four comparisons, whose order does not matter. With four equal limits ``8 N top``, and without
    the 1, it is four times the exponent. The needs are

        of the maximum  4 (8 - less) largest,   of the sum  (8 - less) clip total,

    ``less`` = 1 for exponents with a clip and else 0: to be whole, limits are 8 times and needs 32
    times as large as the model's, and steps are 8 too many. The smaller number of steps counts, for
    exponents not more than ``ScaleExponent.DEEPEST`` powers of two below that of the maximum, and
    without a clip only that of the maximum. A column of zeros has mantissa 4 and exponent 0.

    Every step gives one number to one :class:`~hdl.quantise.normalise.NormalisedProduct`: four
    limits, then what each lane needs, of the maxima and once more of the sums: ``steps`` in all,
    one a clock or with pauses. ``latency`` cycles after those of the sums ``load`` says whose
    ``mantissa`` or ``exponent`` it is, and ``done`` comes with the last. Nothing stalls.

    Parameters
    ----------
    bits : int
        Width of a code.
    lanes : int
    master_bits : int
        Width of a master.

    Members
    -------
    exponents : In(1)
    rows : In(range(MAX_K + 1))
    clip : In(8)
        In quarters of the mean magnitude, 0 for the maximum. Steady, as ``rows`` and ``exponents``
        are, from two cycles before the first step until ``done``.
    step : In(1)
    restart, pick : Out(1)
        The next lane picked is the first; pick one.
    largest : In(master_bits)
    total : In(sum_bits)
        Of the lane picked ``PICK_LATENCY`` cycles ago, or of the only one.
    load : Out(lanes)
    mantissa : Out(3)
    exponent : Out(signed(EXPONENT_BITS))
    done : Out(1)
    """
    #: Cycles from ``pick`` to the magnitudes.
    PICK_LATENCY = 2
    _CLIP_BITS = ScaleExponent.CLIP_BITS

    def __init__(self, bits, lanes, master_bits):
        self.bits = bits
        self.lanes = lanes
        self.top = 2 ** (bits - 1) - 1
        #: Width of the sum of a column's magnitudes.
        self.sum_bits = (MAX_K << master_bits - 1).bit_length()
        most_clip = 2**self._CLIP_BITS - 1
        factor_bits = max(8 * most_clip, 8 * self.top).bit_length()
        self.product = NormalisedProduct(
            self.sum_bits, factor_bits, (8 * most_clip * MAX_K << master_bits - 1).bit_length(),
            (8 * self.top * MAX_K).bit_length())
        #: Steps that it takes, limits and lanes twice.
        self.steps = 2 * (_QUARTERS + lanes)
        #: Cycles from a step to its ``load``: its number, four stages of steps, the choice.
        self.latency = self.PICK_LATENCY + self.product.latency + 5
        super().__init__({
            "exponents": In(1), "rows": In(range(MAX_K + 1)), "clip": In(self._CLIP_BITS),
            "step": In(1), "restart": Out(1), "pick": Out(1),
            "largest": In(master_bits), "total": In(self.sum_bits),
            "load": Out(lanes), "mantissa": Out(3), "exponent": Out(signed(EXPONENT_BITS)),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.product = product = self.product
        clipping = Signal()
        m.d.comb += clipping.eq(self.clip.any())

        # Which step: limits first, and then lanes.
        place = Signal(range(_QUARTERS + self.lanes))
        tag = Signal(_TAG)
        m.d.comb += [
            tag.valid.eq(self.step),
            tag.limit.eq(place < _QUARTERS),
            tag.first.eq(place == 0),
            tag.last.eq((place == _QUARTERS + self.lanes - 1) & tag.sums),
            self.restart.eq(tag.first),
            self.pick.eq(self.step & ~tag.limit),
        ]
        sums = Signal()
        m.d.comb += tag.sums.eq(sums)
        with m.If(self.step):
            m.d.sync += place.eq(place + 1)
            with m.If(place == _QUARTERS + self.lanes - 1):
                m.d.sync += [place.eq(0), sums.eq(~sums)]

        tags = [tag]
        for k in range(self.latency):
            tags.append(Signal(_TAG, name=f"tag_{k}"))
            m.d.sync += tags[-1].eq(tags[-2])

        # Two factors, while a lane is picked; the second is that of the step.
        less = Signal(reset_less=True)
        clips = Signal.like(product.b, reset_less=True)
        limit_factor = Signal.like(product.b, reset_less=True)
        m.d.sync += [
            less.eq(self.exponents & clipping),
            clips.eq((self.clip << 3) - Mux(less, self.clip, 0)),
            limit_factor.eq(8 * self.top),
        ]
        with m.If(~self.exponents), m.Switch(place):
            for k in range(_QUARTERS - 1):
                with m.Case(k):
                    m.d.sync += limit_factor.eq((_QUARTERS + 1 + k) * self.top)
        factor = Signal.like(product.b, reset_less=True)
        before, picked = tags[self.PICK_LATENCY - 1], tags[self.PICK_LATENCY]
        with m.If(before.limit):
            m.d.sync += factor.eq(limit_factor)
        with m.Elif(before.sums):
            m.d.sync += factor.eq(clips)
        with m.Else():
            m.d.sync += factor.eq(Mux(less, 28, 32))
        m.d.comb += [
            product.b.eq(factor),
            product.a.eq(Mux(picked.limit, Mux(picked.sums, self.rows, 1),
                             Mux(picked.sums, self.total, self.largest))),
        ]

        # Stage 1: keep limits; compare needs with them.
        at = self.PICK_LATENCY + product.latency
        limits = Signal(data.ArrayLayout(product.window, _QUARTERS), reset_less=True)
        step_bits = len(product.away) + 3
        limits_away = Signal(step_bits - 1, reset_less=True)
        with m.If(tags[at].valid & tags[at].limit):
            m.d.sync += [
                Cat(limits).eq(Cat(*(limits[k] for k in range(1, _QUARTERS)), product.fraction)),
                limits_away.eq(Mux(tags[at].first, ~self.exponents, limits_away) + product.away),
            ]
        above = Signal(_QUARTERS, reset_less=True)
        away = Signal.like(product.away, reset_less=True)
        some = Signal(3, reset_less=True)
        need = Cat(product.rest, product.fraction)
        m.d.sync += [
            above.eq(Cat(need > Cat(C(0, 1), limits[k]) for k in range(_QUARTERS))),
            away.eq(product.away),
            some.eq(Cat(product.fraction[-1], some)),
        ]

        # Stages 2 and 3: the number of steps.
        base = Signal(signed(step_bits), reset_less=True)
        more = Signal(range(_QUARTERS + 1), reset_less=True)
        found = Signal(signed(step_bits), reset_less=True)
        m.d.sync += [
            base.eq(limits_away - (away << 2)),
            more.eq(sum(above[k] for k in range(_QUARTERS))),
            found.eq(base + more),
        ]

        # Stage 4: the lanes' maxima pass by; those of the sums meet their own.
        kept = Signal(data.ArrayLayout(len(found) + 1, self.lanes), reset_less=True)
        highest = kept[0][1:].as_signed()
        least, deepest = Signal.like(found, reset_less=True), Signal.like(found, reset_less=True)
        is_some = Signal(2, reset_less=True)
        m.d.sync += [
            least.eq(Mux(clipping & (found < highest), found, highest)),
            deepest.eq(highest - _QUARTERS * ScaleExponent.DEEPEST),
            is_some.eq(Cat(kept[0][0], is_some)),
        ]
        with m.If(tags[at + 3].valid & ~tags[at + 3].limit):
            m.d.sync += Cat(kept).eq(Cat(*(kept[k] for k in range(1, self.lanes)),
                                         some[-1], found))

        # Stage 5: not deeper than that.
        steps = Signal.like(found, reset_less=True)
        m.d.sync += steps.eq(Mux(self.exponents & (least < deepest), deepest, least))
        turn = Signal(self.lanes, init=1)
        result = tags[self.latency]
        loading = result.valid & result.sums & ~result.limit
        m.d.comb += [
            self.load.eq(turn & loading.replicate(self.lanes)),
            self.done.eq(result.valid & result.last),
            self.mantissa.eq(4),
        ]
        with m.If(loading):
            m.d.sync += turn.eq(turn.rotate_left(1))
        with m.If(is_some[-1]):
            # Two powers of two too many, see above.
            m.d.comb += [self.mantissa[:2].eq(steps[:2]), self.exponent.eq((steps >> 2) - 2)]
        return m
