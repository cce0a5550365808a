"""L1 normalisation, forward and backward: the units of ``NORM_FORWARD`` and ``NORM_BACKWARD``, over
the rows of a tensor, and of ``LAYER_FORWARD`` and ``LAYER_BACKWARD``, over its columns.

Rows go through one lane per column (:class:`~hdl.norm.forward.ForwardLane`,
:class:`~hdl.norm.backward.BackwardLane`), several times per tile; what is needed once per channel
(means, reciprocals) is divided serially in between (:mod:`hdl.norm.reciprocal`).
What makes it an L1 norm is in :mod:`hdl.norm.l1` and may be exchanged for a comparison.

The norm of channels has one datapath, which elements go through one after the other, row after row
(:mod:`hdl.norm.elements`), and one divider.
"""

from hdl.norm.backward import NormBackward
from hdl.norm.forward import NormForward
from hdl.norm.layer_backward import LayerBackward
from hdl.norm.layer_forward import LayerForward

__all__ = ["LayerBackward", "LayerForward", "NormBackward", "NormForward"]
