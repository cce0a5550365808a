"""What the units keep of a channel between them and for the host."""

from enum import IntEnum

__all__ = ["STATE_ROWS", "StateRow"]


class StateRow(IntEnum):
    """Rows of the state tensor; every number is binary16, in the lower half of a word.

    Their order is that in which the units come to them.
    """
    #: sqrt(m * epsilon), at least 2**-10.
    ROOT_EPSILON = 0
    BETA = 1
    GAMMA = 2
    #: 1 / s.
    INVERSE = 3
    #: The mean rounded, and what it lacks.
    MEAN = 4
    MEAN_REST = 5
    #: Means of the output's gradient times xhat, and of itself.
    GRAD_GAMMA = 6
    GRAD_BETA = 7


STATE_ROWS = len(StateRow)
