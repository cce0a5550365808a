"""Layers and networks: one training step as operations of the device.

All GEMMs, quantisation, both directions of the L1 norm and the masks run on the device. The host
steps through them, holds the master weights, and computes softmax, loss and the update with the
model's integer functions.

The device multiplies ``[m,k]`` by ``[k,n]`` as they are stored. On the way back the weights and the
activations are transposed in its memory first, and the columns of the operand that streams, the
gradient for dU and the activations for dW, are put in the order of their slots where they have
groups. A convolution is such a product whose rows are addressed, not stored; on the way back its
weights are turned round in memory, and what an output sees through each tap is copied
(:mod:`host.network`). Where its taps overlap, gradients of several samples' or channels' groups
would be added up in one sum, so that a gradient with groups is quantised a second time, without
them, to be passed on.

Exponents. Every integer tensor has a unit ``2**exponent``, of its own or of each column.
Activations are ``u * 2**e_u``, weights ``q * s_w[c]`` with ``s_w = mantissa / 4 * 2**e_w``, and a
product ``sum u q``, brought to 24 bits by ``shift``, has the unit ``e_u + e_w[c] + shift`` and the
mantissa of its column. The backward pass works with the gradient with respect to the products
themselves, ``sum u q`` of the codes: dU uses the codes of the weights as they are, and column c of
dW is divided by ``s_w[c]``. A hidden layer is ``y = relu(norm(u W))``: the norm does not see the
scale of its input, and its gradient is with respect to that input; running statistics have the
scale in them. The head is ``logits = u W 2**e_u s_w[c] + bias``: its gradient is multiplied by
``s_w[c]`` before it is quantised. The loss is the mean over the batch.

A hidden layer may average y over windows before it is quantised. On the way back averages whose
codes are clipped pass nothing; the gradient of the others is aligned, which gives it an exponent of
its own, and each position gets that of its window divided by the window's positions
(:mod:`sim.model.pool`). The norm then looks at the rectifier's mask alone.

Where a shortcut begins or ends (:mod:`host.network`) the host adds, with the model's functions: y
and what goes past it, and on the way back the two gradients, of which the one that comes through
the quantiser has passed its mask.
"""

from dataclasses import dataclass

import numpy as np

from hdl.instructions import STATE_ROWS, ScaleRow, StateRow
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
from host.network import (
    WindowTables,
    batch_codes,
    check_layers,
    check_machine,
    gathered,
    joined,
    passed_on,
    perceptron,
    pooled,
    shortcuts,
    sorted_gradients,
    streamed_columns,
)
from host.tensor_ids import Noise, tensor_id
from host.tensors import Arena, load, store
from sim.model import noise
from sim.model.add import add, add_gradients
from sim.model.initialise import uniform_weights
from sim.model.norm import GRADIENT_BITS, RUNNING_FRACTION, follow, gradient_exponent
from sim.model.quantise import (
    ACTIVATION_CLIP,
    WEIGHT_CLIP,
    divide_by_mantissa,
    fold,
    normalise_columns,
)
from sim.model.relu import relu_gradient, unclipped
from sim.model.rounding import rescale, round_shift, saturate
from sim.model.scale import count_factor, scale_of_ones
from sim.model.softmax import LOGIT_FRACTION, cross_entropy
from sim.model.update import GRADIENT_FRACTION, MASTER_BITS, sgd

__all__ = ["Hosted", "Mlp", "Network", "Parameter"]

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


class Product:
    """The weights of one layer, and the products they take part in.

    Parameters
    ----------
    number : int
    shape : host.network.Layer
    seed, formats
        As of :class:`Network`.
    """

    def __init__(self, number, shape, seed, formats):
        self.number, self.shape = number, shape
        key = noise.key(seed, 0, tensor_id(number, Noise.WEIGHT))
        self.weight = Parameter.of(
            uniform_weights(key, shape.k, shape.n, formats.master[1]),
            tensor_id(number, Noise.WEIGHT_UPDATE), formats)
        #: Of every column of the quantised weights, since :meth:`quantise`.
        self.exponent = self.mantissa = None
        #: Of the product, since :meth:`forward`.
        self.shift = None

    def quantise(self, space):
        """Bring the normalised weights to the device and quantise them per output channel."""
        stage = space.stage.view(self.shape.k, self.shape.n)
        scaled, self.mantissa = normalise_columns(self.weight.master, space.params.bits)
        store(space.device, stage, scaled)
        q, exponents = space.weights[self.number], space.weight_exponents[self.number]
        space.device.run([program.quantise(space.params, stage, q, exponents, per_column=True,
                                           clip=WEIGHT_CLIP[space.params.bits])])
        self.exponent = load(space.device, exponents)[0] - self.weight.fraction

    def forward(self, space, u, out):
        """The instructions of u W, shifted right so that it is safe for the norm's input."""
        steps, self.shift = program.product(
            space.params, u, space.weights[self.number], out,
            space.windows.forward(self.number, space.samples), unsigned=True,
            limit=_ACTIVATION_BITS)
        return steps

    def product_exponent(self, unit):
        """Of the columns of u W as :meth:`forward` leaves them, with u of ``2**unit``."""
        return unit + self.exponent + self.shift

    def backward(self, space, u, unit, *, propagate):
        """From the gradient in ``space.work`` to those of weights and input.

        ``unit`` is the exponent of the gradient with respect to ``sum u q``. Returns the weight
        gradient (with ``GRADIENT_FRACTION`` fraction bits) and the exponent of the gradient with
        respect to u, which it leaves where the activations of the layer before were, when
        ``propagate``.
        """
        params, device, shape = space.params, space.device, self.shape
        m = shape.rows(space.samples)
        work, q = space.work.view(m, shape.n), space.gradient.view(m, shape.n)
        samples, channels = program.gradient_groups(params, m, shape.n)
        steps = [program.quantise(
            params, work, q, space.gradient_exponent.view(1, shape.n),
            key=space.key_of(tensor_id(self.number, Noise.GRADIENT)),
            rows=samples, cols=channels)]
        # Groups of one need no shifts.
        rows = samples if samples and samples.count > 1 else None
        cols = channels if channels and channels.count > 1 else None
        # A convolution passes on what has no groups.
        apart = propagate and not shape.is_product and samples
        inner = cols if propagate and shape.is_product else None
        steps += [program.sort(groups) for groups in (rows, inner) if groups]
        passed, products, du_shift = q, [], 0
        if apart:
            passed = space.passed.view(m, shape.n)
            steps.append(program.quantise(
                params, work, passed, space.passed_exponent.view(1, shape.n),
                key=space.key_of(tensor_id(self.number, Noise.SECOND_GRADIENT))))
        if propagate:
            products, du_shift = (self._pass_on(space, q, rows, cols) if shape.is_product
                                  else self._pass_on_windows(space, passed))
        last, dw_shift = self._weight_gradient(space, u, q, rows, cols)
        device.run([*steps, *products, *last])

        # A step of q in the smallest of its groups, in which products are integers.
        step = space.exponent_of(space.gradient_exponent)
        step -= sum(groups.count - 1 for groups in (rows, cols) if groups)
        gradient, finer = divide_by_mantissa(
            load(device, space.stage.view(shape.k, shape.n)), self.mantissa)
        gradient = _gradient(gradient, unit + step + dw_shift - self.exponent + finer)
        if apart:
            step = space.exponent_of(space.passed_exponent)
        return gradient, unit + step + du_shift

    def _pass_on(self, space, q, rows, cols):
        """``(instructions, shift)``: q times the transposed weights."""
        params, (m, n, k) = space.params, (q.rows, self.shape.n, self.shape.k)
        transposed = space.turned.view(n, k)
        steps, operand = [program.move(space.weights[self.number], transposed,
                                       transposed=True)], q
        if cols:
            operand = space.streamed.view(m, program.slot_columns(params, n, cols.count))
            steps.append(program.move(q, operand, order=cols))
        products, shift = program.gemm(
            params, operand, transposed, space.activation(self.number - 1).view(m, k), inner=cols,
            rows=rows, limit=_ACTIVATION_BITS)
        return steps + products, shift

    def _pass_on_windows(self, space, q):
        """The same of a convolution: with the taps in reverse order, each transposed."""
        shape, weights = self.shape, space.weights[self.number]
        c, n = shape.in_channels, shape.n
        turned = space.turned.view(*shape.turned)
        steps = [program.move(weights.rows_from(tap * c, c),
                              turned.rows_from((shape.taps - 1 - tap) * n, n), transposed=True)
                 for tap in range(shape.taps)]
        products, shift = program.convolution(
            space.params, q, turned,
            space.activation(self.number - 1).view(shape.rows_in(space.samples), c),
            space.windows.gradient(self.number, space.samples), limit=_ACTIVATION_BITS)
        return steps + products, shift

    def _weight_gradient(self, space, u, q, rows, cols):
        """``(instructions, shift)``: what is seen through each tap, transposed, times q, to
        ``space.stage``."""
        params, shape, m = space.params, self.shape, q.rows
        c, steps = shape.in_channels, []
        windows = space.windows.forward(self.number, space.samples)
        out = space.stage.view(shape.k, shape.n)
        operand = space.streamed.view(
            c, program.slot_columns(params, m, rows.count) if rows else m)
        for tap in range(shape.taps):
            source = windows and {"windows": windows, "tap": shape.place(tap), "unsigned": True}
            if windows and rows:
                # What is gathered is not sorted.
                seen = space.seen.view(m, c)
                steps.append(program.move(u, seen, **source))
                steps.append(program.move(seen, operand, transposed=True, order=rows))
            else:
                steps.append(program.move(u, operand, transposed=True, order=rows, **source or {}))
            products, shift = program.gemm(params, operand, q, out.rows_from(tap * c, c),
                                           unsigned=True, inner=rows, cols=cols)
            steps += products
        return steps, shift


class Hidden:
    """Product, L1 norm over the batch and all positions, ReLU, averages where the shape pools, the
    sum with what its shortcut adds, quantisation to unsigned activations."""

    def __init__(self, number, shape, seed, formats):
        self.product = Product(number, shape, seed, formats)
        one = np.full(shape.n, 1 << formats.master[1], np.int64)
        self.gamma = Parameter.of(one, tensor_id(number, Noise.GAMMA_UPDATE), formats)
        self.beta = Parameter.of(0 * one, tensor_id(number, Noise.BETA_UPDATE), formats)
        self.running_mean = self.running_deviation = None

    def parameters(self):
        """In the order in which they are hashed and stored."""
        return {"weight": self.product.weight, "gamma": self.gamma, "beta": self.beta}

    def statistics(self):
        """Running statistics, with ``RUNNING_FRACTION`` fraction bits."""
        if self.running_mean is None:
            self.running_mean = np.zeros(self.product.shape.n, np.int64)
            self.running_deviation = self.running_mean.copy()
        return {"mean": self.running_mean, "deviation": self.running_deviation}

    def forward(self, space, u, unit, *, inference=False):
        """``(activations, unit)``: the device's tensor of u and the exponent of a step."""
        device, number, shape = space.device, self.product.number, self.product.shape
        m, n = shape.rows(space.samples), shape.n
        work, state = space.work.view(m, n), space.states[number]
        y, out = (place.view(shape.pooled_rows(space.samples), n) for place in (
            space.activation(number), space.activations[number]))
        self.product.quantise(space)
        products = self.product.forward(space, u, work)
        exponent = self.product.product_exponent(unit)

        rows = np.zeros((STATE_ROWS, n), np.int64)
        drop = self.gamma.fraction - PARAMETER_FRACTION
        rows[StateRow.GAMMA] = saturate(round_shift(self.gamma.master, drop), 16)[0]
        rows[StateRow.BETA] = round_shift(self.beta.master, drop)
        if inference:
            statistics = self.statistics()
            for row, name in ((StateRow.MEAN, "mean"), (StateRow.DEVIATION, "deviation")):
                value, finer = divide_by_mantissa(statistics[name], self.product.mantissa)
                from_running = NORM_FRACTION - exponent - RUNNING_FRACTION + finer
                rows[row] = rescale(value, from_running, WIDE_BITS)[0]
        store(device, state, rows)
        steps = [
            *products,
            program.norm_forward(space.params, work, work, space.contexts[number].view(m, n), state,
                                 relu=True, inference=inference),
            *(program.pool(work, y, space.ones.view(len(ScaleRow), n),
                           (space.samples, *shape.maps), shape.pool) if shape.pools else []),
        ]
        if number in space.joined:
            device.run(steps)
            steps = []
            self._add(space, y)
        device.run([*steps, program.quantise(
            space.params, y, out, space.activation_exponents[number], unsigned=True,
            clip=ACTIVATION_CLIP[space.params.bits])])
        if not inference:
            self._follow(load(device, state), exponent)
        return out, space.exponent_of(space.activation_exponents[number]) - PARAMETER_FRACTION

    def _add(self, space, place):
        """What goes out at a place to the stream, with what is there where a shortcut ends."""
        z = load(space.device, place)
        if self.product.shape.shortcut:
            z, _ = add(z, space.stream)
            store(space.device, place, z)
        space.stream = z

    def _meet(self, space, place, codes, unit):
        """The exponent of the gradient of what goes out, which it leaves at the place of the one
        that comes through the quantiser, and on the stream."""
        offset = 1 << space.params.bits - 1
        passing = unclipped(load(space.device, codes) + offset, space.params.bits)
        gradient = relu_gradient(load(space.device, place), passing), unit
        if self.product.number in space.begins:
            gradient = add_gradients([space.stream, gradient])
        space.stream = gradient
        store(space.device, place, gradient[0])
        return gradient[1]

    def _follow(self, state, exponent):
        """Move the running statistics towards this batch's; the first batch sets them."""
        self.running_mean, self.running_deviation = (
            follow(running, state[row], self.product.mantissa, exponent)
            for running, row in ((self.running_mean, StateRow.MEAN),
                                 (self.running_deviation, StateRow.DEVIATION)))

    def backward(self, space, u, unit, rate, *, propagate):
        """From the gradient with respect to the activations; ``unit`` is its exponent.

        Returns the exponent of the gradient with respect to u, as :meth:`Product.backward`.
        """
        number, shape = self.product.number, self.product.shape
        m, n = shape.rows(space.samples), shape.n
        work, state = space.work.view(m, n), space.states[number]
        codes = space.activations[number].view(shape.pooled_rows(space.samples), n)
        gradient = space.activation(number).view(codes.rows, n)
        if number in space.joined:
            unit, codes = self._meet(space, gradient, codes, unit), None
        if shape.pools:
            space.device.run(program.pool_gradient(
                gradient, work, space.pooled_exponent.view(1, n),
                space.ones.view(len(ScaleRow), n), (space.samples, *shape.maps), shape.pool,
                codes=codes))
            unit, codes = unit + space.exponent_of(space.pooled_exponent), None
        space.device.run([program.norm_backward(
            space.params, work, work, space.contexts[number].view(m, n), state, codes)])
        rows = load(space.device, state)
        grad_bits, deviation_bits = (int(rows[row, 0]) for row in (
            StateRow.GRAD_BITS, StateRow.DEVIATION_BITS))
        # The device has means over the batch and all positions.
        factor, finer = count_factor(m)
        gamma, beta = (_gradient(factor * rows[row], unit + grad_bits - GRADIENT_BITS + finer)
                       for row in (StateRow.GRAD_GAMMA, StateRow.GRAD_BETA))
        # The norm's input is sum u q shifted right.
        product_unit = unit + gradient_exponent(grad_bits, deviation_bits) - self.product.shift
        weight, unit = self.product.backward(space, u, product_unit, propagate=propagate)
        self.product.weight.update(weight, rate, space.key_of)
        self.gamma.update(gamma, rate, space.key_of)
        self.beta.update(beta, rate, space.key_of)
        return unit


class Head:
    """Product with a bias; softmax, loss and gradient of the logits on the host."""

    def __init__(self, number, shape, seed, formats):
        self.product = Product(number, shape, seed, formats)
        self.bias = Parameter.of(np.zeros(shape.n, np.int64),
                                 tensor_id(number, Noise.BETA_UPDATE), formats)

    def parameters(self):
        """In the order in which they are hashed and stored."""
        return {"weight": self.product.weight, "bias": self.bias}

    def statistics(self):
        """It keeps none."""
        return {}

    def forward(self, space, u, unit):
        """The logits [m, n] with ``LOGIT_FRACTION`` fraction bits."""
        work = space.work.view(space.samples, self.product.shape.n)
        self.product.quantise(space)
        space.device.run(self.product.forward(space, u, work))
        logits, _ = rescale(load(space.device, work) * self.product.mantissa,
                            self.product.product_exponent(unit) - 2 + LOGIT_FRACTION,
                            _ACTIVATION_BITS)
        bias = round_shift(self.bias.master, self.bias.fraction - LOGIT_FRACTION)
        return saturate(logits + bias, _ACTIVATION_BITS)[0]

    def backward(self, space, u, unit, gradient, exponent, rate, *, propagate):
        """From the gradient of the logits, of unit ``2**exponent``, with u of unit ``2**unit``.

        Returns the exponent of the gradient with respect to u, as :meth:`Product.backward`.
        """
        bias = _gradient(gradient.sum(axis=0), exponent)
        folded, least = fold(gradient, self.product.exponent, self.product.mantissa)
        store(space.device, space.work.view(*gradient.shape), folded)
        weight, du_unit = self.product.backward(space, u, exponent + least + unit,
                                              propagate=propagate)
        self.product.weight.update(weight, rate, space.key_of)
        self.bias.update(bias, rate, space.key_of)
        return du_unit


class Workspace:
    """The places of a network's tensors in device memory."""

    def __init__(self, device, layers, batch):
        self.device = device
        self.params = params = device.params
        check_machine(params, layers, batch)
        wide = Arena(Space.WIDE, params)
        quant = Arena(Space.QUANT, params)
        weights = [(layer.k, layer.n) for layer in layers]
        inputs = [(layer.rows_in(batch), layer.in_channels) for layer in layers]
        outputs = [(layer.rows(batch), layer.n) for layer in layers]
        averages = pooled(layers, batch)
        columns = [(1, layer.n) for layer in layers]
        # The first layer passes no gradient on.
        passing = layers[1:]
        #: The batch, if the device quantises it, or a weight matrix.
        self.stage = wide.allocate("the batch or a weight matrix",
                                   *inputs[:layers[0].is_product], *weights)
        self.work = wide.allocate("a layer's output", *outputs)
        self._layers = layers
        if averages:
            #: Averages of a layer's output, and their gradient; its exponent.
            self.pooled = wide.allocate("averages of a layer's output", *averages.values())
            self.pooled_exponent = wide.allocate("the exponent of their gradient",
                                                 *((1, n) for _, n in averages.values()))
            widest = max(n for _, n in averages.values())
            self.ones = wide.allocate("a scale tensor of ones", (len(ScaleRow), widest))
            store(device, self.ones, scale_of_ones(widest))
        self.contexts = [wide.allocate(f"the norm context of layer {i}", shape)
                         for i, shape in enumerate(outputs[:-1])]
        self.states = [wide.allocate(f"the norm state of layer {i}", (STATE_ROWS, layer.n))
                       for i, layer in enumerate(layers[:-1])]
        self.input_exponent = wide.allocate("the input's exponent", (1, inputs[0][1]))
        self.activation_exponents = [wide.allocate(f"the exponent of layer {i}", row)
                                     for i, row in enumerate(columns[:-1])]
        self.weight_exponents = [wide.allocate(f"the weight exponents of layer {i}", row)
                                 for i, row in enumerate(columns)]
        self.gradient_exponent = wide.allocate("the gradient's exponent", *columns)
        self.input = quant.allocate("the quantised batch", inputs[0])
        self.activations = [quant.allocate(f"the activations of layer {i}", shape)
                            for i, shape in enumerate(inputs[1:])]
        self.weights = [quant.allocate(f"the weights of layer {i}", shape)
                        for i, shape in enumerate(weights)]
        self.gradient = quant.allocate("a quantised gradient", *outputs)
        #: Of the layer whose gradient is on its way back.
        self.turned = quant.allocate(
            "a transposed weight matrix",
            *(layer.turned for layer in passing)) if passing else None
        #: What streams on the way back: the sorted gradient, then the transposed activations.
        self.streamed = quant.allocate(
            "a streamed operand", *((layer.in_channels, streamed_columns(params, layer, batch))
                                    for layer in layers),
            *sorted_gradients(params, layers, batch))
        if passed := passed_on(params, layers, batch).values():
            #: The gradient that is passed on, without groups.
            self.passed = quant.allocate("a gradient that is passed on", *passed)
            self.passed_exponent = wide.allocate("its exponent", *((1, n) for _, n in passed))
        if seen := gathered(params, layers, batch):
            #: What outputs see through a tap.
            self.seen = quant.allocate("what is seen through a tap", *seen)
        self.windows = WindowTables(params, layers, batch)
        #: Numbers of layers where shortcuts begin, and with those where they end.
        self.begins, self.joined = set(shortcuts(layers).values()), joined(layers, batch).keys()
        #: What goes past layers: activations, on the way back a gradient and its exponent.
        self.stream = None
        #: Samples of the batch.
        self.samples = None
        self.key_of = None

    def activation(self, number):
        """Where the activations of a layer are before they are quantised, and their gradient."""
        return self.pooled if self._layers[number].pools else self.work

    def begin(self, samples):
        """Make the tables those of so many samples."""
        if samples != self.samples:
            self.windows.store(self.device, samples)
        self.samples = samples

    def exponent_of(self, exponents):
        """The one exponent of a tensor, from the place where there is one for every column."""
        return int(load(self.device, exponents.view(1, 1))[0, 0])


class Network:
    """Hidden layers with L1 norm and ReLU, a linear head.

    Parameters
    ----------
    shapes : sequence of host.network.Layer
        Of all layers; the last has one output position.
    seed : int
        Decides the initial weights and all rounding.
    formats : hdl.params.Formats
        Of all masters and velocities.
    """

    def __init__(self, shapes, seed, formats=DEFAULT_FORMATS):
        check_layers(shapes)
        self.shapes = tuple(shapes)
        self.seed = seed
        self.formats = formats
        *hidden, head = enumerate(shapes)
        self.hidden = [Hidden(number, shape, seed, formats) for number, shape in hidden]
        self.head = Head(*head, seed, formats)

    @property
    def layers(self):
        """All layers in order."""
        return [*self.hidden, self.head]

    @property
    def macs_per_sample(self):
        """Multiply-accumulates of a training step for one sample; the input needs no gradient."""
        products = [shape.macs_per_sample for shape in self.shapes]
        return 3 * sum(products) - products[0]

    def workspace(self, device, batch):
        """Places for training in batches of at most ``batch`` samples."""
        return Workspace(device, self.shapes, batch)

    def _input(self, space, x):
        """The batch's codes on the device, and the exponent of a step."""
        first = self.shapes[0]
        u = space.input.view(first.rows_in(len(x)), first.in_channels)
        if first.is_product:
            stage = space.stage.view(u.rows, u.cols)
            store(space.device, stage, x.reshape(u.rows, u.cols))
            space.device.run([program.quantise(space.params, stage, u, space.input_exponent,
                                               unsigned=True,
                                               clip=ACTIVATION_CLIP[space.params.bits])])
            return u, space.exponent_of(space.input_exponent)
        # Images may have more positions than the quantiser takes rows.
        codes, exponent = batch_codes(x, first, space.params.bits)
        store(space.device, u, codes)
        return u, int(exponent)

    def _forward(self, space, x, *, inference):
        phase = space.device.phase
        with phase("the batch"):
            space.begin(len(x))
            inputs = [self._input(space, x)]
        for layer in self.hidden:
            with phase(f"layer {layer.product.number} forward"):
                inputs.append(layer.forward(space, *inputs[-1], inference=inference))
        with phase(f"layer {self.head.product.number} forward"):
            return inputs, self.head.forward(space, *inputs[-1])

    def train_step(self, space, x, labels, rate, step):
        """``(loss, correct)`` of a batch, before the update that it makes."""
        space.key_of = lambda tensor: noise.key(self.seed, step, tensor)
        inputs, logits = self._forward(space, x, inference=False)
        losses, gradient, exponent, predicted = cross_entropy(logits, labels)
        (u, u_unit), *earlier = reversed(inputs)
        phase = space.device.phase
        with phase(f"layer {self.head.product.number} backward"):
            unit = self.head.backward(space, u, u_unit, gradient, exponent, rate,
                                      propagate=bool(self.hidden))
        for layer, (u, input_unit) in zip(reversed(self.hidden), earlier, strict=True):
            # From the gradient with respect to the layer's u to that of its y = u 2**u_unit.
            with phase(f"layer {layer.product.number} backward"):
                unit = layer.backward(space, u, unit - u_unit, rate,
                                      propagate=layer is not self.hidden[0])
            u_unit = input_unit
        return int(losses.sum()), int((predicted == labels).sum())

    def predict(self, space, x):
        """The predicted class of every sample, with the running statistics."""
        _, logits = self._forward(space, x, inference=True)
        return logits.argmax(axis=1)


class Mlp(Network):
    """A multi-layer perceptron; ``sizes`` are features of the input, of every hidden layer and of
    the output."""

    def __init__(self, sizes, seed, formats=DEFAULT_FORMATS):
        super().__init__(perceptron(sizes), seed, formats)


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
