"""The quantiser: wide tensors to ``bits`` bits, with exponents, ShiftQuant groups and rounding."""

from hdl.quantise.quantiser import Quantiser

__all__ = ["Quantiser"]
