"""What the units keep of a channel between them and for the host."""

from enum import IntEnum

__all__ = ["STATE_ROWS", "StateRow"]


class StateRow(IntEnum):
    """Rows of the state tensor; every number is binary16, in the lower half of a word."""
    #: 1 / s.
    INVERSE = 0
    GAMMA = 1
    BETA = 2
    #: sqrt(m * epsilon), at least 2**-10.
    ROOT_EPSILON = 3
    #: The mean rounded, and what it lacks.
    MEAN = 4
    MEAN_REST = 5
    #: Mean of the output's gradient, and of that times xhat.
    GRAD_BETA = 6
    GRAD_GAMMA = 7


STATE_ROWS = len(StateRow)
