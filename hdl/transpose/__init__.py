"""The mover: quantised tensors copied, transposed and sorted, several elements a clock.

:mod:`~hdl.transpose.walk` says what happens in which clock, :mod:`~hdl.transpose.source` where a
row comes from, :mod:`~hdl.transpose.block` turns rows into columns, and
:mod:`~hdl.transpose.destination` says where these go.
"""

from hdl.transpose.mover import COLUMNS, Mover, mover_width

__all__ = ["COLUMNS", "Mover", "mover_width"]
