"""Designs that a comparison takes one at a time: units of the accelerator and their baselines.

Every unit is a component of its own that works on ``lanes`` columns, with the ports that it has in
the accelerator: memories and the instruction lie outside. Units of a category do the same work, in
the same formats but for the norms in floating point; the integer norms also with the same accesses
to memory. Numbers are of 4 bits, the default machine's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.lib import wiring

from hdl.baseline.l2 import FoldedRootMeanSquare, RootMeanSquare, XhatCorrection
from hdl.baseline.norm_fp16 import Fp16NormBackward, Fp16NormForward
from hdl.baseline.packed import PackedMac
from hdl.baseline.quantise import Fixed, GivenScale
from hdl.floating.mac import Bf16Mac, Fp16Mac, Fp16NarrowMac
from hdl.floating.multiply import BlockMultiplier, LutMultiplier
from hdl.instructions import QuantiseFlag
from hdl.noise import Noise
from hdl.norm import NormBackward, NormForward
from hdl.params import Params
from hdl.quantise import Quantiser
from hdl.sort import Sorter

__all__ = ["UNITS", "Unit"]


@dataclass(frozen=True)
class Unit:
    """One design of a comparison.

    Parameters
    ----------
    category : str
        What it is compared with.
    description : str
        What sets it apart within the category.
    make : callable
        From the number of lanes to the component.
    mappings : tuple of str
        With multiplier blocks, without them, or both where that is worth a comparison.
    products : int, optional
        Of an element of an array that makes several per clock.
    """
    category: str
    description: str
    make: Callable[[int], wiring.Component]
    mappings: tuple = ("dsp",)
    products: int | None = None


_BOTH = ("dsp", "lut")


def _params(lanes, groups=(4, 4)):
    return Params(cols=lanes, sample_groups=groups[0], channel_groups=groups[1])


def _quantiser(groups=(1, 1), flags=0):
    """A quantiser in one mode, of signed tensors and without a clip."""
    if groups != (1, 1):
        flags |= QuantiseFlag.GROUPED
    return lambda lanes: Fixed(Quantiser(_params(lanes, groups)), flags=flags, arg=0)


def _element(pe, multiplier):
    """A floating-point element that has another one above it; one product, whatever the lanes."""
    return lambda lanes: pe(Params(rows=2, cols=1, depth=1), 1, multiplier=multiplier, mapped=True)


_ELEMENTS = {
    f"element-{name}{end}": Unit(
        "floating-point element", f"{text}; {multiplied}", _element(pe, multiplier),
        (mapping,))
    for name, (pe, text) in {
        "fp16": (Fp16Mac, "binary16, added up in binary32"),
        "fp16n": (Fp16NarrowMac, "binary16, added up in binary16: the fused multiply-add"),
        "bf16": (Bf16Mac, "bfloat16, added up in binary32")}.items()
    for end, mapping, multiplier, multiplied in (
        ("", "lut", LutMultiplier, "multiplier in LUTs"),
        ("-dsp", "dsp", BlockMultiplier, "multiplier block"))}
_ELEMENTS["element-packed"] = Unit(
    "integer element", "4 bits, four products in each of four multiplier blocks, with what travels",
    lambda lanes: PackedMac(Params(rows=2, cols=1), 1, mapped=True), products=PackedMac.PRODUCTS)

_STOCHASTIC, _PER_COLUMN = QuantiseFlag.STOCHASTIC, QuantiseFlag.PER_COLUMN

#: By name.
UNITS = {
    "norm-l1-forward": Unit(
        "norm forward", "the accelerator's: mean magnitude",
        lambda lanes: NormForward(_params(lanes)), _BOTH),
    "norm-l2-forward": Unit(
        "norm forward", "a square of every element, a square root of every channel",
        lambda lanes: NormForward(_params(lanes), RootMeanSquare), _BOTH),
    "norm-l2-forward-folded": Unit(
        "norm forward", "the same; a square has half the rows of a product, which saves LUTs where "
        "there are no DSPs and costs some where there are",
        lambda lanes: NormForward(_params(lanes), FoldedRootMeanSquare), _BOTH),
    "norm-fp16-forward": Unit(
        "norm forward", "in binary16, sums in binary32: one fused multiply-add a lane",
        lambda lanes: Fp16NormForward(_params(lanes), mapped=True)),
    "norm-l1-backward": Unit(
        "norm backward", "the accelerator's: the correction is grad_gamma or its negative",
        lambda lanes: NormBackward(_params(lanes)), _BOTH),
    "norm-l2-backward": Unit(
        "norm backward", "the correction is a product of every element",
        lambda lanes: NormBackward(_params(lanes), XhatCorrection), _BOTH),
    "norm-fp16-backward": Unit(
        "norm backward", "in binary16, sums in binary32: one fused multiply-add a lane",
        lambda lanes: Fp16NormBackward(_params(lanes), mapped=True)),
    "quantise-given-nearest": Unit(
        "quantiser", "a scale that is known before, to the nearest code; one read of each row",
        lambda lanes: Fixed(GivenScale(_params(lanes, (1, 1))), flags=0)),
    "quantise-given": Unit(
        "quantiser", "the same, stochastic",
        lambda lanes: Fixed(GivenScale(_params(lanes, (1, 1))), flags=_STOCHASTIC)),
    "quantise-1x1-nearest": Unit(
        "quantiser", "a scale per tensor, of its maximum, to the nearest code; two reads",
        _quantiser()),
    "quantise-1x1": Unit(
        "quantiser", "the same, stochastic", _quantiser(flags=_STOCHASTIC)),
    "quantise-column": Unit(
        "quantiser", "a scale per column, of its maximum, stochastic",
        _quantiser(flags=_STOCHASTIC | _PER_COLUMN)),
    "quantise-1x4-nearest": Unit(
        "quantiser", "ShiftQuant over channels, 4 groups, to the nearest code; three reads",
        _quantiser((1, 4))),
    "quantise-1x4": Unit(
        "quantiser", "the same, stochastic", _quantiser((1, 4), _STOCHASTIC)),
    "quantise-4x4-nearest": Unit(
        "quantiser", "separable ShiftQuant, 4 x 4 groups, to the nearest code; three reads",
        _quantiser((4, 4))),
    "quantise-4x4": Unit(
        "quantiser", "the same, stochastic", _quantiser((4, 4), _STOCHASTIC)),
    "quantise-all": Unit(
        "quantiser", "the accelerator's: every mode but 1x4, and clips by the mean magnitude",
        lambda lanes: Quantiser(_params(lanes))),
    "noise": Unit(
        "part of a quantiser", "the random hash alone", Noise),
    "sort-4": Unit(
        "sorter", "the order of an inner dimension", lambda lanes: Sorter(_params(lanes))),
    **_ELEMENTS,
}
