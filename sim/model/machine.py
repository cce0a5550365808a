"""The model of the whole machine: executes the device's frames with the model functions.

It is the device behind ``model:``. Bytes go in and come out as on any link, so the host's driver,
its packets and the device's answers are the same over the model, the simulated board and a board.
It has the memories of :class:`hdl.params.Params`, so what does not fit a device does not fit here;
it counts no cycles.
"""

from dataclasses import replace

import numpy as np

from hdl.params import MAX_K, MAX_M, MAX_N, PROTOCOL_VERSION
from hdl.protocol import (
    END,
    INSTRUCTION_BYTES,
    MAX_BODY,
    MAX_SHIFT,
    REPEAT_WINDOW,
    STATE_ROWS,
    BackwardFlag,
    FrameError,
    GemmFlag,
    Kind,
    NormFlag,
    Opcode,
    QuantiseFlag,
    Space,
    StateRow,
    Status,
    Unit,
    decode,
    encode,
    unescape,
    unpack_instruction,
    word_bytes,
)
from sim.model.gemm import gemm
from sim.model.noise import element_noise
from sim.model.norm import Context, l1_backward, l1_forward
from sim.model.quantise import quantise
from sim.model.relu import unclipped

__all__ = ["Machine", "RunError"]


def _low16(x):
    """The low 16 bits as a signed number, which is what a 16-bit port takes of a wide element."""
    return ((x & 0xFFFF) ^ 0x8000) - 0x8000


class RunError(Exception):
    """An instruction cannot be executed; carries the device's status."""
    def __init__(self, status):
        super().__init__(status.name)
        self.status = status


class Memory:
    """A memory of ``words`` words of ``lanes`` elements, ``bits`` wide each."""
    def __init__(self, words, lanes):
        self.words = words
        self.lanes = lanes
        self.array = np.zeros((words, lanes), np.int64)

    def check(self, base, count):
        """Refuse addresses beyond the end."""
        if base + count > self.words:
            raise RunError(Status.ADDRESS)

    def tensor(self, base, rows, cols):
        """The words of a tensor, [tile, row, lane]; a view."""
        tiles = -(-cols // self.lanes)
        self.check(base, tiles * rows)
        return self.array[base:base + tiles * rows].reshape(tiles, rows, self.lanes)

    def get(self, base, rows, cols):
        """The tensor [rows, cols] at a base."""
        tiles = self.tensor(base, rows, cols)
        return tiles.transpose(1, 0, 2).reshape(rows, -1)[:, :cols].copy()

    def put(self, base, value):
        """Store a tensor; lanes beyond its columns keep what they held."""
        rows, cols = value.shape
        tiles = self.tensor(base, rows, cols)
        padded = tiles.transpose(1, 0, 2).reshape(rows, -1)
        padded[:, :cols] = value
        tiles[...] = padded.reshape(rows, -1, self.lanes).transpose(1, 0, 2)


class Machine:
    """One device; :meth:`feed` takes the link's bytes and returns the answer's."""

    def __init__(self, params):
        self.params = params
        self.wide = Memory(params.wide_words, params.vector)
        self.quant = Memory(params.quant_words, params.vector)
        self.group = Memory(params.table_words, 1)
        #: Order tables as SORT leaves them: base -> (groups of the indices, number of groups).
        self.orders = {}
        self._pending = bytearray()
        self._reset()

    def _reset(self):
        self.bad_frames = 0
        self.saturations = 0
        self.error = (Status.OK, 0, Unit.NONE)
        #: The last RUN's ``(seq, answer)`` and the requests of other kinds since.
        self._last_run, self._since_run = None, 0

    # The link.

    def feed(self, data):
        """Answers to all requests completed by ``data``."""
        self._pending += data
        *frames, rest = bytes(self._pending).split(bytes([END]))
        self._pending = bytearray(rest)
        return b"".join(self._answer(frame) for frame in frames if frame)

    def _answer(self, frame):
        try:
            seq, kind, body = decode(unescape(frame))
            if len(body) > MAX_BODY:
                raise FrameError("too long")
        except FrameError:
            self.bad_frames = (self.bad_frames + 1) & 0xFFFFFFFF
            return encode(0, Kind.NAK | Kind.ANSWER, bytes([Status.BAD_FRAME]))
        if kind != Kind.RUN and self._last_run:
            self._since_run += 1
            if self._since_run >= REPEAT_WINDOW:
                self._last_run = None
        if kind == Kind.RUN and self._last_run and self._last_run[0] == seq:
            return self._last_run[1]
        handler = {
            Kind.HELLO: self._hello, Kind.WRITE: self._write, Kind.READ: self._read,
            Kind.RUN: self._run, Kind.STATUS: self._status, Kind.RESET: self._on_reset,
        }.get(kind)
        if handler is None:
            status, answer = Status.BAD_KIND, b""
        else:
            try:
                status, answer = handler(body)
            except RunError as error:
                status, answer = error.status, b""
        frame = encode(seq, kind | Kind.ANSWER, bytes([status]) + answer)
        if kind == Kind.RUN:
            self._last_run, self._since_run = (seq, frame), 0
        return frame

    def _hello(self, body):
        if len(body) != 1:
            raise RunError(Status.BAD_LENGTH)
        self._last_run = None
        status = Status.OK if body[0] == PROTOCOL_VERSION else Status.VERSION
        return status, bytes([PROTOCOL_VERSION]) + bytes.fromhex(self.params.fingerprint)

    def _space(self, number):
        try:
            space = Space(number)
        except ValueError:
            raise RunError(Status.ADDRESS) from None
        memory = {Space.WIDE: self.wide, Space.QUANT: self.quant, Space.GROUP: self.group}[space]
        kind = {Space.WIDE: "<i4", Space.QUANT: "i1", Space.GROUP: "<i4"}[space]
        return memory, kind, word_bytes(space, self.params.vector)

    def _write(self, body):
        if len(body) < 4:
            raise RunError(Status.BAD_LENGTH)
        memory, kind, size = self._space(body[0])
        address, words = int.from_bytes(body[2:4], "little"), body[4:]
        if not words or len(words) % size:
            raise RunError(Status.BAD_LENGTH)
        count = len(words) // size
        memory.check(address, count)
        values = np.frombuffer(words, kind).astype(np.int64).reshape(count, -1)
        if memory is self.quant:
            half = 1 << (self.params.bits - 1)
            values = ((values & (2 * half - 1)) ^ half) - half
        memory.array[address:address + count] = values
        return Status.OK, b""

    def _read(self, body):
        if len(body) != 6:
            raise RunError(Status.BAD_LENGTH)
        memory, kind, size = self._space(body[0])
        address, count = int.from_bytes(body[2:4], "little"), int.from_bytes(body[4:], "little")
        if not count or count * size >= MAX_BODY:
            raise RunError(Status.BAD_LENGTH)
        memory.check(address, count)
        return Status.OK, memory.array[address:address + count].astype(kind).tobytes()

    def _status(self, body):
        if body:
            raise RunError(Status.BAD_LENGTH)
        status, index, unit = self.error
        return Status.OK, (self.bad_frames.to_bytes(4, "little")
                           + (self.saturations & 0xFFFFFFFF).to_bytes(4, "little")
                           + bytes([status, index, unit]))

    def _on_reset(self, body):
        if body:
            raise RunError(Status.BAD_LENGTH)
        self._reset()
        return Status.OK, b""

    # Programs.

    def _run(self, body):
        if not body or len(body) % INSTRUCTION_BYTES:
            raise RunError(Status.BAD_LENGTH)
        if self.error[0] != Status.OK:
            raise RunError(Status.STICKY)
        status, unit, done = Status.OK, Unit.NONE, 0
        for offset in range(0, len(body), INSTRUCTION_BYTES):
            fields = unpack_instruction(body[offset:offset + INSTRUCTION_BYTES])
            try:
                unit = self.execute(fields)
            except RunError as error:
                status = error.status
                unit = Unit(fields["op"]) if status == Status.ADDRESS else Unit.NONE
                self.error = (status, done, unit)
                break
            done += 1
        return status, bytes([done, unit]) + (0).to_bytes(4, "little")

    def execute(self, fields):
        """Execute one unpacked instruction; the unit that ran, or a :class:`RunError`."""
        check(self.params, fields)
        op = Opcode(fields["op"])
        {Opcode.GEMM: self._gemm, Opcode.QUANTISE: self._quantise, Opcode.SORT: self._sort,
         Opcode.NORM_FORWARD: self._norm_forward,
         Opcode.NORM_BACKWARD: self._norm_backward}[op](fields)
        return Unit(op)

    def _groups(self, base, count):
        self.group.check(base, count)
        return self.group.array[base:base + count, 0].copy()

    def _gemm(self, f):
        flags, m, k, n = f["flags"], f["m"], f["k"], f["n"]
        a = (self.quant.get(f["src0"], k, m).T if flags & GemmFlag.A_TRANSPOSED
             else self.quant.get(f["src0"], m, k))
        b = (self.quant.get(f["src1"], n, k).T if flags & GemmFlag.B_TRANSPOSED
             else self.quant.get(f["src1"], k, n))
        if flags & GemmFlag.UNSIGNED:
            a = a + (1 << (self.params.bits - 1))
        options = {}
        if flags & GemmFlag.INNER_GROUPS:
            inner, groups = self.orders.get(f["tab0"], (np.zeros(k, np.int64), 1))
            options |= {"inner": inner[:k], "inner_groups": groups}
        if flags & GemmFlag.ROW_GROUPS:
            options |= {"rows": self._groups(f["tab1"], m), "row_groups": (f["arg"] & 15) + 1}
        if flags & GemmFlag.COL_GROUPS:
            options |= {"cols": self._groups(f["tab2"], n), "col_groups": (f["arg"] >> 4) + 1}
        self.wide.tensor(f["dst0"], m, n)
        y, clamped = gemm(a, b, shift=f["shift"], **options)
        self.wide.put(f["dst0"], y)
        self.saturations += clamped

    def _quantise(self, f):
        flags, m, n, bits = f["flags"], f["m"], f["n"], self.params.bits
        x = self.wide.get(f["src0"], m, n)
        self.quant.tensor(f["dst0"], m, n)
        self.wide.tensor(f["dst1"], 1, n)
        noise = groups = None
        if flags & QuantiseFlag.STOCHASTIC:
            key = [f[name] >> shift & 0xFFFF for name in ("key0", "key1") for shift in (0, 16)]
            noise = element_noise(key, m, n)
        if flags & QuantiseFlag.GROUPED:
            groups = (self.params.sample_groups, self.params.channel_groups)
            self.group.check(f["tab1"], m)
            self.group.check(f["tab2"], n)
        signed = not flags & QuantiseFlag.UNSIGNED
        result = quantise(x, bits=bits, signed=signed, clip=f["arg"], noise=noise, groups=groups,
                          per_column=bool(flags & QuantiseFlag.PER_COLUMN))
        self.quant.put(f["dst0"], result.q if signed else result.q - (1 << (bits - 1)))
        self.wide.put(f["dst1"], result.exponent[None])
        if groups:
            self.group.array[f["tab1"]:f["tab1"] + m, 0] = result.rows
            self.group.array[f["tab2"]:f["tab2"] + n, 0] = result.cols

    def _sort(self, f):
        self.orders[f["tab0"]] = (self._groups(f["tab0"], f["k"]), f["arg"])

    def _norm_forward(self, f):
        flags, m, n = f["flags"], f["m"], f["n"]
        x = self.wide.get(f["src0"], m, n)
        state = self.wide.get(f["src1"], STATE_ROWS, n)
        self.wide.tensor(f["dst0"], m, n)
        inference = bool(flags & NormFlag.INFERENCE)
        mean, deviation = (state[StateRow.MEAN], state[StateRow.DEVIATION]) if inference else (
            None, None)
        if not inference:
            self.wide.tensor(f["dst1"], m, n)
        y, context, mean, deviation, clamped = l1_forward(
            x, _low16(state[StateRow.GAMMA]), state[StateRow.BETA],
            apply_relu=bool(flags & NormFlag.RELU), mean=mean, deviation=deviation)
        self.wide.put(f["dst0"], y)
        if not inference:
            state[StateRow.MEAN], state[StateRow.DEVIATION] = mean, deviation
            self.wide.put(f["src1"], state)
            self.wide.put(f["dst1"], context.pack())
        self.saturations += clamped

    def _norm_backward(self, f):
        m, n = f["m"], f["n"]
        dy = self.wide.get(f["src0"], m, n)
        context = Context.unpack(self.wide.get(f["dst1"], m, n))
        state = self.wide.get(f["src1"], STATE_ROWS, n)
        self.wide.tensor(f["dst0"], m, n)
        if f["flags"] & BackwardFlag.CLIPPED:
            bits = self.params.bits
            codes = self.quant.get(f["tab0"], m, n) + (1 << (bits - 1))
            context = replace(context, mask=context.mask & unclipped(codes, bits))
        dx, grad_beta, grad_gamma, grad_bits, deviation_bits = l1_backward(
            dy, context, _low16(state[StateRow.GAMMA]), state[StateRow.DEVIATION])
        self.wide.put(f["dst0"], dx)
        state[StateRow.GRAD_BETA], state[StateRow.GRAD_GAMMA] = grad_beta, grad_gamma
        state[StateRow.GRAD_BITS], state[StateRow.DEVIATION_BITS] = grad_bits, deviation_bits
        self.wide.put(f["src1"], state)


_OPCODES = frozenset(int(op) for op in Opcode)
_GEMM_FLAGS, _QUANTISE_FLAGS, _FORWARD_FLAGS, _BACKWARD_FLAGS = (
    int(sum(flags)) for flags in (GemmFlag, QuantiseFlag, NormFlag, BackwardFlag))
_GROUPED = int(GemmFlag.INNER_GROUPS | GemmFlag.ROW_GROUPS | GemmFlag.COL_GROUPS)


def check(params, f):
    """Refuse what the sequencer refuses: unknown opcodes, fields and flags out of range."""
    def require(condition):
        if not condition:
            raise RunError(Status.BAD_INSTRUCTION)

    op, flags, groups = f["op"], f["flags"], params.max_groups
    require(op in _OPCODES)
    op = Opcode(op)
    if op == Opcode.SORT:
        require(1 <= f["k"] <= MAX_K and not flags and groups > 1 and 1 <= f["arg"] <= groups)
        return
    require(1 <= f["m"] <= MAX_M and 1 <= f["n"] <= MAX_N)
    if op == Opcode.GEMM:
        tiles = f["key0"] & 0xFFFF
        require(1 <= f["k"] <= MAX_K and not flags & ~_GEMM_FLAGS and f["shift"] <= MAX_SHIFT
                and tiles
                and tiles * (f["m"] + 1) <= params.stream_words
                and (groups > 1 or not flags & _GROUPED)
                and (not flags & GemmFlag.ROW_GROUPS or f["arg"] & 15 < groups)
                and (not flags & GemmFlag.COL_GROUPS or f["arg"] >> 4 < groups))
    elif op == Opcode.QUANTISE:
        require(not flags & ~_QUANTISE_FLAGS)
        if flags & QuantiseFlag.GROUPED:
            require(groups > 1 and not f["arg"]
                    and not flags & (QuantiseFlag.PER_COLUMN | QuantiseFlag.UNSIGNED))
    else:
        require(not flags & ~(_FORWARD_FLAGS if op == Opcode.NORM_FORWARD else _BACKWARD_FLAGS))
