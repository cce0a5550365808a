"""The quantiser's side of the masters' memory: masters over the mantissas of their columns."""

from amaranth.hdl import Array, C, Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory import ADDRESS_BITS, READ_LATENCY, ReadPort
from hdl.norm.arithmetic import Multiplier
from hdl.unit import lanes_word

__all__ = ["Masters"]

#: Fraction bits of an inverse.
_FRACTION = 16
#: ``floor(2**18 / m)``, about ``4 / m``, for the mantissas m = 4..7; that of 4 is exactly 1.
_INVERSES = [(1 << _FRACTION + 2) // mantissa for mantissa in range(4, 8)]


class Masters(wiring.Component):
    """``x = floor(master INVERSE[m] / 2**16)`` with the lane's mantissa m, all lanes of a word at
    once; ``sim.model.quantise.normalise_columns``.

    ``x`` is the word read ``LATENCY`` cycles before; one a clock, nothing stalls. Mantissas are 4,
    which leaves masters as they are, from ``clear`` until they are loaded.

    Parameters
    ----------
    params : hdl.params.Params

    Members
    -------
    read : In(1)
    address : In(ADDRESS_BITS)
    arrived : In(1)
        ``read`` of ``READ_LATENCY`` cycles before.
    clear : In(1)
    load : In(vector)
        Lanes that take ``mantissa``.
    mantissa : In(3)
    mantissas : Out(vector x 3)
    x : Out(lanes_word(params, params.master_bits))
    master_r : Out(ReadPort(lanes_word(params, params.master_bits)))
    """
    LATENCY = READ_LATENCY + Multiplier.LATENCY

    def __init__(self, params):
        word = lanes_word(params, params.master_bits)
        self.lanes = params.vector
        self.bits = params.master_bits
        super().__init__({
            "read": In(1), "address": In(ADDRESS_BITS), "arrived": In(1),
            "clear": In(1), "load": In(self.lanes), "mantissa": In(3),
            "mantissas": Out(data.ArrayLayout(3, self.lanes)),
            "x": Out(word),
            "master_r": Out(ReadPort(word)),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.master_r.en.eq(self.read), self.master_r.addr.eq(self.address)]
        inverses = Array(C(inverse, signed(Multiplier.B_BITS)) for inverse in _INVERSES)
        for k in range(self.lanes):
            m.submodules[f"multiplier_{k}"] = multiplier = Multiplier(self.bits)
            # A mantissa less 4.
            above = Signal(2, name=f"above_{k}", reset_less=True)
            with m.If(self.load[k]):
                m.d.sync += above.eq(self.mantissa)
            with m.If(self.clear):
                m.d.sync += above.eq(0)
            m.d.comb += [
                multiplier.en.eq(self.arrived),
                multiplier.a.eq(self.master_r.data[k]),
                multiplier.b.eq(inverses[above]),
                self.x[k].eq(multiplier.o >> _FRACTION),
                self.mantissas[k].eq(Cat(above, 1)),
            ]
        return m
