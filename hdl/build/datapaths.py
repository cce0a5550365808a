"""What can be measured alone: elements of the array and units by name."""

from collections.abc import Callable
from dataclasses import dataclass

from hdl.array.mac import PlainMac, ShiftMac
from hdl.norm.backward import NormBackward
from hdl.norm.forward import NormForward
from hdl.params import ParameterError, Params
from hdl.quantise.quantiser import Quantiser

__all__ = ["DATAPATHS", "PLANNED", "UNITS", "Datapath", "Unit", "datapath", "unit"]


@dataclass(frozen=True)
class Datapath:
    """Arithmetic of the array.

    Parameters
    ----------
    element : class
        See :mod:`hdl.array.mac`.
    widths : range
        Widths of an operand that there are.
    mappings : tuple of str
        ``lut`` (no multiplier block) and ``dsp`` where synthesis then differs.
    grouped : bool
        Whether there are groups along the inner dimension.
    deepest : int
        Most products per element.
    comb : callable
        LUT4 per product, from below, of a width and a mapping: no mesh of it has been synthesised
        smaller.
    """
    element: type
    widths: range
    mappings: tuple
    grouped: bool = False
    deepest: int = 16
    comb: Callable = lambda bits, mapping: 2 * bits**2 + bits


#: By the name of ``--arith``.
DATAPATHS = {
    "shift": Datapath(ShiftMac, range(2, 9), ("lut",), grouped=True),
    "int": Datapath(PlainMac, range(2, 9), ("lut",)),
}
#: Datapaths that the interface names and that are not in :data:`DATAPATHS` yet.
PLANNED = tuple(name for name in ("fp16", "fp16n", "bf16") if name not in DATAPATHS)


@dataclass(frozen=True)
class Unit:
    """A unit of the machine, or a variant of one to compare it with.

    Parameters
    ----------
    category : str
        Units of the same category do the same work.
    build : callable
        The component of a number of lanes.
    """
    category: str
    build: Callable


def _groups(text):
    sample, channel = (int(number) for number in text.split("x"))
    return {"sample_groups": sample, "channel_groups": channel}


#: By name.
UNITS = {
    "quantise-4x4": Unit("quantiser", lambda lanes: Quantiser(Params(cols=lanes))),
    "quantise-1x1": Unit("quantiser", lambda lanes: Quantiser(
        Params(cols=lanes, arith="int", **_groups("1x1")))),
    "norm-l1-forward": Unit("norm", lambda lanes: NormForward(Params(cols=lanes))),
    "norm-l1-backward": Unit("norm", lambda lanes: NormBackward(Params(cols=lanes))),
}


def datapath(name):
    """The datapath of that name; otherwise one sentence says which there are."""
    if name in DATAPATHS:
        return DATAPATHS[name]
    if name in PLANNED:
        raise ParameterError(f"arith {name} comes in a later version; arith must be one of "
                             f"{', '.join(DATAPATHS)}")
    raise ParameterError(f"arith must be one of {', '.join(DATAPATHS)}, got {name!r}")


def unit(name):
    """The unit of that name; otherwise one sentence says which there are."""
    if name not in UNITS:
        raise ParameterError(f"scope must be accelerator, mesh or one of {', '.join(UNITS)}, "
                             f"got {name!r}")
    return UNITS[name]
