"""Floating-point elements of the array."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.floating.chain import SelectAdd
from hdl.floating.formats import BF16, FP16, FP16_NARROW
from hdl.floating.multiply import LutMultiplier
from hdl.params import ParameterError

__all__ = ["Bf16Mac", "Fp16Mac", "Fp16NarrowMac"]

#: Places that the shifters move by, in their order.
_PLACES = (16, 8, 4, 2, 1)


class _FloatMac(wiring.Component):
    """``sum_o = round(sum_i + a * w)``: an exact product, one rounding to nearest, ties to even.

    Subnormal numbers, infinities and NaN are IEEE 754's, but for the sign and the payload of
    NaN. Operands and sums have the form of :mod:`hdl.floating.formats`. Attributes and members:
    see :mod:`hdl.array.mac`; marks do nothing.

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
    """
    STEP = 10
    has_mark = False

    def __init__(self, params, row, *, multiplier=LutMultiplier, mapped=False):
        if params.depth != 1:
            raise ParameterError("depth must be 1 where elements are floating-point, "
                                 f"got {params.depth}")
        self.params = params
        self.row = row
        self.mapped = mapped
        form = self.arithmetic
        self._multiplier = multiplier(form.operand.fraction_bits, mapped=mapped)
        # The significand of the product is due one cycle after its exponent.
        self.latency = self._multiplier.latency - 1 + self.STEP
        self.operand_shape = form.operand_layout(form.offset)
        self.weight_shape = form.operand_layout()
        self.sum_shape = form.total_layout
        self.sum_shape_above = self.sum_shape if row else None
        members = {
            "load": In(1), "w_i": In(data.ArrayLayout(self.weight_shape, 1)),
            "w_o": Out(data.ArrayLayout(self.weight_shape, 1)), "swap": In(1),
            "a": In(data.ArrayLayout(self.operand_shape, 1)), "sum_o": Out(self.sum_shape),
        }
        if row:
            members["sum_i"] = In(self.sum_shape)
        super().__init__(members)

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
        product = self._product(m, self.a[0], active[0])
        aligned = self._align(m, product, self._above())
        normal = self._normalise(m, aligned)
        self._round(m, normal)
        return m

    def _above(self):
        """The partial sum that enters."""
        if self.row:
            return self.sum_i
        lowest = -1 if self.arithmetic.limited else 0
        zero = self.sum_shape.const({"sign": 1, "exponent": lowest})
        return data.View(self.sum_shape, zero.as_value())

    def _select_add(self, m, name, shape, a, b, c=0, *, select=1, carry=0):
        adder = SelectAdd(a=Value.cast(a).shape(), b=Value.cast(b).shape(),
                          c=Value.cast(c).shape(), o=shape, mapped=self.mapped)
        m.submodules[name] = adder
        m.d.comb += [adder.a.eq(a), adder.b.eq(b), adder.c.eq(c), adder.select.eq(select),
                     adder.carry.eq(carry)]
        return adder.o

    def _product(self, m, a, w):
        multiplier = m.submodules.multiplier = self._multiplier
        m.d.comb += [multiplier.a.eq(a.fraction), multiplier.w.eq(w.fraction)]
        v = SimpleNamespace(
            exponent=self._select_add(m, "product_exponent", self.arithmetic.product_exponent,
                                      a.exponent, w.exponent),
            sign=a.sign ^ w.sign, zero=~(a.one & w.one), special=a.special | w.special,
            # NaN, or infinity times zero.
            nan=(a.special & ~a.one) | (w.special & ~w.one)
                | ((a.special | w.special) & ~(a.one & w.one)))
        for cycle in range(self._multiplier.latency - 1):
            v = _register(m, f"product{cycle}", **vars(v))
        v.significand = multiplier.o
        return v

    def _align(self, m, product, total):
        form = self.arithmetic
        fraction = form.window - 6
        # What each has before and after the point of the larger one.
        total_point = total.significand << fraction - form.total.fraction_bits
        product_point = product.significand << fraction - 2 * form.operand.fraction_bits

        # Stage 1: the difference of the exponents, less one.
        low, high = form.product_exponent, form.total_exponent
        width = max(low.width, high.width) + (not form.limited)
        special = total.special
        keep = total.significand[-1]
        some = Const(1)
        if form.limited:
            too_large = total.exponent >= 2 * form.total.bias - 1
            special = special | too_large
            keep = keep | total.exponent.all()
            if 2 * form.operand.fraction_bits + 2 > form.total.precision:
                some = total.significand.any()
        v = _register(
            m, "difference",
            difference=self._select_add(m, "exponent_difference", width, total.exponent,
                                        ~_extend(product.exponent, width)),
            total=total_point, total_exponent=total.exponent, total_sign=total.sign,
            total_special=special, total_nan=total.nan & total.special, total_keep=keep,
            total_some=some,
            product_exponent=product.exponent, product_sign=product.sign,
            product_special=product.special, product_nan=product.nan, product_zero=product.zero)

        # Stage 2: which is the smaller, and by how many places it moves down.
        swap = Signal()
        above = v.difference[-1]
        m.d.comb += swap.eq(v.product_zero | (~above & v.total_keep))
        special = v.total_special | v.product_special
        signs_differ = v.total_sign ^ v.product_sign
        places = v.difference[:-1] ^ above.replicate(width - 1)
        far = places[5:].any() | v.product_zero
        v = _register(
            m, "swap",
            swap=swap,
            small=Mux(swap, product_point, v.total << 1),
            places=places[:5], far=far,
            lost=far & Mux(swap, ~v.product_zero, v.total_some),
            total=v.total, product=product_point,
            total_exponent=v.total_exponent, product_exponent=v.product_exponent,
            subtract=signs_differ & ~special, special=special,
            nan=v.total_nan | v.product_nan
                | (v.total_special & v.product_special & signs_differ),
            sign=Mux(Mux(special, ~v.product_special, swap), v.total_sign, v.product_sign))

        # Stages 3 and 4: the smaller one moves down. Its last place is half of the guard's.
        exponent = self._select_add(m, "larger_exponent", form.total_exponent, 3,
                                    v.total_exponent, v.product_exponent, select=v.swap)
        small = (v.small[:fraction + 2] << 1) & ~v.far.replicate(fraction + 3)
        small, lost = _down(small, v.places, _PLACES[:2])
        v = _register(m, "down0", small=small, lost=Cat(v.lost | lost[0], lost[1]),
                      places=v.places[:3], swap=v.swap, total=v.total, product=v.product, subtract=v.subtract,
                      exponent=exponent, special=v.special, nan=v.nan, sign=v.sign)
        small, lost = _down(v.small, v.places, _PLACES[2:])
        small = Cat(Cat(v.lost, lost).any(), small) ^ v.subtract.replicate(fraction + 4)
        v = _register(m, "down1", small=small, swap=v.swap, total=v.total, product=v.product,
                      subtract=v.subtract, exponent=v.exponent,
                      special=v.special, nan=v.nan, sign=v.sign)

        # Stage 5: the sum, negative if the smaller one was the larger after all.
        x = self._select_add(m, "sum", form.window, Cat(v.small, v.subtract.replicate(2)),
                             v.total << 3, v.product << 3, select=v.swap, carry=v.subtract)
        return _register(m, "sum", x=x, subtract=v.subtract, exponent=v.exponent,
                         special=v.special, nan=v.nan, sign=v.sign)

    def _normalise(self, m, v):
        form = self.arithmetic
        # Stages 6 to 9: the leading one moves to the front, by halves of what is left. A
        # negative number x is moved up as ~x, and ones follow it: what is missing is added by
        # the rounding.
        sign = v.x[-1]
        v.negative = Signal()
        m.d.comb += v.negative.eq(v.subtract & sign)
        if form.limited:
            v.zero = ~v.x.any()
            # No further than to the lowest exponent: its bits from the top, until a move that
            # they allow is not made.
            v.free, v.limit = v.exponent[5:].any(), v.exponent[:5]
        same = v.x ^ sign.replicate(form.window)
        v.none16 = ~same[-16:].any() & (v.subtract | ~sign)
        v.none8_high = ~same[-8:].any() & (v.subtract | ~sign)
        v.none8_low = ~same[-24:-16].any()
        v = _register(m, "up0", **vars(v))

        v.bits = v.x ^ v.negative.replicate(form.window)
        v.up = Const(0, 0)
        moved = self._up(m, v, 16, v.none16)
        self._up(m, v, 8, Mux(moved, v.none8_low, v.none8_high))
        del v.x, v.none16, v.none8_low, v.none8_high
        v = _register(m, "up1", **vars(v))
        bits = v.bits
        moved = self._up(m, v, 4, ~bits[-4:].any())
        self._up(m, v, 2, Mux(moved, ~bits[-6:-4].any(), ~bits[-2:].any()))
        return _register(m, "up2", **vars(v))

    def _up(self, m, v, places, none):
        """Moved up by ``places`` if there is none but zeros in them."""
        move = Signal(name=f"up{places}")
        m.d.comb += move.eq(none)
        if self.arithmetic.limited:
            allowed = v.limit[places.bit_length() - 1]
            m.d.comb += move.eq(none & (v.free | allowed))
            v.free = v.free | (allowed & ~move)
        v.bits = Mux(move, Cat(v.negative.replicate(places), v.bits[:-places]), v.bits)
        v.up = Cat(move, v.up)
        return move

    def _round(self, m, v):
        form = self.arithmetic.total
        limited = self.arithmetic.limited
        # Stage 9: the last move, and whether to round up. Of a negative number the bits are
        # those of ~x.
        below = form.precision + 1
        lower, last = v.bits[:-below - 1], v.bits[-below - 1]
        moved = self._up(m, v, 1, ~v.bits[-1])
        significand, half = v.bits[-form.precision:], v.bits[-below]
        exact = ~((lower ^ v.negative.replicate(len(lower))).any()
                  | (~moved & (last ^ v.negative)))
        odd = significand[0]
        add = Mux(exact, Mux(v.negative, half | odd, half & odd), half)
        # An exact zero has the lowest exponent, and is +0 if it is a difference.
        zero = v.zero if limited else ~significand[-1]
        exponent, up = v.exponent, v.up
        if limited:
            exponent, up = Mux(zero, 0, exponent).as_signed(), Mux(zero, 0, up)
        v = _register(m, "half", significand=significand, add=add, exponent=exponent, up=up,
                      special=v.special, nan=v.nan,
                      sign=(v.sign ^ v.negative) & ~(zero & v.subtract))
        # Stage 10: the exponent and the significand, rounded.
        fraction, one = v.significand[:-1], v.significand[-1]
        below = form.fraction_bits + limited
        rounded = self._select_add(
            m, "round", below + len(v.exponent),
            Cat(fraction, one, v.exponent) if limited else Cat(fraction, v.exponent),
            Cat(Const(0, below), ~v.up, Const(-1, len(v.exponent) - len(v.up))), carry=v.add)
        m.d.sync += [
            self.sum_o.significand.eq(Cat(rounded[:form.fraction_bits],
                                          one | rounded[below - 1] if limited else one)),
            self.sum_o.exponent.eq(rounded[below:]),
            self.sum_o.special.eq(v.special), self.sum_o.nan.eq(v.nan),
            self.sum_o.sign.eq(v.sign),
        ]


def _register(m, stage, **values):
    """One register for each value, by name."""
    registers = SimpleNamespace()
    for name, value in values.items():
        value = Value.cast(value)
        register = Signal(value.shape(), name=f"{stage}_{name}", reset_less=True)
        m.d.sync += register.eq(value)
        setattr(registers, name, register)
    return registers


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
