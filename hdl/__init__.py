"""Gateware of the shiftgrad accelerator; see :mod:`hdl.top` for the list of connections."""
