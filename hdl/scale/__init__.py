"""The scaler: tensors from one unit to another by columns, and the weight update.

Rows go through one lane per column: times a factor or divided by one (:mod:`hdl.scale.factor`),
shifted, rounded and clamped (:mod:`hdl.scale.shift`), and then written, with a bias or the row of
another tensor added, or taken for a gradient of which a step is made (:mod:`hdl.scale.update`).
Where the result's exponent is to be found first, it is by :mod:`hdl.scale.align`.
"""

from hdl.scale.scaler import Scaler

__all__ = ["Scaler"]
