"""The parameters of one accelerator, its derived widths and its fingerprint.

This module and :mod:`hdl.protocol` are all of the gateware that the host may import; neither
needs Amaranth.

Every width here is *exact*: the narrowest that the worst case needs, and a test shows that one
bit less fails.

Tensors in device memory are stored in tiles of as many columns as a word has lanes L: element
``(i, j)`` of a tensor of ``I`` rows lies in lane ``j % L`` of word ``base + (j // L) * I + i``. A
word of the wide memory has ``vector`` lanes, one of the quantised memory ``slots``: a row of
operands.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

__all__ = [
    "ACC_BITS",
    "ARITHMETICS",
    "DEFAULT_FORMATS",
    "GROUP_CHOICES",
    "INDEX_BITS",
    "MASTER_BITS",
    "MAX_DEPTH",
    "MAX_K",
    "MAX_M",
    "MAX_N",
    "NORM_FRACTION",
    "NORM_IN_BITS",
    "NUMERICS_VERSION",
    "PARAMETER_FRACTION",
    "PROTOCOL_VERSION",
    "SOME_HAVE",
    "VELOCITY_BITS",
    "WIDE_BITS",
    "XHAT_FRACTION",
    "Formats",
    "ParameterError",
    "Params",
    "parse_groups",
]

#: Raised whenever a model function's result changes (see docs/numerics.md).
NUMERICS_VERSION = 2
#: Raised whenever a frame's or an instruction's layout or meaning changes.
PROTOCOL_VERSION = 5
#: The same, of what only machines that keep masters have: part of their fingerprint alone.
MASTERS_PROTOCOL_VERSION = 2

#: Width of one element of a wide tensor (GEMM results, norm inputs and outputs), signed.
WIDE_BITS = 32
#: Width of a master weight and of a velocity, signed, unless a machine has others.
MASTER_BITS = VELOCITY_BITS = 24
#: Fraction bits of masters and of velocities by width: docs/numerics.md says why.
MASTER_FRACTIONS = {24: 20, 16: 13}
VELOCITY_FRACTIONS = {24: 20, 16: 13, 8: 9}
#: Width of a GEMM accumulator, signed: the word of one ECP5 block RAM.
ACC_BITS = 36
#: Most products of an element of the array per clock: sums of 4 weights, up to a sign, are the 8
#: entries of a table, and two tables fill a LUT RAM.
MAX_DEPTH = 4
#: Largest number of output rows of a GEMM, and of rows of tensors that other units work on unless
#: :attr:`Params.max_rows` says more. One row of the 512-deep accumulators is kept for the row of
#: zeros that is subtracted from the others.
MAX_M = 511
#: Largest inner dimension of a GEMM, and most rows of a tensor that any unit takes.
MAX_K = 4096
#: Largest number of columns of any tensor.
MAX_N = 4096
#: Width of an index along a tensor's axis: holds ``MAX_N`` itself.
INDEX_BITS = 13

#: Width of the input of the L1 norm, signed; wider inputs are clamped and counted.
NORM_IN_BITS = 24
#: Fraction bits of the mean and of the mean deviation of the L1 norm.
NORM_FRACTION = 6
#: Fraction bits of the normalised value ``xhat``, a signed 16-bit number.
XHAT_FRACTION = 10
#: Fraction bits of gamma (signed 16 bits), beta and the norm's output on the device.
PARAMETER_FRACTION = 12

#: Numbers of ShiftQuant groups along one axis that the machine can be built for.
GROUP_CHOICES = (1, 2, 4, 8)
#: Parameters that only some machines have, or have other than usual.
SOME_HAVE = ("masters", "master_bits", "velocity_bits", "codes", "tables", "layer_norm")
#: Datapaths of the array that exist. ``int`` is the same mesh without groups.
ARITHMETICS = ("shift", "int")


class ParameterError(ValueError):
    """A parameter is out of its range. The message is one sentence for the user."""


def _check_range(name, value, low, high):
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ParameterError(f"{name} must be a whole number from {low} to {high}, got {value}")


def _floor_power_of_two(value):
    return 1 << (value.bit_length() - 1)


def parse_groups(text):
    """Read ``SxC`` (sample x channel groups) or ``C`` (channel groups alone).

    >>> parse_groups("4x8"), parse_groups("4")
    ((4, 8), (1, 4))
    """
    parts = str(text).lower().split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers = [1, *numbers]
    if len(numbers) != 2 or any(number not in GROUP_CHOICES for number in numbers):
        raise ParameterError(
            f"groups must be SxC or C with each number one of 1, 2, 4 or 8, got {text!r}")
    return tuple(numbers)


class Formats(NamedTuple):
    """``(bits, fraction bits)`` of masters and of velocities, all signed; names are those of
    :func:`sim.model.update.sgd`.

    >>> Formats.of(16, 8)
    Formats(master=(16, 13), speed=(8, 9))
    """
    master: tuple = (MASTER_BITS, MASTER_FRACTIONS[MASTER_BITS])
    speed: tuple = (VELOCITY_BITS, VELOCITY_FRACTIONS[VELOCITY_BITS])

    @classmethod
    def of(cls, master_bits, velocity_bits):
        """Those of widths that machines have."""
        return cls((master_bits, MASTER_FRACTIONS[master_bits]),
                   (velocity_bits, VELOCITY_FRACTIONS[velocity_bits]))


#: Those of a machine unless it has others, and of what the host keeps.
DEFAULT_FORMATS = Formats()


@dataclass(frozen=True, kw_only=True)
class Params:
    """One accelerator.

    Parameters
    ----------
    bits : int
        Width ``b`` of a quantised element, 2..8.
    sample_groups, channel_groups : int
        Most ShiftQuant groups along the rows (samples) and columns (channels) of a gradient.
    rows, cols : int
        Rows and columns of the array.
    depth : int
        Products per element of the array per clock.
    arith : str
        ``shift`` or ``int`` (the same mesh, no groups).
    memory : int
        Capacity of the wide memory in units of 1,024 elements; the quantised memory holds
        twice as many, unless ``codes`` says otherwise.
    codes : int
        Capacity of the quantised memory in units of 1,024 elements; 0 for twice that of the wide
        one.
    tables : int
        Words of the group table and of the order table in units of 1,024, 1 or 2.
    lanes : int
        Lanes of the vector units, which a word of the wide memory has an element for: a divisor of
        the columns, or a multiple, and of the slots a divisor. 0 for the most that divide both.
    array_clock : int
        How many times as fast as the machine's clock the array's is, 1 to 4. Results do not depend
        on it.
    masters : int
        Master weights, with their velocities, that the machine keeps and updates itself, in units
        of 1,024; 0: the host keeps them, and the machine has none of the units that are for this.
    master_bits, velocity_bits : int
        Widths of those masters, 16 or 24, and of their velocities, 8, 16 or 24 and no more than
        the masters'.
    layer_norm : bool
        Whether a machine that keeps masters has the norm of channels, ``LAYER_FORWARD`` and
        ``LAYER_BACKWARD``.
    """

    bits: int = 4
    sample_groups: int = 4
    channel_groups: int = 4
    rows: int = 4
    cols: int = 4
    depth: int = 4
    arith: str = "shift"
    memory: int = 32
    lanes: int = 1
    array_clock: int = 2
    masters: int = 0
    master_bits: int = MASTER_BITS
    velocity_bits: int = VELOCITY_BITS
    codes: int = 0
    tables: int = 2
    layer_norm: bool = False

    def __post_init__(self):
        _check_range("bits", self.bits, 2, 8)
        for groups in (self.sample_groups, self.channel_groups):
            if groups not in GROUP_CHOICES:
                raise ParameterError(
                    "groups must be SxC or C with each number one of 1, 2, 4 or 8, "
                    f"got '{self.sample_groups}x{self.channel_groups}'")
        _check_range("rows", self.rows, 1, 64)
        _check_range("cols", self.cols, 1, 64)
        _check_range("depth", self.depth, 1, MAX_DEPTH)
        _check_range("memory", self.memory, 4, 256)
        if self.codes != 0:
            _check_range("codes", self.codes, 8, 512)
        _check_range("tables", self.tables, 1, 2)
        _check_range("array-clock", self.array_clock, 1, 4)
        _check_range("masters", self.masters, 0, 256)
        self._check_formats()
        if not isinstance(self.layer_norm, bool):
            raise ParameterError(f"layer-norm must be True or False, got {self.layer_norm}")
        if self.layer_norm and not self.masters:
            raise ParameterError("layer-norm needs a machine that keeps masters: masters must be "
                                 "at least 1, got 0")
        if not isinstance(self.lanes, int) or self.lanes < 0 or (
                self.lanes and ((self.cols % self.lanes and self.lanes % self.cols)
                                or self.slots % self.lanes)):
            raise ParameterError(
                f"lanes must divide the {self.slots} slots, and the {self.cols} columns or be a "
                f"multiple of them, got {self.lanes}")
        if self.arith not in ARITHMETICS:
            raise ParameterError(
                f"arith must be one of {', '.join(ARITHMETICS)}, got {self.arith!r}")
        if self.arith == "int" and (self.sample_groups, self.channel_groups) != (1, 1):
            raise ParameterError(
                "arith int has no groups: groups must be 1x1, "
                f"got '{self.sample_groups}x{self.channel_groups}'")

    def _check_formats(self):
        for name, fractions in (("master", MASTER_FRACTIONS), ("velocity", VELOCITY_FRACTIONS)):
            value = getattr(self, f"{name}_bits")
            if type(value) is not int or value not in fractions:
                *some, last = map(str, sorted(fractions))
                raise ParameterError(
                    f"{name}-bits must be {', '.join(some)} or {last}, got {value}")
        if not self.masters and self.formats != DEFAULT_FORMATS:
            raise ParameterError(
                f"master-bits and velocity-bits must be {MASTER_BITS} and {VELOCITY_BITS} on a "
                f"machine that keeps no masters, got {self.master_bits} and {self.velocity_bits}")
        if self.velocity_bits > self.master_bits:
            raise ParameterError(
                f"velocity-bits must be at most the masters' {self.master_bits}, "
                f"got {self.velocity_bits}")

    # Numbers.

    @property
    def formats(self):
        """The :class:`Formats` of masters and velocities.

        >>> Params(masters=8, master_bits=16, velocity_bits=8).formats == Formats.of(16, 8)
        True
        """
        return Formats.of(self.master_bits, self.velocity_bits)

    @property
    def qmax(self):
        """``B``: the largest magnitude of a weight or a gradient."""
        return 2 ** (self.bits - 1) - 1

    @property
    def groups(self):
        """Groups as the user writes them.

        >>> Params().groups
        '4x4'
        """
        return f"{self.sample_groups}x{self.channel_groups}"

    @property
    def vector(self):
        """Lanes of the vector units, and elements of a word of the wide memory.

        >>> Params(cols=8).vector, Params(cols=8, lanes=0).vector
        (1, 8)
        """
        return self.lanes or self.span

    @property
    def read_cols(self):
        """Columns of a product that are read out at a time.

        >>> Params(cols=8, lanes=2).read_cols, Params(cols=2, lanes=4).read_cols
        (2, 2)
        """
        return min(self.vector, self.cols)

    @property
    def span(self):
        """Columns whose weights lie beside each other in a word of the quantised memory, whatever
        the column tile: the greatest common divisor of columns and slots.

        >>> Params(cols=6).span, Params(cols=3, rows=5, depth=1).span
        (2, 1)
        """
        return math.gcd(self.cols, self.slots)

    @property
    def max_groups(self):
        """Most groups along either axis, so along any GEMM's inner dimension."""
        return max(self.sample_groups, self.channel_groups)

    @property
    def slots(self):
        """Products along the inner dimension that the array holds at once, and elements of a word
        of the quantised memory."""
        return self.rows * self.depth

    @property
    def macs(self):
        """Products per clock."""
        return self.rows * self.depth * self.cols

    @property
    def psum_bits(self):
        """Narrowest signed width for one column's sum over the array, group shifts included.

        An element adds ``floor(D / 2)`` with ``D = 2 dot + sum(w)`` (:mod:`hdl.array.table`), and D
        lies within ``depth B (2**bits - 1)`` of 0. The worst case is the end of that in every
        element, with the largest number of shifts that fit below each row.

        >>> Params(bits=4, rows=8, depth=1).psum_bits
        13
        """
        shifts = min(self.max_groups - 1, self.rows - 1)
        # Groups of one row each at the bottom, the rest of the rows above them.
        every = sum(2**shift for shift in range(shifts)) + (self.rows - shifts) * 2**shifts
        ends = self.depth * self.qmax * (2**self.bits - 1)
        lowest, highest = -ends // 2 * every, ends // 2 * every
        return max((~lowest).bit_length(), highest.bit_length()) + 1

    @property
    def max_rows(self):
        """Most rows of a tensor that the norms and the quantiser take.

        >>> Params().max_rows, Params(masters=8).max_rows
        (511, 4096)
        """
        return MAX_K if self.masters else MAX_M

    # Memories, in words.

    @property
    def wide_words(self):
        """Words of ``vector`` wide elements in the wide memory, at most what an address reaches."""
        return _floor_power_of_two(min(self.memory * 1024 // self.vector, 1 << 16))

    @property
    def tensor_words(self):
        """Most words of a tensor that the quantiser takes. Where masters are kept it is known that
        one of more words than the wide memory has reaches beyond its end, unless that is where
        addresses begin anew.

        >>> Params().tensor_words == 511 * 4096
        True
        >>> Params(masters=8).tensor_words, Params(masters=8, memory=64).tensor_words == 4096 ** 2
        (32768, True)
        """
        most = self.max_rows * -(-MAX_N // self.vector)
        return min(most, self.wide_words) if self.masters and self.wide_words < 1 << 16 else most

    @property
    def quant_words(self):
        """Words of ``slots`` quantised elements in the quantised memory; on a machine that keeps no
        masters so few that an address of 16 bits reaches the ``rows`` parts of each.

        >>> tall = {"rows": 64, "depth": 1, "memory": 256, "lanes": 4}
        >>> Params().quant_words, Params(**tall).quant_words, Params(**tall, masters=8).quant_words
        (4096, 1024, 8192)
        """
        most = 1 << 16 if self.masters else (1 << 16) // self.rows
        return _floor_power_of_two(min((self.codes or 2 * self.memory) * 1024 // self.slots, most))

    @property
    def master_words(self):
        """Words of ``vector`` masters, at most what an address reaches; 0 without any.

        >>> Params().master_words, Params(masters=6, cols=8, rows=2, lanes=8).master_words
        (0, 512)
        """
        return self.masters and _floor_power_of_two(
            min(self.masters * 1024 // self.vector, 1 << 16))

    @property
    def table_words(self):
        """Words of the group table and of the order table."""
        return 1024 * self.tables

    # Identity.

    def canonical(self):
        """Everything that decides what this machine is, as plain JSON types."""
        # Nothing depends on what other machines have.
        values = {name: value for name, value in asdict(self).items() if name not in SOME_HAVE}
        version = {"masters_protocol": MASTERS_PROTOCOL_VERSION} if self.masters else {}
        return {**values, **self.beyond_usual, **version, "lanes": self.vector,
                "protocol": PROTOCOL_VERSION, "numerics": NUMERICS_VERSION}

    @property
    def beyond_usual(self):
        """What the machine has of :data:`SOME_HAVE`, by name.

        >>> Params(masters=8, velocity_bits=8).beyond_usual
        {'masters': 8, 'velocity_bits': 8}
        """
        return {name: getattr(self, name) for name in SOME_HAVE
                if getattr(self, name) != getattr(Params, name)}

    @property
    def fingerprint(self):
        """32 hex digits that the device reports in HELLO, of all that decides what it does and
        accepts; how long it takes is no part of that.

        >>> Params() == Params(bits=4) and Params().fingerprint == Params(bits=4).fingerprint
        True
        >>> Params(bits=5).fingerprint == Params().fingerprint
        False
        """
        decides = {name: value for name, value in self.canonical().items()
                   if name != "array_clock"}
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def name(self):
        """A folder-safe name: ``shift-4b-4x4-16x8x4-2l-1x-8m16v8``, with the lanes where there is
        more than one, with the array's clock where it is not the usual one, with the masters where
        there are any, and with their width and that of velocities where they are not the usual
        ones; with ``-ln`` at the end where there is the norm of channels."""
        lanes = f"-{self.vector}l" if self.vector > 1 else ""
        clock = f"-{self.array_clock}x" if self.array_clock != Params.array_clock else ""
        masters = f"-{self.masters}m" if self.masters else ""
        if self.formats != DEFAULT_FORMATS:
            masters += f"{self.master_bits}v{self.velocity_bits}"
        layer_norm = "-ln" * self.layer_norm
        return (f"{self.arith}-{self.bits}b-{self.groups}-"
                f"{self.rows}x{self.cols}x{self.depth}{lanes}{clock}{masters}{layer_norm}")
