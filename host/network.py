"""Shapes of networks: every layer is a convolution, a dense one of images of one position.

A layer multiplies ``[m, k]`` by ``[k, n]``, with a row for every output position of every sample,
in the order (sample, line, column); k goes through the taps of the kernel, line after line, and the
channels of each; n are the channels of the outputs. The input has a row for every position in the
same order, and a column for every channel. A hidden layer may average its activations over windows
before they are quantised: then fewer positions go out than its norm has seen.

A hidden layer may have a shortcut: what an earlier one of the same outputs makes is added to what
it makes. With u what goes into layer l, W its weights, and a shortcut from d layers back

    y_l = relu(norm_l(u_l W_l)),    z_l = sat_24(y_l + z_(l-d)),    u_(l+1) = quantise(z_l),

and ``z_l = y_l``, or its averages, without one. The rectifier is before the sum, since the norm
keeps its mask; so z is never negative. The gradient of z is that which passes the quantiser (codes
below the largest), and where a shortcut begins the one of its end is added to it, as
:func:`sim.model.add.add_gradients` does. Both :func:`sim.model.add.add` and that are the device's.
"""

from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from hdl.params import MAX_M
from host.errors import ArgumentError, MemoryFullError
from host.program import pool_shift, slot_columns, table_words
from host.windows import Windows
from sim.model.convolution import output_size
from sim.model.quantise import ACTIVATION_CLIP, quantise

__all__ = ["Layer", "WindowTables", "batch_codes", "check_layers", "check_machine",
           "convolutional", "gathered", "group_words", "joined", "lenet", "merged", "passed_on",
           "perceptron", "pooled", "residual", "shortcuts", "sorted_gradients", "streamed_columns"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The shape of a layer.

    Parameters
    ----------
    in_channels, out_channels : int
    height, width : int
        Of the images that come in.
    kernel : (int, int)
        Height and width, up to 7.
    stride, padding : int
        The same in both directions. A layer that passes a gradient on has a stride of 1 or 2, and
        less padding than there are taps.
    pool : (int, int)
        Height and width of the windows over which activations are averaged, a power of two of
        positions, up to 256. What is left over at the right and at the bottom is in none.
    shortcut : int
        How many layers back the one is whose output is added to this one's; 0 for none.

    >>> layer = Layer(in_channels=8, out_channels=16, height=14, width=14, kernel=(3, 3), stride=2,
    ...               padding=1)
    >>> layer.outputs, layer.k, layer.rows(20), layer.macs_per_sample
    ((7, 7), 72, 980, 56448)
    >>> layer = replace(layer, pool=(2, 2))
    >>> layer.maps, layer.outputs, layer.rows(20), layer.pooled_rows(20)
    ((7, 7), (3, 3), 980, 180)
    """
    in_channels: int
    out_channels: int
    height: int = 1
    width: int = 1
    kernel: tuple = (1, 1)
    stride: int = 1
    padding: int = 0
    pool: tuple = (1, 1)
    shortcut: int = 0

    def __post_init__(self):
        if not self.is_product:
            # They refuse what is no convolution.
            self.windows(0, 1)
        if not isinstance(self.pool, tuple) or len(self.pool) != 2:
            raise ArgumentError(f"pool must be (height, width) of windows, got {self.pool}")
        if self.pools:
            # It refuses what is no window.
            pool_shift(self.maps, self.pool)
        if not isinstance(self.shortcut, int) or self.shortcut < 0:
            raise ArgumentError("shortcut must be a whole number of layers, 0 for none, "
                                f"got {self.shortcut}")
        if self.shortcut and self.pools:
            raise ArgumentError(f"a layer with a shortcut must have no pool, got {_by(self.pool)}")

    @property
    def maps(self):
        """Height and width of what the products make, before pooling."""
        return tuple(output_size(size, taps, self.stride, self.padding)
                     for size, taps in zip((self.height, self.width), self.kernel, strict=True))

    @property
    def outputs(self):
        """Height and width of what goes out."""
        return tuple(size // side for size, side in zip(self.maps, self.pool, strict=True))

    @property
    def positions(self):
        """Positions of a sample that the products make."""
        height, width = self.maps
        return height * width

    @property
    def pools(self):
        """Whether activations are averaged."""
        return self.pool != (1, 1)

    @property
    def pixels(self):
        """Input positions of a sample."""
        return self.height * self.width

    @property
    def taps(self):
        """Taps of the kernel."""
        height, width = self.kernel
        return height * width

    @property
    def k(self):
        """Rows of the weights."""
        return self.taps * self.in_channels

    @property
    def n(self):
        """Columns of the weights."""
        return self.out_channels

    @property
    def macs_per_sample(self):
        """Multiply-accumulates of the forward pass."""
        return self.positions * self.k * self.n

    @property
    def is_product(self):
        """Whether the input is what is multiplied, row by row, without windows."""
        return (self.taps, self.stride, self.padding) == (1, 1, 0)

    @property
    def turned(self):
        """Shape of the weights that a gradient is passed on with: transposed, or the taps in
        reverse order and each of them transposed."""
        return (self.n, self.k) if self.is_product else (self.taps * self.n, self.in_channels)

    def rows(self, samples):
        """Rows of the products."""
        return samples * self.positions

    def rows_in(self, samples):
        """Rows of the input."""
        return samples * self.pixels

    def pooled_rows(self, samples):
        """Rows of what goes out."""
        height, width = self.outputs
        return samples * height * width

    def windows(self, base, samples):
        """The :class:`~host.windows.Windows` that the outputs see."""
        return Windows(base=base, images=samples, height=self.height, width=self.width,
                       channels=self.in_channels, kernel=self.kernel, stride=(self.stride,) * 2,
                       padding=(self.padding,) * 2)

    def pieces(self, slots):
        """``(tap, first channel, count)`` of the rows of the weights: those of a tap that are in a
        word of the input.

        >>> Layer(in_channels=20, out_channels=1).pieces(16)
        [(0, 0, 16), (0, 16, 4)]
        """
        return [(tap, first, min(slots, self.in_channels - first)) for tap in range(self.taps)
                for first in range(0, self.in_channels, slots)]

    def place(self, tap):
        """``(ky, kx)`` of a tap."""
        return divmod(tap, self.kernel[1])

    def rows_of(self, pieces):
        """``(first, count)`` of the rows of the weights that pieces are which follow each other."""
        tap, channel, _ = pieces[0]
        return tap * self.in_channels + channel, sum(count for *_, count in pieces)


def merged(pieces):
    """Pieces that follow each other, those of a tap as one.

    >>> merged([(0, 16, 4), (1, 0, 16), (1, 16, 4)])
    [(0, 16, 4), (1, 0, 20)]
    """
    taps = [list(group) for _, group in groupby(pieces, key=lambda piece: piece[0])]
    return [(group[0][0], group[0][1], sum(count for *_, count in group)) for group in taps]


def perceptron(sizes):
    """Layers of so many features: those of the input, of hidden layers, and of the output."""
    return tuple(Layer(in_channels=a, out_channels=b) for a, b in pairwise(sizes))


def _behind(layers, image, count, kernel, **options):
    """A layer of so many channels behind the last of some, or of an image if there are none."""
    height, width, channels = (*layers[-1].outputs, layers[-1].n) if layers else image
    return Layer(in_channels=channels, out_channels=count, height=height, width=width,
                 kernel=kernel, **options)


def convolutional(image, classes):
    """Layers for images of (height, width, channels): each halves both, with 16 channels, then 32;
    of images above 16 there is one before, of 5x5 taps and 8 channels. The head sees what is left,
    4x4 positions at most.

    >>> [(layer.kernel, layer.n, layer.outputs) for layer in convolutional((28, 28, 1), 10)]
    [((5, 5), 8, (14, 14)), ((3, 3), 16, (7, 7)), ((3, 3), 32, (4, 4)), ((4, 4), 10, (1, 1))]
    """
    layers = []

    def add(count, kernel, **steps):
        layers.append(_behind(layers, image, count, kernel, **steps))

    if max(image[:2]) > 16:
        add(8, (5, 5), stride=2, padding=2)
    for count in (16, 32):
        add(count, (3, 3), stride=2, padding=1)
    while max(layers[-1].outputs) > 4:
        add(32, (3, 3), stride=2, padding=1)
    add(classes, layers[-1].outputs)
    return tuple(layers)


def lenet(image, classes):
    """Layers for images of (height, width, channels) as LeNet-5 has them: convolutions of 5x5 taps
    with 6, then 16 channels, each pooled by 2x2, and dense ones with 120 and 84. All have a norm.
    Of images above 16 the first has a stride of 2; there are more of 16 channels until 4x4
    positions at most are left.

    >>> [(layer.kernel, layer.n, layer.maps, layer.outputs) for layer in lenet((28, 28, 1), 10)[:3]]
    [((5, 5), 6, (14, 14), (7, 7)), ((5, 5), 16, (7, 7), (3, 3)), ((3, 3), 120, (1, 1), (1, 1))]
    """
    layers = []

    def add(count, kernel, pool=1, **steps):
        layer = _behind(layers, image, count, kernel, **steps)
        # A line of one position is not averaged.
        layers.append(replace(layer, pool=tuple(min(pool, size) for size in layer.maps)))

    add(6, (5, 5), pool=2, stride=1 + (max(image[:2]) > 16), padding=2)
    add(16, (5, 5), pool=2, padding=2)
    while max(layers[-1].outputs) > 4:
        add(16, (5, 5), pool=2, padding=2)
    for count in (120, 84, classes):
        add(count, layers[-1].outputs)
    return tuple(layers)


def residual(image, classes):
    """Layers for images of (height, width, channels): convolutions of 3x3 taps and 16 channels that
    halve both until there are 8x8 positions at most, before them one of 5x5 taps and 8 channels of
    images above 16; then two blocks of two convolutions of 3x3 taps with a shortcut round both; one
    that halves both once more, with 32 channels, and the head, which sees what is left.

    >>> layers = residual((28, 28, 1), 10)
    >>> [(layer.n, layer.maps, layer.shortcut) for layer in layers[1:4]], layers[-1].kernel
    ([(16, (7, 7), 0), (16, (7, 7), 0), (16, (7, 7), 2)], (4, 4))
    """
    layers = []

    def add(count, kernel, **options):
        layers.append(_behind(layers, image, count, kernel, **options))

    if max(image[:2]) > 16:
        add(8, (5, 5), stride=2, padding=2)
    add(16, (3, 3), stride=2, padding=1)
    while max(layers[-1].outputs) > 8:
        add(16, (3, 3), stride=2, padding=1)
    for shortcut in (0, 2, 0, 2):
        add(16, (3, 3), padding=1, shortcut=shortcut)
    add(32, (3, 3), stride=2, padding=1)
    add(classes, layers[-1].outputs)
    return tuple(layers)


def batch_codes(x, layer, bits):
    """``(codes, exponent)``: samples x [m, features] as the device has the input of a layer, a row
    for every position, and as :func:`sim.model.quantise.quantise` has them."""
    found = quantise(x, bits=bits, signed=False, clip=ACTIVATION_CLIP[bits])
    return (found.q - (1 << bits - 1)).reshape(-1, layer.in_channels), found.exponent[0]


def check_layers(layers):
    """Refuse layers that do not follow each other, or do not end in a position a sample."""
    for number, (one, after) in enumerate(pairwise(layers), 1):
        made, taken = (*one.outputs, one.n), (after.height, after.width, after.in_channels)
        if made != taken:
            raise ArgumentError(f"layer {number} must take {_words(made)}, which layer "
                                f"{number - 1} makes, got {_words(taken)}")
        if not after.is_product:
            after.windows(0, 1).gradient(0, after.n)
    last = layers[-1]
    if last.pools:
        raise ArgumentError(f"the last layer must have no pool, got {_by(last.pool)}")
    if last.shortcut:
        raise ArgumentError(f"the last layer must have no shortcut, got one of {last.shortcut}")
    if last.positions != 1:
        raise ArgumentError(f"the last layer must have outputs of 1x1, got {_by(last.outputs)}")
    _check_shortcuts(layers)


def _check_shortcuts(layers):
    """Refuse shortcuts that begin nowhere, add what has another shape, or go past each other."""
    before = 0
    for number, first in shortcuts(layers).items():
        if first < 0:
            raise ArgumentError(f"the shortcut of layer {number} must be of {number} at most, "
                                f"got {layers[number].shortcut}")
        made, added = (_words((*layers[i].outputs, layers[i].n)) for i in (number, first))
        if made != added:
            raise ArgumentError(f"the shortcut of layer {number} must add {made}, which it makes, "
                                f"got {added} of layer {first}")
        if first < before:
            raise ArgumentError(f"the shortcut of layer {number} must not begin before layer "
                                f"{before}, where the one before it ends, got layer {first}")
        before = number


def shortcuts(layers):
    """By number of each layer that has a shortcut the number of the one where that begins.

    >>> shortcuts(residual((8, 8, 1), 10))
    {2: 0, 4: 2}
    """
    return {number: number - layer.shortcut for number, layer in enumerate(layers)
            if layer.shortcut}


def _by(pair):
    return "x".join(map(str, pair))


def _words(image):
    *size, channels = image
    return f"{_by(size)} images of {channels} channels"


class WindowTables:
    """The places of the tables of a network's :class:`~host.windows.Windows`, at the end of the
    group table: of every layer that is no plain product, and of its gradient unless it is the
    first."""

    def __init__(self, params, layers, batch):
        self._layers, self._bases, self._places = layers, [], []
        #: Words before them.
        self.left = params.table_words
        for number, layer in enumerate(layers):
            needs = [] if layer.is_product else [layer.windows(0, batch)]
            needs += [windows.gradient(0, layer.n) for windows in needs if number]
            bases = []
            for windows in needs:
                self.left -= windows.table_words
                bases.append(self.left)
                self._places.append((f"windows of layer {number}", windows.table_words))
            self._bases.append(bases)

    def allocate(self, arena):
        """Take all their words in an arena that begins with them."""
        for name, count in reversed(self._places):
            arena.allocate(name, (count, 1))

    def __bool__(self):
        """Whether there are any."""
        return any(self._bases)

    def forward(self, number, samples):
        """What a layer's outputs see; None for a plain product."""
        bases = self._bases[number]
        return self._layers[number].windows(bases[0], samples) if bases else None

    def gradient(self, number, samples):
        """What the gradient of its input sees; None for a plain product."""
        seen = self.forward(number, samples)
        return seen and seen.gradient(self._bases[number][1], self._layers[number].n)

    def store(self, device, samples):
        """Write them all for so many samples."""
        for number, bases in enumerate(self._bases):
            for _, windows in zip(bases, (self.forward, self.gradient), strict=False):
                windows(number, samples).store(device)


def streamed_columns(params, layer, batch):
    """Columns of what streams for the gradients of a layer's weights: a slot for each output."""
    rows = layer.rows(batch)
    return slot_columns(params, rows, params.sample_groups) if params.sample_groups > 1 else rows


def sorted_gradients(params, layers, batch):
    """Shapes of the gradients in the order of their slots that plain products pass on."""
    return [(layer.rows(batch), slot_columns(params, layer.n, params.channel_groups))
            for layer in layers[1:] if layer.is_product and params.channel_groups > 1]


def passed_on(params, layers, batch):
    """By number the shapes of the gradients without groups that windows see."""
    return {number: (layer.rows(batch), layer.n) for number, layer in enumerate(layers)
            if number and not layer.is_product and params.max_groups > 1}


def pooled(layers, batch):
    """By number the shapes of activations that are averages."""
    return {number: (layer.pooled_rows(batch), layer.n) for number, layer in enumerate(layers)
            if layer.pools}


def joined(layers, batch):
    """By number the shapes of what goes out where a shortcut begins or ends."""
    return {number: (layers[number].pooled_rows(batch), layers[number].n)
            for ends in shortcuts(layers).items() for number in ends}


def gathered(params, layers, batch):
    """Shapes of what outputs see through a tap, where that is sorted then."""
    return [(layer.rows(batch), layer.in_channels) for layer in layers
            if not layer.is_product and params.sample_groups > 1]


def group_words(params, layers, batch):
    """Words of the tables that the groups of any layer's gradient take, and the layer's number."""
    return max((table_words(params, layer.rows(batch)) + table_words(params, layer.n), number)
               for number, layer in enumerate(layers))


def check_machine(params, layers, batch):
    """Refuse a network or a batch that a machine has not got the units or the tables for."""
    if not params.masters and any(layer.pools or not layer.is_product for layer in layers):
        weights = sum(layer.k * layer.n for layer in layers)
        raise ArgumentError("convolutions and pools need a machine that keeps the masters: add "
                            f"--masters {1 << (weights // 1024).bit_length()}")
    if refusal := _refusal(params, layers, batch):
        most = next((fewer for fewer in range(min(batch - 1, MAX_M), 0, -1)
                     if not _refusal(params, layers, fewer)), 0)
        raise MemoryFullError(refusal + (f": choose a batch of at most {most}" if most
                                         else ": choose smaller images"))


def _refusal(params, layers, batch):
    """What is too large of a batch, in words; None if nothing is."""
    for number, layer in enumerate(layers):
        limit, rows = MAX_M if layer is layers[-1] else params.max_rows, layer.rows(batch)
        if rows > limit:
            return (f"layer {number} has {rows} rows, {batch} samples of {_by(layer.maps)} "
                    f"outputs, and this machine takes {limit}")
    (need, number), left = (group_words(params, layers, batch),
                            WindowTables(params, layers, batch).left)
    if params.max_groups > 1 and need > left:
        return (f"the groups of layer {number}, {layers[number].rows(batch)} rows and "
                f"{layers[number].n} channels, need {need} words of the tables, {need - left} "
                "more than there are")
    return None
