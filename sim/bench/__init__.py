"""Sessions with the machine, recorded on its model and replayed on the generated Verilog.

A session is what travels over the link while host code works with the model: every request and
the answer that a device must give, byte for byte. :mod:`sim.bench.sessions` records scenarios,
:mod:`sim.bench.exchange` compares answers, :mod:`sim.bench.replay` is the cocotb bench,
:mod:`sim.bench.verilated` builds its simulator.
"""
