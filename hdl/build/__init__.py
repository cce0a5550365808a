"""From parameters to a bitstream and a report: ``python -m hdl.build``.

The steps are :mod:`hdl.build.fit` (can it fit?), :mod:`hdl.build.design` (RTLIL),
:mod:`hdl.build.flow` (synthesis, place and route, bitstream, report), with the tools run by
:mod:`hdl.build.tools` and their netlists read by :mod:`hdl.build.netlist`;
:mod:`hdl.build.floorplan` draws the placed design.

A component takes the same steps alone: :mod:`hdl.build.datapaths` lists the arithmetic of arrays,
:mod:`hdl.build.alone` makes one of them a design, in the registers of :mod:`hdl.build.harness`, and
:mod:`hdl.build.compare` sets a machine beside its twins.
"""
