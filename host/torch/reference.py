"""Float twins of the layers that ``torch.nn`` has not, to compare with and to convert from."""

import torch
from torch import nn
from torch.nn import functional as F

from host.torch.errors import check_adjacency

__all__ = ["Attention", "GraphConv", "L1BatchNorm1d", "L1BatchNorm2d", "L1LayerNorm"]


class _L1BatchNorm(nn.Module):
    """Running statistics follow with weight 1/8, as on the device."""
    _dims = (0,)

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_deviation", torch.ones(num_features))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        """``gamma (x - mean) / mean|x - mean| + beta`` per channel."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        if self.training:
            mean = x.mean(self._dims, keepdim=True)
            d = x - mean
            deviation = d.abs().mean(self._dims, keepdim=True)
            with torch.no_grad():
                weight = torch.where(self.step > 0, 0.125, 1.0)
                self.running_mean.lerp_(mean.view(-1), weight)
                self.running_deviation.lerp_(deviation.view(-1), weight)
                self.step += 1
        else:
            d = x - self.running_mean.view(shape)
            deviation = self.running_deviation.view(shape)
        return d * (self.weight.view(shape) / (deviation + self.eps)) + self.bias.view(shape)


class L1BatchNorm1d(_L1BatchNorm):
    """On [n, c]."""


class L1BatchNorm2d(_L1BatchNorm):
    """On [n, c, h, w]."""
    _dims = (0, 2, 3)


class L1LayerNorm(nn.Module):
    """``gamma (x - mean) / mean|x - mean| + beta`` over the last axis."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x):
        """[..., channels]."""
        d = x - x.mean(-1, keepdim=True)
        return d / (d.abs().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


class Attention(nn.Module):
    """Scaled dot-product attention of q, k, v [n, tokens, heads * width]."""

    def __init__(self, heads, *, causal=False):
        super().__init__()
        self.heads, self.causal = heads, causal

    def forward(self, q, k, v):
        """[n, tokens, heads * width]."""
        n, tokens, _ = q.shape
        q, k, v = (x.reshape(n, tokens, self.heads, -1).transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return y.transpose(1, 2).reshape(n, tokens, -1)


class GraphConv(nn.Module):
    """``A x`` for a fixed sparse matrix A [n, n]."""

    def __init__(self, adjacency):
        super().__init__()
        self.register_buffer("adjacency", check_adjacency(adjacency), persistent=False)

    def forward(self, x):
        """[n, channels]."""
        return torch.sparse.mm(self.adjacency, x)
