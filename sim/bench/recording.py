"""The model of the machine as a device whose every exchange is kept."""

import numpy as np

from hdl.protocol import Kind, Space, Status, codes_in_byte, encode, word_bytes
from host import program
from host.device import Device
from host.errors import MemoryFullError
from host.tensors import Tensor, lanes_of, load, store
from sim.bench.exchange import Exchange, Session, decoded
from sim.model.machine import Machine, Memory, group_words, slot_of

__all__ = ["Recording"]

#: Bytes of STATUS's answer that count saturations.
_SATURATIONS = range(5, 9)


class _Tracked(Memory):
    """A memory that knows which lanes hold what the model says: units may write pad lanes as they
    like."""
    def __init__(self, words, lanes):
        super().__init__(words, lanes)
        self.known = np.zeros((words, lanes), bool)

    def get(self, base, rows, cols, more=0):
        value = super().get(base, rows, cols, more)
        known = self.known[self.tensor(base, rows, cols, more)]
        assert known[self._used(rows, cols)].all(), f"a tensor at {base:#x} that was not written"
        return value

    def put(self, base, value, more=0):
        super().put(base, value, more)
        self.known[self.tensor(base, *value.shape, more)] = self._used(*value.shape)

    def columns(self, base, rows, places, more=0):
        value = super().columns(base, rows, places, more)
        words = self.tensor(base, rows, int(places.max(initial=-1)) + 1, more)
        known = self.known[words[places // self.lanes], places[:, None] % self.lanes]
        assert known.all(), f"columns at {base:#x} that were not written"
        return value

    def lanes_at(self, addresses, count):
        value = super().lanes_at(addresses, count)
        assert self.known[addresses, :count].all(), "windows of what was not written"
        return value

    def put_columns(self, base, places, value, more=0):
        super().put_columns(base, places, value, more)
        words = self.tensor(base, len(value), int(places.max()) + 1, more)
        self.known[words[places // self.lanes], places[:, None] % self.lanes] = True

    def _used(self, rows, cols):
        """Which lanes of its words a tensor uses, [tile, row, lane]."""
        columns = np.arange(-(-cols // self.lanes) * self.lanes).reshape(-1, 1, self.lanes)
        return np.broadcast_to(columns < cols, (len(columns), rows, self.lanes))


class _Link:
    """A transport to the model that keeps every exchange."""
    cycles, clocked = None, False

    def __init__(self, params):
        self.exchanges = []
        self.about = ""
        self.machine = Machine(params)
        self.machine.wide = _Tracked(params.wide_words, params.vector)
        self.machine.quant = _Tracked(params.quant_words, params.slots)
        self.machine.master = _Tracked(params.master_words, params.vector)
        self.machine.velocity = _Tracked(params.master_words, params.vector)
        self._answers = b""

    def send(self, data):
        answer = self.machine.feed(data)
        self.exchanges.append(Exchange(data, answer, self._ignored(data, answer), self.about))
        self._answers += answer

    def receive(self, deadline):
        answers, self._answers = self._answers, b""
        return answers

    def close(self):
        pass

    def _ignored(self, data, answer):
        """Bytes of a READ's answer that no unit had to write, or of a STATUS's that depend on how
        far a program is; notes what a WRITE writes."""
        asked, answered = decoded(data), decoded(answer)
        if len(asked) != 1 or len(answered) != 1 or None in asked or answered[0][2][0] != Status.OK:
            return ()
        _, kind, request = asked[0]
        machine = self.machine
        if kind == Kind.STATUS and machine.started:
            return tuple(_SATURATIONS)
        if kind == Kind.WRITE and request[0] == Space.CODES:
            address, size = _address(request), request[4] + 1
            lanes = min(size * codes_in_byte(machine.params.bits), machine.quant.lanes)
            machine.quant.known[address:address + len(request[5:]) // size, :lanes] = True
            return ()
        if kind == Kind.WRITE and request[0] == Space.COLUMN:
            each = codes_in_byte(machine.params.bits)
            first = each * _address(request)
            machine.quant.known[first:first + each * len(request[4:]), 0] = True
            return ()
        memory = {Space.WIDE: machine.wide, Space.QUANT: machine.quant, Space.BYTES: machine.wide,
                  Space.MASTER: machine.master, Space.VELOCITY: machine.velocity}.get(
            request[0] if kind in (Kind.READ, Kind.WRITE) else None)
        if memory is None:
            return ()
        # In elements, in which words and parts of words follow each other.
        word = word_bytes(request[0], machine.params)
        size = 1 if request[0] in (Space.QUANT, Space.BYTES) else 4
        words = (request[4:] if kind == Kind.WRITE else answered[0][2][1:])
        first = _address(request) * word // size
        known = memory.known.reshape(-1)[first:first + len(words) // size]
        if kind == Kind.WRITE:
            known[:] = True
            return ()
        last = first + len(known) - 1
        assert memory.known[first // memory.lanes:last // memory.lanes + 1].any(), \
            f"{self.about}: a READ of nothing that was written"
        return tuple(1 + int(i) for i in np.flatnonzero(np.repeat(~known, size)))


def _address(request):
    """Where a WRITE or a READ begins."""
    return int.from_bytes(request[2:4], "little") + (request[1] << 16)


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
        # A request in one piece, and its answer.
        self.device.window = 0
        self.device.hello()
        self.device.reset()
        self.begin("")

    @property
    def machine(self):
        """The model behind the device."""
        return self._link.machine

    def begin(self, about):
        """Forget all places: what follows is about something else."""
        self.about(about)
        params = self.params
        words = {Space.WIDE: params.wide_words, Space.QUANT: params.quant_words,
                 Space.GROUP: params.table_words, Space.MASTER: params.master_words}
        self._free = {space: [0, count] for space, count in words.items()}
        # From either end, so that every address bit matters.
        self._down = bool(self.rng.integers(2))

    def forget(self):
        """What the memories hold is not known any more, but for what is written from now on."""
        for memory in (self.machine.wide, self.machine.quant, self.machine.master,
                       self.machine.velocity):
            memory.known[:] = False

    def about(self, text):
        """What follows is about this; places are kept."""
        self._link.about = text

    def place(self, space, rows, cols):
        """A tensor's place, apart from all others since :meth:`begin`."""
        need = -(-cols // lanes_of(space, self.params)) * rows
        return Tensor(space, self._take(space, need), rows, cols)

    def some_rows(self, space, rows, cols):
        """``(place, rows of it)``: a tensor with so many rows of its own, or of a taller one."""
        more = int(self.rng.integers(1, 6)) if self.rng.random() < 0.3 else 0
        tall = self.place(space, rows + more, cols)
        return tall, tall.rows_from(int(self.rng.integers(0, more + 1)), rows)

    def groups(self, length, count):
        """The place of the groups and of the order of an axis, apart from all others."""
        return program.Groups(self._take(Space.GROUP, program.table_words(self.params, length)),
                              length, count)

    def tables(self, count):
        """The place of so many words of the group table, apart from all others."""
        return self._take(Space.GROUP, count)

    def store_groups(self, places, groups, slots=None):
        """Write the groups of an axis, and the slots that its indices take or else junk."""
        above = self.rng.integers(-2**27, 2**27, places.length) << 4
        words = groups + above if slots is None else group_words(groups, slots, self.params)
        self.device.write(Space.GROUP, places.base, words[:, None])

    def read_groups(self, places):
        """Read the groups of an axis back, with the slots that its indices take."""
        words = self.device.read(Space.GROUP, places.base, places.length)[:, 0]
        return words & 0xF, slot_of(words, self.params)

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
        """Write a tensor; lanes beyond its columns get junk, which a unit may leave there, or keep
        what they held where codes travel packed."""
        lanes = lanes_of(tensor.space, self.params)
        rows, cols = value.shape
        if self.params.masters and tensor.space == Space.QUANT and self.rng.random() < 0.5:
            store(self.device, tensor, value)
            return
        padded = self.rng.integers(-2**31, 2**31, (rows, -(-cols // lanes) * lanes))
        padded[:, :cols] = value
        store(self.device, tensor, padded)

    def store_rows(self, tall, part, value):
        """Write rows of a tensor, and junk to its others."""
        limit = 1 << (self.params.bits - 1 if tall.space == Space.QUANT else 31)
        whole = self.rng.integers(-limit, limit, (tall.rows, value.shape[1]))
        whole[part.base - tall.base:][:part.rows] = value
        self.store(tall, whole)

    def stored(self, space, value):
        """A place, and ``value`` in it."""
        tensor = self.place(space, *value.shape)
        self.store(tensor, value)
        return tensor

    def read(self, *tensors):
        """Read tensors back."""
        return [load(self.device, tensor) for tensor in tensors]

    def run_stored(self, first, count):
        """Run a part of a stored program, under a ``seq`` that the device gives no request."""
        self.send(encode(0, Kind.RUN, first.to_bytes(2, "little") + count.to_bytes(2, "little")))

    def send(self, data):
        """Bytes as they are."""
        self._link.send(data)
        return self._link.receive(0)

    def session(self, name):
        """What was said."""
        params = self.params
        return Session(name, (params.vector, params.rows, params.depth),
                       tuple(self._link.exchanges))
