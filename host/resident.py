"""Networks that live on the device: whole steps as stored programs.

On a machine that keeps masters (:attr:`hdl.params.Params.masters`) weights, velocities and running
statistics stay there. A step is a list of instructions without a word from the host in between: the
batch goes down, and its loss and the number of right predictions come up. What it computes is what
:mod:`host.layers` computes with the host's help, bit for bit.

Exponents are numbers in the device's memory. A tensor's unit is ``2**e`` with e the sum of some
words, known to the device alone, and of a constant: a :class:`Unit`.
"""

from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import lcm

import numpy as np

from hdl.instructions import COLUMN_UNIT, STATE_ROWS, LossRow, ScaleRow, StateRow
from hdl.params import MAX_K, NORM_FRACTION, PARAMETER_FRACTION, WIDE_BITS
from hdl.protocol import INSTRUCTIONS, Space
from host import program
from host.errors import ArgumentError, MemoryFullError
from host.network import (
    WindowTables,
    batch_codes,
    check_machine,
    gathered,
    group_words,
    joined,
    merged,
    passed_on,
    pooled,
    shortcuts,
    sorted_gradients,
    streamed_columns,
)
from host.schedule import schedule, scheduled
from host.tensor_ids import Noise, tensor_id
from host.tensors import Arena, Tensor, load, store
from sim.model import noise
from sim.model.norm import GRADIENT_BITS, RUNNING_FRACTION, RUNNING_SHIFT
from sim.model.quantise import ACTIVATION_CLIP, WEIGHT_CLIP
from sim.model.scale import count_factor, scale_of_ones
from sim.model.softmax import LOGIT_FRACTION, PROBABILITY_FRACTION
from sim.model.update import GRADIENT_FRACTION

__all__ = ["Resident"]

#: Rows of a weight matrix of which gradients are made at a time, where there is room: fewer where
#: the first of them waits for groups of samples.
_CHUNK, _GROUPED_CHUNK = 270, 128
#: More chunks than so many times as many as usual take longer than the wait for words that are free
#: later.
_FINE = 2
#: Parts that the columns of all weight matrices together are in, at most.
_BLOCKS = 24
#: Layers of a network that is gone through in parts anyway; exponents alone fill the programs of
#: deeper ones, whose layers are in as few blocks as have room.
_LAYERS = 4
#: Where a state tensor has what was found of the norm's output, until the way back.
_FOUND = StateRow.GRAD_BETA
#: Width of wide activations, and what a division by a mantissa shifts left.
_ACTIVATION_BITS, _FINER = 24, -12


@dataclass(frozen=True)
class Unit:
    """``2**(const + sum of the words in plus - that of those in minus)``."""
    plus: tuple = ()
    minus: tuple = ()
    const: int = 0

    def __add__(self, other):
        if isinstance(other, int):
            return Unit(self.plus, self.minus, self.const + other)
        plus, minus = [*self.plus, *other.plus], [*self.minus, *other.minus]
        for word in list(plus):
            if word in minus:
                plus.remove(word)
                minus.remove(word)
        return Unit(tuple(plus), tuple(minus), self.const + other.const)

    def __neg__(self):
        return Unit(self.minus, self.plus, -self.const)

    def __sub__(self, other):
        return self + -other


def _row(tensor, row):
    """A row of a tensor, as one that COMBINE takes."""
    return Tensor(tensor.space, tensor.base + row, 1, tensor.cols, tensor.rows - 1)


def _word(tensor):
    """The first number of a tensor."""
    return tensor.view(1, 1)


def _joined(blocks):
    """The columns of blocks that follow each other."""
    return blocks[0][0], sum(count for _, count in blocks)


def _blocks(params, n, most):
    """``(first, count)`` of the columns of a layer that instructions take at a time, at most so
    many: whole words, and what SCALE can count."""
    unit = lcm(params.slots, COLUMN_UNIT)
    width = unit * -(-n // (unit * most))
    return [(first, min(width, n - first)) for first in range(0, n, width)]


def _each(arena, name, shapes, first=0):
    """A place for every layer from one on."""
    return [arena.allocate(f"{name} of layer {i}", shape) for i, shape in enumerate(shapes, first)]


def _by_turns(arena, name, shapes):
    """A place for every layer, which those two layers away have as well: what is done for a layer
    need not be done when the next one is begun."""
    layers = range(len(shapes))
    places = [arena.allocate(
        f"{name} of layer {' and '.join(map(str, layers[turn::2]))}", *shapes[turn::2])
        for turn in range(2) if shapes[turn:]]
    return [places[i % 2] for i, _ in enumerate(shapes)]


class Places:
    """Where everything is, for batches of at most so many samples."""

    def __init__(self, params, layers, batch):
        check_machine(params, layers, batch)
        self._params, self._layers = params, layers
        wide = Arena(Space.WIDE, params)
        masters = Arena(Space.MASTER, params)
        tables = Arena(Space.GROUP, params)
        weights = [(layer.k, layer.n) for layer in layers]
        outputs = [(layer.rows(batch), layer.n) for layer in layers]
        rows = [(1, layer.n) for layer in layers]
        hidden, widest = rows[:-1], max(layer.n for layer in layers)

        self.weights = _each(masters, "the weight matrix", weights)
        #: gamma and beta of hidden layers, the bias of the last.
        self.gammas = _each(masters, "gamma", hidden)
        self.betas = _each(masters, "beta", rows)

        self.states = _each(wide, "the norm state", [(STATE_ROWS, n) for _, n in hidden])
        self.means = _each(wide, "the running mean", hidden)
        self.deviations = _each(wide, "the running deviation", hidden)
        self.scales = _each(wide, "the scale tensor", [(len(ScaleRow), n) for _, n in rows])
        #: Of the activations that go into each layer.
        self.exponents = _each(wide, "the exponent of the input",
                               [(1, layer.in_channels) for layer in layers])
        self.gradient_exponents = _each(wide, "the exponent of the gradient", rows)
        self.aligned = wide.allocate("the exponent of the logits' gradient", rows[-1])
        self.first, self.second = (wide.allocate("a row", (1, widest)) for _ in range(2))
        self.sums = _by_turns(wide, "the exponents' sum", [(1, 1) for _ in outputs])
        self.zero = wide.allocate("the number 0", (1, 1))
        self.ones = wide.allocate("a scale tensor of ones", (len(ScaleRow), widest))
        #: By layer that of the gradient of its averages.
        averages = pooled(layers, batch)
        self.pooled_exponents = {
            number: wide.allocate(f"the exponent of the averages' gradient of layer {number}",
                                  (1, n)) for number, (_, n) in averages.items()}
        #: Layers where shortcuts begin.
        self.begins = set(shortcuts(layers).values())
        past = joined(layers, batch)
        #: Of two gradients that meet, by layer their exponents, by channels their scale tensor.
        self.stream_exponents = {
            number: wide.allocate(f"the exponent of the output's gradient of layer {number}",
                                  (1, 2 * program.whole_words(params, n)))
            for number, (_, n) in sorted(past.items())}
        self.stream_scales = {
            n: wide.allocate("the scale tensor of gradients that meet",
                             (len(ScaleRow), 2 * program.whole_words(params, n)))
            for n in sorted({n for _, n in past.values()})}
        #: By output positions of a sample, the rows of the batch.
        self.batches = {
            positions: wide.allocate("the scale tensor of the batch", (len(ScaleRow), widest))
            for positions in sorted({layer.positions for layer in layers})}
        self.labels = wide.allocate("the labels", (batch, 1))
        self.loss = wide.allocate("the loss", (len(LossRow), 1))
        # From here on is what the first layer's gradient has room in.
        self._reused = wide.used
        #: What goes past layers, on the way back its gradient. The one that this meets lies behind
        #: it: a layer's output has been quantised then.
        self.stream = past and wide.allocate("what goes past layers", *past.values())
        self.work = wide.allocate("a layer's output", *outputs)
        #: Averages of it, and their gradient.
        self.pooled = averages and wide.allocate("averages of a layer's output",
                                                 *averages.values())
        self.contexts = _each(wide, "the norm context", outputs[:-1])
        self.passed_exponents = {
            number: wide.allocate("the exponent of a gradient that is passed on", (1, n))
            for number, (_, n) in passed_on(params, layers, batch).items()}

        quant = self._codes(batch)
        self.arenas = wide, quant, masters, tables
        before = len(wide.places)
        #: By layer its columns in blocks, and these in parts, of which gradients are made one after
        #: the other, in places that the parts take in turn.
        self.parts, self.products = self._divided(params, weights, wide)
        if self._way:
            self._widen_way(batch)
        #: Second places of a step's input, its exponent and the labels, or None.
        self.spare = self._spare(layers[0], weights, batch, wide, before, quant)
        self.windows = WindowTables(params, layers, batch)
        #: Where groups of gradients are, by turns if there is room.
        need, _ = group_words(params, layers, batch)
        turns = 2 if 2 * need <= self.windows.left else 1
        self.tables = [need * (i % turns) for i, _ in enumerate(layers)]
        if params.max_groups > 1:
            for _ in range(min(turns, len(layers))):
                tables.allocate("groups and order of a gradient", (need, 1))
        self.windows.allocate(tables.again(self.windows.left))

    def _codes(self, batch):
        """The quantised memory, with its places.

        Where not all that streams for the first layer's gradients has a place it would be moved
        anew for each part of the columns. Its input, if that is multiplied as it is, gives way to
        it then: after the products of the way forward nothing else needs it."""
        quant = self._lay(batch, Arena(Space.QUANT, self._params))
        if self._layers[0].is_product and not self.stays(0):
            other = copy(self)
            with suppress(MemoryFullError):
                quant = other._lay(batch, Arena(Space.QUANT, self._params), gives_way=True)
                vars(self).update(vars(other))
        return quant

    def _lay(self, batch, quant, *, gives_way=False):
        """Places in the quantised memory, which is returned."""
        params, layers = self._params, self._layers
        self.gradients = _by_turns(
            quant, "a quantised gradient", [(layer.rows(batch), layer.n) for layer in layers])
        self.turned = quant.allocate(
            "a transposed weight matrix",
            *(layer.turned for layer in layers[1:])) if layers[1:] else None
        #: What windows see of a gradient, without groups.
        passed = passed_on(params, layers, batch)
        self.passed = passed and quant.allocate("a gradient that is passed on", *passed.values())
        if seen := gathered(params, layers, batch):
            #: What outputs see through a tap, where that is sorted then.
            self.seen = quant.allocate("what is seen through a tap", *seen)
        #: Inputs, each with the weights. The first one gives way where there is no place for it,
        #: and its weights are before what it gives way to.
        self._inputs, self.codes = [None] * gives_way, [None] * gives_way
        for number, layer in enumerate(layers[gives_way:], gives_way):
            self._inputs.append(quant.allocate(f"the quantised input of layer {number}",
                                               (layer.rows_in(batch), layer.in_channels)))
            self.codes.append(self._code_place(quant, number))
        #: By layer the rows of weights of which gradients are made at a time, in pieces (tap, first
        #: channel, count); and places of what streams for them, which are used in turn.
        room = quant.left
        if gives_way:
            room -= quant.words(layers[0].k, layers[0].n)
            # As few words as it may take.
            room -= self._way_words(batch, self._chunks(layers[0], MAX_K))
        chunks, self.streamed = self._streamed(batch, quant, layers[gives_way:], room)
        self.chunks = [None] * gives_way + chunks
        #: Those of each layer.
        self._operands = [self.streamed] * len(layers)
        for number in range(gives_way, len(layers)):
            self._widen(number, batch, quant)
        self._way = None
        if gives_way:
            self.codes[0] = self._code_place(quant, 0)
            self.chunks[0], self._way = self._make_way(batch, quant)
        return quant

    def _code_place(self, quant, number):
        layer = self._layers[number]
        return quant.allocate(f"the quantised weight matrix of layer {number}", (layer.k, layer.n))

    def input_of(self, number, samples):
        """The place of the input of a layer, of so many samples."""
        layer = self._layers[number]
        shape = layer.rows_in(samples), layer.in_channels
        if self._inputs[number] is None:
            # It ends where its place does.
            return Tensor(Space.QUANT, self._way.stop - self._words(*shape), *shape)
        return self._inputs[number].view(*shape)

    def operands(self, number):
        """Places of what streams for the gradients of a layer, which are used in turn."""
        return self._operands[number]

    def on_the_way(self, number, first, count, cols):
        """The place of what streams for some rows of a layer's weights, where the input gives way
        to it; else None."""
        if number or self._way is None:
            return None
        return Tensor(Space.QUANT, self._way.start + self._words(first, cols), count, cols)

    def stays(self, number):
        """Whether all that streams for a layer's gradients has places, so that it is moved once."""
        return (len(self.chunks[number]) <= len(self._operands[number])
                or (not number and self._way is not None))

    def on_turn(self, turn):
        """These places, with the second ones of what a batch brings if ``turn`` is 1."""
        if not turn:
            return self
        other = copy(self)
        first, exponent, other.labels = self.spare
        other._inputs = [first, *self._inputs[1:]]
        other.exponents = [exponent, *self.exponents[1:]]
        return other

    def _spare(self, layer, weights, batch, wide, before, quant):
        """Second places for a batch, where there is room that nothing else has a use for: of the
        wide memory the last words, if there are as many places of weight gradients below them.

        ``before`` is how many places the memory had before those.
        """
        if self._way or wide.left < batch + 1:
            return None
        below, above = wide.below(batch + 1, before)
        try:
            parts, products = self._products(weights, below)
            if parts != self.parts or [*map(len, products)] != [*map(len, self.products)]:
                return None
            found = quant.allocate("a second input", (layer.rows_in(batch), layer.in_channels))
        except MemoryFullError:
            return None
        self.products = products
        spare = (found, above.allocate("the exponent of a second input", (1, 1)),
                 above.allocate("second labels", (batch, 1)))
        wide.places[:] = below.places
        return spare

    def _divided(self, params, weights, wide):
        """Divide the columns of all layers in blocks; of these :meth:`_products`."""
        most = max(1, _BLOCKS // len(weights))
        before = len(wide.places)
        for count in range(most if len(weights) <= _LAYERS else 1, most + 1):
            self.blocks = [_blocks(params, n, count) for _, n in weights]
            try:
                return self._products(weights, wide)
            except MemoryFullError:
                del wide.places[before:]
                if count == most:
                    raise

    def _products(self, weights, wide):
        """Parts and places of all layers: parts as wide as two places have room for, or blocks in
        one place.

        A layer's places are before those of the layer behind, from the end of the memory on, if
        there is room: what is done for that one need not be done when this one is begun. Those of
        the first layer, whose gradients are the last of a step, are where outputs and contexts
        were.
        """
        found, free = [], wide.left
        for number in reversed(range(len(weights))):
            k, blocks = weights[number][0], self.blocks[number]
            whole = wide.again(wide.used if number else self._reused)
            # What streams can only stay for one part after the other; columns that share it else.
            few = min(2, len(blocks)) if self.stays(number) else 1
            for count in range(few, len(blocks) + 1):
                ends = [len(blocks) * i // count for i in range(count + 1)]
                parts = [blocks[a:b] for a, b in pairwise(ends)]
                shape, turns = (k, max(_joined(part)[1] for part in parts)), min(2, count)
                if turns * wide.words(*shape) <= whole.left:
                    break
            else:
                turns = 1
            need = turns * wide.words(*shape)
            if number and need <= wide.left:
                free = (free if need <= free else wide.left) - need
                whole = wide.again(wide.used + free)
            found.append((parts, [whole.allocate(f"a weight gradient of layer {number}", shape)
                                  for _ in range(turns)]))
        return zip(*reversed(found), strict=True)

    def _words(self, rows, cols):
        """Words of the quantised memory that a tensor takes."""
        return -(-cols // self._params.slots) * rows

    def _chunks(self, layer, least):
        """The rows of a layer's weights in chunks, as many as is usual, and ``least`` if there can
        be."""
        usual = _GROUPED_CHUNK if self._params.sample_groups > 1 else _CHUNK
        pieces = layer.pieces(self._params.slots)
        count = max(least, round(layer.k / usual) if len(self._layers) <= _LAYERS else 0, 1)
        count = min(count, len(pieces))
        ends = [len(pieces) * i // count for i in range(count + 1)]
        return [merged(pieces[a:b]) for a, b in pairwise(ends)]

    def _streamed(self, batch, quant, layers, room):
        """Of the last ``layers`` chunks of about so many rows, or as many as two places have room
        for; as many places as there may be in so many words."""
        params = self._params

        def chunks(layer, cols):
            pieces = layer.pieces(params.slots)
            most = max(1, room // 2 // quant.words(max(n for *_, n in pieces), cols))
            return self._chunks(layer, -(-len(pieces) // most))

        columns = [streamed_columns(params, layer, batch) for layer in layers]
        found = list(map(chunks, layers, columns))
        shapes = [(max(layer.rows_of(chunk)[1] for chunk in each), cols)
                  for layer, each, cols in zip(layers, found, columns, strict=True)]
        shapes += sorted_gradients(params, self._layers, batch)
        if not shapes:
            return found, []
        useful = sum(map(len, found)) + len(self._layers) - 1
        count = room // max(quant.words(*shape) for shape in shapes)
        return found, [quant.allocate("a streamed operand", *shapes)
                       for _ in range(min(max(count, 1), useful))]

    def _widen(self, number, batch, quant):
        """Larger chunks of a layer, and more places for what streams, where there is little room:
        inputs and weights of the layers behind are not needed any more then."""
        layer, codes, before = self._layers[number], self.codes[number], len(self.chunks[number])
        if before <= _FINE * len(self._chunks(layer, 1)) and len(self.streamed) >= min(2, before):
            return
        reused = quant.again(codes.base + quant.words(codes.rows, codes.cols))
        room, cols = quant.used - reused.used, streamed_columns(self._params, layer, batch)
        for least in range(1, before + 1):
            chunks = self._chunks(layer, least)
            rows = max(layer.rows_of(chunk)[1] for chunk in chunks)
            count = min(len(chunks), room // quant.words(rows, cols))
            if count >= min(2, len(chunks)):
                break
        if len(chunks) < before or count > len(self.streamed):
            self.chunks[number] = chunks
            self._operands[number] = [
                reused.allocate(f"a streamed operand of layer {number}", (rows, cols))
                for _ in range(count)]

    def _make_way(self, batch, quant):
        """``(chunks, words)``: what streams for the first layer's gradients is moved to the words
        before the input, and then to those of the input that were moved already.

        The chunk i of D words of what streams is moved from S words of the input. Before it has
        been moved the i - 1 before lie at the beginning of the place, the input's words that are
        left at its end, and in between there is room for it if::

            D[0] + ... + D[i] + S[i] + S[i+1] + ... <= words of the place

        Both D and S grow with the samples; so fewer samples have room there too.
        """
        layer, base = self._layers[0], quant.used
        for least in range(1, len(layer.pieces(self._params.slots)) + 1):
            chunks = self._chunks(layer, least)
            if (need := self._way_words(batch, chunks)) <= quant.left:
                break
        shape = layer.rows_in(batch), layer.in_channels
        # As a place of its own it would be refused as the others are.
        quant.again(base + need - quant.words(*shape)).allocate(
            "the quantised input of layer 0", shape)
        quant.allocate("what streams for the gradients of layer 0",
                       (layer.k, streamed_columns(self._params, layer, batch)))
        return chunks, range(base, base + need)

    def _widen_way(self, batch):
        """Larger chunks, as what streams has room where weights of the last part are as well: they
        are quantised when the next step begins, and after the way forward nothing needs them."""
        layer, codes = self._layers[0], self.codes[0]
        first = codes.base + self._words(layer.k, self.parts[0][-1][0][0])
        before, usual = len(self.chunks[0]), len(self._chunks(layer, 1))
        for least in range(usual, before if before > _FINE * usual else usual):
            chunks = self._chunks(layer, least)
            if self._way_words(batch, chunks) <= self._way.stop - first:
                self.chunks[0], self._way = chunks, range(first, self._way.stop)
                break

    def _way_words(self, batch, chunks):
        """Words that the place takes in which the input gives way to such chunks."""
        layer = self._layers[0]
        rows, cols = layer.rows_in(batch), streamed_columns(self._params, layer, batch)
        sizes = [layer.rows_of(chunk)[1] for chunk in chunks]
        return max(self._words(sum(sizes[:i + 1]), cols) + self._words(rows, sum(sizes[i:]))
                   for i, _ in enumerate(sizes))


class Steps:
    """The instructions of a step of ``m`` samples, or of a test of so many."""

    def __init__(self, params, layers, places, m):
        self.params, self.layers, self.at, self.m = params, layers, places, m
        self.fraction = params.formats.master[1]
        #: Instructions, and by instruction what it is of.
        self.list, self.about = [], []
        self._about = ""
        self._places_used, self._sum = 0, places.sums[0]
        #: The exponent of the gradient that waits where its shortcut begins.
        self._waiting = None

    def _do(self, *instructions):
        self.list += instructions
        self.about += [self._about] * len(instructions)

    def unit_of(self, number):
        """Of the activations that go into a layer."""
        return Unit((_word(self.at.exponents[number]),),
                    const=-PARAMETER_FRACTION if number else 0)

    def _scalar(self, unit):
        """A number in memory, the sum of a unit's words; None without any."""
        if not unit.plus and not unit.minus:
            return None
        if len(unit.plus) == 1 and not unit.minus:
            return unit.plus[0]
        total = self.at.zero
        for word, subtract in (*((word, False) for word in unit.plus),
                               *((word, True) for word in unit.minus)):
            self._do(program.combine(total, word, self._sum, subtract=subtract))
            total = self._sum
        return total

    def _copy(self, source, target):
        self._do(program.combine(source, self.at.zero, target, broadcast=True))

    def _ones(self, columns):
        """A scale tensor of factors 1 and exponents 0."""
        return self.at.ones.view(len(ScaleRow), columns)

    def _parameter(self, masters, target, bits):
        """A row of parameters with ``PARAMETER_FRACTION`` fraction bits."""
        row = self.at.first.view(1, masters.cols)
        self._do(program.scale(masters, self._ones(masters.cols), row,
                               bits=bits, exponent=PARAMETER_FRACTION - self.fraction))
        self._copy(row, target)

    # Parts.

    def _ahead(self, number):
        """The blocks that a step quantises for the next: of the layer that is updated last those
        whose gradients are not the last. All others wait for no product when the next begins."""
        return [] if number else [
            block for part in self.at.parts[number][:-1] for block in part]

    def _columns(self, tensor, block):
        return tensor.columns_from(*block, self.params)

    def _output(self, tensor, number):
        """The place of a tensor of a layer's outputs."""
        layer = self.layers[number]
        return tensor.view(layer.rows(self.m), layer.n)

    def _input(self, number):
        """The place of its input."""
        return self.at.input_of(number, self.m)

    def _parts(self, number):
        """What goes past layers, behind it a place of the same size; and both side by side."""
        layer, width = self.layers[number], program.whole_words(self.params, self.layers[number].n)
        both = self.at.stream.view(layer.pooled_rows(self.m), 2 * width)
        return *(both.columns_from(first, layer.n, self.params) for first in (0, width)), both

    def _activation(self, number):
        """Where the activations of a layer are before they are quantised."""
        if number in self.at.stream_exponents:
            return self._parts(number)[0]
        place = self.at.pooled if self.layers[number].pools else self.at.work
        after = self.layers[number + 1]
        return place.view(after.rows_in(self.m), after.in_channels)

    def _gradient(self, number):
        """Where the layer behind leaves their gradient: beside one that waits to be added to it."""
        return self._parts(number)[1] if number in self.at.begins else self._activation(number)

    def _streamed(self, rows, cols, places):
        """A place for what streams, of some the one that was used the longest time ago."""
        self._places_used += 1
        return places[self._places_used % len(places)].view(rows, cols)

    # Forward.

    def _quantise_weights(self, number, blocks):
        at = self.at
        for block in blocks:
            self._do(program.quantise_masters(*(
                self._columns(tensor, block)
                for tensor in (at.weights[number], at.codes[number], at.scales[number])),
                clip=WEIGHT_CLIP[self.params.bits]))

    def _parameters(self):
        """All gammas, betas and biases as the forward pass takes them."""
        at = self.at
        for number, state in enumerate(at.states):
            self._about = f"layer {number} forward"
            self._parameter(at.gammas[number], _row(state, StateRow.GAMMA), 16)
            self._parameter(at.betas[number], _row(state, StateRow.BETA), WIDE_BITS)
        self._about = f"layer {len(at.states)} forward"
        self._parameter(at.betas[-1], _row(at.scales[-1], ScaleRow.BIAS), WIDE_BITS)

    def _gemm_forward(self, number):
        """``(products, the exponent of their columns but for that of the weights)``."""
        at, work = self.at, self._output(self.at.work, number)
        for block in self.at.blocks[number]:
            products, shift = program.product(
                self.params, self._input(number),
                self._columns(at.codes[number], block), self._columns(work, block),
                at.windows.forward(number, self.m), unsigned=True, limit=_ACTIVATION_BITS)
            self._do(*products)
        return work, self.unit_of(number) + (shift - self.fraction)

    def forward_hidden(self, number, *, inference=False, first=False):
        """Products, norm, rectifier, quantisation; the running statistics follow."""
        self._about = f"layer {number} forward"
        at, n = self.at, self.layers[number].n
        state, scales = at.states[number], at.scales[number]
        statistics = (StateRow.MEAN, at.means[number]), (StateRow.DEVIATION, at.deviations[number])
        rows = [place.view(1, n) for place in (at.first, at.second)]
        work, unit = self._gemm_forward(number)
        if inference:
            scalar = self._scalar(-unit)
            for row, running in statistics:
                self._do(program.scale(
                    running, scales, rows[0], bits=WIDE_BITS, divide=True, negate=True,
                    scalar=scalar,
                    exponent=NORM_FRACTION - RUNNING_FRACTION + _FINER - unit.const))
                self._copy(rows[0], _row(state, row))
        context, activation = self._output(at.contexts[number], number), self._activation(number)
        layer = self.layers[number]
        for block in self.at.blocks[number]:
            x, kept, statistic, y = (self._columns(tensor, block)
                                     for tensor in (work, context, state, activation))
            alone = not layer.pools and not layer.shortcut
            self._do(program.norm_forward(self.params, x, y if alone else x, kept, statistic,
                                          relu=True, inference=inference))
            if layer.pools:
                self._do(*program.pool(x, y, self._ones(y.cols), (self.m, *layer.maps),
                                       layer.pool))
            if layer.shortcut:
                self._do(program.scale(x, self._ones(y.cols), y, bits=_ACTIVATION_BITS, plus=y))
            self._do(program.scan(y, _row(statistic, _FOUND)))
        self._do(program.quantise(self.params, activation,
                                  self._input(number + 1), at.exponents[number + 1], unsigned=True,
                                  clip=ACTIVATION_CLIP[self.params.bits],
                                  scanned=_row(state, _FOUND)))
        if not inference:
            scalar = self._scalar(unit)
            for row, running in statistics:
                self._copy(_row(state, row), rows[0])
                self._do(
                    program.scale(rows[0], scales, rows[1], bits=WIDE_BITS, scalar=scalar,
                                  exponent=unit.const - 2 - NORM_FRACTION + RUNNING_FRACTION),
                    program.combine(running, rows[1], running,
                                    follow=0 if first else RUNNING_SHIFT))

    def forward_head(self):
        """Products, logits, and from them the loss and the gradient, which takes their place."""
        at, number = self.at, len(self.layers) - 1
        self._about = f"layer {number} forward"
        work, unit = self._gemm_forward(number)
        self._do(
            program.scale(work, at.scales[number], work, bits=_ACTIVATION_BITS, bias=True,
                          scalar=self._scalar(unit), exponent=unit.const - 2 + LOGIT_FRACTION),
            program.cross_entropy(work, at.labels.view(self.m, 1), work, at.loss))

    # Backward.

    def _update(self, masters, gradient, unit, use, number, *, scales, **options):
        self._do(program.update(
            masters, gradient, scales.view(len(ScaleRow), masters.cols), self.rate,
            self.key_of(tensor_id(number, use)), scalar=self._scalar(unit),
            exponent=unit.const + GRADIENT_FRACTION, **options))

    def backward_head(self):
        """From the gradient of the logits: update, and the unit of the one that is passed on."""
        at, number = self.at, len(self.layers) - 1
        self._about = f"layer {number} backward"
        self._sum, work = at.sums[number], self._output(at.work, number)
        row = at.first.view(1, work.cols)
        unit = Unit(const=-PROBABILITY_FRACTION - (self.m - 1).bit_length())
        self._do(program.column_sums(work, row))
        self._update(at.betas[number], row, unit, Noise.BETA_UPDATE, number, scales=at.ones)
        self._do(program.align(work, at.scales[number], work, at.aligned,
                               exponent=-self.fraction - 2))
        return self._backward(number, unit + Unit((_word(at.aligned),)) + self.unit_of(number))

    def backward_hidden(self, number, unit):
        """From the gradient of its activations, of the unit of the layer behind."""
        self._about = f"layer {number} backward"
        at, layer = self.at, self.layers[number]
        work, state, self._sum = (self._output(at.work, number), at.states[number],
                                  at.sums[number])
        unit = unit - self.unit_of(number + 1)
        codes, gradient = self._input(number + 1), self._gradient(number)
        if number in at.stream_exponents:
            unit = self._meet(number, unit, gradient, codes)
            gradient, codes = self._parts(number)[0], None
        if layer.pools:
            exponents = at.pooled_exponents[number]
            self._do(*program.pool_gradient(
                gradient, work, exponents, self._ones(layer.n), (self.m, *layer.maps), layer.pool,
                codes=codes))
            unit, gradient, codes = unit + Unit((_word(exponents),)), work, None
        self._do(program.norm_backward(
            self.params, gradient, work, self._output(at.contexts[number], number), state, codes,
            scan=True))
        length, deviation = (Unit((_word(_row(state, row)),)) for row in (
            StateRow.GRAD_BITS, StateRow.DEVIATION_BITS))
        row = at.first.view(1, layer.n)
        for masters, gradient, use in (
                (at.gammas[number], StateRow.GRAD_GAMMA, Noise.GAMMA_UPDATE),
                (at.betas[number], StateRow.GRAD_BETA, Noise.BETA_UPDATE)):
            self._copy(_row(state, gradient), row)
            # The device has means over the batch and all positions.
            self._update(masters, row, unit + length - Unit(const=GRADIENT_BITS), use, number,
                         scales=at.batches[layer.positions])
        # As sim.model.norm.gradient_exponent, of products before they were shifted.
        shift = program.gemm_shift(self.params, layer.k, unsigned=True,
                                   limit=_ACTIVATION_BITS)
        return self._backward(number, unit + length - deviation + (
            14 - GRADIENT_BITS + NORM_FRACTION - PARAMETER_FRACTION - shift),
            scanned=_row(state, StateRow.LARGEST))

    def _meet(self, number, unit, gradient, codes):
        """The unit of the gradient of what goes out where a shortcut begins or ends, which it
        leaves there where the forward pass had that: what passes the quantiser, and where one
        begins the gradient of its end with it."""
        at, exponents = self.at, self.at.stream_exponents[number]
        word = _word(exponents)
        self._do(program.clip_gradient(gradient, codes),
                 program.combine(self._scalar(unit) or at.zero, at.zero, word, added=unit.const))
        if number in at.begins:
            stream, _, both = self._parts(number)
            self._do(*program.add_gradients(
                self.params, [(stream, self._waiting), (gradient, word)], both, stream, exponents,
                at.stream_scales[gradient.cols], self._ones(gradient.cols)))
        self._waiting = word
        return Unit((word,))

    def _backward(self, number, unit, scanned=None):
        """From the gradient of a layer's products, of that unit; ``scanned`` are its columns'
        largest magnitudes, which are all it takes without groups of samples."""
        at, params, layer = self.at, self.params, self.layers[number]
        work, q = (self._output(tensor, number) for tensor in (at.work, at.gradients[number]))
        samples, channels = program.gradient_groups(params, q.rows, q.cols, at.tables[number])
        # Groups of one need no shifts.
        rows, cols = (groups if groups and groups.count > 1 else None
                      for groups in (samples, channels))
        exponents, inner = at.gradient_exponents[number], number and layer.is_product and cols
        self._do(program.quantise(
            params, work, q, exponents, key=self.key_of(tensor_id(number, Noise.GRADIENT)),
            rows=samples, cols=channels, scanned=None if rows else scanned))
        self._do(*(program.sort(groups) for groups in (rows, inner) if groups))
        grouped = unit + Unit((_word(exponents),),
                              const=-sum(groups.count - 1 for groups in (rows, cols) if groups))
        passed = None
        if number and layer.is_product:
            passed = grouped + self._pass_on(number, q, rows, cols)
        elif number in at.passed_exponents:
            codes, word = self._output(at.passed, number), at.passed_exponents[number]
            self._do(program.quantise(
                params, work, codes, word, scanned=scanned,
                key=self.key_of(tensor_id(number, Noise.SECOND_GRADIENT))))
            passed = unit + Unit((_word(word),)) + self._pass_on_windows(number, codes)
        elif number:
            passed = grouped + self._pass_on_windows(number, q)
        self._weights(number, q, rows, cols, grouped)
        return passed

    def _pass_on(self, number, q, rows, cols):
        """Products of q and the transposed weights, and their shift."""
        at, params, layer = self.at, self.params, self.layers[number]
        transposed = at.turned.view(layer.n, layer.k)
        self._do(program.move(at.codes[number], transposed, transposed=True))
        operand = q
        if cols:
            operand = self._streamed(q.rows, program.slot_columns(params, q.cols, cols.count),
                                     at.streamed)
            self._do(program.move(q, operand, order=cols))
        products, shift = program.gemm(
            params, operand, transposed, self._gradient(number - 1), inner=cols, rows=rows,
            limit=_ACTIVATION_BITS)
        self._do(*products)
        return shift

    def _pass_on_windows(self, number, q):
        """The same of a convolution: with the taps in reverse order, each transposed."""
        at, layer = self.at, self.layers[number]
        c, n, last = layer.in_channels, layer.n, layer.taps - 1
        turned = at.turned.view(*layer.turned)
        self._do(*(program.move(at.codes[number].rows_from(tap * c, c),
                                turned.rows_from((last - tap) * n, n), transposed=True)
                   for tap in range(layer.taps)))
        products, shift = program.convolution(
            self.params, q, turned, self._gradient(number - 1),
            at.windows.gradient(number, self.m), limit=_ACTIVATION_BITS)
        self._do(*products)
        return shift

    def _weights(self, number, q, rows, cols, unit):
        """Update the weights along the products of a layer's input and of its gradient q, of that
        unit; and quantise those of them that the next step finds quantised."""
        at, params, layer = self.at, self.params, self.layers[number]
        shift = program.gemm_shift(params, q.rows, unsigned=True, groups=(rows, cols))
        unit = unit + (shift + _FINER + self.fraction)
        scalar, parts, operands = self._scalar(unit), at.parts[number], {}
        for turn, part in enumerate(parts):
            whole = _joined(part)
            place = at.products[number][turn % len(at.products[number])].view(layer.k, whole[1])
            gradients = {block: self._columns(place, (block[0] - whole[0], block[1]))
                         for block in (*part, whole)}
            for chunk in at.chunks[number]:
                first, count = layer.rows_of(chunk)
                if part is parts[0] or not at.stays(number):
                    operands[first] = self._seen(number, chunk, rows)
                # The last products are as short as may be.
                last = part is parts[-1] and first + count == layer.k
                for block in part if last else [whole]:
                    products, _ = program.gemm(
                        params, operands[first], self._columns(q, block),
                        gradients[block].rows_from(first, count), unsigned=True,
                        inner=rows, cols=cols and cols.part(*block))
                    self._do(*products)
            for block in part:
                masters, scales = (self._columns(tensor, block) for tensor in (
                    at.weights[number], at.scales[number]))
                self._do(program.update(
                    masters, gradients[block], scales, self.rate,
                    self.key_of(tensor_id(number, Noise.WEIGHT_UPDATE)), first=block[0],
                    more=layer.n - block[1], scalar=scalar, exponent=unit.const + GRADIENT_FRACTION,
                    divide=True, negate=True))
        self._quantise_weights(number, self._ahead(number))

    def _seen(self, number, chunk, rows):
        """What the outputs of a layer see with a chunk's rows of weights: the operand that
        streams, a row for each of them, of all outputs alike, so that all products are in one
        unit."""
        at, params, layer = self.at, self.params, self.layers[number]
        m, (first, count), done = layer.rows(self.m), layer.rows_of(chunk), 0
        windows = at.windows.forward(number, self.m)
        cols = program.slot_columns(params, m, rows.count) if rows else m
        operand = at.on_the_way(number, first, count, cols) or self._streamed(
            count, cols, at.operands(number))
        for tap, channel, size in chunk:
            x = self._input(number).columns_from(channel, size, params)
            source = windows and {"windows": replace(windows, channels=size),
                                  "tap": layer.place(tap), "unsigned": True}
            if windows and rows:
                # What is gathered is not sorted.
                seen = at.seen.view(m, size)
                self._do(program.move(x, seen, **source))
                x, source = seen, None
            self._do(program.move(x, operand.rows_from(done, size), transposed=True, order=rows,
                                  **source or {}))
            done += size
        return operand

    # Programs.

    def prepare(self):
        """All weights and parameters as a step, or a test, finds them; a step leaves them so."""
        for number in range(len(self.layers)):
            self._about = f"layer {number} forward"
            self._quantise_weights(number, self.at.blocks[number])
        self._parameters()
        return self.list

    def train(self, rate, key_of, *, first):
        """One step. For the next it leaves what :meth:`prepare` makes, except for the blocks that
        it begins with."""
        self.rate, self.key_of = rate, key_of
        last = len(self.layers) - 1
        for number in range(last + 1):
            ahead = self._ahead(number)
            self._about = f"layer {number} forward"
            self._quantise_weights(number, [block for block in self.at.blocks[number]
                                            if block not in ahead])
        for number in range(last):
            self.forward_hidden(number, first=first)
        self.forward_head()
        unit = self.backward_head()
        for number in reversed(range(last)):
            unit = self.backward_hidden(number, unit)
        self._parameters()
        return self.list

    def test(self):
        """The forward pass with running statistics, of what is prepared."""
        for number in range(len(self.layers) - 1):
            self.forward_hidden(number, inference=True)
        self.forward_head()
        return self.list


class Resident:
    """A network on a device, with the methods that :mod:`host.train` uses.

    Parameters
    ----------
    network : host.layers.Network
        Its parameters and statistics are the device's from now on, until :meth:`fetch`.
    device : host.device.Device
    batch : int
        Most samples of a step and of a test.

    A network of other formats than the machine's is an :class:`~host.errors.ArgumentError`.
    """

    def __init__(self, network, device, batch):
        self._network, self._device = network, device
        if network.formats != device.params.formats:
            raise ArgumentError(
                "a network's masters and velocities must have the (bits, fraction bits) of those "
                f"of the machine that keeps them, {_words(device.params.formats)}, got "
                f"{_words(network.formats)}")
        self._places = Places(device.params, network.shapes, batch)
        #: Running statistics begin with the first batch.
        self._first = any(layer.running_mean is None for layer in network.hidden)
        #: Samples of the scales of the batch, and of the tables of windows.
        self._samples = self._seen = None
        #: The first step finds what it needs.
        self._prepared = False
        #: The program that was compiled last, in parts, and what follows the stored one of a step.
        self.parts = []
        self._rest = []
        #: The step that is on the device already, and whether there is room for one beside it.
        self._ahead, self._turn, self._both = None, 0, False
        #: Exponents of the input that are on the device, by turn.
        self._sent = {}
        #: Whether units overlap, or a program runs an instruction at a time.
        self.overlap = True
        #: How programs overlap, by kind and samples.
        self._plans = {}
        self._send()
        store(device, self._places.ones, scale_of_ones(self._places.ones.cols))
        store(device, self._places.zero, np.zeros((1, 1), np.int64))
        for count, place in self._places.stream_scales.items():
            scales = np.zeros((len(ScaleRow), place.cols), np.int64)
            scales[ScaleRow.FACTOR] = np.arange(place.cols) % (place.cols // 2) < count
            store(device, place, scales)

    @property
    def program(self):
        """The program that was compiled last."""
        return [step for part in self.parts for step in part]

    @property
    def arenas(self):
        """The :class:`~host.tensors.Arena` of each memory."""
        return self._places.arenas

    def _parameters(self):
        """``(place, parameter)`` of every layer."""
        at = self._places
        places = {"weight": at.weights, "gamma": at.gammas, "beta": at.betas, "bias": at.betas}
        for number, layer in enumerate(self._network.layers):
            for name, parameter in layer.parameters().items():
                yield places[name][number], parameter

    def _statistics(self):
        """``(place, layer, attribute)`` of all running statistics."""
        at = self._places
        for name, places in (("running_mean", at.means), ("running_deviation", at.deviations)):
            for place, layer in zip(places, self._network.hidden, strict=True):
                yield place, layer, name

    def _send(self):
        for place, parameter in self._parameters():
            store(self._device, place, np.atleast_2d(parameter.master))
            store(self._device, _in(Space.VELOCITY, place), np.atleast_2d(parameter.velocity))
        for place, layer, name in self._statistics():
            value = getattr(layer, name)
            store(self._device, place, np.zeros((1, place.cols), np.int64) if value is None
                  else value[None])

    def fetch(self):
        """Bring parameters and statistics to the host's network."""
        for place, parameter in self._parameters():
            shape = np.shape(parameter.master)
            parameter.master = load(self._device, place).reshape(shape)
            parameter.velocity = load(self._device, _in(Space.VELOCITY, place)).reshape(shape)
        if not self._first:
            for place, layer, name in self._statistics():
                setattr(layer, name, load(self._device, place)[0])

    def _batch(self, x, labels, turn=0):
        """Bring a batch down: codes as :func:`sim.model.quantise.quantise` makes them."""
        device, at = self._device, self._places.on_turn(turn)
        if at.windows and self._seen != len(x):
            self._seen = len(x)
            at.windows.store(device, len(x))
        codes, exponent = batch_codes(x, self._network.shapes[0], device.params.bits)
        store(device, at.input_of(0, len(x)), codes)
        if self._sent.get(turn) != exponent:
            store(device, _word(at.exponents[0]), np.array([[exponent]]))
            self._sent[turn] = exponent
        labels = np.asarray(labels)[:, None]
        place = at.labels.view(*labels.shape)
        store(device, _in(Space.BYTES, place) if labels.max() < 256 else place, labels)

    def _scheduled(self, kind, samples, steps, turn=0):
        """The parts of a program, and of each what its instructions are of. Programs of a kind, for
        so many samples, differ in numbers alone."""
        plan = self._plans.get((kind, samples, turn))
        if plan is None:
            plan = self._plans[kind, samples, turn] = schedule(steps.list, self._device.params)
        ordered, about = scheduled(steps.list, plan), [steps.about[i] for i in plan.order]
        places = [slice(*ends) for ends in pairwise(accumulate(plan.parts, initial=0))]
        self.parts = [ordered[place] for place in places]
        return list(zip(self.parts, (about[place] for place in places), strict=True))

    def _store(self, part, first=0):
        program, about = part
        self._device.store_program(program, overlap=self.overlap, first=first, about=about)

    def _run(self, kind, samples, steps):
        for part in self._scheduled(kind, samples, steps):
            self._store(part)
            self._device.run_stored()

    def train_step(self, x, labels, rate, step, following=None):
        """``(loss, correct)`` of a batch, before the update that it makes.

        ``following`` are the arguments of the next call, if it is known already: that step's batch
        and program are sent while this one runs, if the device has room for both.
        """
        device, at = self._device, self._places
        given = (x, labels, rate, step)
        if self._ahead is None or any(a is not b for a, b in zip(self._ahead, given, strict=True)):
            if self._samples != len(x):
                self._samples = len(x)
                for positions, place in at.batches.items():
                    scales = np.zeros((len(ScaleRow), place.cols), np.int64)
                    scales[ScaleRow.FACTOR], scales[ScaleRow.EXPONENT] = count_factor(
                        len(x) * positions)
                    store(device, place, scales)
            if not self._prepared:
                self._prepare()
            self._send_step(*given, turn=0)
        self._ahead = None
        for part in self._rest:
            device.run_stored()
            self._store(part)
        device.start_stored()
        self._first = False
        with device.ahead():
            if following and self._both and len(following[0]) == self._samples:
                self._send_step(*following, turn=1 - self._turn)
                self._ahead = following
            device.wait()
        found = load(device, at.loss)[:, 0]
        return ((int(found[LossRow.LOSS_HIGH]) << 32) + int(found[LossRow.LOSS_LOW] & 0xFFFFFFFF),
                int(found[LossRow.CORRECT]))

    def _send_step(self, x, labels, rate, step, *, turn):
        """Bring a step's batch and its program down."""
        network, at = self._network, self._places.on_turn(turn)
        with self._device.phase("the batch"):
            self._batch(x, labels, turn)
        steps = Steps(self._device.params, network.shapes, at, len(x))
        steps.train(rate, lambda tensor: noise.key(network.seed, step, tensor), first=self._first)
        first, *self._rest = self._scheduled("train", len(x), steps, turn)
        self._store(first, turn * INSTRUCTIONS // 2)
        self._turn = turn
        self._both = self._places.spare is not None and len(steps.list) <= INSTRUCTIONS // 2

    def _prepare(self):
        steps = Steps(self._device.params, self._network.shapes, self._places, 1)
        steps.prepare()
        self._run("prepare", 1, steps)
        self._prepared = True

    def count_correct(self, x, labels, batch):
        """How many labels are predicted, with the running statistics."""
        device, at, layers = self._device, self._places, self._network.shapes
        self._prepare()
        self._ahead, correct = None, 0
        for i in range(0, len(x), batch):
            self._batch(x[i:i + batch], labels[i:i + batch])
            steps = Steps(device.params, layers, at, len(x[i:i + batch]))
            steps.test()
            self._run("test", steps.m, steps)
            correct += int(load(device, at.loss)[LossRow.CORRECT, 0])
        self._first = False
        return correct


def _words(formats):
    """Formats as a sentence names them."""
    return f"{formats.master} and {formats.speed}"


def _in(space, place):
    """The tensor at the same words of another space."""
    return Tensor(space, place.base, place.rows, place.cols)
