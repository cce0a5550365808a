"""The array's elements by the name of their arithmetic.

:class:`hdl.params.Params` and the accelerator know the integers alone. Those of floating-point
arithmetic are what they are compared with, in a mesh of its own: :mod:`hdl.floating.mesh`.
"""

from hdl.array.mac import PlainMac, ShiftMac
from hdl.floating.mac import Bf16Mac, Fp16Mac, Fp16NarrowMac

__all__ = ["ELEMENTS"]

#: Classes ``pe(params, row)`` for :class:`hdl.array.mesh.Mesh`.
ELEMENTS = {
    "shift": ShiftMac,
    "int": PlainMac,
    "fp16": Fp16Mac,
    "fp16n": Fp16NarrowMac,
    "bf16": Bf16Mac,
}
