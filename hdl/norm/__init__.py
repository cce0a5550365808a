"""L1 normalisation, forward and backward: the units of ``NORM_FORWARD`` and ``NORM_BACKWARD``.

Rows go through one lane per column (:class:`~hdl.norm.forward.ForwardLane`,
:class:`~hdl.norm.backward.BackwardLane`), several times per tile; what is needed once per channel
(means, reciprocals) is divided serially in between (:mod:`hdl.norm.reciprocal`).
What makes it an L1 norm is in :mod:`hdl.norm.l1` and may be exchanged for a comparison.
"""

from hdl.norm.backward import NormBackward
from hdl.norm.forward import NormForward

__all__ = ["NormBackward", "NormForward"]
