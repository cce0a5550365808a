"""Floating-point elements of the array.

An element is a multiplier and a pipelined adder. In a weight-stationary array the adder's latency
is a skew between rows and nothing else, so the adder has ten stages of at most three LUTs or one
carry chain, and takes a product and a partial sum in every clock.

What keeps it small, each measured in docs/floating.md:

* operands are normalised at the edge of the array, see :mod:`hdl.floating.edges`;
* the last place of each shift is made by the inputs that the following carry chain has left, that
  of the smaller number in the sum and that of the sum in the rounding;
* exponents are subtracted and rounded in one chain;
* a difference is taken with the larger number inverted, so that nothing is added to it after
  the fact: where the smaller exponent was the larger number after all, a one is missing, ones
  follow, and the rounding adds it;
* the sum moves up by tests of 16, 8, 4, 2 and 1 places, there is no counter of zeros; the tests
  run one stage ahead for both outcomes of the move before.
"""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.chain import Add, SelectAdd
from hdl.floating.formats import BF16, FP16, FP16_NARROW
from hdl.floating.multiply import LutMultiplier
from hdl.floating.stage import register
from hdl.params import ParameterError

__all__ = ["ELEMENTS", "Bf16Mac", "FloatSum", "Fp16Mac", "Fp16NarrowMac"]


class FloatSum(wiring.Component):
    """The stages that elements are made of: an exact product, and its sum with what enters, rounded
    once, to nearest, ties to even. See :class:`_FloatMac`.

    Parameters
    ----------
    members : dict
        Of the component, with ``sum_o``.
    multiplier : class
        See :mod:`hdl.floating.multiply`.
    above : bool
        Whether anything enters.
    mapped : bool
        Whether adders and multiplier are made of the ECP5's cells or are their generic twins.

    Attributes
    ----------
    latency : int
        Cycles from the operands to ``sum_o``.
    STEP : int
        Cycles from what enters to ``sum_o``.
    """
    STEP = 10

    def __init__(self, members, *, multiplier, above, mapped):
        self.above = above
        self.mapped = mapped
        self._multiplier = multiplier(self.arithmetic.operand.fraction_bits, mapped=mapped)
        # The significand of the product is due one cycle after its exponent.
        self.latency = self._multiplier.latency - 1 + self.STEP
        super().__init__(members)

    def _sum(self, m, product, total):
        """``sum_o = round(total + product)``."""
        aligned = self._align(m, product, total)
        normal = self._normalise(m, aligned)
        self._round(m, normal)

    def _add(self, m, name, shape, a, b):
        adder = Add(a=Value.cast(a).shape(), b=Value.cast(b).shape(), o=shape,
                    mapped=self.mapped)
        m.submodules[name] = adder
        m.d.comb += [adder.a.eq(a), adder.b.eq(b)]
        return adder.o

    def _select_add(self, m, name, shape, a, b, c, *, select, carry=0):
        adder = SelectAdd(a=Value.cast(a).shape(), b=Value.cast(b).shape(),
                          c=Value.cast(c).shape(), o=shape, mapped=self.mapped)
        m.submodules[name] = adder
        m.d.comb += [adder.a.eq(a), adder.b.eq(b), adder.c.eq(c), adder.select.eq(select),
                     adder.carry.eq(carry)]
        return adder.o

    def _product(self, m, a, w):
        form = self.arithmetic
        multiplier = m.submodules.multiplier = self._multiplier
        m.d.comb += [multiplier.a.eq(a.fraction), multiplier.w.eq(w.fraction)]
        v = SimpleNamespace(
            exponent=self._add(m, "product_exponent", form.product_exponent,
                               a.exponent, w.exponent),
            sign=a.sign ^ w.sign, zero=~(a.one & w.one), special=a.special | w.special,
            # NaN, or infinity times zero.
            nan=(a.special & ~a.one) | (w.special & ~w.one)
                | ((a.special | w.special) & ~(a.one & w.one)))
        for cycle in range(self._multiplier.latency - 1):
            v = register(m, f"product{cycle}", **vars(v))
        # What it has before and after the point.
        v.point = multiplier.o << form.window - 6 - 2 * form.operand.fraction_bits
        return v

    def _align(self, m, product, total):
        form = self.arithmetic
        fraction = form.window - 6
        # What the sum has before and after the point, as the product.
        total_point = total.significand << fraction - form.total.fraction_bits

        # Stage 1: the difference of the exponents, less one, and what is no number.
        low, high = form.product_exponent, form.total_exponent
        width = max(low.width, high.width) + (not form.limited)
        infinite = total.special
        some = Const(1)
        # A zero has the lowest exponent where sums are limited, and any where they are not.
        keep = Const(1) if form.limited else total.significand[-1]
        if form.limited:
            # At least 2 * bias - 1, three less than a power of two.
            places = form.total.exponent_bits
            infinite = infinite | (~total.exponent[-1] & (
                total.exponent[places:-1].any()
                | (total.exponent[2:places].all() & total.exponent[:2].any())))
            if 2 * form.operand.fraction_bits + 2 > form.total.precision:
                some = total.significand.any()
        signs_differ = total.sign ^ product.sign
        v = register(
            m, "difference",
            difference=self._add(m, "exponent_difference", width, total.exponent,
                                 ~_extend(product.exponent, width)),
            total=total_point, total_exponent=total.exponent, total_keep=keep, total_some=some,
            product_exponent=product.exponent, product_zero=product.zero,
            subtract=signs_differ & ~(infinite | product.special),
            special=infinite | product.special,
            nan=(total.special & total.nan) | product.nan
                | (infinite & product.special & signs_differ),
            # The sign of what is infinite, whichever is the larger.
            total_sign=Mux(product.special, product.sign, total.sign),
            product_sign=Mux(infinite & ~product.special, total.sign, product.sign))

        # Stage 2: which is the smaller, and by how many places it moves down. The larger is
        # inverted for a difference, which is then x = smaller - larger - 1.
        swap = Signal()
        above = v.difference[-1]
        m.d.comb += swap.eq(v.product_zero | (~above & v.total_keep))
        places = v.difference[:-1] ^ above.replicate(width - 1)
        far = places[5:].any() | v.product_zero
        larger = Mux(swap, v.total, product.point)
        small = Mux(swap, product.point, v.total << 1)[:fraction + 2]
        lost = far & Mux(swap, ~v.product_zero, v.total_some)
        if not self.above and not form.limited:
            # A product alone is never the smaller.
            small, lost = Const(0, fraction + 2), Const(0, 1)
        v = register(
            m, "swap",
            swap=swap,
            small=small,
            large=larger[:fraction + 2] ^ v.subtract.replicate(fraction + 2),
            places=places[:5], far=far, lost=lost,
            total_exponent=v.total_exponent, product_exponent=v.product_exponent,
            subtract=v.subtract, special=v.special, nan=v.nan,
            sign=Mux(swap, v.total_sign, v.product_sign))

        # Stages 3 and 4: the smaller one moves down, all but the last place of it.
        exponent = self._select_add(m, "larger_exponent", form.total_exponent, 3,
                                    v.total_exponent, v.product_exponent, select=v.swap)
        small = v.small << 1
        small, lost = _down(small, v.places, (16, 8))
        flags = {name: getattr(v, name) for name in ("subtract", "special", "nan", "sign")}
        v = register(m, "down0", small=Mux(v.far, 0, small),
                     lost=Mux(v.far, v.lost, Cat(lost)),
                     places=v.places[:3], large=v.large, exponent=exponent, **flags)
        small, lost = _down(v.small, v.places, (4, 2))
        lost = Cat(v.lost, lost).any()
        flags = {name: getattr(v, name) for name in flags}
        v = register(m, "down1", small=small, lost=lost, lost_moved=lost | small[0],
                     move=v.places[0], large=v.large, exponent=v.exponent, **flags)

        # Stage 5: the sum. Its last place stands for all that was lost.
        flags = {name: getattr(v, name) for name in flags}
        large = Cat(v.subtract.replicate(3), v.large, v.subtract)
        x = self._select_add(m, "sum", form.window, large, Cat(v.lost_moved, v.small[1:]),
                             Cat(v.lost, v.small), select=v.move)
        return register(m, "sum", x=x, exponent=v.exponent, **flags)

    def _normalise(self, m, v):
        form = self.arithmetic
        # Stages 6 to 8: the leading one moves to the front, by halves of what is left. Of a
        # difference that is ~x, or x if the smaller number was the larger after all: then one
        # is missing, ones follow, and the rounding adds it.
        sign = v.x[-1]
        v.flip, v.missing = v.subtract & sign, v.subtract & ~sign
        same = v.x ^ sign.replicate(form.window)
        top = sign & ~v.subtract
        free, limit = Const(1), Const(0, 5)

        def allowed(*reasons):
            return Cat(reasons).any() if form.limited else Const(1)

        if form.limited:
            v.zero = ~same.any() & ~(sign ^ v.subtract)
            # No further than to the lowest exponent: the bits of the number of places up to
            # there, from the top, until a move that they allow is not made.
            free, limit = v.exponent[5:].any(), v.exponent[:5]
        v.move16 = ~(same[-16:].any() | top) & allowed(free, limit[4])
        v.move8_after = ~same[-24:-16].any() & allowed(free, limit[3])
        v.move8_else = ~(same[-8:].any() | top) & allowed(free, limit[3:])
        v.free, v.limit = free, limit
        v = register(m, "up0", **vars(v))

        v.bits = v.x ^ v.flip.replicate(form.window)
        v.up = Const(0, 0)
        self._up(v, 16, v.move16)
        move8 = Signal()
        m.d.comb += move8.eq(Mux(v.move16, v.move8_after, v.move8_else))
        self._up(v, 8, move8)
        free = allowed(v.free, v.limit[4] & ~v.move16, v.limit[3] & ~move8)
        v.none4, v.allowed4 = ~v.bits[-4:].any(), allowed(free, v.limit[2])
        v.move2_after = ~v.bits[-6:-4].any() & allowed(free, v.limit[1])
        v.move2_else = ~v.bits[-2:].any() & allowed(free, v.limit[1:3])
        v.free, v.limit = free, v.limit[:3]
        del v.x, v.flip, v.move16, v.move8_after, v.move8_else
        v = register(m, "up1", **vars(v))

        move4, move2 = Signal(), Signal()
        m.d.comb += [move4.eq(v.none4 & v.allowed4),
                     move2.eq(Mux(move4, v.move2_after, v.move2_else))]
        self._up(v, 4, move4)
        self._up(v, 2, move2)
        v.allowed1 = allowed(v.free, v.limit[2] & ~move4, v.limit[1] & ~move2, v.limit[0])
        del v.none4, v.allowed4, v.move2_after, v.move2_else, v.free, v.limit
        return register(m, "up2", **vars(v))

    def _up(self, v, places, move):
        """Moved up by ``places`` if there is a ``move``."""
        moved = Cat(v.missing.replicate(places), v.bits[:-places])
        if places >= 4:
            # So many zeros are left by numbers of much the same exponents: the last places are
            # those that follow anyway.
            spare = self.arithmetic.spare
            moved = Cat(v.bits[:spare], moved[spare:])
        v.bits = Mux(move, moved, v.bits)
        v.up = Cat(move, v.up)

    def _round(self, m, v):
        form = self.arithmetic.total
        limited = self.arithmetic.limited
        # Stage 9: whether the leading one has one place to go, and whether to round up then.
        move = ~v.bits[-1] & v.allowed1
        rest, last, half, odd = (v.bits[:-form.precision - 2], v.bits[-form.precision - 2],
                                 v.bits[-form.precision - 1], v.bits[-form.precision])
        exact = ~((rest ^ v.missing.replicate(len(rest))).any() | (~move & (last ^ v.missing)))
        half, odd = Mux(move, last, half), Mux(move, half, odd)
        add = Mux(exact, Mux(v.missing, half | odd, half & odd), half)
        # An exact zero has the lowest exponent, and is +0 if it is a difference.
        exponent, up = v.exponent, Cat(move, v.up)
        if limited:
            zero = v.zero
            exponent, up = Mux(zero, 0, exponent).as_signed(), Mux(zero, 0, up)
        else:
            zero = ~v.bits[-2:].any()
        v = register(m, "half", bits=v.bits[-form.precision - 1:], move=move, add=add,
                     exponent=exponent, up=up, special=v.special, nan=v.nan,
                     sign=(v.sign ^ v.missing) & ~(zero & v.subtract))

        # Stage 10: the last move, the exponent, and the significand rounded.
        fraction = form.fraction_bits
        one = v.bits[-1] | (v.move & v.bits[-2])
        moves, stays = v.bits[:fraction], v.bits[1:fraction + 1]
        if limited:
            moves, stays = Cat(moves, v.bits[-2]), Cat(stays, v.bits[-1])
        below = fraction + limited
        up = Cat(~v.up, Const(-1, len(v.exponent) - len(v.up)))
        rounded = self._select_add(m, "round", below + len(v.exponent),
                                   Cat(Const(0, below), v.exponent), Cat(moves, up),
                                   Cat(stays, up), select=v.move, carry=v.add)
        m.d.sync += [
            self.sum_o.significand.eq(Cat(rounded[:fraction],
                                          one | rounded[below - 1] if limited else one)),
            self.sum_o.exponent.eq(rounded[below:]),
            self.sum_o.special.eq(v.special), self.sum_o.nan.eq(v.nan),
            self.sum_o.sign.eq(v.sign),
        ]


class _FloatMac(FloatSum):
    """``sum_o = round(sum_i + a * w)``: an exact product, one rounding to nearest, ties to even.

    Subnormal numbers, infinities and NaN are IEEE 754's; there is one NaN. The model is
    :func:`sim.model.floating.fused`. What enters at ``sum_i`` must be a sum of products: where
    those cannot reach the ends of their format, see
    :attr:`hdl.floating.formats.Arithmetic.limited`, an element does not look for them.
    Operands and sums have the form of :mod:`hdl.floating.formats`.

    Parameters
    ----------
    params : hdl.params.Params
        Of one product per element.
    row : int
        Row of the array, 0 at the top; what enters there is -0, to which any product can be
        added unchanged.
    multiplier : class
        See :mod:`hdl.floating.multiply`.
    mapped : bool
        Whether adders and multiplier are made of the ECP5's cells or are their generic twins.

    Attributes
    ----------
    operand_shape, weight_shape, sum_shape
    latency : int
        Cycles from ``a`` to the ``sum_o`` that contains it.
    STEP : int
        Cycles from ``sum_i`` to ``sum_o``: the skew between two rows.

    Members
    -------
    load : In(1)
        Take the next shadow weight from ``w_i``.
    w_i : In(weight_shape), w_o : Out(weight_shape)
        The shadow chain: ``w_o`` is the element's own shadow weight.
    swap : In(1)
        Use the shadow weight from the next cycle on: one cycle ahead of the first operand.
    a : In(operand_shape)
    sum_i : In(sum_shape)
        Not in row 0.
    sum_o : Out(sum_shape)
    """
    def __init__(self, params, row, *, multiplier=LutMultiplier, mapped=False):
        if params.depth != 1:
            raise ParameterError("depth must be 1 where elements are floating-point, "
                                 f"got {params.depth}")
        self.params = params
        self.row = row
        form = self.arithmetic
        self.operand_shape = form.operand_layout(form.offset)
        self.weight_shape = form.operand_layout()
        self.sum_shape = form.total_layout
        members = {
            "load": In(1), "w_i": In(self.weight_shape), "w_o": Out(self.weight_shape),
            "swap": In(1), "a": In(self.operand_shape), "sum_o": Out(self.sum_shape),
        }
        if row:
            members["sum_i"] = In(self.sum_shape)
        super().__init__(members, multiplier=multiplier, above=row > 0, mapped=mapped)

    def elaborate(self, platform):
        m = Module()
        # Weights.
        shadow = Signal(self.w_i.shape(), reset_less=True)
        active = Signal(self.w_i.shape(), reset_less=True)
        with m.If(self.load):
            m.d.sync += shadow.eq(self.w_i)
        with m.If(self.swap):
            m.d.sync += active.eq(shadow)
        m.d.comb += self.w_o.eq(shadow)
        # The product, then its sum with what comes from above.
        self._sum(m, self._product(m, self.a, active), self._above())
        return m

    def _above(self):
        """The partial sum that enters."""
        if self.row:
            return self.sum_i
        lowest = -1 if self.arithmetic.limited else 0
        zero = self.sum_shape.const({"sign": 1, "exponent": lowest})
        return data.View(self.sum_shape, zero.as_value())


def _extend(value, width):
    """A value's bits at a width."""
    fill = value[-1] if value.shape().signed else Const(0, 1)
    return Cat(value, fill.replicate(width - len(value)))


def _down(value, places, steps):
    """Moved down by the bits of ``places`` that stand for ``steps``; whether each lost a one."""
    lost = []
    for step in steps:
        move = places[step.bit_length() - 1]
        lost.append(move & value[:step].any())
        value = Mux(move, value[step:], value)
    return value, lost


class Fp16Mac(_FloatMac):
    """binary16, added up in binary32."""
    arithmetic = FP16


class Fp16NarrowMac(_FloatMac):
    """binary16, added up in binary16: the fused multiply-add."""
    arithmetic = FP16_NARROW


class Bf16Mac(_FloatMac):
    """bfloat16, added up in binary32."""
    arithmetic = BF16


#: By the name of their arithmetic.
ELEMENTS = {"fp16": Fp16Mac, "fp16n": Fp16NarrowMac, "bf16": Bf16Mac}
