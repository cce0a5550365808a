"""The only arithmetic of a lane: a fused multiply-add that also adds two sums."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from hdl.floating.formats import FP16
from hdl.floating.mac import FloatSum
from hdl.floating.multiply import BlockMultiplier

__all__ = ["FusedSum"]


class FusedSum(FloatSum):
    """``sum_o = round(sum_i + a * w)``, or with ``join`` ``round(sum_i + other)``.

    The stages of an ``fp16`` element, :class:`hdl.floating.mac.Fp16Mac`, without its weights. One
    per clock; ``sum_i`` and ``other`` are taken ``STEP`` clocks before the sum, ``a`` and ``w``
    ``LATENCY`` clocks before it.

    Parameters
    ----------
    mapped : bool
        Whether adders and multiplier are made of the ECP5's cells or are their generic twins.

    Members
    -------
    a : In(FP16.operand_layout(FP16.offset))
    w : In(FP16.operand_layout())
    join : In(1)
    other : In(FP16.total_layout)
        Holds for one cycle more.
    sum_i : In(FP16.total_layout)
    sum_o : Out(FP16.total_layout)
    """
    arithmetic = FP16
    LATENCY = BlockMultiplier.latency - 1 + FloatSum.STEP

    def __init__(self, *, mapped=False):
        super().__init__({
            "a": In(FP16.operand_layout(FP16.offset)),
            "w": In(FP16.operand_layout()),
            "join": In(1),
            "other": In(FP16.total_layout),
            "sum_i": In(FP16.total_layout),
            "sum_o": Out(FP16.total_layout),
        }, multiplier=BlockMultiplier, above=True, mapped=mapped)
        assert self.latency == self.LATENCY

    def elaborate(self, platform):
        m = Module()
        product, other = self._product(m, self.a, self.w), self.other
        # In place of the product; its significand comes a cycle later.
        joined = Signal(reset_less=True)
        m.d.sync += joined.eq(self.join)
        for name, value in (("exponent", other.exponent), ("sign", other.sign),
                            ("zero", ~other.significand[-1]), ("special", other.special),
                            ("nan", other.special & other.nan)):
            setattr(product, name, Mux(self.join, value, getattr(product, name)))
        product.point = Mux(joined, other.significand, product.point)
        self._sum(m, product, self.sum_i)
        return m
