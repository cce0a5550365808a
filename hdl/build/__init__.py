"""From parameters to a bitstream and a report: ``python -m hdl.build``.

The steps are :mod:`hdl.build.fit` (can it fit?), :mod:`hdl.build.design` (RTLIL),
:mod:`hdl.build.flow` (synthesis, place and route, bitstream, report), with the tools run by
:mod:`hdl.build.tools` and their netlists read by :mod:`hdl.build.netlist`;
:mod:`hdl.build.floorplan` draws the placed design.
"""
