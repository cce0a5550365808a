"""Formats of floating-point numbers: those outside the array and those between its elements.

Outside, numbers are IEEE 754's, packed. Inside, exponents of operands have no lower limit, so
every significand but zero's begins with a one, and infinities and NaN are flags: an element
decodes and packs nothing. :mod:`hdl.floating.edges` converts at the edges of the array, once for
a row or a column of elements.
"""

from dataclasses import dataclass

from amaranth.hdl import Shape
from amaranth.lib import data

__all__ = [
    "BF16",
    "BFLOAT16",
    "BINARY16",
    "BINARY32",
    "FP16",
    "FP16_NARROW",
    "Arithmetic",
    "Format",
]


@dataclass(frozen=True)
class Format:
    """A binary interchange format.

    Parameters
    ----------
    exponent_bits, fraction_bits : int
    """
    exponent_bits: int
    fraction_bits: int

    @property
    def width(self):
        """Bits of a packed number.

        >>> BINARY16.width, BFLOAT16.width, BINARY32.width
        (16, 16, 32)
        """
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def precision(self):
        """Bits of a significand, the leading one included."""
        return self.fraction_bits + 1

    @property
    def bias(self):
        """What a stored exponent is larger than the exponent; also the largest exponent."""
        return (1 << self.exponent_bits - 1) - 1

    @property
    def smallest_exponent(self):
        """Exponent of the smallest number: one bit, the last of a subnormal.

        >>> BINARY16.smallest_exponent, BFLOAT16.smallest_exponent
        (-24, -133)
        """
        return 1 - self.bias - self.fraction_bits

    @property
    def layout(self):
        """The packed number."""
        return data.StructLayout({
            "fraction": self.fraction_bits, "exponent": self.exponent_bits, "sign": 1})


BINARY16 = Format(5, 10)
BINARY32 = Format(8, 23)
BFLOAT16 = Format(8, 7)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Operands of one format, added up in another, and how both look inside the array.

    Parameters
    ----------
    operand, total : Format
    most_rows : int
        Products that one sum may have.
    """
    operand: Format
    total: Format
    most_rows: int = 64

    @property
    def limited(self):
        """Whether sums reach the ends of their format, where they are subnormal or overflow.

        Sums of products of binary16 do not reach those of binary32: all are multiples of
        2**-48 and none is as large as 2**38.

        >>> FP16.limited, FP16_NARROW.limited, BF16.limited
        (False, True, True)
        """
        low, high = self._products
        return (low < 1 - self.total.bias
                or high + 1 + self.most_rows.bit_length() > self.total.bias)

    @property
    def _products(self):
        """Smallest and largest sum of two operands' exponents."""
        return 2 * self.operand.smallest_exponent, 2 * self.operand.bias

    @property
    def offset(self):
        """What a partial sum's exponent between elements is larger than the exponent.

        Where sums are limited, the exponent of subnormal numbers and zero is -1: the number of
        places that a sum may move up is then the exponent itself, see :mod:`hdl.floating.mac`.
        """
        return self.total.bias - 2 if self.limited else -self._products[0]

    @property
    def window(self):
        """Bits of an exact sum: three before the point, the longer fraction, two to guard
        it, and one that stands for all that is lower.

        >>> FP16.window, FP16_NARROW.window, BF16.window
        (29, 26, 29)
        """
        return 3 + max(self.total.fraction_bits, 2 * self.operand.fraction_bits) + 3

    @property
    def spare(self):
        """Last places of the window that two numbers of exponents at most one apart leave
        empty: a total that moved down by one, or a product that moved down by two."""
        longest = max(self.total.fraction_bits + 1, 2 * self.operand.fraction_bits + 2)
        return self.window - 3 - longest

    @property
    def product_exponent(self):
        """Shape of the sum of two operands' exponents, with the offset of partial sums."""
        low, high = self._products
        return Shape.cast(range(low + self.offset, high + self.offset + 1))

    @property
    def total_exponent(self):
        """Shape of a partial sum's exponent.

        >>> FP16.total_exponent, FP16_NARROW.total_exponent, BF16.total_exponent
        (unsigned(7), signed(7), signed(10))
        """
        low, high = self._products
        low = -1 if self.limited else 0
        # A sum may be three places up from the larger exponent, once rounded; where sums are
        # not limited, the number of products limits them.
        grown = 3 if self.limited else 1 + self.most_rows.bit_length()
        return Shape.cast(range(low, high + self.offset + grown + 1))

    def operand_layout(self, offset=0):
        """An operand inside: ``(-1)**sign * 1.fraction * 2**(exponent - offset)``.

        ``special`` and ``one``: 0, 0 is zero; 0, 1 a finite number; 1, 1 infinity; 1, 0 NaN.
        """
        low, high = self.operand.smallest_exponent, self.operand.bias
        return data.StructLayout({
            "fraction": self.operand.fraction_bits,
            "exponent": Shape.cast(range(low + offset, high + offset + 1)),
            "one": 1, "special": 1, "sign": 1})

    @property
    def total_layout(self):
        """A partial sum inside: ``(-1)**sign * significand * 2**(exponent - offset)``, with one
        bit of the significand before the point.

        ``special``: infinity, or NaN with ``nan``, whatever the numbers say. Where sums are
        limited a number that is too large is infinity, whatever ``special`` says, and zero has
        the lowest exponent; where they are not, zero may have any.
        """
        return data.StructLayout({
            "significand": self.total.precision, "exponent": self.total_exponent,
            "nan": 1, "special": 1, "sign": 1})


#: binary16 added up in binary32, exact but for the rounding of each sum.
FP16 = Arithmetic(operand=BINARY16, total=BINARY32)
#: binary16 added up in binary16.
FP16_NARROW = Arithmetic(operand=BINARY16, total=BINARY16)
#: bfloat16 added up in binary32.
BF16 = Arithmetic(operand=BFLOAT16, total=BINARY32)
