"""Matrix products and convolutions of integers, exact in floating point.

``float32`` holds every integer up to ``2**24``, so a sum of products whose magnitudes add up to
less is exact in any order, fused or not. Widths and lengths of the operands bound that sum. Where
the bound is too large, a processor looks at the operands themselves, then splits one of them into
halves of its bits or its batch; a GPU, which would have to wait for the answer, takes part of the
batch at a time, or ``float64``.

Autocast and a GPU's TF32 are switched off around them. What a processor's own settings allow,
products of bfloat16, takes nothing away: operands have at most eight significant bits.

On a GPU convolutions are matrix products over patches: cuDNN chooses among algorithms of which
some transform their operands (Winograd, FFT), and their sums are others.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.nn import functional as F
from torch.nn import grad

from host.torch.patches import fold, patches

__all__ = ["conv", "conv_input_gradient", "conv_weight_gradient", "matmul", "plain_float32"]

#: Integers up to this are exact in float32.
_EXACT = 2.0**24


@contextmanager
def plain_float32(x):
    """Products on the device of x in float32 proper, whatever the program has chosen for its own:
    neither autocast nor TF32."""
    with (_without_tf32() if x.is_cuda else nullcontext(),
          torch.autocast(x.device.type, enabled=False)):
        yield


@contextmanager
def _without_tf32():
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        before, matmul.allow_tf32 = matmul.allow_tf32, False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
        return
    # Where a program uses this setting, reading the older one is an error.
    before = matmul.fp32_precision
    if before in ("none", "ieee"):
        yield
        return
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        inherited = before == torch.backends.fp32_precision
        matmul.fp32_precision = "none" if inherited else before


def _exact(product, a, b, largest, terms, top, weights):
    """``product(a, b)`` of integer tensors: float32 where that is exact, else float64.

    |a| <= ``largest``, |b| <= ``top``, and an output is a sum of at most ``terms`` products;
    ``weights(b)`` is the largest sum of b's magnitudes in any output.
    """
    if largest * top * terms <= _EXACT:
        return product(a, b)
    if a.is_cuda:
        return product(a.double(), b.double())
    return _refined(product, a, b, largest, float(weights(b.abs())))


def _refined(product, a, b, largest, weights):
    """The same on a processor: a's own largest magnitude is tried, then a is split in two halves
    of its bits."""
    if largest * weights <= _EXACT:
        return product(a, b)
    largest = float(a.abs().max()) if a.numel() else 0.0
    if largest * weights <= _EXACT:
        return product(a, b)
    if largest < 64:
        # Splitting further would not help: few bits and long sums.
        return product(a.double(), b.double())
    shift = 2 ** (int(largest).bit_length() // 2)
    high = torch.floor(a / shift)
    low = a - high * shift
    return (_refined(product, high, b, largest / shift + 1, weights).double() * shift).add_(
        _refined(product, low, b, shift, weights))


def matmul(a, b, largest, top):
    """``a @ b`` of integers, batched; |a| <= largest, |b| <= top. float32 or float64."""
    with plain_float32(a):
        return _exact(torch.matmul, a, b, largest, a.shape[-1], top,
                      lambda magnitude: magnitude.sum(-2).max())


def _as_matrix(w):
    """A weight [out, c, kh, kw] as [kh * kw * c, out], the order of patches."""
    return w.permute(2, 3, 1, 0).reshape(-1, w.shape[0])


def conv(u, w, stride, padding, largest, top):
    """The convolution of codes u [n, c, h, w], |u| <= largest, with w [out, c, kh, kw],
    |w| <= top, exact."""
    if u.is_cuda:
        y = matmul(patches(u, w.shape[2:], stride, padding), _as_matrix(w), largest, top)
        height = (u.shape[2] + 2 * padding - w.shape[2]) // stride + 1
        return y.view(len(u), height, -1, len(w)).permute(0, 3, 1, 2)
    with plain_float32(u):
        return _exact(lambda a, b: F.conv2d(a, b, None, stride, padding), u, w, largest,
                      w[0].numel(), top, lambda magnitude: magnitude.sum((1, 2, 3)).max())


def conv_input_gradient(shape, w, g, stride, padding, largest, top):
    """The gradient of u [shape] from g [n, out, ho, wo], |g| <= largest, and codes w, exact."""
    terms = w.shape[0] * w.shape[2] * w.shape[3]
    if g.is_cuda:
        rows = g.permute(0, 2, 3, 1).flatten(1, 2)

        def product(a, b):
            return fold(a @ b.T, shape, w.shape[2:], stride, padding)
        with plain_float32(g):
            return _exact(product, rows, _as_matrix(w), largest, terms, top, None)
    with plain_float32(g):
        return _exact(lambda a, b: grad.conv2d_input(shape, b, a, stride, padding), g, w, largest,
                      terms, top, lambda magnitude: magnitude.sum((0, 2, 3)).max())


def conv_weight_gradient(u, shape, g, stride, padding, largest, top):
    """The gradient of w [shape] from codes u, |u| <= largest, and g [n, out, ho, wo],
    |g| <= top, exact.

    Its sums run over the whole batch; where they could be too long, it is done in parts.
    """
    if g.is_cuda:
        out, c, kh, kw = shape
        with plain_float32(g):
            y = _batched(patches(u, (kh, kw), stride, padding),
                         g.permute(0, 2, 3, 1).flatten(1, 2), largest * top)
        return y.view(kh, kw, c, out).permute(3, 2, 0, 1)

    def part(x, a):
        # A sum of magnitudes in float32 is good to far better than this margin.
        total = torch.linalg.vector_norm(a, 1, (0, 2, 3)).max()
        if largest * float(total) <= 0.99 * _EXACT:
            return grad.conv2d_weight(x, shape, a, stride, padding)
        if len(x) == 1:
            return grad.conv2d_weight(x.double(), shape, a.double(), stride, padding)
        half = len(x) // 2
        return part(x[:half], a[:half]).double().add_(part(x[half:], a[half:]))
    with plain_float32(g):
        return part(u, g)


def _batched(a, b, largest):
    """``sum_n a[n]' @ b[n]`` of integers, a and b [n, rows, ...], no product above ``largest``."""
    n, rows = a.shape[:2]
    fits = int(_EXACT / (largest * rows))
    if not fits:
        return a.flatten(0, 1).double().T @ b.flatten(0, 1).double()
    part = next(count for count in range(min(fits, n), 0, -1) if n % count == 0)
    a, b = (x.reshape(n // part, part * rows, -1) for x in (a, b))
    return torch.bmm(a.transpose(1, 2), b).sum(0, dtype=torch.float64)
