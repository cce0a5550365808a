"""An integer element as one writes it down: a multiplier and an adder, left to the tools."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.params import ParameterError

__all__ = ["MultiplyMac", "plain_sum_bits"]


def plain_sum_bits(params, row):
    """Signed width of the exact sum of ``row + 1`` products of ``bits`` x ``bits``, any codes.

    >>> from hdl.params import Params
    >>> plain_sum_bits(Params(bits=4, depth=1), 3)
    10
    """
    largest = (row + 1) * 4 ** (params.bits - 1)
    return largest.bit_length() + 1


class MultiplyMac(wiring.Component):
    """``sum_o = sum_i + a * w``: one product, a register behind it and one behind the sum.

    For :class:`hdl.floating.systolic.Systolic`. Multiplier and adder are Yosys's own, in LUTs and
    carry chains or, where it may use them, with multiplier blocks. Sums are as wide as they have to
    be in their row.

    Parameters
    ----------
    params : hdl.params.Params
        Of one product per element.
    row : int
        Row of the array, 0 at the top.

    Attributes
    ----------
    operand_shape, weight_shape, sum_shape
    latency : int
        Cycles from ``a`` to the ``sum_o`` that contains it.
    STEP : int
        Cycles from ``sum_i`` to ``sum_o``.

    Members
    -------
    load : In(1)
        Take the next shadow weight from ``w_i``.
    w_i : In(signed(bits)), w_o : Out(signed(bits))
        The shadow chain: ``w_o`` is the element's own shadow weight.
    swap : In(1)
        Use the shadow weight from the next cycle on: one cycle ahead of the first operand.
    a : In(signed(bits))
    sum_i : In(sum_shape of the row above)
        Not in row 0.
    sum_o : Out(sum_shape)
    """
    STEP = 1
    latency = 2

    def __init__(self, params, row):
        if params.depth != 1:
            raise ParameterError(f"depth must be 1 where elements are multipliers, "
                                 f"got {params.depth}")
        self.row = row
        self.operand_shape = self.weight_shape = signed(params.bits)
        self.sum_shape = signed(plain_sum_bits(params, row))
        members = {
            "load": In(1), "w_i": In(self.weight_shape), "w_o": Out(self.weight_shape),
            "swap": In(1), "a": In(self.operand_shape), "sum_o": Out(self.sum_shape),
        }
        if row:
            members["sum_i"] = In(signed(plain_sum_bits(params, row - 1)))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        shadow = Signal(self.weight_shape, reset_less=True)
        active = Signal(self.weight_shape, reset_less=True)
        product = Signal(signed(2 * self.weight_shape.width), reset_less=True)
        total = Signal(self.sum_shape, reset_less=True)
        with m.If(self.load):
            m.d.sync += shadow.eq(self.w_i)
        with m.If(self.swap):
            m.d.sync += active.eq(shadow)
        m.d.sync += [product.eq(self.a * active),
                     total.eq((self.sum_i if self.row else 0) + product)]
        m.d.comb += [self.w_o.eq(shadow), self.sum_o.eq(total)]
        return m
