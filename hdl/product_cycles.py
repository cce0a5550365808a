"""How long a product takes: the schedule of :class:`hdl.gemm.Gemm`, event by event."""

from collections import deque

from hdl.params import MAX_M
from hdl.timing import (
    READOUT_LATENCY,
    ROW_QUEUE_DEPTH,
    CoreTiming,
    Handover,
    fetch_latency,
)

__all__ = ["product_cycles"]


class _Clocks:
    """When what happens with one clock is seen with the other, where their edges fall together.

    Cycles are numbered from 0 in both; one of the machine has ``a`` of the array.
    """
    def __init__(self, params):
        self.a = params.array_clock

    def into_array(self, cycle):
        """A pulse of :func:`hdl.crossing.crossed`."""
        return cycle if self.a == 1 else self.a * (cycle + 1) + 2

    def out_of_array(self, cycle):
        return cycle if self.a == 1 else (cycle + 1) // self.a + 2

    def row_there(self, cycle):
        """A row of weights, whose last piece is written in this cycle, leaves its queue."""
        return cycle + 3 if self.a == 1 else self.a * (cycle + 2) + 5

    def place_free(self, cycle):
        """The place of a row that left the queue in this cycle is free for another."""
        return cycle + 2 if self.a == 1 else (cycle + 2) // self.a + 4


class _Rows:
    """Rows of weights, one after the other: requested, written to the queue, taken from it, passed
    on to the array."""
    #: Cycles of the machine from ``start`` to the first request.
    BEGIN = 3

    def __init__(self, params, clocks, *, inner):
        core = CoreTiming(params)
        self._clocks, self._rows, self._fetch = clocks, params.rows, fetch_latency(params)
        self._guard, self._spacing, self._complete = core.guard, core.load_cycles, core.complete
        self._requests = params.depth * params.cols // params.span
        # The order table's header comes first.
        header = params.max_groups + 3 if inner else 0
        self._next = self.BEGIN + header
        # When each of those left the queue in whose places the next ones come.
        self._left, self._passed, self._may = deque(maxlen=ROW_QUEUE_DEPTH), None, 0

    def tile(self, begun=None):
        """The array's cycle in which a tile may be taken for its weights' sake; ``begun``: when
        the tile before was."""
        if begun is not None:
            self._may = begun + self._guard - 1
        for _ in range(self._rows):
            self._row()
        return self._passed + 1 + self._complete

    def _row(self):
        if len(self._left) == ROW_QUEUE_DEPTH:
            self._next = max(self._next, self._clocks.place_free(self._left[0]))
        written = self._next + self._requests - 1 + self._fetch
        self._next += self._requests
        leaves = self._clocks.row_there(written)
        if self._left:
            leaves = max(leaves, self._left[-1] + 2, self._passed + 1)
        self._left.append(leaves)
        self._passed = max(leaves + 1, self._may)
        self._may = self._passed + self._spacing


def product_cycles(params, m, n, tiles, *, inner=False, cols=False):
    """Clocks of the machine from ``start`` to ``done`` of a GEMM's unit.

    Exact where edges of the array's clock fall together with those of the machine's, as in
    simulation, and nothing makes the product wait; where they do not, what crosses between the
    clocks may come a cycle later each time.

    Parameters
    ----------
    params : hdl.params.Params
    m, n, tiles : int
        Rows, columns, tiles along the inner dimension, from 1.
    inner, cols : bool
        With ``INNER_GROUPS``, with ``COL_GROUPS``.

    >>> from hdl.params import Params
    >>> product_cycles(Params(array_clock=1), 128, 64, 16), product_cycles(Params(), 128, 64, 16)
    (33616, 17085)
    """
    clocks, through = _Clocks(params), CoreTiming(params).through
    rows = _Rows(params, clocks, inner=inner)
    column_tiles, parts = -(-n // params.cols), params.cols // params.read_cols
    groups = params.read_cols - 1 if cols else 0
    # Column tiles whose results there is room for.
    handover = Handover(params)
    room = (MAX_M + 1) // (m + 1) + handover.has_more_room(m)
    behind = handover.rows_behind(m)
    taken, read, released = None, None, []
    for column in range(column_tiles):
        for tile in range(tiles):
            begins = rows.tile(taken)
            if taken is not None:
                begins = max(begins, taken + m + 1)
            if tile == tiles - 1 and column >= room:
                begins = max(begins, released[column - room] + 4)
            taken = begins
        # Its results: each time the row of zeros, groups, rows.
        begins = clocks.out_of_array(taken + m + 1 + through) + 2
        if read is not None:
            begins = max(begins, read + 1)
        if column == column_tiles - 1:
            parts = -(-n // params.read_cols) - column * parts
        once = 1 + groups + m
        read = begins + parts * once - 1
        releasing = begins + (handover.part + 1) * once - 1
        released.append(clocks.into_array(releasing - behind))
    return read + 1 + READOUT_LATENCY
