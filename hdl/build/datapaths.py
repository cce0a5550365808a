"""Arithmetic of the array by name: what a machine or an array alone can be built with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hdl.array.mesh import Mesh
from hdl.baseline.mac import MultiplyMac, plain_sum_bits
from hdl.build.fit import product_comb, product_ff
from hdl.floating.mac import ELEMENTS
from hdl.floating.mesh import FloatMesh
from hdl.floating.multiply import BlockMultiplier, LutMultiplier
from hdl.floating.systolic import Systolic
from hdl.params import MAX_DEPTH, ParameterError

__all__ = ["DATAPATHS", "Datapath", "datapath"]

_MULTIPLIERS = {"lut": LutMultiplier, "dsp": BlockMultiplier}


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
        Whether there are groups along the inner dimension, or room for them.
    deepest : int
        Most products per element.
    product : callable
        ``{"comb", "ff", "dsp"}`` of a product, from below, of a width, a depth and a mapping: no
        mesh of it has been placed smaller.
    sum_bits : callable
        Width of the sums that leave the array, of :class:`hdl.params.Params`.
    """
    mesh: Callable
    widths: range
    mappings: tuple
    grouped: bool = False
    deepest: int = MAX_DEPTH
    product: Callable = lambda bits, depth, mapping: {
        "comb": product_comb(bits, depth), "ff": product_ff(bits, depth), "dsp": 0}
    sum_bits: Callable = lambda params: params.psum_bits


def _integers(*, marks):
    return lambda params, mapping: Mesh(params, marks=marks, mapped=True)


def _multipliers():
    """Elements as one writes them down; whether Yosys may use multiplier blocks is its flags'."""
    def product(bits, depth, mapping):
        return {"comb": {"lut": bits * bits, "dsp": 2 * bits}[mapping], "ff": 4 * bits,
                "dsp": int(mapping == "dsp")}
    return Datapath(lambda params, mapping: Systolic(params, MultiplyMac), range(2, 9),
                    ("lut", "dsp"), deepest=1, product=product,
                    sum_bits=lambda params: plain_sum_bits(params, params.rows - 1))


def _floating(name):
    """Packed numbers at the edges, where they are taken apart once per row and column."""
    element = ELEMENTS[name]

    def mesh(params, mapping):
        return FloatMesh(params, partial(element, multiplier=_MULTIPLIERS[mapping], mapped=True))

    def product(bits, depth, mapping):
        return {"comb": {"lut": 450, "dsp": 380}[mapping], "ff": {"lut": 500, "dsp": 400}[mapping],
                "dsp": int(mapping == "dsp")}
    return Datapath(mesh, range(16, 17), ("lut", "dsp"), deepest=1, product=product)


#: By the name of ``--arith``.
DATAPATHS = {
    "shift": Datapath(_integers(marks=True), range(2, 9), ("lut",), grouped=True),
    "int": Datapath(_integers(marks=False), range(2, 9), ("lut",)),
    # Plain elements whose sums are as wide as ShiftQuant's: what differs is the shift alone.
    "int-wide": Datapath(_integers(marks=False), range(2, 9), ("lut",), grouped=True),
    **{name: _floating(name) for name in ("fp16", "fp16n", "bf16")},
    "int-mult": _multipliers(),
}


def datapath(name):
    """The datapath of that name; otherwise one sentence says which there are."""
    if name in DATAPATHS:
        return DATAPATHS[name]
    raise ParameterError(f"arith must be one of {', '.join(DATAPATHS)}, got {name!r}")
