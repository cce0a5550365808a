"""Formats that the forward and the backward pass share; the layout of a context element."""

from amaranth.hdl import signed
from amaranth.lib import data

from hdl.params import WIDE_BITS

__all__ = ["CONTEXT", "GAMMA_BITS", "XHAT_BITS"]

#: Width of gamma, signed.
GAMMA_BITS = 16
#: Width of the normalised value, signed.
XHAT_BITS = 16

#: A wide element of the context; ``sim.model.norm.Context.pack``. ``zero`` is written as 0.
CONTEXT = data.StructLayout({
    "xhat": signed(XHAT_BITS),
    #: d < 0.
    "negative": 1,
    #: d != 0.
    "nonzero": 1,
    #: The rectifier passed the element.
    "mask": 1,
    "zero": WIDE_BITS - XHAT_BITS - 3,
})
