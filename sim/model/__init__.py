"""The normative model: what every bit of a training run is, in NumPy integers.

One module per stage, named as its gateware in :mod:`hdl`. The functions take and return ``int64``
arrays whose values fit the widths that their docstrings state; nothing floating-point decides a
bit. ``sim.model.machine`` executes the device's instructions with them.
"""
