"""Cycles of a product's parts, on which others count: the host too, so there is no Amaranth here.

Of what is fixed the components have it under the name ``LATENCY`` or the like.
"""

from dataclasses import dataclass

from hdl.params import MAX_M, Params

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
    "Handover",
    "MeshTiming",
    "element_latency",
    "fetch_latency",
    "lookup_latency",
    "row_entries",
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


@dataclass(frozen=True)
class Handover:
    """When the rows of a column tile's results may be written over by those of a later one.

    Column tiles of ``m + 1`` rows follow each other round a memory of ``MAX_M + 1``. Where it holds
    one, row i of the next takes the place of row ``i - s``, ``s = MAX_M - m``; of those it holds
    several of, s is 0 at the worst. The array writes a row in each of its cycles, in order; they
    are read a row in each cycle of the machine's, ``array_clock`` of the array's, those of the last
    ``read_cols`` columns last. So a tile may be taken before they have been, and is: the sooner,
    the less the array waits, or the readout of those that it waits for in turn.

    ``released`` comes with the read of a row. From then to the first row written over are
    ``_ahead`` cycles of the array's, and a row that is asked for in a cycle has been read before
    the third one after it. So of the last columns those may be left to read behind that row that
    come in time, and the others before the next tile's last row comes:

        rows_behind = s - 4 + floor((_ahead + m) / array_clock),    at most m - 1.

    With an array clock of 1 that is more than all. There the row is one of the columns read out
    before (:attr:`early`), and the last columns' row of zeros and ``read_cols - 1`` groups come
    between:

        rows_behind = s - 4 - read_cols + _ahead,    at most m - 1.

    With one readout those are the columns of the tile before, as if there were room for one tile
    more; :meth:`has_more_room`. Where readouts are so many that there is little left to win
    ``m / array_clock`` rows are behind, and none on a machine that keeps masters, where there is no
    knowing how long a row waits.

    Parameters
    ----------
    params : hdl.params.Params
    """
    params: Params

    @property
    def readouts(self):
        """Of a column tile."""
        return self.params.cols // self.params.read_cols

    @property
    def _few(self):
        # Half of the rows, at two clocks, is close to what can be.
        return self.readouts <= (1 if self.params.array_clock == 2 else 8)

    @property
    def early(self):
        """Whether others are behind a row of the readout before the last."""
        return (self.params.array_clock == 1 and self._few and not self.params.masters
                and self._ahead >= 4 + self.params.read_cols)

    @property
    def part(self):
        """The readout of that row, from 0."""
        return max(self.readouts - 1 - self.early, 0)

    @property
    def _ahead(self):
        # From ``released`` to ``taken``, with the crossing between the clocks.
        taken = 4 + (self.params.array_clock + 2) * (self.params.array_clock > 1)
        core = CoreTiming(self.params)
        # The first columns of a row are written before the last.
        return taken + 1 + core.through - (len(core.mesh.groups) - 1)

    def has_more_room(self, m):
        """Whether the next column tile but one may be taken when the last one's rows are
        ``rows_behind``: the readouts keep up with the array, so that the tile between has begun to
        be read by then, or is in so many cycles as it takes to get there after it was
        accumulated.

        m may be a value of Amaranth's."""
        if not self.early or self.readouts > 1:
            return False
        spaces = len(CoreTiming(self.params).mesh.groups) + 3 + self.params.read_cols
        return (m > MAX_M // 2) & (m <= MAX_M - spaces)

    def rows_behind(self, m, *, either=lambda test, yes, no: yes if test else no):
        """Rows of the columns that the next tile waits for that are read behind ``released``.

        m may be a value of Amaranth's, and ``either`` its ``Mux`` then."""
        clock = self.params.array_clock
        if self.params.masters:
            return m & 0
        if not self._few:
            return m - 1 if clock == 1 else m >> _halvings(clock)
        spare = either(m > MAX_M // 2, MAX_M - m, 0)
        if self.early:
            behind = spare + (self._ahead - 4 - self.params.read_cols)
            if self.readouts == 1:
                behind = either(self.has_more_room(m), behind, m)
        elif clock == 1:
            return m - 1
        else:
            passed = m + (self._ahead - 4 * clock)
            # A third is 1/4 + 1/16 + 1/64 and more.
            passed = sum(passed >> places for places in (2, 4, 6)) if clock == 3 else (
                passed >> _halvings(clock))
            behind = spare + passed
        return either(behind < m, behind, m - 1)


def _halvings(clock):
    """Places to shift right for a share of at most ``1 / clock``."""
    return (clock - 1).bit_length()
