"""Layers and networks: one training step as operations of the device.

All GEMMs, quantisation, both directions of the L1 norm and the masks run on the device. The host
steps through them, holds the master weights, and computes softmax, loss and the update with the
model's integer functions.

The device multiplies ``[m,k]`` by ``[k,n]`` as they are stored. On the way back the weights and the
activations are transposed in its memory first, and the columns of the operand that streams, the
gradient for dU and the activations for dW, are put in the order of their slots where they have
groups.

Exponents. Every integer tensor has a unit ``2**exponent``, of its own or of each column.
Activations are ``u * 2**e_u``, weights ``q * s_w[c]`` with ``s_w = mantissa / 4 * 2**e_w``, and a
product ``sum u q``, brought to 24 bits by ``shift``, has the unit ``e_u + e_w[c] + shift`` and the
mantissa of its column. The backward pass works with the gradient with respect to the products
themselves, ``sum u q`` of the codes: dU uses the codes of the weights as they are, and column c of
dW is divided by ``s_w[c]``. A hidden layer is ``y = relu(norm(u W))``: the norm does not see the
scale of its input, and its gradient is with respect to that input; running statistics have the
scale in them. The head is ``logits = u W 2**e_u s_w[c] + bias``: its gradient is multiplied by
``s_w[c]`` before it is quantised. The loss is the mean over the batch.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hdl.instructions import STATE_ROWS, StateRow
from hdl.params import (
    DEFAULT_FORMATS,
    NORM_FRACTION,
    NORM_IN_BITS,
    PARAMETER_FRACTION,
    WIDE_BITS,
    Formats,
)
from hdl.protocol import Space
from host import program
from host.tensor_ids import Noise, tensor_id
from host.tensors import Arena, lanes_of, load, store
from sim.model import noise
from sim.model.initialise import uniform_weights
from sim.model.norm import GRADIENT_BITS, RUNNING_FRACTION, follow, gradient_exponent
from sim.model.quantise import (
    ACTIVATION_CLIP,
    WEIGHT_CLIP,
    divide_by_mantissa,
    fold,
    normalise_columns,
)
from sim.model.rounding import rescale, round_shift, saturate
from sim.model.softmax import LOGIT_FRACTION, cross_entropy
from sim.model.update import GRADIENT_FRACTION, MASTER_BITS, sgd

__all__ = ["Hosted", "Mlp", "Parameter"]

#: Width of wide activations (products before the norm, logits) and of their gradients.
_ACTIVATION_BITS = NORM_IN_BITS


@dataclass
class Parameter:
    """A master tensor and its velocity, of the :class:`~hdl.params.Formats`."""
    master: np.ndarray
    velocity: np.ndarray
    noise: int
    formats: Formats

    @classmethod
    def of(cls, master, noise_id, formats):
        """A parameter at rest."""
        return cls(np.asarray(master, np.int64), np.zeros(np.shape(master), np.int64), noise_id,
                   formats)

    @property
    def fraction(self):
        """Fraction bits of the master."""
        return self.formats.master[1]

    def update(self, gradient, rate, key_of):
        """One step of descent along ``gradient``, with ``GRADIENT_FRACTION`` fraction bits."""
        # A vector is one row.
        rows, cols = np.atleast_2d(self.master).shape
        random = noise.element_noise(key_of(self.noise), rows, cols).reshape(self.master.shape)
        self.master, self.velocity = sgd(self.master, self.velocity, gradient, rate.rate,
                                         rate.shift, random, **self.formats._asdict())


def _gradient(x, exponent):
    """A parameter's gradient from the unit ``2**exponent``."""
    return rescale(x, exponent + GRADIENT_FRACTION, MASTER_BITS)[0]


class Dense:
    """The weights of one layer, and the GEMMs they take part in."""

    def __init__(self, number, fan_in, fan_out, seed, formats):
        self.number = number
        self.fan_in, self.fan_out = fan_in, fan_out
        key = noise.key(seed, 0, tensor_id(number, Noise.WEIGHT))
        self.weight = Parameter.of(
            uniform_weights(key, fan_in, fan_out, formats.master[1]),
            tensor_id(number, Noise.WEIGHT_UPDATE), formats)
        #: Of every column of the quantised weights, since :meth:`quantise`.
        self.exponent = self.mantissa = None
        #: Of the product, since :meth:`gemm_forward`.
        self.shift = None

    def quantise(self, space):
        """Bring the normalised weights to the device and quantise them per output channel."""
        stage = space.stage.view(self.fan_in, self.fan_out)
        scaled, self.mantissa = normalise_columns(self.weight.master, space.params.bits)
        store(space.device, stage, scaled)
        q, exponents = space.weights[self.number], space.weight_exponents[self.number]
        space.device.run([program.quantise(space.params, stage, q, exponents, per_column=True,
                                           clip=WEIGHT_CLIP[space.params.bits])])
        self.exponent = load(space.device, exponents)[0] - self.weight.fraction

    def gemm_forward(self, space, u, out):
        """The instructions of u W, shifted right so that it is safe for the norm's input."""
        steps, self.shift = program.gemm(space.params, u, space.weights[self.number], out,
                                         unsigned=True, limit=_ACTIVATION_BITS)
        return steps

    def product_exponent(self, unit):
        """Of the columns of u W as :meth:`gemm_forward` leaves them, with u of ``2**unit``."""
        return unit + self.exponent + self.shift

    def backward(self, space, u, unit, *, propagate):
        """From the gradient in ``space.work`` to those of weights and input.

        ``unit`` is the exponent of the gradient with respect to ``sum u q``. Returns the weight
        gradient (with ``GRADIENT_FRACTION`` fraction bits) and the exponent of the gradient with
        respect to u, which it leaves in ``space.work`` when ``propagate``.
        """
        params, device = space.params, space.device
        m = u.rows
        work = space.work.view(m, self.fan_out)
        q = space.gradient.view(m, self.fan_out)
        samples, channels = program.gradient_groups(params, m, self.fan_out)
        steps = [program.quantise(
            params, work, q, space.gradient_exponent.view(1, self.fan_out),
            key=space.key_of(tensor_id(self.number, Noise.GRADIENT)),
            rows=samples, cols=channels)]
        # Groups of one need no shifts.
        rows = samples if samples and samples.count > 1 else None
        cols = channels if channels and channels.count > 1 else None
        steps += [program.sort(groups) for groups in (rows, cols if propagate else None) if groups]
        du_shift = 0
        if propagate:
            transposed = space.transposed_weights.view(self.fan_out, self.fan_in)
            steps.append(program.move(space.weights[self.number], transposed, transposed=True))
            operand = q
            if cols:
                operand = space.streamed.view(
                    m, program.slot_columns(params, self.fan_out, cols.count))
                steps.append(program.move(q, operand, order=cols))
            products, du_shift = program.gemm(
                params, operand, transposed, space.work.view(m, self.fan_in),
                inner=cols, rows=rows, limit=_ACTIVATION_BITS)
            steps += products
        operand = space.streamed.view(
            self.fan_in, program.slot_columns(params, m, rows.count) if rows else m)
        steps.append(program.move(u, operand, transposed=True, order=rows))
        weight_gradient = space.stage.view(self.fan_in, self.fan_out)
        products, dw_shift = program.gemm(params, operand, q, weight_gradient, unsigned=True,
                                          inner=rows, cols=cols)
        device.run([*steps, *products])

        # A step of q in the smallest of its groups, in which products are integers.
        unit += space.exponent_of(space.gradient_exponent)
        unit -= sum(groups.count - 1 for groups in (rows, cols) if groups)
        gradient, finer = divide_by_mantissa(load(device, weight_gradient), self.mantissa)
        gradient = _gradient(gradient, unit + dw_shift - self.exponent + finer)
        return gradient, unit + du_shift


class Hidden:
    """Dense, L1 norm over the batch, ReLU, quantisation to unsigned activations."""

    def __init__(self, number, fan_in, fan_out, seed, formats):
        self.dense = Dense(number, fan_in, fan_out, seed, formats)
        one = np.full(fan_out, 1 << formats.master[1], np.int64)
        self.gamma = Parameter.of(one, tensor_id(number, Noise.GAMMA_UPDATE), formats)
        self.beta = Parameter.of(0 * one, tensor_id(number, Noise.BETA_UPDATE), formats)
        self.running_mean = self.running_deviation = None

    def parameters(self):
        """In the order in which they are hashed and stored."""
        return {"weight": self.dense.weight, "gamma": self.gamma, "beta": self.beta}

    def statistics(self):
        """Running statistics, with ``RUNNING_FRACTION`` fraction bits."""
        if self.running_mean is None:
            self.running_mean = np.zeros(self.dense.fan_out, np.int64)
            self.running_deviation = self.running_mean.copy()
        return {"mean": self.running_mean, "deviation": self.running_deviation}

    def forward(self, space, u, unit, *, inference=False):
        """``(activations, unit)``: the device's tensor of u and the exponent of a step."""
        device, number = space.device, self.dense.number
        m, n = u.rows, self.dense.fan_out
        work, state = space.work.view(m, n), space.states[number]
        out = space.activations[number].view(m, n)
        self.dense.quantise(space)
        products = self.dense.gemm_forward(space, u, work)
        product = self.dense.product_exponent(unit)

        rows = np.zeros((STATE_ROWS, n), np.int64)
        drop = self.gamma.fraction - PARAMETER_FRACTION
        rows[StateRow.GAMMA] = saturate(round_shift(self.gamma.master, drop), 16)[0]
        rows[StateRow.BETA] = round_shift(self.beta.master, drop)
        if inference:
            statistics = self.statistics()
            for row, name in ((StateRow.MEAN, "mean"), (StateRow.DEVIATION, "deviation")):
                value, finer = divide_by_mantissa(statistics[name], self.dense.mantissa)
                from_running = NORM_FRACTION - product - RUNNING_FRACTION + finer
                rows[row] = rescale(value, from_running, WIDE_BITS)[0]
        store(device, state, rows)
        device.run([
            *products,
            program.norm_forward(space.params, work, work, space.contexts[number].view(m, n), state,
                                 relu=True, inference=inference),
            program.quantise(space.params, work, out, space.activation_exponents[number],
                             unsigned=True, clip=ACTIVATION_CLIP[space.params.bits]),
        ])
        if not inference:
            self._follow(load(device, state), product)
        return out, space.exponent_of(space.activation_exponents[number]) - PARAMETER_FRACTION

    def _follow(self, state, product):
        """Move the running statistics towards this batch's; the first batch sets them."""
        self.running_mean, self.running_deviation = (
            follow(running, state[row], self.dense.mantissa, product)
            for running, row in ((self.running_mean, StateRow.MEAN),
                                 (self.running_deviation, StateRow.DEVIATION)))

    def backward(self, space, u, unit, rate, *, propagate):
        """From the gradient with respect to y in ``space.work``; ``unit`` is its exponent.

        Returns the exponent of the gradient with respect to u, as :meth:`Dense.backward`.
        """
        number = self.dense.number
        m, n = u.rows, self.dense.fan_out
        work, state = space.work.view(m, n), space.states[number]
        space.device.run([program.norm_backward(
            space.params, work, work, space.contexts[number].view(m, n), state,
            space.activations[number].view(m, n))])
        rows = load(space.device, state)
        grad_bits, deviation_bits = (int(rows[row, 0]) for row in (
            StateRow.GRAD_BITS, StateRow.DEVIATION_BITS))
        # The device has means over the batch.
        gamma, beta = (_gradient(m * rows[row], unit + grad_bits - GRADIENT_BITS)
                       for row in (StateRow.GRAD_GAMMA, StateRow.GRAD_BETA))
        # The norm's input is sum u q shifted right.
        product_unit = unit + gradient_exponent(grad_bits, deviation_bits) - self.dense.shift
        weight, unit = self.dense.backward(space, u, product_unit, propagate=propagate)
        self.dense.weight.update(weight, rate, space.key_of)
        self.gamma.update(gamma, rate, space.key_of)
        self.beta.update(beta, rate, space.key_of)
        return unit


class Head:
    """Dense with a bias; softmax, loss and gradient of the logits on the host."""

    def __init__(self, number, fan_in, fan_out, seed, formats):
        self.dense = Dense(number, fan_in, fan_out, seed, formats)
        self.bias = Parameter.of(np.zeros(fan_out, np.int64),
                                 tensor_id(number, Noise.BETA_UPDATE), formats)

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
        space.device.run(self.dense.gemm_forward(space, u, work))
        logits, _ = rescale(load(space.device, work) * self.dense.mantissa,
                            self.dense.product_exponent(unit) - 2 + LOGIT_FRACTION,
                            _ACTIVATION_BITS)
        bias = round_shift(self.bias.master, self.bias.fraction - LOGIT_FRACTION)
        return saturate(logits + bias, _ACTIVATION_BITS)[0]

    def backward(self, space, u, unit, gradient, exponent, rate, *, propagate):
        """From the gradient of the logits, of unit ``2**exponent``, with u of unit ``2**unit``.

        Returns the exponent of the gradient with respect to u, as :meth:`Dense.backward`.
        """
        bias = _gradient(gradient.sum(axis=0), exponent)
        folded, least = fold(gradient, self.dense.exponent, self.dense.mantissa)
        store(space.device, space.work.view(*gradient.shape), folded)
        weight, du_unit = self.dense.backward(space, u, exponent + least + unit,
                                              propagate=propagate)
        self.dense.weight.update(weight, rate, space.key_of)
        self.bias.update(bias, rate, space.key_of)
        return du_unit


class Workspace:
    """The places of a network's tensors in device memory."""

    def __init__(self, device, sizes, batch):
        self.device = device
        self.params = params = device.params
        wide = Arena(Space.WIDE, params.wide_words, lanes_of(Space.WIDE, params))
        quant = Arena(Space.QUANT, params.quant_words, lanes_of(Space.QUANT, params))
        pairs = list(pairwise(sizes))
        hidden = sizes[1:-1]
        self.stage = wide.allocate("the batch or a weight matrix", (batch, sizes[0]), *pairs)
        self.work = wide.allocate("a layer's output", *((batch, n) for n in sizes[1:]))
        self.contexts = [wide.allocate(f"the norm context of layer {i}", (batch, n))
                         for i, n in enumerate(hidden)]
        self.states = [wide.allocate(f"the norm state of layer {i}", (STATE_ROWS, n))
                       for i, n in enumerate(hidden)]
        self.input_exponent = wide.allocate("the input's exponent", (1, sizes[0]))
        self.activation_exponents = [wide.allocate(f"the exponent of layer {i}", (1, n))
                                     for i, n in enumerate(hidden)]
        self.weight_exponents = [wide.allocate(f"the weight exponents of layer {i}", (1, n))
                                 for i, n in enumerate(sizes[1:])]
        self.gradient_exponent = wide.allocate("the gradient's exponent",
                                               *((1, n) for n in sizes[1:]))
        self.input = quant.allocate("the quantised batch", (batch, sizes[0]))
        self.activations = [quant.allocate(f"the activations of layer {i}", (batch, n))
                            for i, n in enumerate(hidden)]
        self.weights = [quant.allocate(f"the weights of layer {i}", pair)
                        for i, pair in enumerate(pairs)]
        self.gradient = quant.allocate("a quantised gradient", *((batch, n) for n in sizes[1:]))
        # The first layer passes no gradient on.
        passing = pairs[1:]
        #: Of the layer whose gradient is on its way back.
        self.transposed_weights = quant.allocate(
            "a transposed weight matrix", *((b, a) for a, b in passing)) if passing else None
        #: What streams on the way back: the sorted gradient, then the transposed activations.
        self.streamed = quant.allocate("a streamed operand",
                                       *program.streamed_shapes(params, pairs, batch))
        program.check_tables(params, batch, max(sizes[1:]))
        self.key_of = None

    def exponent_of(self, exponents):
        """The one exponent of a tensor, from the place where there is one for every column."""
        return int(load(self.device, exponents.view(1, 1))[0, 0])


class Mlp:
    """A multi-layer perceptron: hidden layers with L1 norm and ReLU, a linear head.

    Parameters
    ----------
    sizes : sequence of int
        Features of the input, of every hidden layer and of the output.
    seed : int
        Decides the initial weights and all rounding.
    formats : hdl.params.Formats
        Of all masters and velocities.
    """

    def __init__(self, sizes, seed, formats=DEFAULT_FORMATS):
        self.sizes = tuple(sizes)
        self.seed = seed
        self.formats = formats
        self.hidden = [Hidden(i, a, b, seed, formats)
                       for i, (a, b) in enumerate(pairwise(sizes[:-1]))]
        self.head = Head(len(sizes) - 2, sizes[-2], sizes[-1], seed, formats)

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
        phase = space.device.phase
        u = space.input.view(*x.shape)
        stage = space.stage.view(*x.shape)
        with phase("the batch"):
            store(space.device, stage, x)
            space.device.run([program.quantise(space.params, stage, u, space.input_exponent,
                                               unsigned=True,
                                               clip=ACTIVATION_CLIP[space.params.bits])])
            inputs = [(u, space.exponent_of(space.input_exponent))]
        for layer in self.hidden:
            with phase(f"layer {layer.dense.number} forward"):
                inputs.append(layer.forward(space, *inputs[-1], inference=inference))
        with phase(f"layer {self.head.dense.number} forward"):
            return inputs, self.head.forward(space, *inputs[-1])

    def train_step(self, space, x, labels, rate, step):
        """``(loss, correct)`` of a batch, before the update that it makes."""
        space.key_of = lambda tensor: noise.key(self.seed, step, tensor)
        inputs, logits = self._forward(space, x, inference=False)
        losses, gradient, exponent, predicted = cross_entropy(logits, labels)
        (u, u_unit), *earlier = reversed(inputs)
        phase = space.device.phase
        with phase(f"layer {self.head.dense.number} backward"):
            unit = self.head.backward(space, u, u_unit, gradient, exponent, rate,
                                      propagate=bool(self.hidden))
        for layer, (u, input_unit) in zip(reversed(self.hidden), earlier, strict=True):
            # From the gradient with respect to the layer's u to that of its y = u 2**u_unit.
            with phase(f"layer {layer.dense.number} backward"):
                unit = layer.backward(space, u, unit - u_unit, rate,
                                      propagate=layer is not self.hidden[0])
            u_unit = input_unit
        return int(losses.sum()), int((predicted == labels).sum())

    def predict(self, space, x):
        """The predicted class of every sample, with the running statistics."""
        _, logits = self._forward(space, x, inference=True)
        return logits.argmax(axis=1)


class Hosted:
    """A network whose parameters the host keeps, with the methods that :mod:`host.train` uses."""

    def __init__(self, network, device, batch):
        self._network, self._space = network, network.workspace(device, batch)

    def train_step(self, x, labels, rate, step, following=None):
        """``(loss, correct)`` of a batch, before the update that it makes; nothing is done for the
        step that follows."""
        return self._network.train_step(self._space, x, labels, rate, step)

    def count_correct(self, x, labels, batch):
        """How many labels are predicted, with the running statistics."""
        return sum(int((self._network.predict(self._space, x[i:i + batch])
                        == labels[i:i + batch]).sum()) for i in range(0, len(x), batch))

    def fetch(self):
        """There is nothing on the device."""
