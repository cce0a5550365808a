"""A training step captured as CUDA graphs: one launch instead of thousands."""

import torch

from host.errors import ArgumentError
from host.torch import keys
from host.torch.errors import ShapeError, settle
from host.torch.modules import Layer

__all__ = ["CapturedStep"]

#: Steps that run as usual before one is captured: memory is allocated, kernels are compiled.
_WARM_UP = 2


class CapturedStep:
    """``step(*inputs, labels)`` trains one batch and returns its loss; the bits are the same.

    The first steps run as usual; then one is captured, and replayed from there on. All batches
    have the shapes of the first. What is refused is refused before a weight changes. Rates,
    decay and momentum of the optimiser may change from step to step. A model or optimiser whose
    state was loaded anew needs a new CapturedStep.

    Parameters
    ----------
    model : nn.Module
        A converted model in training mode, on a GPU.
    optimiser : host.torch.SGD
    loss : function
        Of the model's output and the labels, such as :func:`host.torch.cross_entropy`.
    """

    def __init__(self, model, optimiser, loss):
        parameter = next(model.parameters())
        if not parameter.is_cuda:
            raise ArgumentError(f"CapturedStep takes a model on a GPU, got one on "
                                f"{parameter.device}")
        self._model, self._optimiser, self._loss = model, optimiser, loss
        self._device = parameter.device
        self._layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
        self._calls, self._buffers = 0, None

    def __call__(self, *batch):
        if self._calls < _WARM_UP:
            self._calls += 1
            return self._beside(batch)
        if self._buffers is None:
            self._capture(batch)
        for buffer, x in zip(self._buffers, batch, strict=True):
            if buffer.shape != x.shape or buffer.dtype != x.dtype:
                raise ShapeError(f"a captured step takes {buffer.dtype} {list(buffer.shape)}, "
                                 f"got {x.dtype} {list(x.shape)}")
            buffer.copy_(x)
        self._record.fill()
        self._gradients.replay()
        self._record.check()
        self._update.replay()
        for layer, passes in zip(self._layers, self._passes, strict=True):
            layer.step += passes
        for group in self._optimiser.param_groups:
            group["step"] += 1
        return self._value.clone()

    def _backward(self, batch):
        *inputs, labels = batch
        loss = self._loss(self._model(*inputs), labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def _beside(self, batch):
        """A step as usual, on a stream of its own, as captures are."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            loss = self._backward(batch)
            self._optimiser.step()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return loss

    def _capture(self, batch):
        settle()
        self._buffers = [x.to(self._device, copy=True) for x in batch]
        before = [layer.step for layer in self._layers]
        counts = [group["step"] for group in self._optimiser.param_groups]
        self._optimiser.zero_grad(set_to_none=True)
        self._gradients, self._update = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with keys.Record(self._device) as self._record:
            with torch.cuda.graph(self._gradients):
                self._value = self._backward(self._buffers)
                self._optimiser.check_gradients()
            with torch.cuda.graph(self._update, pool=self._gradients.pool()):
                self._optimiser.step()
        # A capture runs nothing: the counts are still those of the step before.
        self._passes = [layer.step - old for layer, old in zip(self._layers, before, strict=True)]
        for layer, old in zip(self._layers, before, strict=True):
            layer.step = old
        for group, old in zip(self._optimiser.param_groups, counts, strict=True):
            group["step"] = old
