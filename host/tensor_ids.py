"""Which tensor random bits belong to: the numbering that every front end shares."""

from enum import IntEnum

__all__ = ["Noise", "tensor_id"]


class Noise(IntEnum):
    """Uses of random bits in a layer; with the layer's number they make the tensor id."""
    WEIGHT = 0
    WEIGHT_UPDATE = 1
    GRADIENT = 2
    GAMMA_UPDATE = 3
    BETA_UPDATE = 4
    SECOND_GRADIENT = 5
    SHUFFLE = 15


def tensor_id(layer, use):
    """The tensor that the noise of a layer belongs to; ids follow the order of the layers."""
    return 16 * layer + use
