"""Arithmetic of the array by name: what a machine or an array alone can be built with."""

from collections.abc import Callable
from dataclasses import dataclass

from hdl.array.mac import PlainMac, ShiftMac
from hdl.array.mesh import Mesh
from hdl.params import ParameterError

__all__ = ["DATAPATHS", "PLANNED", "Datapath", "datapath"]


@dataclass(frozen=True)
class Datapath:
    """Arithmetic of the array.

    Parameters
    ----------
    mesh : callable
        The array, of :class:`hdl.params.Params` and a mapping.
    widths : range
        Widths of an operand that there are.
    mappings : tuple of str
        ``lut`` (no multiplier block) and ``dsp`` where that is another array.
    grouped : bool
        Whether there are groups along the inner dimension.
    deepest : int
        Most products per element.
    comb : callable
        LUT4 per product, from below, of a width and a mapping: no mesh of it has been synthesised
        smaller.
    """
    mesh: Callable
    widths: range
    mappings: tuple
    grouped: bool = False
    deepest: int = 16
    comb: Callable = lambda bits, mapping: 2 * bits**2 + bits


#: By the name of ``--arith``.
DATAPATHS = {
    "shift": Datapath(lambda params, mapping: Mesh(params, ShiftMac), range(2, 9), ("lut",),
                      grouped=True),
    "int": Datapath(lambda params, mapping: Mesh(params, PlainMac), range(2, 9), ("lut",)),
}
#: Datapaths that the interface names and that are not in :data:`DATAPATHS` yet.
PLANNED = tuple(name for name in ("fp16", "fp16n", "bf16") if name not in DATAPATHS)


def datapath(name):
    """The datapath of that name; otherwise one sentence says which there are."""
    if name in DATAPATHS:
        return DATAPATHS[name]
    if name in PLANNED:
        raise ParameterError(f"arith {name} comes in a later version; arith must be one of "
                             f"{', '.join(DATAPATHS)}")
    raise ParameterError(f"arith must be one of {', '.join(DATAPATHS)}, got {name!r}")
