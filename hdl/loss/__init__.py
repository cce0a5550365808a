"""Softmax and cross-entropy with their gradient: the unit of ``CROSS_ENTROPY``.

Logits -> distances from the row's maximum (:mod:`hdl.loss.distance`) -> their exponentials
(:mod:`hdl.loss.exponential`) -> sums, whose logarithms are the loss (:mod:`hdl.loss.logarithm`,
:mod:`hdl.loss.score`) -> shares, divided by the number of rows (:mod:`hdl.loss.share`) -> words of
gradients (:mod:`hdl.loss.writer`).
"""

from hdl.loss.cross_entropy import CrossEntropy

__all__ = ["CrossEntropy"]
