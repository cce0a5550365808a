"""Scales: positive factors as a 16-bit mantissa times a power of two, by integers alone.

A scale is ``mantissa * 2**exponent`` with ``mantissa`` in ``[2**15, 2**16)`` (0 for the scale 0);
every operation rounds down to that form, so relative errors stay below 2**-15 each. Mantissa and
exponent may be arrays, one scale per channel.
"""

from dataclasses import dataclass

import numpy as np

from sim.model.rounding import bit_length, floor_divide

__all__ = ["Scale"]


def _normalise(value):
    length = bit_length(value)
    mantissa = np.where(length > 16, value >> np.maximum(length - 16, 0),
                        value << np.maximum(16 - length, 0))
    return mantissa, np.where(value > 0, length - 16, 0)


@dataclass(frozen=True)
class Scale:
    """``mantissa * 2**exponent``.

    >>> s = Scale.of(3).over(Scale.of(7)).power(-4)
    >>> float(s)
    0.026785...
    """
    mantissa: np.ndarray
    exponent: np.ndarray

    @classmethod
    def of(cls, value):
        """The scale of a non-negative integer below 2**53, rounded down to 16 bits."""
        return cls(*_normalise(np.asarray(value, np.int64)))

    def times(self, other):
        """The product."""
        mantissa, exponent = _normalise(self.mantissa * other.mantissa)
        return Scale(mantissa, np.where(mantissa > 0,
                                        exponent + self.exponent + other.exponent, 0))

    def over(self, other):
        """The quotient; a quotient by the scale 0 is 0."""
        quotient = floor_divide(self.mantissa << 16, np.maximum(other.mantissa, 1))
        mantissa, exponent = _normalise(np.where(other.mantissa > 0, quotient, 0))
        return Scale(mantissa, np.where(mantissa > 0,
                                        exponent - 16 + self.exponent - other.exponent, 0))

    def power(self, n):
        """The scale times ``2**n``."""
        return Scale(self.mantissa, np.where(self.mantissa > 0, self.exponent + n, 0))

    def apply(self, x, fraction, noise=None):
        """``x`` times the scale as an integer with ``fraction`` fraction bits, clamped to int32.

        ``z = x mantissa 2**(exponent + fraction)`` is kept with 17 fraction bits (floor) and
        rounded as the quantiser does: ``(z + 2**16) >> 17``, or with 16 random bits
        ``(z + 2 noise + 1) >> 17``. ``x`` is below 2**40 in magnitude.

        >>> Scale.of(5).power(-1).apply(np.array([-1, 3, 1000]), 0).tolist()
        [-2, 8, 2500]
        """
        product = np.asarray(x, np.int64) * self.mantissa
        shift = np.broadcast_to(self.exponent + fraction + 17, product.shape)
        # Left shifts clamp far outside int32 instead of overflowing.
        limit = np.int64(2**60) >> np.clip(shift, 0, 60)
        z = np.clip(product, -limit, limit) << np.clip(shift, 0, 60)
        z = np.where(shift >= 0, z, product >> np.clip(-shift, 0, 63))
        rounding = 2**16 if noise is None else 2 * np.asarray(noise, np.int64) + 1
        return np.clip((z + rounding) >> 17, -(2**31), 2**31 - 1)

    def __float__(self):
        return float(np.ldexp(float(self.mantissa), int(self.exponent)))
