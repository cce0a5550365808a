"""Designs that a comparison takes one at a time: units of the accelerator.

Every unit is a component of its own that works on ``lanes`` columns, with the ports that it has in
the accelerator. Units of a category do the same work.
"""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.lib import wiring

from hdl.noise import Noise
from hdl.norm.backward import NormBackward
from hdl.norm.forward import NormForward
from hdl.params import Params
from hdl.quantise.quantiser import Quantiser
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
    """
    category: str
    description: str
    make: Callable[[int], wiring.Component]


def _params(lanes):
    return Params(cols=lanes)


#: By name.
UNITS = {
    "norm-l1-forward": Unit("norm forward", "the accelerator's: mean magnitude",
                            lambda lanes: NormForward(_params(lanes))),
    "norm-l1-backward": Unit("norm backward", "the accelerator's",
                             lambda lanes: NormBackward(_params(lanes))),
    "quantise-all": Unit("quantiser", "the accelerator's: every mode",
                         lambda lanes: Quantiser(_params(lanes))),
    "noise": Unit("part of a quantiser", "the random hash alone", Noise),
    "sort-4": Unit("sorter", "the order of an inner dimension",
                   lambda lanes: Sorter(_params(lanes))),
}
