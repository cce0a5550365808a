"""L2 batch normalisation in floating point, forward and backward: a baseline of the integer norms.

What mixed-precision training computes: numbers in memory are binary16, and the sums over a batch,
means and variance are binary32, as in PyTorch, whose batch norm takes half-precision inputs and
keeps its statistics in float32. The model is :mod:`sim.model.norm_fp16`; docs/floating.md tells the
formats.

A lane has one fused multiply-add (:mod:`.adder`), the stages of the ``fp16`` element of the array:
every product and every sum of a channel is made by it. Its ten partial sums are added up in a tree
(:mod:`.reduction`), and lanes share a serial divider (:mod:`.divide`).
"""

from hdl.baseline.norm_fp16.backward import Fp16NormBackward
from hdl.baseline.norm_fp16.forward import Fp16NormForward

__all__ = ["Fp16NormBackward", "Fp16NormForward"]
