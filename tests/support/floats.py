"""Floating-point numbers as gateware has them."""

import numpy as np

__all__ = ["inside"]


def inside(form, bits):
    """Packed sums as they are between elements."""
    bits = np.asarray(bits, np.uint64)
    total = form.total
    fraction = bits & np.uint64((1 << total.fraction_bits) - 1)
    stored = (bits >> np.uint64(total.fraction_bits)).astype(np.int64) & (
        (1 << total.exponent_bits) - 1)
    special = stored == (1 << total.exponent_bits) - 1
    normal = stored > 0
    exponent = np.maximum(stored, 1) - total.bias + form.offset
    if not form.limited:
        # A zero may have any exponent.
        exponent = np.where(normal, exponent, np.random.default_rng(0).integers(0, 80, len(bits)))
    width = form.total_exponent.width
    place, packed = 0, np.zeros_like(bits)
    for value, size in (
            (fraction.astype(np.int64) | normal.astype(np.int64) << total.fraction_bits,
             total.precision),
            (exponent & (1 << width) - 1, width), (special & (fraction != 0), 1), (special, 1),
            (bits >> np.uint64(total.width - 1), 1)):
        packed |= value.astype(np.uint64) << np.uint64(place)
        place += size
    return packed
