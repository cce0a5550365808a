"""Cycles of a product's parts, on which others count: the host too, so there is no Amaranth here.

Of what is fixed the components have it under the name ``LATENCY`` or the like.
"""

from dataclasses import dataclass

from hdl.params import Params

__all__ = [
    "ACCUMULATORS_AHEAD",
    "ACCUMULATORS_SPACING",
    "ELEMENT_STEP",
    "READOUT_LATENCY",
    "READ_LATENCY",
    "REQUANTISE_LATENCY",
    "RESULT_LATENCY",
    "ROW_QUEUE_DEPTH",
    "SHARE",
    "STEPS_LATENCY",
    "STREAMER_LATENCY",
    "CoreTiming",
    "MeshTiming",
    "element_latency",
    "fetch_latency",
    "lookup_latency",
    "row_entries",
    "rows_behind",
]

#: Of a memory, from ``en`` and ``addr`` to ``data``: a register for the request, the block RAM and
#: its output register.
READ_LATENCY = 3
#: Columns of the array that share addresses, unless said otherwise.
SHARE = 4
#: :class:`hdl.array.table.TableMac`: from a sum from above to the sum.
ELEMENT_STEP = 1
#: :class:`hdl.array.generate.Steps`: from ``load`` to the first entry.
STEPS_LATENCY = 3
#: :class:`hdl.core.Streamer`: from ``taken`` to the first row's tag.
STREAMER_LATENCY = 1
#: :class:`hdl.accumulate.Accumulators`: from a tag to its sums, counting and reading; and to the
#: first cycle after the row was written, on the way, adding, writing.
ACCUMULATORS_AHEAD = 1 + READ_LATENCY
ACCUMULATORS_SPACING = ACCUMULATORS_AHEAD + 2
#: :class:`hdl.requantise.Requantise`: two halves of the shifter, rounding, clamping.
REQUANTISE_LATENCY = 4
#: :class:`hdl.readout.ResultLane`.
RESULT_LATENCY = 1 + REQUANTISE_LATENCY
#: :class:`hdl.readout.Readout`: from a row's request to its last effect: read, choose columns, add,
#: requantise, write, count.
READOUT_LATENCY = READ_LATENCY + 1 + RESULT_LATENCY + 1
#: :class:`hdl.row_queue.RowQueue`: rows, a power of two: what a LUT RAM has.
ROW_QUEUE_DEPTH = 16


def row_entries(params):
    """Entries of a row's table, a clock each.

    Rows hand over while the last but one goes by: the only entry of depth 1 goes twice.
    """
    return max(2, 1 << params.depth - 1)


def element_latency(params):
    """Cycles from an element's wave to its sum: the wave's register, one behind the LUT RAMs, one
    behind each level of chains."""
    pairs = (params.bits + 1) // 2
    return 3 + (pairs - 1).bit_length() + ELEMENT_STEP


def lookup_latency(params):
    """Cycles in which the order table is asked for the index of a weight."""
    return 1 + READ_LATENCY if params.max_groups > 1 else 0


def fetch_latency(params):
    """Cycles from a request for weights to what it asked for."""
    return lookup_latency(params) + 1 + READ_LATENCY + 1


def rows_behind(params, m):
    """Of the m rows of a column tile's last columns, those that are read after others may be
    written over them: in order, the first of them when another row has been read, and a row in each
    cycle of the array's clock."""
    if params.masters:
        # There is no knowing how long a row waits.
        return m & 0
    if params.array_clock == 1:
        return m - 1
    # At most m / array_clock.
    return m >> (params.array_clock + 1) // 2


@dataclass(frozen=True)
class MeshTiming:
    """The columns of a :class:`~hdl.array.mesh.Mesh`, and its cycles.

    Parameters
    ----------
    params : hdl.params.Params
    share : int
    skewed : bool
    """
    params: Params
    share: int = SHARE
    skewed: bool = False

    @property
    def groups(self):
        """Columns that share addresses, a range for each group."""
        cols = self.params.cols
        return [range(first, min(first + self.share, cols)) for first in range(0, cols, self.share)]

    @property
    def latency(self):
        """From ``a`` of row 0 to ``sums``, the first of them."""
        deskewed = 0 if self.skewed else len(self.groups) - 1
        return (self.params.rows - 1) * ELEMENT_STEP + deskewed + element_latency(self.params)

    @property
    def load_cycles(self):
        """From a row of weights to the next at the earliest."""
        return row_entries(self.params)

    @property
    def swap_wait(self):
        """From the last row of a tile's weights to the swap."""
        return STEPS_LATENCY + row_entries(self.params)

    @property
    def swap_cycles(self):
        """From a swap to the first row of the next tile's weights; it may be before."""
        return len(self.groups) - 2 - STEPS_LATENCY


@dataclass(frozen=True)
class CoreTiming:
    """Cycles of a :class:`~hdl.core.Core`.

    Parameters
    ----------
    params : hdl.params.Params
    """
    params: Params

    #: From a tile's ``taken`` to its operands at the array, and to the swap that comes with the
    #: first of them: read, and on the way from the block RAM.
    LATE = STREAMER_LATENCY + READ_LATENCY + 1

    @property
    def mesh(self):
        return MeshTiming(self.params, skewed=True)

    @property
    def load_cycles(self):
        """From a row of weights to the next of its tile."""
        return self.mesh.load_cycles

    @property
    def complete(self):
        """From the last row of a tile's weights until the tile may be taken: so many that a swap at
        once would not come too soon, and at least two registers."""
        return max(2, self.mesh.swap_wait - self.LATE)

    @property
    def guard(self):
        """From ``taken`` to the first row of the next tile's weights: not before the swap allows
        it, behind the tile's own rows, and so that rows of sums have been written when they come
        again."""
        return max(2, self.LATE + self.mesh.swap_cycles, self.load_cycles - self.complete,
                   ACCUMULATORS_SPACING - self._loading)

    @property
    def tile_cycles(self):
        """From a tile to the next, as far as weights decide it."""
        return self.guard + self._loading

    @property
    def _loading(self):
        return (self.params.rows - 1) * self.load_cycles + self.complete

    @property
    def through(self):
        """From ``taken`` to ``finished``, less ``m + 1``."""
        return (self.LATE + self.mesh.latency + len(self.mesh.groups) - 1
                + ACCUMULATORS_SPACING - ACCUMULATORS_AHEAD - 1)

    @property
    def settle(self):
        """In reset, after which nothing is under way: sums and weights pass stages that a reset
        leaves alone."""
        return max(self.through + 1 + ACCUMULATORS_SPACING,
                   self.mesh.swap_wait + self.load_cycles + self.params.rows) + 4
