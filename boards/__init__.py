"""ECP5 boards and parts: the only place that knows pins.

:mod:`boards.parts` has the dies, :mod:`boards.platforms` the names users give, :mod:`boards.pll`
the clock settings and :mod:`boards.top` what stands around the accelerator on a board.
"""
