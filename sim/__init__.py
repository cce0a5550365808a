"""The bit-exact model (:mod:`sim.model`) and the simulated board (:mod:`sim.board`)."""
