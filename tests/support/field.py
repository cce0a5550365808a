"""GF(2**16), by the polynomials themselves."""

__all__ = ["multiplied"]


def multiplied(y, x, p):
    """``y + p x`` for p below 8, modulo ``x**16 + x**5 + x**3 + x**2 + 1``."""
    product = 0
    for bit in range(3):
        product ^= (x << bit) * (p >> bit & 1)
    for bit in (18, 17, 16):
        product ^= (0x1002D << bit - 16) * (product >> bit & 1)
    return y ^ product
