"""Layers and networks: one training step as operations of the device.

All GEMMs, quantisation, both directions of the L1 norm and the masks run on the device. The host
steps through them, holds the int32 master weights, and computes softmax, loss, scales and the
update with the model's integer functions.

Scales. A hidden layer is ``y = relu(norm(u W))``. The norm sees the integer accumulators, whose
scale it divides out, and its gradient is with respect to them: per-channel weight scales are
folded into it. The head is ``logits = u W s_u s_w[c] + bias``; its gradient is multiplied by
``s_w[c]`` before it is quantised. So dX always uses the integer weights unscaled, and column c
of dW is divided by ``s_w[c]`` in the update.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from hdl.params import NORM_FRACTION, NORM_IN_BITS, PARAMETER_FRACTION
from hdl.protocol import STATE_ROWS, Space, StateRow
from host import program
from host.errors import MemoryFullError
from host.tensors import Arena, load, store
from sim.model import noise
from sim.model.initialise import MASTER_FRACTION, uniform_weights
from sim.model.norm import GRADIENT_BITS, gradient_exponent
from sim.model.rounding import bit_length, round_shift, saturate
from sim.model.scale import Scale
from sim.model.softmax import GRADIENT_FRACTION, LOGIT_FRACTION, cross_entropy
from sim.model.update import sgd

__all__ = ["ACTIVATION_CLIP", "WEIGHT_CLIP", "Mlp", "Noise", "Parameter", "tensor_id"]

#: Largest range of an activation and of a weight, in quarters of the mean magnitude.
ACTIVATION_CLIP, WEIGHT_CLIP = 14, 13

#: Fraction bits of running means and deviations.
_RUNNING_FRACTION = 16
#: Weight of a new batch in the running statistics: 2**-3.
_RUNNING_SHIFT = 3


class Noise(IntEnum):
    """Uses of random bits in a layer; with the layer's number they make the tensor id."""
    WEIGHT = 0
    WEIGHT_UPDATE = 1
    GRADIENT = 2
    GAMMA_UPDATE = 3
    BETA_UPDATE = 4
    SHUFFLE = 15


def tensor_id(layer, use):
    """The tensor that the noise of a layer belongs to; ids follow the order of the layers."""
    return 16 * layer + use


@dataclass
class Parameter:
    """A master tensor (int32, ``MASTER_FRACTION``) and its velocity."""
    master: np.ndarray
    velocity: np.ndarray
    noise: int

    @classmethod
    def of(cls, master, noise_id):
        """A parameter at rest."""
        return cls(np.asarray(master, np.int64), np.zeros(np.shape(master), np.int64), noise_id)

    def update(self, gradient, rate, key_of):
        """One step of descent along ``gradient``."""
        key = key_of(self.noise)
        index = np.arange(self.master.size).reshape(self.master.shape)
        self.master, self.velocity = sgd(self.master, self.velocity, gradient, rate.rate,
                                         rate.shift, noise.bits16(key, index))


class Dense:
    """The weights of one layer, and the GEMMs they take part in."""

    def __init__(self, number, fan_in, fan_out, seed):
        self.number = number
        self.fan_in, self.fan_out = fan_in, fan_out
        self.weight = Parameter.of(
            uniform_weights(noise.key(seed, 0, tensor_id(number, Noise.WEIGHT)), fan_in, fan_out),
            tensor_id(number, Noise.WEIGHT_UPDATE))
        self.range = None

    def quantise(self, space):
        """Bring the weights to the device and quantise them per output channel."""
        stage = space.stage.view(self.fan_in, self.fan_out)
        store(space.device, stage, self.weight.master)
        q, ranges = space.weights[self.number], space.weight_ranges[self.number]
        space.device.run([program.quantise(stage, q, ranges, per_column=True, clip=WEIGHT_CLIP)])
        self.range = load(space.device, ranges)[0]

    def scale(self, params):
        """The value of one step of the quantised weights, per output channel."""
        return Scale.of(self.range).over(Scale.of(params.qmax)).power(-MASTER_FRACTION)

    def gemm_forward(self, space, u, out):
        """``(instruction, shift)`` of u W, safe for the norm's input."""
        return program.gemm(space.params, u, space.weights[self.number], out, unsigned=True,
                            limit=NORM_IN_BITS)

    def backward(self, space, u, unit, *, propagate):
        """From the gradient in ``space.work`` to those of weights and input.

        ``unit`` is the scale of one step of the gradient with respect to the accumulators.
        Returns the weight gradient (with ``MASTER_FRACTION`` fraction bits) and, when
        ``propagate``, leaves the gradient with respect to u in ``space.work`` and returns the
        scale of its step.
        """
        params, device = space.params, space.device
        m = u.rows
        work = space.work.view(m, self.fan_out)
        q = space.gradient.view(m, self.fan_out)
        samples, channels = space.groups(m, self.fan_out)
        steps = [program.quantise(
            work, q, space.gradient_range.view(1, self.fan_out),
            key=space.key_of(tensor_id(self.number, Noise.GRADIENT)),
            rows=samples, cols=channels)]
        # Groups of one need no shifts.
        rows = samples if samples and samples.count > 1 else None
        cols = channels if channels and channels.count > 1 else None
        steps += [program.sort(groups) for groups in (rows, cols if propagate else None) if groups]
        du_shift = 0
        if propagate:
            step, du_shift = program.gemm(
                params, q, space.weights[self.number], space.work.view(m, self.fan_in),
                b_transposed=True, inner=cols, rows=rows)
            steps.append(step)
        weight_gradient = space.stage.view(self.fan_in, self.fan_out)
        step, dw_shift = program.gemm(params, u, q, weight_gradient, a_transposed=True,
                                      unsigned=True, inner=rows, cols=cols)
        device.run([*steps, step])

        # One step of q, with the largest exponent of its groups taken out.
        exponent = sum(groups.count - 1 for groups in (rows, cols) if groups)
        limit = load(device, space.gradient_range.view(1, 1))[0]
        unit = unit.times(Scale.of(limit)).over(Scale.of(params.qmax)).power(-exponent)
        # The loss is the mean over the batch.
        weight_unit = unit.power(dw_shift).over(self.scale(params)).over(Scale.of(m))
        gradient = weight_unit.apply(load(device, weight_gradient), MASTER_FRACTION)
        return gradient, unit.power(du_shift)


class Hidden:
    """Dense, L1 norm over the batch, ReLU, quantisation to unsigned activations."""

    def __init__(self, number, fan_in, fan_out, seed):
        self.dense = Dense(number, fan_in, fan_out, seed)
        one = np.full(fan_out, 1 << MASTER_FRACTION, np.int64)
        self.gamma = Parameter.of(one, tensor_id(number, Noise.GAMMA_UPDATE))
        self.beta = Parameter.of(0 * one, tensor_id(number, Noise.BETA_UPDATE))
        self.running_mean = self.running_deviation = None

    def parameters(self):
        """In the order in which they are hashed and stored."""
        return {"weight": self.dense.weight, "gamma": self.gamma, "beta": self.beta}

    def statistics(self):
        """Running statistics, with ``_RUNNING_FRACTION`` fraction bits."""
        if self.running_mean is None:
            self.running_mean = np.zeros(self.dense.fan_out, np.int64)
            self.running_deviation = self.running_mean.copy()
        return {"mean": self.running_mean, "deviation": self.running_deviation}

    def forward(self, space, u, unit, *, inference=False):
        """``(activations, unit)``: the device's tensor of u and the value of one step."""
        params, device, number = space.params, space.device, self.dense.number
        m, n = u.rows, self.dense.fan_out
        work, state = space.work.view(m, n), space.states[number]
        out = space.activations[number].view(m, n)
        self.dense.quantise(space)
        step, shift = self.dense.gemm_forward(space, u, work)
        accumulator = unit.times(self.dense.scale(params)).power(shift)

        rows = np.zeros((STATE_ROWS, n), np.int64)
        drop = MASTER_FRACTION - PARAMETER_FRACTION
        rows[StateRow.GAMMA] = saturate(round_shift(self.gamma.master, drop), 16)[0]
        rows[StateRow.BETA] = round_shift(self.beta.master, drop)
        if inference:
            one = Scale.of(1).power(-_RUNNING_FRACTION).over(accumulator)
            statistics = self.statistics()
            rows[StateRow.MEAN] = one.apply(statistics["mean"], NORM_FRACTION)
            rows[StateRow.DEVIATION] = one.apply(statistics["deviation"], NORM_FRACTION)
        store(device, state, rows)
        device.run([
            step,
            program.norm_forward(work, work, space.contexts[number].view(m, n), state, relu=True,
                                 inference=inference),
            program.quantise(work, out, space.activation_ranges[number], unsigned=True,
                             clip=ACTIVATION_CLIP),
        ])
        if not inference:
            self._follow(load(device, state), accumulator.power(-NORM_FRACTION))
        limit = load(device, space.activation_ranges[number].view(1, 1))[0]
        return out, Scale.of(limit).over(Scale.of(2**params.bits - 1)).power(-PARAMETER_FRACTION)

    def _follow(self, state, unit):
        """Move the running statistics towards this batch's; the first batch sets them."""
        mean = unit.apply(state[StateRow.MEAN], _RUNNING_FRACTION)
        deviation = unit.apply(state[StateRow.DEVIATION], _RUNNING_FRACTION)
        if self.running_mean is None:
            self.running_mean, self.running_deviation = mean, deviation
        else:
            self.running_mean = self.running_mean + round_shift(
                mean - self.running_mean, _RUNNING_SHIFT)
            self.running_deviation = self.running_deviation + round_shift(
                deviation - self.running_deviation, _RUNNING_SHIFT)

    def backward(self, space, u, unit, rate, *, propagate):
        """From the gradient with respect to y in ``space.work``; ``unit`` is its step."""
        number = self.dense.number
        m, n = u.rows, self.dense.fan_out
        work, state = space.work.view(m, n), space.states[number]
        space.device.run([program.norm_backward(work, work, space.contexts[number].view(m, n),
                                                state)])
        rows = load(space.device, state)
        grad_bits, deviation_bits = (int(rows[row, 0]) for row in (
            StateRow.GRAD_BITS, StateRow.DEVIATION_BITS))
        # Means over the batch, as the loss is.
        mean_unit = unit.power(grad_bits - GRADIENT_BITS)
        gradients = [mean_unit.apply(rows[row], MASTER_FRACTION)
                     for row in (StateRow.GRAD_GAMMA, StateRow.GRAD_BETA)]
        accumulator_unit = unit.power(gradient_exponent(grad_bits, deviation_bits))
        weight, unit = self.dense.backward(space, u, accumulator_unit, propagate=propagate)
        self.dense.weight.update(weight, rate, space.key_of)
        self.gamma.update(gradients[0], rate, space.key_of)
        self.beta.update(gradients[1], rate, space.key_of)
        return unit


class Head:
    """Dense with a bias; softmax, loss and gradient of the logits on the host."""

    def __init__(self, number, fan_in, fan_out, seed):
        self.dense = Dense(number, fan_in, fan_out, seed)
        self.bias = Parameter.of(np.zeros(fan_out, np.int64),
                                 tensor_id(number, Noise.BETA_UPDATE))

    def parameters(self):
        """In the order in which they are hashed and stored."""
        return {"weight": self.dense.weight, "bias": self.bias}

    def statistics(self):
        """It keeps none."""
        return {}

    def forward(self, space, u, unit):
        """The logits [m, n] with ``LOGIT_FRACTION`` fraction bits."""
        work = space.work.view(u.rows, self.dense.fan_out)
        self.dense.quantise(space)
        step, shift = self.dense.gemm_forward(space, u, work)
        space.device.run([step])
        scale = unit.times(self.dense.scale(space.params)).power(shift)
        logits = scale.apply(load(space.device, work), LOGIT_FRACTION)
        return logits + round_shift(self.bias.master, MASTER_FRACTION - LOGIT_FRACTION)

    def backward(self, space, u, unit, gradient, rate):
        """From the gradient of the logits; returns the step of the gradient with respect to y."""
        # Fold the weights' scales in: g * range * 2**(16 - length) * 2**-10, below 2**30.
        limits = self.dense.range
        length = int(bit_length(limits.max()))
        mantissa = limits >> max(length - 16, 0)
        folded = gradient * mantissa >> 10
        store(space.device, space.work.view(*gradient.shape), folded)
        # One step of it, apart from the activations' unit.
        step = Scale.of(1).power(10 + max(length - 16, 0) - GRADIENT_FRACTION - MASTER_FRACTION
                                 ).over(Scale.of(space.params.qmax))
        bias = Scale.of(1).power(-GRADIENT_FRACTION).over(Scale.of(len(gradient))).apply(
            gradient.sum(axis=0), MASTER_FRACTION)
        weight, du_unit = self.dense.backward(space, u, step.times(unit), propagate=True)
        self.dense.weight.update(weight, rate, space.key_of)
        self.bias.update(bias, rate, space.key_of)
        # u = y / unit.
        return du_unit.over(unit)


class Workspace:
    """The places of a network's tensors in device memory."""

    def __init__(self, device, sizes, batch):
        self.device = device
        self.params = params = device.params
        wide = Arena(Space.WIDE, params.wide_words, params.cols)
        quant = Arena(Space.QUANT, params.quant_words, params.cols)
        pairs = list(pairwise(sizes))
        hidden = sizes[1:-1]
        self.stage = wide.allocate("the batch or a weight matrix", (batch, sizes[0]), *pairs)
        self.work = wide.allocate("a layer's output", *((batch, n) for n in sizes[1:]))
        self.contexts = [wide.allocate(f"the norm context of layer {i}", (batch, n))
                         for i, n in enumerate(hidden)]
        self.states = [wide.allocate(f"the norm state of layer {i}", (STATE_ROWS, n))
                       for i, n in enumerate(hidden)]
        self.input_range = wide.allocate("the input's range", (1, sizes[0]))
        self.activation_ranges = [wide.allocate(f"the range of layer {i}", (1, n))
                                  for i, n in enumerate(hidden)]
        self.weight_ranges = [wide.allocate(f"the weight ranges of layer {i}", (1, n))
                              for i, n in enumerate(sizes[1:])]
        self.gradient_range = wide.allocate("the gradient's range",
                                            *((1, n) for n in sizes[1:]))
        self.input = quant.allocate("the quantised batch", (batch, sizes[0]))
        self.activations = [quant.allocate(f"the activations of layer {i}", (batch, n))
                            for i, n in enumerate(hidden)]
        self.weights = [quant.allocate(f"the weights of layer {i}", pair)
                        for i, pair in enumerate(pairs)]
        self.gradient = quant.allocate("a quantised gradient", *((batch, n) for n in sizes[1:]))
        need = program.table_words(params, batch) + program.table_words(params, max(sizes[1:]))
        if params.max_groups > 1 and need > params.table_words:
            raise MemoryFullError(f"the groups of a batch of {batch} need {need} table words, "
                                  f"{need - params.table_words} more than there are")
        self.key_of = None

    def groups(self, m, n):
        """The groups of a gradient of m samples and n channels; (None, None) without groups."""
        params = self.params
        if params.max_groups == 1:
            return None, None
        return (program.Groups(0, m, params.sample_groups),
                program.Groups(program.table_words(params, m), n, params.channel_groups))


class Mlp:
    """A multi-layer perceptron: hidden layers with L1 norm and ReLU, a linear head.

    Parameters
    ----------
    sizes : sequence of int
        Features of the input, of every hidden layer and of the output.
    seed : int
        Decides the initial weights and all rounding.
    """

    def __init__(self, sizes, seed):
        self.sizes = tuple(sizes)
        self.seed = seed
        self.hidden = [Hidden(i, a, b, seed)
                       for i, (a, b) in enumerate(pairwise(sizes[:-1]))]
        self.head = Head(len(sizes) - 2, sizes[-2], sizes[-1], seed)

    @property
    def layers(self):
        """All layers in order."""
        return [*self.hidden, self.head]

    @property
    def macs_per_sample(self):
        """Multiply-accumulates of a training step for one sample; the input needs no gradient."""
        products = [a * b for a, b in pairwise(self.sizes)]
        return 3 * sum(products) - products[0]

    def workspace(self, device, batch):
        """Places for training in batches of at most ``batch`` samples."""
        return Workspace(device, self.sizes, batch)

    def _forward(self, space, x, *, inference):
        params = space.params
        u = space.input.view(*x.shape)
        stage = space.stage.view(*x.shape)
        store(space.device, stage, x)
        space.device.run([program.quantise(stage, u, space.input_range, unsigned=True,
                                           clip=ACTIVATION_CLIP)])
        limit = load(space.device, space.input_range.view(1, 1))[0]
        unit = Scale.of(limit).over(Scale.of(2**params.bits - 1))
        inputs = [(u, unit)]
        for layer in self.hidden:
            inputs.append(layer.forward(space, *inputs[-1], inference=inference))
        return inputs, self.head.forward(space, *inputs[-1])

    def train_step(self, space, x, labels, rate, step):
        """``(loss, correct)`` of a batch, before the update that it makes."""
        space.key_of = lambda tensor: noise.key(self.seed, step, tensor)
        inputs, logits = self._forward(space, x, inference=False)
        losses, gradient, predicted = cross_entropy(logits, labels)
        (u, unit), *earlier = reversed(inputs)
        unit = self.head.backward(space, u, unit, gradient, rate)
        for layer, (u, _) in zip(reversed(self.hidden), earlier, strict=True):
            unit = layer.backward(space, u, unit, rate, propagate=layer is not self.hidden[0])
        return int(losses.sum()), int((predicted == labels).sum())

    def predict(self, space, x):
        """The predicted class of every sample, with the running statistics."""
        _, logits = self._forward(space, x, inference=True)
        return logits.argmax(axis=1)
