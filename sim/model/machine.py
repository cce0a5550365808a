"""The model of the whole machine: executes the device's frames with the model functions.

It is the device behind ``model:``. Bytes go in and come out as on any link, so the host's driver,
its packets and the device's answers are the same over the model, the simulated board and a board.
It has the memories of :class:`hdl.params.Params`, so what does not fit a device does not fit here;
it counts no cycles.
"""

from dataclasses import replace

import numpy as np

from hdl.instructions import (
    COLUMN_UNIT,
    INSTRUCTION_BYTES,
    POOL_GEOMETRY,
    POSITION_BITS,
    SCAN_SHIFT,
    STATE_ROWS,
    TABLE_HEADER,
    WINDOW_RUN,
    WINDOW_TABLE,
    BackwardFlag,
    CombineFlag,
    GemmFlag,
    LayerFlag,
    LayerRow,
    LossRow,
    MoveFlag,
    NormFlag,
    Opcode,
    PoolFlag,
    QuantiseFlag,
    ScaleFlag,
    ScaleRow,
    ScanRow,
    StateRow,
    is_lawful,
    opcode_of,
    unpack_fields,
    unpack_instruction,
)
from hdl.params import PROTOCOL_VERSION, WIDE_BITS
from hdl.protocol import (
    END,
    LOG_PART,
    MAX_BODY,
    MAX_STORED,
    PROGRAM_WORDS,
    REPEAT_WINDOW,
    FrameError,
    Kind,
    LogPart,
    Space,
    Status,
    Unit,
    codes_in_byte,
    decode,
    encode,
    number_bytes,
    readable,
    unescape,
    word_bytes,
    writable,
    written_beside,
)
from sim.model.combine import combine
from sim.model.convolution import windows
from sim.model.gemm import gemm
from sim.model.noise import element_noise
from sim.model.norm import (
    Context,
    l1_backward,
    l1_forward,
    layer_backward,
    layer_clamped,
    layer_forward,
)
from sim.model.order import order
from sim.model.pool import spread, sums
from sim.model.quantise import quantise, quantise_weights, scan
from sim.model.relu import unclipped
from sim.model.rounding import floor_divide, wrap
from sim.model.scale import align, column_exponents, column_sums, read_scale, scale, update
from sim.model.softmax import cross_entropy, softmax

__all__ = ["Machine", "RunError"]


def _low16(x):
    """What a 16-bit port takes of a wide element."""
    return wrap(x, 16)


def unpacked(words, bits):
    """The codes in the bytes of packed words [count, bytes], as ``Space.CODES`` has them.

    >>> unpacked(np.array([[0x7F, 0x08]]), 4).tolist(), unpacked(np.array([[0xFD]]), 3).tolist()
    ([[-1, 7, -8, 0]], [[-3, -1]])
    """
    shifts = bits * np.arange(codes_in_byte(bits))
    return wrap(words[:, :, None] >> shifts, bits).reshape(len(words), -1)


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

    def tensor(self, base, rows, cols, more=0):
        """Addresses of the words of ``rows`` rows of a tensor that has so many and ``more``,
        [tile, row]."""
        starts = base + np.arange(-(-cols // self.lanes)) * (rows + more) & 0xFFFF
        self.check(int(starts.max(initial=0)), rows)
        return starts[:, None] + np.arange(rows)

    def get(self, base, rows, cols, more=0):
        """The tensor [rows, cols] at a base."""
        tiles = self.array[self.tensor(base, rows, cols, more)]
        return tiles.transpose(1, 0, 2).reshape(rows, -1)[:, :cols]

    def put(self, base, value, more=0):
        """Store a tensor; lanes beyond its columns keep what they held."""
        rows, cols = value.shape
        words = self.tensor(base, rows, cols, more)
        whole = cols // self.lanes
        used = whole * self.lanes
        self.array[words[:whole]] = value[:, :used].reshape(rows, whole,
                                                            self.lanes).transpose(1, 0, 2)
        if used < cols:
            self.array[words[whole], :cols - used] = value[:, used:]

    def columns(self, base, rows, places, more=0):
        """The columns of the numbers ``places`` of a tensor at a base, [rows, len(places)]."""
        words = self.tensor(base, rows, int(places.max(initial=-1)) + 1, more)
        return self.array[words[places // self.lanes], places[:, None] % self.lanes].T

    def lanes_at(self, addresses, count):
        """``count`` lanes of the words at any addresses, [..., count]."""
        self.check(int(addresses.max(initial=0)), 1)
        return self.array[addresses, :count]

    def put_columns(self, base, places, value, more=0):
        """Store columns under the numbers ``places``, the last where one comes twice; nothing else
        changes."""
        words = self.tensor(base, len(value), int(places.max()) + 1, more)
        self.array[words[places // self.lanes], places[:, None] % self.lanes] = value.T


def slot_of(words, params):
    """The slots in words of the group table (:data:`hdl.unit.GROUP_WORD`).

    >>> from hdl.params import Params
    >>> slot_of(np.array([0x20313]), Params(rows=4, depth=4))
    array([45])
    """
    place, row, tile = words >> 4 & 0xF, words >> 8 & 0xFF, words >> 16 & 0xFFFF
    return place + params.depth * (row + params.rows * tile)


def group_words(groups, slots, params):
    """The words of indices of the given groups that take the given slots.

    >>> from hdl.params import Params
    >>> [hex(word) for word in group_words(np.array([3]), np.array([45]), Params(rows=4, depth=4))]
    ['0x20313']
    """
    row, place = np.divmod(slots, params.depth)
    tile, row = np.divmod(row, params.rows)
    return groups | place << 4 | row << 8 | tile << 16


class Machine:
    """One device; :meth:`feed` takes the link's bytes and returns the answer's."""

    def __init__(self, params):
        self.params = params
        self.wide = Memory(params.wide_words, params.vector)
        self.quant = Memory(params.quant_words, params.slots)
        self.group = Memory(params.table_words, 1)
        self.master = Memory(params.master_words, params.vector)
        self.velocity = Memory(params.master_words, params.vector)
        #: Bytes of stored programs.
        self.program = np.zeros((PROGRAM_WORDS, 8), np.int64)
        #: There is no clock.
        self.log = np.zeros((LOG_PART * len(LogPart), 1), np.int64)
        #: Order tables as SORT leaves them: base -> (the index in every slot, -1 for padding, the
        #: group of every slot, number of groups).
        self.orders = {}
        self._pending = bytearray()
        self._reset()

    def _reset(self):
        self.bad_frames = 0
        self.saturations = 0
        self.error = (Status.OK, 0, Unit.NONE)
        #: What came of the last program, and whether it was started and not waited for.
        self.outcome, self.started = (Status.OK, 0, Unit.NONE), False
        #: The last RUN's or START's ``(seq, kind, answer)`` and the requests of other kinds since.
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
        handlers = {
            Kind.HELLO: self._hello, Kind.WRITE: self._write, Kind.READ: self._read,
            Kind.RUN: self._run, Kind.STATUS: self._status, Kind.RESET: self._on_reset,
        }
        runs = [Kind.RUN]
        if self.params.masters:
            handlers |= {Kind.START: self._start, Kind.WAIT: self._wait}
            runs.append(Kind.START)
        if kind not in runs and self._last_run:
            self._since_run += 1
            if self._since_run >= REPEAT_WINDOW:
                self._last_run = None
        if kind in runs and self._last_run and self._last_run[:2] == (seq, kind):
            return self._last_run[2]
        handler = handlers.get(kind)
        if handler is None:
            status, answer = Status.BAD_KIND, b""
        else:
            try:
                status, answer = handler(body)
            except RunError as error:
                status, answer = error.status, b""
        frame = encode(seq, kind | Kind.ANSWER, bytes([status]) + answer)
        if kind in runs:
            self._last_run, self._since_run = (seq, kind, frame), 0
        return frame

    def _hello(self, body):
        if len(body) != 1:
            raise RunError(Status.BAD_LENGTH)
        self._last_run = None
        status = Status.OK if body[0] == PROTOCOL_VERSION else Status.VERSION
        return status, bytes([PROTOCOL_VERSION]) + bytes.fromhex(self.params.fingerprint)

    def _space(self, number):
        space = Space(number)
        kind = {Space.QUANT: "i1", Space.BYTES: "u1", Space.PROGRAM: "u1",
                Space.CODES: "u1", Space.COLUMN: "u1", Space.PATCH: "u1"}.get(space, "<i4")
        return space, kind, word_bytes(space, self.params)

    @property
    def _column(self):
        """First lanes of the quantised memory, as many in a row as a byte has of them; a view."""
        each = codes_in_byte(self.params.bits)
        lane = self.quant.array[:, 0]
        return lane[:len(lane) - len(lane) % each].reshape(-1, each)

    def words(self, space, address, count):
        """``count`` words of a space as they lie in memory; a view."""
        words = {Space.WIDE: self.wide.array, Space.BYTES: self.wide.array,
                 Space.QUANT: self.quant.array.reshape(-1, self.params.depth),
                 Space.GROUP: self.group.array, Space.MASTER: self.master.array,
                 Space.VELOCITY: self.velocity.array, Space.PROGRAM: self.program,
                 Space.LOG: self.log, Space.CODES: self.quant.array,
                 Space.COLUMN: self._column, Space.PATCH: self.program}[space]
        if address + count > len(words):
            raise RunError(Status.ADDRESS)
        return words[address:address + count]

    def _address(self, body):
        high = body[1] << 16 if self.params.masters else 0
        return int.from_bytes(body[2:4], "little") + high

    def _write(self, body):
        if len(body) < 4:
            raise RunError(Status.BAD_LENGTH)
        if body[0] not in writable(self.params):
            raise RunError(Status.ADDRESS)
        if self.started and body[0] not in written_beside(self.params):
            raise RunError(Status.BUSY)
        space, kind, size = self._space(body[0])
        address, words = self._address(body), body[4:]
        if space == Space.CODES:
            if not words or words[0] >= size:
                raise RunError(Status.BAD_LENGTH)
            size, words = words[0] + 1, words[1:]
        if not words or len(words) % size:
            raise RunError(Status.BAD_LENGTH)
        count = len(words) // size
        values = np.frombuffer(words, kind).astype(np.int64).reshape(count, -1)
        if space == Space.CODES:
            codes = unpacked(values, self.params.bits)[:, :self.params.slots]
            self.words(space, address, count)[:, :codes.shape[1]] = codes
            return Status.OK, b""
        if space == Space.PATCH:
            self.words(space, address, count)
            places = address + np.cumsum(values[:, 0] + 1) - 1
            self.program[places % PROGRAM_WORDS] = values[:, 1:]
            return Status.OK, b""
        if space == Space.COLUMN:
            values = unpacked(values, self.params.bits)
        bits = {Space.QUANT: self.params.bits, Space.MASTER: self.params.master_bits,
                Space.VELOCITY: self.params.velocity_bits}.get(space)
        self.words(space, address, count)[:] = wrap(values, bits) if bits else values
        return Status.OK, b""

    def _read(self, body):
        if self.started:
            raise RunError(Status.BUSY)
        if len(body) != 6:
            raise RunError(Status.BAD_LENGTH)
        if body[0] not in readable(self.params):
            raise RunError(Status.ADDRESS)
        space, kind, size = self._space(body[0])
        address, count = self._address(body), int.from_bytes(body[4:], "little")
        if not count or count * size >= MAX_BODY:
            raise RunError(Status.BAD_LENGTH)
        return Status.OK, self.words(space, address, count).astype(kind).tobytes()

    def _status(self, body):
        if body:
            raise RunError(Status.BAD_LENGTH)
        status, index, unit = self.error
        return Status.OK, (self.bad_frames.to_bytes(4, "little")
                           + (self.saturations & 0xFFFFFFFF).to_bytes(4, "little")
                           + bytes([status]) + self._number(index) + bytes([unit]))

    def _on_reset(self, body):
        if body:
            raise RunError(Status.BAD_LENGTH)
        self._reset()
        return Status.OK, b""

    # Programs.

    def _run(self, body):
        self._check_idle()
        program = self._program(body) if self.params.masters and len(body) == 4 else body
        if not program or len(program) % INSTRUCTION_BYTES:
            raise RunError(Status.BAD_LENGTH)
        self._execute(program)
        return self._ended()

    def _start(self, body):
        """All of the program at once: what is written until WAIT is not what it touches."""
        self._check_idle()
        if len(body) != 4:
            raise RunError(Status.BAD_LENGTH)
        self._execute(self._program(body))
        self.started = True
        return Status.OK, b""

    def _wait(self, body):
        if body:
            raise RunError(Status.BAD_LENGTH)
        self.started = False
        return self._ended()

    def _check_idle(self):
        if self.started:
            raise RunError(Status.BUSY)
        if self.error[0] != Status.OK:
            raise RunError(Status.STICKY)

    def _ended(self):
        """The answer after a program, whose error is kept."""
        status, done, unit = self.outcome
        if status != Status.OK:
            self.error = self.outcome
        return status, self._number(done) + bytes([unit]) + (0).to_bytes(4, "little")

    def _number(self, number):
        return number.to_bytes(number_bytes(self.params), "little")

    def _execute(self, program):
        """The instructions up to one that fails."""
        status, unit, done = Status.OK, Unit.NONE, 0
        for offset in range(0, len(program), INSTRUCTION_BYTES):
            fields = unpack_instruction(program[offset:offset + INSTRUCTION_BYTES])
            try:
                unit = self.execute(fields)
            except RunError as error:
                status = error.status
                unit = (Unit(opcode_of(fields["op"], self.params)) if status == Status.ADDRESS
                        else Unit.NONE)
                break
            done += 1
        self.outcome = status, done, unit

    def _program(self, body):
        """The instructions that a RUN of stored ones means."""
        first, count = int.from_bytes(body[:2], "little"), int.from_bytes(body[2:], "little")
        if not 1 <= count <= MAX_STORED:
            raise RunError(Status.BAD_LENGTH)
        words = INSTRUCTION_BYTES // 8
        if (first + count) * words > PROGRAM_WORDS:
            raise RunError(Status.ADDRESS)
        return self.program[first * words:(first + count) * words].astype("u1").tobytes()

    def execute(self, fields):
        """Execute one unpacked instruction; the unit that ran, or a :class:`RunError`."""
        if not is_lawful(fields, self.params):
            raise RunError(Status.BAD_INSTRUCTION)
        op = Opcode(opcode_of(fields["op"], self.params))
        {Opcode.GEMM: self._gemm, Opcode.QUANTISE: self._quantise, Opcode.SORT: self._sort,
         Opcode.NORM_FORWARD: self._norm_forward,
         Opcode.NORM_BACKWARD: self._norm_backward, Opcode.MOVE: self._move,
         Opcode.SCALE: self._scale, Opcode.COMBINE: self._combine,
         Opcode.CROSS_ENTROPY: self._cross_entropy,
         Opcode.POOL: self._pool, Opcode.LAYER_FORWARD: self._layer_forward,
         Opcode.LAYER_BACKWARD: self._layer_backward}[op](fields)
        return Unit(op)

    def _group_words(self, base, count):
        self.group.check(base, count)
        return self.group.array[base:base + count, 0].copy()

    def _groups(self, base, count):
        return self._group_words(base, count) & 0xF

    def _gemm(self, f):
        flags, m, k, n = f["flags"], f["m"], f["k"], f["n"]
        slots = (f["key0"] & 0xFFFF) * self.params.slots
        # Rows that A and the result have beyond those of the product.
        more, more_out = f["key1"] & 0xFFFF, f["key1"] >> 16
        b = self.quant.get(f["src1"], k, n)
        options = {}
        if flags & GemmFlag.WINDOWS:
            a = self._windows(f)[:, :k]
            b = b[:a.shape[1]]
        else:
            self.quant.tensor(f["src0"], m, slots, more)
        if flags & GemmFlag.INNER_GROUPS:
            table, of, groups = self.orders.get(f["tab0"], (np.zeros(0, np.int64),) * 2 + (1,))
            # The slots that hold an index of this product.
            taken = np.flatnonzero((table[:slots] >= 0) & (table[:slots] < k))
            a = self.quant.columns(f["src0"], m, taken, more)
            b = b[table[taken]]
            options |= {"inner": of[taken], "inner_groups": groups}
        elif not flags & GemmFlag.WINDOWS:
            a = self.quant.get(f["src0"], m, k, more)
        if flags & GemmFlag.UNSIGNED:
            a = a + (1 << (self.params.bits - 1))
        if flags & GemmFlag.ROW_GROUPS:
            options |= {"rows": self._groups(f["tab1"], m), "row_groups": (f["arg"] & 15) + 1}
        if flags & GemmFlag.COL_GROUPS:
            options |= {"cols": self._groups(f["tab2"], n), "col_groups": (f["arg"] >> 4) + 1}
        self.wide.tensor(f["dst0"], m, n, more_out)
        y, clamped = gemm(a, b, shift=f["shift"], **options)
        self.wide.put(f["dst0"], y, more_out)
        self.saturations += clamped

    def _windows(self, f):
        """A of a product with ``WINDOWS``, [m, taps * channels]."""
        table = self._window_table(f["tab0"])
        table |= unpack_fields(WINDOW_RUN, int(self._group_words(f["dst1"], 1)[0]))
        channels, parts = f["key0"] >> 16, max(table["channel_tiles"], 1)
        taps = -(-(f["key0"] & 0xFFFF) // parts)
        a = self._seen(f, table, taps, channels, parts, bool(f["flags"] & GemmFlag.UNSIGNED))
        return a.reshape(f["m"], -1)

    def _window_table(self, base):
        """The fields of the words ``WINDOW_TABLE``."""
        table = {}
        for layout, word in zip(WINDOW_TABLE, self._group_words(base, len(WINDOW_TABLE)),
                                strict=True):
            table |= unpack_fields(layout, int(word))
        return table

    def _seen(self, f, table, taps, channels, parts, is_unsigned):
        """What m outputs see of the images with each tap, [m, taps, channels]."""
        first, there = windows(table, f["m"], taps)
        # Where nothing is read, the code of 0.
        zero = -(1 << self.params.bits - 1) if is_unsigned else 0
        a = np.full((f["m"], taps, channels), zero)
        for part, lane in enumerate(range(0, channels, self.params.slots)[:parts]):
            some = a[:, :, lane:lane + self.params.slots]
            address = f["src0"] + part * (f["key1"] & 0xFFFF) + first & 0xFFFF
            some[there] = self.quant.lanes_at(address[there], some.shape[-1])
        return a

    def _quantise(self, f):
        flags, m, n, bits = f["flags"], f["m"], f["n"], self.params.bits
        if flags & QuantiseFlag.MASTER:
            self._quantise_masters(f)
            return
        x = self.wide.get(f["src0"], m, n)
        if flags & QuantiseFlag.SCAN:
            self._scan(f, x)
            return
        self.quant.tensor(f["dst0"], m, n)
        self.wide.tensor(f["dst1"], 1, n)
        noise = groups = scanned = None
        if flags & QuantiseFlag.SCANNED:
            rows = len(ScanRow) if f["arg"] else 1
            found = np.zeros((len(ScanRow), n), np.int64)
            found[:rows] = np.abs(self.wide.get(f["src1"], rows, n, STATE_ROWS - rows))
            scanned = (found[ScanRow.LARGEST],
                       found[ScanRow.TOTAL_LOW] + (found[ScanRow.TOTAL_HIGH] << SCAN_SHIFT))
        if flags & QuantiseFlag.STOCHASTIC:
            key = [f[name] >> shift & 0xFFFF for name in ("key0", "key1") for shift in (0, 16)]
            noise = element_noise(key, m, n)
        if flags & QuantiseFlag.GROUPED:
            groups = (self.params.sample_groups, self.params.channel_groups)
            self.group.check(f["tab1"], m)
            self.group.check(f["tab2"], n)
        signed = not flags & QuantiseFlag.UNSIGNED
        result = quantise(x, bits=bits, signed=signed, clip=f["arg"], noise=noise, groups=groups,
                          per_column=bool(flags & QuantiseFlag.PER_COLUMN), scanned=scanned)
        self.quant.put(f["dst0"], result.q if signed else result.q - (1 << (bits - 1)))
        self.wide.put(f["dst1"], result.exponent[None])
        if groups:
            self.group.array[f["tab1"]:f["tab1"] + m, 0] = result.rows
            self.group.array[f["tab2"]:f["tab2"] + n, 0] = result.cols

    def _scan(self, f, x):
        largest, total = scan(x)
        found = {ScanRow.LARGEST: largest, ScanRow.TOTAL_LOW: total & (1 << SCAN_SHIFT) - 1,
                 ScanRow.TOTAL_HIGH: total >> SCAN_SHIFT}
        more = STATE_ROWS - len(ScanRow)
        self.wide.tensor(f["dst1"], len(ScanRow), f["n"], more)
        self.wide.put(f["dst1"], wrap(np.array([found[row] for row in ScanRow]), WIDE_BITS), more)

    def _quantise_masters(self, f):
        m, n = f["m"], f["n"]
        masters = self.master.get(f["src0"], m, n)
        self.quant.tensor(f["dst0"], m, n)
        # Row BIAS of the scale tensor stays.
        written = ScaleRow.BIAS
        self.wide.tensor(f["dst1"], written, n, len(ScaleRow) - written)
        result, mantissa = quantise_weights(masters, self.params.bits, f["arg"])
        self.quant.put(f["dst0"], result.q)
        scales = np.zeros((written, n), np.int64)
        scales[ScaleRow.FACTOR], scales[ScaleRow.EXPONENT] = mantissa, result.exponent
        self.wide.put(f["dst1"], scales, len(ScaleRow) - written)

    def _sort(self, f):
        base, count = f["tab0"], f["arg"]
        groups = self._groups(base, f["k"])
        taking = np.flatnonzero(groups < count)
        table, _ = order(groups[taking], count, self.params.depth)
        if base + TABLE_HEADER + len(table) > self.params.table_words:
            raise RunError(Status.ADDRESS)
        slots = np.flatnonzero(table >= 0)
        table[slots] = taking[table[slots]]
        of = np.where(table >= 0, groups[table], 0)
        self.orders[base] = (table, of, count)
        self.group.array[base + table[slots], 0] = group_words(of[slots], slots, self.params)

    def _move(self, f):
        flags = f["flags"]
        more, more_out = (f["key1"] & 0xFFFF, f["key1"] >> 16) if self.params.masters else (0, 0)
        if flags & MoveFlag.WINDOWS:
            x = self._moved_windows(f)
        else:
            x = self.quant.get(f["src0"], f["m"], f["n"], more)
        if flags & MoveFlag.TRANSPOSED:
            x = x.T
        columns = np.arange(x.shape[1])
        if flags & MoveFlag.SORTED and self.params.masters:
            # A slot takes its column, so a column without one goes nowhere.
            self.group.check(f["tab1"], 1)
            table, *_ = self.orders.get(f["tab1"], (np.zeros(0, np.int64),))
            slots = np.flatnonzero((table >= 0) & (table < len(columns)))
            if len(slots):
                self.quant.put_columns(f["dst0"], slots, x[:, table[slots]], more_out)
            return
        if flags & MoveFlag.SORTED:
            columns = slot_of(self._group_words(f["tab1"], len(columns)), self.params)
        self.quant.put_columns(f["dst0"], columns, x, more_out)

    def _moved_windows(self, f):
        """What a move with ``WINDOWS`` takes of the images, [m, n]."""
        table = self._window_table(f["tab0"])
        x, y = (int(wrap(f["key0"] >> shift, POSITION_BITS)) for shift in (0, 16))
        # One tap: the position of its first output is that of a window without padding.
        table |= {"pad_x": -x, "pad_y": -y, "first_line": f["src1"], "first_x": 0, "first_y": 0}
        parts = -(-f["n"] // self.params.slots)
        return self._seen(f, table, 1, f["n"], parts, bool(f["flags"] & MoveFlag.UNSIGNED))[:, 0]

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
        if f["flags"] & BackwardFlag.SCAN:
            state[StateRow.LARGEST] = np.abs(dx).max(axis=0)
        self.wide.put(f["src1"], state)

    def _scale(self, f):
        flags, m, n = f["flags"], f["m"], f["n"]
        source = self.master if flags & ScaleFlag.MASTER else self.wide
        x = source.get(f["src0"], m, n)
        adds = flags & ScaleFlag.PLUS
        if adds == ScaleFlag.SUM:
            self.wide.put(f["dst0"], column_sums(x)[None])
            return
        divide = bool(flags & ScaleFlag.DIVIDE)
        factor, exponent, bias = read_scale(self.wide.get(f["src1"], len(ScaleRow), n),
                                            divide=divide)
        if divide:
            # What other divisors give is not defined.
            factor = np.clip(factor, 4, 7)
        scalar = self.wide.get(f["tab1"], 1, 1)[0, 0] if flags & ScaleFlag.ADD else 0
        exponent = column_exponents(exponent, negate=bool(flags & ScaleFlag.NEGATE),
                                    offset=_low16(f["tab2"]), scalar=scalar)
        if flags & ScaleFlag.UPDATE:
            master, velocity = (memory.get(f["dst0"], m, n)
                                for memory in (self.master, self.velocity))
            key = [f[name] >> shift & 0xFFFF for name in ("key0", "key1") for shift in (0, 16)]
            master, velocity, clamped = update(
                master, velocity, x, factor, exponent, f["k"], f["shift"],
                element_noise(key, m, n, first=COLUMN_UNIT * f["arg"], more=f["dst1"]),
                divide=divide, decay=f["tab0"], formats=self.params.formats)
            self.master.put(f["dst0"], master)
            self.velocity.put(f["dst0"], velocity)
        elif flags & ScaleFlag.ALIGN:
            self.wide.tensor(f["dst0"], m, n)
            y, least = align(x, factor, exponent, divide=divide)
            self.wide.put(f["dst1"], np.full((1, n), least))
            self.wide.put(f["dst0"], y)
            clamped = 0
        else:
            plus = self.wide.get(f["dst1"], m, n) if adds == ScaleFlag.PLUS else None
            y, clamped = scale(x, factor, exponent, f["arg"], divide=divide, plus=plus,
                               bias=bias if adds == ScaleFlag.BIAS else None)
            self.wide.put(f["dst0"], y)
        self.saturations += clamped

    def _combine(self, f):
        flags, n = f["flags"], f["n"]
        a = self.wide.get(f["src0"], 1, n, f["tab0"] - 1)[0]
        one = flags & CombineFlag.BROADCAST
        b = self.wide.get(f["src1"], 1, 1 if one else n, 0 if one else f["tab1"] - 1)[0]
        added = wrap(f["key0"], WIDE_BITS)
        total = combine(a, b, added, subtract=bool(flags & CombineFlag.SUBTRACT),
                        follow=f["shift"] if flags & CombineFlag.FOLLOW else None,
                        maximum=bool(flags & CombineFlag.MAXIMUM))
        self.wide.put(f["dst0"], total[None], f["tab2"] - 1)

    def _cross_entropy(self, f):
        m, n = f["m"], f["n"]
        logits = wrap(self.wide.get(f["src0"], m, n), 24)
        labels = self.wide.get(f["src1"], m, 1)[:, 0] & 0x1FFF
        self.wide.tensor(f["dst0"], m, n)
        self.wide.tensor(f["dst1"], len(LossRow), 1)
        # A label that is no column's is that of none: of its row's loss and gradient its part is
        # missing. The loss is that of the largest logit, which is at no distance.
        known = labels < n
        losses, gradient, _, predicted = cross_entropy(
            logits, np.where(known, labels, logits.argmax(axis=1)))
        shares = floor_divide(softmax(logits) << (m - 1).bit_length(), m)
        gradient = np.where(known[:, None], gradient, shares)
        total = int(losses.sum())
        self.wide.put(f["dst0"], gradient)
        rows = np.zeros((len(LossRow), 1), np.int64)
        rows[LossRow.LOSS_LOW] = wrap(total & 0xFFFFFFFF, WIDE_BITS)
        rows[LossRow.LOSS_HIGH] = total >> 32
        rows[LossRow.CORRECT] = (predicted == labels).sum()
        self.wide.put(f["dst1"], rows)

    def _pool(self, f):
        m, n, bits = f["m"], f["n"], self.params.bits
        width, height, *window = unpack_fields(POOL_GEOMETRY, f["key0"]).values()
        size, window = (height, width), tuple(reversed(window))
        rows = m * height * width
        windows = m * (height // window[0]) * (width // window[1])
        if not f["flags"] & PoolFlag.SPREAD:
            x = self.wide.get(f["src0"], rows, n)
            if windows:
                self.wide.put(f["dst0"], sums(x, size, window))
            return
        self.wide.tensor(f["dst0"], rows, n)
        result = np.zeros((rows, n), np.int64)
        if windows:
            passed = None
            if f["flags"] & PoolFlag.CLIPPED:
                passed = unclipped(self.quant.get(f["tab0"], windows, n) + (1 << bits - 1), bits)
            result = spread(self.wide.get(f["src0"], windows, n), size, window, passed)
        self.wide.put(f["dst0"], result)

    def _layer_forward(self, f):
        m, n = f["m"], f["n"]
        x = self.wide.get(f["src0"], m, n)
        # Of the state, no other rows have to be there.
        gamma, beta = self.wide.get(f["src1"], LayerRow.BETA + 1, n, STATE_ROWS - LayerRow.BETA - 1)
        gamma = _low16(gamma)
        self.wide.tensor(f["dst0"], m, n)
        y, context, deviation = layer_forward(x, gamma, beta)
        if not f["flags"] & LayerFlag.INFERENCE:
            self.wide.tensor(f["dst1"], m, n)
            self.wide.tensor(f["tab0"], m, 1)
            self.wide.put(f["dst1"], context.pack())
            self.wide.put(f["tab0"], deviation[:, None])
        self.wide.put(f["dst0"], y)
        self.saturations += layer_clamped(x, gamma, beta)

    def _layer_backward(self, f):
        m, n = f["m"], f["n"]
        dy = self.wide.get(f["src0"], m, n)
        context = Context.unpack(self.wide.get(f["dst1"], m, n))
        self.wide.tensor(f["src1"], STATE_ROWS, n)
        gamma = _low16(self.wide.get(f["src1"], 1, n, STATE_ROWS - 1)[0])
        deviation = self.wide.get(f["tab0"], m, 1)[:, 0]
        self.wide.tensor(f["dst0"], m, n)
        dx, grad_beta, grad_gamma, grad_bits, deviation_bits = layer_backward(
            dy, context, gamma, deviation)
        self.wide.put(f["dst0"], dx)
        written = {
            LayerRow.GRAD_BETA: grad_beta,
            LayerRow.GRAD_GAMMA_LOW: wrap(grad_gamma & 0xFFFFFFFF, WIDE_BITS),
            LayerRow.GRAD_GAMMA_HIGH: grad_gamma >> 32,
            LayerRow.GRAD_BITS: np.full(n, grad_bits),
            LayerRow.DEVIATION_BITS: np.full(n, deviation_bits),
        }
        for row, value in written.items():
            self.wide.put(f["src1"] + row, value[None], STATE_ROWS - 1)
