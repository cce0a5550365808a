"""Between two stages of a pipeline."""

from types import SimpleNamespace

from amaranth.hdl import Const, Signal, Value

__all__ = ["register"]


def register(m, stage, **values):
    """One register for each value that is no constant, by name: a namespace of what they hold."""
    registers = SimpleNamespace()
    for name, value in values.items():
        value = Value.cast(value)
        if isinstance(value, Const):
            setattr(registers, name, value)
            continue
        following = Signal(value.shape(), name=f"{stage}_{name}", reset_less=True)
        m.d.sync += following.eq(value)
        setattr(registers, name, following)
    return registers
