"""The model of the machine as a device whose every exchange is kept."""

import numpy as np

from hdl.protocol import Kind, Space, Status, word_bytes
from host import program
from host.device import Device
from host.errors import MemoryFullError
from host.tensors import Tensor, load
from sim.bench.exchange import Exchange, Session, decoded
from sim.model.machine import Machine, Memory

__all__ = ["Recording"]


class _Tracked(Memory):
    """A memory that knows which lanes hold what the model says: units may write pad lanes as they
    like."""
    def __init__(self, words, lanes):
        super().__init__(words, lanes)
        self.known = np.zeros((words, lanes), bool)

    def get(self, base, rows, cols):
        value = super().get(base, rows, cols)
        words, used = self._used(base, rows, cols)
        assert self.known[words][used].all(), f"a tensor at {base:#x} that was not written"
        return value

    def put(self, base, value):
        super().put(base, value)
        words, used = self._used(base, *value.shape)
        self.known[words] = used

    def _used(self, base, rows, cols):
        """The words of a tensor and which of their lanes it uses."""
        columns = np.arange(-(-cols // self.lanes) * self.lanes).reshape(-1, 1, self.lanes)
        used = np.broadcast_to(columns < cols, (len(columns), rows, self.lanes))
        return slice(base, base + len(columns) * rows), used.reshape(-1, self.lanes)


class _Link:
    """A transport to the model that keeps every exchange."""
    cycles = None

    def __init__(self, params):
        self.exchanges = []
        self.about = ""
        self._machine = Machine(params)
        self._machine.wide = _Tracked(params.wide_words, params.vector)
        self._machine.quant = _Tracked(params.quant_words, params.vector)
        self._answers = b""

    def send(self, data):
        answer = self._machine.feed(data)
        self.exchanges.append(Exchange(data, answer, self._ignored(data, answer), self.about))
        self._answers += answer

    def receive(self, deadline):
        answers, self._answers = self._answers, b""
        return answers

    def close(self):
        pass

    def _ignored(self, data, answer):
        """Bytes of a READ's answer that no unit had to write; notes what a WRITE writes."""
        asked, answered = decoded(data), decoded(answer)
        if len(asked) != 1 or len(answered) != 1 or None in asked or answered[0][2][0] != Status.OK:
            return ()
        _, kind, request = asked[0]
        memory = {Space.WIDE: self._machine.wide, Space.QUANT: self._machine.quant}.get(
            request[0] if kind in (Kind.READ, Kind.WRITE) else None)
        if memory is None:
            return ()
        size = word_bytes(request[0], memory.lanes) // memory.lanes
        words = (request[4:] if kind == Kind.WRITE else answered[0][2][1:])
        address = int.from_bytes(request[2:4], "little")
        known = memory.known[address:address + len(words) // (size * memory.lanes)]
        if kind == Kind.WRITE:
            known[:] = True
            return ()
        assert known.any(), f"{self.about}: a READ of nothing that was written"
        return tuple(1 + int(i) for i in np.flatnonzero(np.repeat(~known.reshape(-1), size)))


class Recording:
    """A device over the model, its memories' places, and what has been said so far.

    Parameters
    ----------
    params : hdl.params.Params
    seed : int or str
        Of ``rng``.

    Attributes
    ----------
    device : host.device.Device
    rng : numpy.random.Generator
    """

    def __init__(self, params, seed):
        self.params = params
        self.rng = np.random.default_rng(list(str(seed).encode()))
        self._link = _Link(params)
        self.device = Device(self._link, params)
        self.device.hello()
        self.device.reset()
        self.begin("")

    def begin(self, about):
        """Forget all places: what follows is about something else."""
        self._link.about = about
        words = {Space.WIDE: self.params.wide_words, Space.QUANT: self.params.quant_words,
                 Space.GROUP: self.params.table_words}
        self._free = {space: [0, count] for space, count in words.items()}
        # From either end, so that every address bit matters.
        self._down = bool(self.rng.integers(2))

    def place(self, space, rows, cols):
        """A tensor's place, apart from all others since :meth:`begin`."""
        need = -(-cols // self.params.vector) * rows
        return Tensor(space, self._take(space, need), rows, cols)

    def groups(self, groups, length, count):
        """The place of the groups and of the order of an axis, filled with ``groups``."""
        places = program.Groups(self._take(Space.GROUP, program.table_words(self.params, length)),
                                length, count)
        if groups is not None:
            self.device.write(Space.GROUP, places.base, np.asarray(groups)[:, None])
        return places

    def _take(self, space, need):
        low, high = self._free[space]
        gap = int(self.rng.integers(0, 4))
        if low + need + gap > high:
            gap = 0
        if low + need > high:
            raise MemoryFullError(f"{need} words of {space.name}")
        if self._down:
            self._free[space][1] = base = high - need
            # The gap is below: the first place ends at the last word.
            self._free[space][1] -= gap
        else:
            base = low + gap
            self._free[space][0] = base + need
        return base

    def store(self, tensor, value):
        """Write a tensor; lanes beyond its columns get junk, which a unit may leave there."""
        lanes = self.params.vector
        rows, cols = value.shape
        padded = self.rng.integers(-2**31, 2**31, (rows, -(-cols // lanes) * lanes))
        padded[:, :cols] = value
        words = padded.reshape(rows, -1, lanes).transpose(1, 0, 2).reshape(-1, lanes)
        self.device.write(tensor.space, tensor.base, words)

    def stored(self, space, value):
        """A place, and ``value`` in it."""
        tensor = self.place(space, *value.shape)
        self.store(tensor, value)
        return tensor

    def read(self, *tensors):
        """Read tensors back."""
        return [load(self.device, tensor) for tensor in tensors]

    def send(self, data):
        """Bytes as they are."""
        self._link.send(data)
        return self._link.receive(0)

    def session(self, name):
        """What was said."""
        return Session(name, self.params.vector, tuple(self._link.exchanges))
