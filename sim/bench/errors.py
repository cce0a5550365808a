"""Scenarios of what goes wrong: damaged frames, refused requests, instructions that fail."""

import numpy as np

from hdl.instructions import (
    INSTRUCTION_BYTES,
    MAX_SHIFT,
    POOL_GEOMETRY,
    STATE_ROWS,
    TABLE_HEADER,
    WINDOW_TABLE,
    BackwardFlag,
    CombineFlag,
    GemmFlag,
    LayerFlag,
    LayerRow,
    LossRow,
    MoveFlag,
    Opcode,
    PoolFlag,
    QuantiseFlag,
    ScaleFlag,
    ScaleRow,
    ScanRow,
    StateRow,
    in_order,
    instruction,
    pack_fields,
    unpack_instruction,
)
from hdl.params import MAX_K, MAX_M, MAX_N, PROTOCOL_VERSION
from hdl.protocol import (
    END,
    ESC,
    ESC_END,
    LOG_PART,
    MAX_BODY,
    MAX_STORED,
    PROGRAM_WORDS,
    REPEAT_WINDOW,
    Kind,
    LogPart,
    Space,
    Status,
    codes_in_byte,
    encode,
    readable,
    spaces,
    unescape,
    word_bytes,
    writable,
)
from host import program
from host.tensors import Tensor
from host.windows import Windows
from sim.bench.exchange import decoded
from sim.bench.recording import Recording
from sim.model.machine import group_words
from sim.model.order import inner_tiles

__all__ = ["SCENARIOS", "SCENARIOS_WITH_MASTERS", "Requests"]


class Requests:
    """Raw requests over a recording."""

    def __init__(self, recording):
        self.recording = recording
        self.seq = 100

    def say(self, kind, body=b"", *, seq=None):
        """One request with the next ``seq``; its answer's status."""
        self.seq = self.seq % 255 + 1
        answer = self.recording.send(encode(self.seq if seq is None else seq, kind, body))
        return Status(decoded(answer)[0][2][0])

    def run(self, *steps, seq=None):
        """A RUN of whole instructions, one after the other."""
        if self.recording.params.masters:
            steps = [in_order(step) if len(step) == INSTRUCTION_BYTES else step for step in steps]
        return self.say(Kind.RUN, b"".join(steps), seq=seq)

    def words(self, kind, space, address, rest):
        """A WRITE with ``rest`` bytes or a READ of ``rest`` words."""
        head = bytes([space, address >> 16]) + (address & 0xFFFF).to_bytes(2, "little")
        return self.say(kind, head + (rest if kind == Kind.WRITE else rest.to_bytes(2, "little")))

    def refused(self, *steps):
        """A RUN that fails, a RUN that is refused for it, the error, and RESET."""
        status = self.run(*steps)
        assert status in (Status.BAD_INSTRUCTION, Status.ADDRESS)
        assert self.run(instruction(Opcode.NORM_BACKWARD, m=1, n=1)) == Status.STICKY
        self.say(Kind.STATUS)
        self.say(Kind.RESET)


def errors_frames(params, seed, most=0):
    """Damaged frames of every kind, noise, frames in pieces, and several at once."""
    recording = Recording(params, f"errors_frames {seed}")
    rng = recording.rng
    requests = Requests(recording)
    recording.begin("damaged frames")
    good = encode(9, Kind.READ, bytes([Space.GROUP, 0, 0, 0, 1, 0]))
    requests.words(Kind.WRITE, Space.GROUP, 0, bytes([END, ESC, ESC_END, 0]) * 5)
    for place in range(1, len(good) - 1):
        # Never an END: that is two frames.
        flips = [bit for bit in range(8) if good[place] ^ 1 << bit != END]
        damaged = bytearray(good)
        damaged[place] ^= 1 << int(rng.choice(flips))
        recording.send(bytes(damaged))
    whole = unescape(good[1:-1])
    for length in range(1, 7):
        recording.send(bytes([END, *whole[:length], END]))
    for noise in (bytes([ESC]), bytes([ESC, ESC]), bytes([1, ESC, 2]), good[1:-1] + bytes([ESC]),
                  bytes([ESC, 5]) + good[1:-1], b"\0" * 40):
        recording.send(bytes([END]) + noise + bytes([END]))
    # The longest frame and longer ones.
    words = rng.integers(0, 256, MAX_BODY - 4).astype(np.uint8).tobytes()
    words = words[:len(words) // 4 * 4]
    assert requests.words(Kind.WRITE, Space.GROUP, 7, words) == Status.OK
    requests.words(Kind.READ, Space.GROUP, 7, len(words) // 4)
    for extra in (1, 2, 5, 300):
        recording.send(encode(3, Kind.WRITE, bytes([Space.GROUP, 0, 0, 0])
                              + b"\x55" * (MAX_BODY - 4 + extra)))
    requests.words(Kind.READ, Space.GROUP, 0, 5)
    requests.say(Kind.STATUS)
    recording.begin("boundaries and several requests at once")
    recording.send(bytes([END] * 5) + good)
    recording.send(good[1:])
    recording.send(good + good[1:] + encode(10, Kind.STATUS) + encode(11, 99))
    recording.send(good[:7])
    recording.send(good[7:])
    recording.send(encode(0, Kind.STATUS, bytes([END])))
    requests.say(Kind.RESET)
    requests.say(Kind.STATUS)
    return recording.session("errors_frames")


def _refused_codes(requests, params):
    """Packed codes that are refused, and what is there afterwards."""
    most, words = word_bytes(Space.CODES, params), params.quant_words
    for first in (0, words - 3):
        value = requests.recording.rng.integers(0, 1 << params.bits, (3, params.slots))
        requests.recording.device.write(Space.CODES, first, value)
    # None, no byte of a word, more than whole words, more bytes than a word has.
    for rest in (b"", b"\0", bytes([most - 1]), bytes([most - 1]) + bytes(most + 1) * (most > 1),
                 bytes([min(most, 0xFF)]) + bytes(min(most + 1, 0xFF)), b"\xFF" + bytes(255)):
        assert requests.words(Kind.WRITE, Space.CODES, 0, rest) == Status.BAD_LENGTH
    for address in (words - 2, words, 0xFFFE, 1 << 20, 0xFFFFFE):
        if address + 3 > words:
            assert requests.words(Kind.WRITE, Space.CODES, address, bytes(4)) == Status.ADDRESS
    for address, count in ((0, 1), (0, 0), (words, 1)):
        assert requests.words(Kind.READ, Space.CODES, address, count) == Status.ADDRESS
    patch = word_bytes(Space.PATCH, params)
    for count in (0, patch - 1, patch + 1, 2 * patch - 1):
        assert requests.words(Kind.WRITE, Space.PATCH, 0, b"\1" * count) == Status.BAD_LENGTH
    for address in (PROGRAM_WORDS - 1, PROGRAM_WORDS, 0xFFFFFE):
        assert requests.words(Kind.WRITE, Space.PATCH, address, bytes(2 * patch)) == Status.ADDRESS
    assert requests.words(Kind.READ, Space.PATCH, 0, 1) == Status.ADDRESS
    end = words // codes_in_byte(params.bits)
    assert requests.words(Kind.WRITE, Space.COLUMN, 0, b"") == Status.BAD_LENGTH
    for address in (end - 1, end, 0xFFFFFE):
        assert requests.words(Kind.WRITE, Space.COLUMN, address, bytes(2)) == Status.ADDRESS
    assert requests.words(Kind.READ, Space.COLUMN, 0, 1) == Status.ADDRESS
    for first in (0, words - 3):
        requests.words(Kind.READ, Space.QUANT, params.rows * first, 3)


def errors_requests(params, seed, most=0):
    """Requests that are refused: lengths, spaces, addresses, kinds, versions."""
    recording = Recording(params, f"errors_requests {seed}")
    rng = recording.rng
    requests = Requests(recording)
    recording.begin("refused requests")
    beside = () if params.masters else (Kind.START, Kind.WAIT)
    for kind in (0, *beside, 9, 99, Kind.NAK, Kind.ANSWER, Kind.RUN | Kind.ANSWER, 255):
        assert requests.say(kind, b"\x01\x02") == Status.BAD_KIND
    for body in (b"", bytes(2), bytes([PROTOCOL_VERSION, 0])):
        assert requests.say(Kind.HELLO, body) == Status.BAD_LENGTH
    for version in (0, PROTOCOL_VERSION + 1, 255):
        assert requests.say(Kind.HELLO, bytes([version])) == Status.VERSION
    assert requests.say(Kind.STATUS, b"x") == Status.BAD_LENGTH
    assert requests.say(Kind.RESET, b"x") == Status.BAD_LENGTH
    for length in range(4):
        assert requests.say(Kind.WRITE, bytes(length)) == Status.BAD_LENGTH
    for length in (*range(6), 7, 8):
        assert requests.say(Kind.READ, bytes(length)) == Status.BAD_LENGTH
    depth = {Space.WIDE: params.wide_words, Space.QUANT: params.rows * params.quant_words,
             Space.GROUP: params.table_words, Space.MASTER: params.master_words,
             Space.VELOCITY: params.master_words, Space.BYTES: params.wide_words,
             Space.PROGRAM: PROGRAM_WORDS, Space.LOG: LOG_PART * len(LogPart)}
    for space in set(writable(params)) & set(readable(params)):
        words = depth[space]
        size = word_bytes(space, params)
        value = rng.integers(0, 256, 3 * size).astype(np.uint8).tobytes()
        for address in (0, words - 3):
            assert requests.words(Kind.WRITE, space, address, value) == Status.OK
            assert requests.words(Kind.READ, space, address, 3) == Status.OK
        beyond = {words - 2, words - 1, max(words, 0xFFFE)}
        if params.masters:
            beyond |= {words - 2 + (1 << 20), 0xFFFFFE}
        for address in sorted(beyond):
            assert requests.words(Kind.WRITE, space, address, value[::-1]) == Status.ADDRESS
            assert requests.words(Kind.READ, space, address, 3) == Status.ADDRESS
        requests.words(Kind.READ, space, words - 3, 3)
        for cut in {size - 1, size + 1, 0} - {size, 2 * size}:
            assert requests.words(Kind.WRITE, space, 0, value[:cut]) == Status.BAD_LENGTH
        longest = (MAX_BODY - 1) // size
        for count in (0, longest + 1, 0xFFFF):
            assert requests.words(Kind.READ, space, 0, count) == Status.BAD_LENGTH
        requests.words(Kind.READ, space, 0, 3)
    for space in set(spaces(params)) - set(writable(params)):
        words, size = depth[space], word_bytes(space, params)
        for address in (0, words - 1):
            assert requests.words(Kind.WRITE, space, address, bytes(size)) == Status.ADDRESS
        for address in (words - 2, words, 0xFFFE):
            assert requests.words(Kind.READ, space, address, 3) == Status.ADDRESS
        for count in (0, (MAX_BODY - 1) // size + 1):
            assert requests.words(Kind.READ, space, 0, count) == Status.BAD_LENGTH
    if params.masters:
        _refused_codes(requests, params)
    for space in {3, 4, 5, 6, 7, 8, 9, 255} - set(spaces(params)):
        assert requests.words(Kind.WRITE, space, 0, bytes(12)) == Status.ADDRESS
        assert requests.words(Kind.READ, space, 0, 1) == Status.ADDRESS
    for length in {0, 1, 3, 4, 5, 31, 33, 2047} - ({4} if params.masters else set()):
        assert requests.say(Kind.RUN, bytes(length)) == Status.BAD_LENGTH
    requests.say(Kind.STATUS)
    return recording.session("errors_requests")


def _unlawful(params):
    """Instructions that are refused, by what is wrong with them."""
    groups = params.max_groups
    lawful = {
        Opcode.GEMM: {"m": 1, "k": 1, "n": 1, "key0": 1, "dst0": 8},
        Opcode.QUANTISE: {"m": 1, "n": 1, "dst1": 8},
        Opcode.SORT: {"k": 1, "arg": 1},
        Opcode.NORM_FORWARD: {"m": 1, "n": 1, "src1": 8, "dst1": 24},
        Opcode.NORM_BACKWARD: {"m": 1, "n": 1, "src1": 8, "dst1": 24},
        Opcode.MOVE: {"m": 1, "n": 1, "dst0": 8},
    }
    if params.masters:
        lawful |= {
            Opcode.SCALE: {"m": 1, "n": 1, "src1": 8, "arg": 32},
            Opcode.COMBINE: {"n": 1, "tab0": 1, "tab1": 1, "tab2": 1},
            Opcode.CROSS_ENTROPY: {"m": 1, "n": 1, "src1": 8, "dst1": 24},
            Opcode.POOL: {"m": 1, "n": 1, "key0": 0x01010101, "dst0": 8},
        }
    if params.layer_norm:
        lawful |= {op: {"m": 1, "n": 1, "src1": 8, "dst1": 24, "tab0": 32}
                   for op in (Opcode.LAYER_FORWARD, Opcode.LAYER_BACKWARD)}

    def but(op, **fields):
        return instruction(op, **{**lawful[op], **fields})

    for op in (0, *{7, 8, 9, 10, 11, 12, 15} - lawful.keys(), 0x81, 0x86, 255):
        yield instruction(op, m=1, k=1, n=1, key0=1, arg=1)
    rows = {**dict.fromkeys((Opcode.MOVE, Opcode.SCALE, Opcode.POOL, Opcode.LAYER_FORWARD,
                             Opcode.LAYER_BACKWARD), MAX_K), **dict.fromkeys(
        (Opcode.QUANTISE, Opcode.NORM_FORWARD, Opcode.NORM_BACKWARD), params.max_rows)}
    for op, fields in lawful.items():
        most = {"m": rows.get(op, MAX_M), "k": MAX_K, "n": MAX_N}
        for name in most.keys() & fields.keys():
            for value in (0, most[name] + 1, 0xFFFF):
                yield but(op, **{name: value})
    for flag in (16, 32, 64, 128):
        yield but(Opcode.GEMM, flags=flag)
    for flags in (16, 32, 64, 128, MoveFlag.UNSIGNED, MoveFlag.UNSIGNED | MoveFlag.TRANSPOSED,
                  MoveFlag.WINDOWS | MoveFlag.SORTED, 10, 11, 14, 15,
                  *(() if params.masters else (MoveFlag.WINDOWS,))):
        yield but(Opcode.MOVE, flags=flags)
    yield but(Opcode.MOVE, m=MAX_K + 1, flags=MoveFlag.TRANSPOSED)
    yield but(Opcode.GEMM, shift=MAX_SHIFT + 1)
    yield but(Opcode.GEMM, shift=255)
    yield but(Opcode.GEMM, key0=0)
    # The upper half of key0 is not looked at.
    yield but(Opcode.GEMM, key0=0xFFFF0000)
    if groups > 1:
        yield but(Opcode.GEMM, flags=GemmFlag.ROW_GROUPS, arg=groups)
        yield but(Opcode.GEMM, flags=GemmFlag.COL_GROUPS, arg=groups << 4)
        yield but(Opcode.SORT, arg=0)
        yield but(Opcode.SORT, arg=groups + 1)
        yield but(Opcode.SORT, flags=1)
        for flags, arg in ((QuantiseFlag.PER_COLUMN, 0), (QuantiseFlag.UNSIGNED, 0), (0, 1)):
            yield but(Opcode.QUANTISE, flags=QuantiseFlag.GROUPED | flags, arg=arg)
    else:
        for flag in (GemmFlag.INNER_GROUPS, GemmFlag.ROW_GROUPS, GemmFlag.COL_GROUPS):
            yield but(Opcode.GEMM, flags=flag)
        yield but(Opcode.SORT)
        yield but(Opcode.QUANTISE, flags=QuantiseFlag.GROUPED)
        yield but(Opcode.MOVE, flags=MoveFlag.SORTED)
        yield but(Opcode.MOVE, flags=MoveFlag.SORTED | MoveFlag.TRANSPOSED)
    yield but(Opcode.QUANTISE, flags=16)
    yield but(Opcode.NORM_FORWARD, flags=4)
    yield but(Opcode.NORM_BACKWARD, flags=4 if params.masters else 2)
    if params.masters:
        yield from _unlawful_with_masters(but)
    else:
        yield but(Opcode.QUANTISE, flags=QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN)
    for bit in range(8) if params.layer_norm else ():
        yield but(Opcode.LAYER_BACKWARD, flags=1 << bit)
        if bit:
            yield but(Opcode.LAYER_FORWARD, flags=1 << bit)


def _unlawful_with_masters(but):
    """Those of operations that only machines with masters have."""
    for fields in ({"key0": 1}, {"key0": MAX_K + 1 << 16 | 1}, {"key0": 0xFFFF0001},
                   {"key0": 1 << 16},
                   {"key0": 1 << 16 | 1, "flags": GemmFlag.WINDOWS | GemmFlag.INNER_GROUPS}):
        yield but(Opcode.GEMM, **{"flags": GemmFlag.WINDOWS, **fields})
    both = QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN
    yield but(Opcode.QUANTISE, flags=QuantiseFlag.MASTER)
    yield but(Opcode.QUANTISE, flags=both, m=MAX_K + 1)
    yield but(Opcode.QUANTISE, flags=both, n=MAX_N + 1)
    for flag in (QuantiseFlag.UNSIGNED, QuantiseFlag.STOCHASTIC, QuantiseFlag.GROUPED,
                 QuantiseFlag.SCAN, QuantiseFlag.SCANNED, 128):
        yield but(Opcode.QUANTISE, flags=both | flag)
    for flag in (QuantiseFlag.UNSIGNED, QuantiseFlag.STOCHASTIC, QuantiseFlag.PER_COLUMN,
                 QuantiseFlag.SCANNED, 128):
        yield but(Opcode.QUANTISE, flags=QuantiseFlag.SCAN | flag)
    yield but(Opcode.QUANTISE, flags=QuantiseFlag.SCANNED | QuantiseFlag.PER_COLUMN)
    for flag in (QuantiseFlag.SCAN, QuantiseFlag.SCANNED):
        yield but(Opcode.QUANTISE, flags=flag, m=MAX_K + 1)
    F = ScaleFlag
    yield but(Opcode.SCALE, flags=F.UPDATE, m=MAX_K + 1)
    for fields in ({"k": 4096}, {"k": 0xFFFF}, {"tab0": 4096}, {"shift": 18}, {"shift": 255}):
        yield but(Opcode.SCALE, **fields)
        yield but(Opcode.SCALE, flags=F.UPDATE, **fields)
    for fields in ({"arg": 0}, {"arg": 33}, {"arg": 255}):
        yield but(Opcode.SCALE, **fields)
    for fields in ({"dst1": 4096}, {"dst1": 0xFFFF}):
        yield but(Opcode.SCALE, flags=F.UPDATE, **fields)
    for flags in (F.UPDATE | F.MASTER, F.UPDATE | F.BIAS, F.UPDATE | F.ALIGN, F.UPDATE | F.SUM,
                  F.ALIGN | F.BIAS, F.ALIGN | F.SUM, F.UPDATE | F.PLUS, F.ALIGN | F.PLUS, 255):
        yield but(Opcode.SCALE, flags=flags)
    for bit in range(4, 8):
        yield but(Opcode.COMBINE, flags=1 << bit)
    for flag in (CombineFlag.SUBTRACT, CombineFlag.FOLLOW):
        yield but(Opcode.COMBINE, flags=CombineFlag.MAXIMUM | flag)
    for shift in (MAX_SHIFT + 1, 255):
        yield but(Opcode.COMBINE, shift=shift)
    for bit in range(8):
        yield but(Opcode.CROSS_ENTROPY, flags=1 << bit)
    for bit in range(1, 8):
        yield but(Opcode.POOL, flags=1 << bit)
    for bit in range(0, 32, 8):
        yield but(Opcode.POOL, key0=0x7FFF01FF & ~(0xFF << bit))


#: Group words in which the first index takes the first slot of the second word; the others junk.
_SECOND_WORD = 32


def _beyond(params):
    """Programs of which the last instruction reaches beyond the end of a memory.

    Each tensor has two tiles of columns, and only the last row of the second lies beyond.
    """
    wide, quant, table = params.wide_words, params.quant_words, params.table_words
    slots, vector = params.slots, params.vector

    def end(words, rows, cols, lanes):
        return words - -(-cols // lanes) * rows + 1

    def but(op, fields, **others):
        return [instruction(op, **{**fields, **others})]

    m, k = 3, 2
    gemm = {"m": m, "k": k, "n": 2 * vector, "key0": inner_tiles(k, params.depth, params.rows)}
    far = {**gemm, "k": slots + 1, "key0": 2}
    move = {"m": m, "n": slots + 1}
    if wide < 1 << 16:
        yield but(Opcode.GEMM, gemm, dst0=end(wide, m, 2 * vector, vector))
        yield but(Opcode.GEMM, gemm, key1=wide - m << 16)
        both = {"m": m, "n": 2 * vector, "src0": 0, "src1": 0, "dst1": 24}
        yield but(Opcode.QUANTISE, both, src0=end(wide, m, 2 * vector, vector))
        yield but(Opcode.QUANTISE, both, dst1=wide - 1)
        for op in (Opcode.NORM_FORWARD, Opcode.NORM_BACKWARD):
            norm = {"m": m, "n": 2 * vector, "src0": 0, "dst0": 0, "src1": 8, "dst1": 24}
            # The forward pass uses the state's first rows alone.
            used = STATE_ROWS if op == Opcode.NORM_BACKWARD else StateRow.DEVIATION + 1
            for name, need in (("src0", 2 * m), ("dst0", 2 * m), ("dst1", 2 * m),
                               ("src1", STATE_ROWS + used)):
                yield but(op, norm, **{name: wide - need + 1})
    if quant < 1 << 16:
        yield but(Opcode.GEMM, gemm, n=slots + 1, src1=end(quant, k, slots + 1, slots))
        yield but(Opcode.GEMM, gemm, src0=end(quant, m, k, slots))
        yield but(Opcode.GEMM, gemm, src0=0xFFFF)
        yield but(Opcode.GEMM, far, src0=end(quant, m, slots + 1, slots))
        yield but(Opcode.GEMM, far, src0=1, key1=quant - 2 * m)
        both = {"m": m, "n": slots + 1, "src0": 0, "dst1": 0}
        yield but(Opcode.QUANTISE, both, dst0=end(quant, m, slots + 1, slots))
        codes = {"m": m, "n": 2 * vector, "src0": 0, "dst0": 0, "src1": 8, "dst1": 24}
        yield but(Opcode.NORM_BACKWARD, codes, flags=BackwardFlag.CLIPPED,
                  tab0=end(quant, m, 2 * vector, slots))
        yield but(Opcode.MOVE, move, src0=end(quant, m, slots + 1, slots), dst0=8)
        yield but(Opcode.MOVE, move, dst0=end(quant, m, slots + 1, slots))
        turned = {"m": slots + 1, "n": m, "flags": MoveFlag.TRANSPOSED}
        yield but(Opcode.MOVE, turned, src0=end(quant, slots + 1, m, slots), dst0=0)
        yield but(Opcode.MOVE, turned, dst0=end(quant, m, slots + 1, slots))
        for name in ("src0", "dst0"):
            yield but(Opcode.MOVE, move, **{name: 0xFFFF})
    if params.masters:
        yield from _beyond_with_masters(params)
    if params.max_groups == 1:
        return
    if params.masters and quant < 1 << 16:
        # Those of group 0 fill a tile, the last is in the next.
        sort = instruction(Opcode.SORT, k=slots + 1, arg=1, tab0=0)
        for fields in (move, {"m": slots + 1, "n": m, "flags": MoveFlag.TRANSPOSED}):
            flags = MoveFlag.SORTED | fields.get("flags", 0)
            yield [sort, *but(Opcode.MOVE, fields, flags=flags, dst0=quant - 2 * m + 1)]
    both = {"m": m, "n": 2 * vector, "src0": 0, "src1": 0, "dst1": 24}
    yield but(Opcode.SORT, {"k": 4, "arg": 2}, tab0=table - 3)
    # Its groups are there, the header of its table is not.
    yield but(Opcode.SORT, {"k": 1, "arg": 2}, tab0=table - TABLE_HEADER + 1)
    yield but(Opcode.GEMM, gemm, flags=GemmFlag.ROW_GROUPS, tab1=table - m + 1)
    yield but(Opcode.GEMM, gemm, flags=GemmFlag.COL_GROUPS, tab2=table - 2 * vector + 1)
    for tab in ({"tab1": table - m + 1, "tab2": 0}, {"tab1": 0, "tab2": table - 2 * vector + 1}):
        yield but(Opcode.QUANTISE, both, flags=QuantiseFlag.GROUPED, **tab)
    turned = {"m": m, "n": 2, "flags": MoveFlag.SORTED | MoveFlag.TRANSPOSED}
    # By the order table they know before they read it how many slots there are.
    yield but(Opcode.MOVE, move, flags=MoveFlag.SORTED, dst0=24,
              tab1=table if params.masters else table - slots)
    yield but(Opcode.MOVE, turned, dst0=24, tab1=0xFFFF if params.masters else table - m + 1)
    if quant < 1 << 16:
        if not params.masters:
            # One column, in the second tile.
            order = {"m": m, "n": 1, "flags": MoveFlag.SORTED, "tab1": _SECOND_WORD}
            yield but(Opcode.MOVE, order, dst0=quant - 2 * m + 1)
        # As many columns as the slots take, padding included.
        groups = 2
        tiles = inner_tiles(slots, params.depth, params.rows, groups)
        inner = {**gemm, "k": slots, "key0": tiles, "flags": GemmFlag.INNER_GROUPS}
        yield [instruction(Opcode.SORT, k=slots, arg=groups, tab0=0),
               *but(Opcode.GEMM, inner, src0=quant - tiles * m + 1)]


def _windows(params):
    """A convolution of two words for each position, with its tables at the end of their memory."""
    return Windows(base=params.table_words - len(WINDOW_TABLE) - 1, images=1, height=2, width=2,
                   channels=params.slots + 1, kernel=(1, 2), padding=(0, 1))


def _convolution(params, **fields):
    """An instruction of it, its images the last words of the memory, with other fields."""
    windows, quant = _windows(params), params.quant_words
    (step,), _ = program.convolution(
        params, Tensor(Space.QUANT, quant - 2 * 4, 4, windows.channels),
        Tensor(Space.QUANT, 0, windows.rows, 1), Tensor(Space.WIDE, 0, windows.count, 1), windows)
    values = unpack_instruction(step)
    return instruction(values.pop("op"), **{**values, **fields})


def _window_move(params, **fields):
    """What its first tap sees moved, with other fields."""
    windows, quant = _windows(params), params.quant_words
    step = program.move(Tensor(Space.QUANT, quant - 2 * 4, 4, windows.channels),
                        Tensor(Space.QUANT, 0, windows.count, windows.channels), windows=windows,
                        tap=(0, 1))
    values = unpack_instruction(step)
    return instruction(values.pop("op"), **{**values, **fields})


def _lines(m, n):
    """POOL of windows that are the positions of m lines."""
    return {"m": 1, "n": n, "dst0": 32, "key0": pack_fields(
        POOL_GEOMETRY, width=1, height=m, window_width=1, window_height=1)}


def _layer_norms(params, beyond):
    """LAYER_FORWARD and LAYER_BACKWARD whose tensors reach to the end, and so many words beyond."""
    m, n = 3, 2 * params.vector
    fields = {"m": m, "n": n, "src1": 8, "dst0": 32, "dst1": 24, "tab0": 40}
    for op, state in ((Opcode.LAYER_FORWARD, STATE_ROWS + LayerRow.BETA + 1),
                      (Opcode.LAYER_BACKWARD, 2 * STATE_ROWS)):
        for name, need in (("src0", 2 * m), ("src1", state), ("dst0", 2 * m), ("dst1", 2 * m),
                           ("tab0", m)):
            yield [instruction(op, **{**fields, name: params.wide_words - need + beyond})]


def _beyond_with_masters(params):
    """Those of operations that only machines with masters have."""
    wide, master, quant = params.wide_words, params.master_words, params.quant_words
    m, n = 3, 2 * params.vector
    rows = len(ScaleRow)
    scaled = {"m": m, "n": n, "src1": 16, "arg": 32}

    def scale(flags=0, **fields):
        return [instruction(Opcode.SCALE, **{**scaled, "flags": flags, **fields})]

    if wide < 1 << 16:
        yield scale(src0=wide - 2 * m + 1)
        yield scale(dst0=wide - 2 * m + 1)
        yield scale(src1=wide - 2 * rows + 1)
        yield scale(ScaleFlag.ADD, tab1=wide)
        yield scale(ScaleFlag.ADD, tab1=0xFFFF)
        yield scale(ScaleFlag.ALIGN, dst1=wide - 1)
        yield scale(ScaleFlag.PLUS, dst1=wide - 2 * m + 1)
        yield scale(ScaleFlag.PLUS, dst1=0xFFFF)
        pooled = _lines(m, n)
        for name in ("src0", "dst0"):
            for flags in (0, PoolFlag.SPREAD):
                yield [instruction(Opcode.POOL, **{**pooled, "flags": flags,
                                                   name: wide - 2 * m + 1})]
        yield scale(ScaleFlag.ALIGN, src0=0xFFFF)
        yield scale(ScaleFlag.SUM, src0=wide - 2 * m + 1)
        yield scale(ScaleFlag.SUM, dst0=wide - 1)
        yield scale(ScaleFlag.UPDATE, src0=wide - 2 * m + 1)
        yield scale(ScaleFlag.UPDATE, src1=wide - 1)
        # A word after the other, so far apart as their tensor has rows.
        combined = {"n": n, "tab0": 1, "tab1": 1, "tab2": 1}
        for name, stride in (("src0", "tab0"), ("src1", "tab1"), ("dst0", "tab2")):
            for fields in ({name: wide - 1}, {name: wide}, {name: 0xFFFF}, {stride: wide},
                           {name: 1, stride: 0xFFFE}):
                yield [instruction(Opcode.COMBINE, **{**combined, **fields})]
        yield [instruction(Opcode.COMBINE, **combined, flags=CombineFlag.BROADCAST, src1=wide)]
        loss = {"m": m, "n": n, "src1": 16, "dst0": 32, "dst1": 24}
        for name, need in (("src0", 2 * m), ("src1", m), ("dst0", 2 * m), ("dst1", len(LossRow))):
            yield [instruction(Opcode.CROSS_ENTROPY, **{**loss, name: wide - need + 1})]
        if params.layer_norm:
            yield from _layer_norms(params, 1)
    if quant < 1 << 16:
        yield [instruction(Opcode.POOL, **_lines(m, n), flags=PoolFlag.SPREAD | PoolFlag.CLIPPED,
                           tab0=quant - -(-n // params.slots) * m + 1)]
    table = params.table_words
    for fields in ({"tab0": table - len(WINDOW_TABLE) + 1}, {"tab0": 0xFFFF}, {"dst1": table},
                   {"dst1": 0xFFFF}):
        yield [_convolution(params, **fields)]
    for fields in ({"tab0": table - len(WINDOW_TABLE) + 1}, {"tab0": 0xFFFF}):
        yield [_window_move(params, **fields)]
    if quant < 1 << 16:
        # The second word of the last position.
        for make in _convolution, _window_move:
            yield [make(params, src0=quant - 2 * 4 + 1)]
            yield [make(params, key1=5)]
        # The last row of the second tile.
        move = {"m": m, "n": params.slots + 1, "src0": 0, "dst0": 8}
        yield [instruction(Opcode.MOVE, **move, key1=quant - 2 * m + 1)]
        yield [instruction(Opcode.MOVE, **move, key1=quant - 2 * m + 1 - move["dst0"] << 16)]
        move |= {"m": move["n"], "n": m, "flags": MoveFlag.TRANSPOSED}
        yield [instruction(Opcode.MOVE, **move, key1=quant - 2 * m + 1 - move["dst0"] << 16)]
    quantised = {"m": m, "n": n, "flags": QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN}
    if wide < 1 << 16:
        yield [instruction(Opcode.QUANTISE, **quantised, dst1=wide - rows - ScaleRow.EXPONENT)]
        tiles = -(-n // params.vector)
        for name, flag, arg, read in (("dst1", QuantiseFlag.SCAN, 0, len(ScanRow)),
                                      ("src1", QuantiseFlag.SCANNED, 0, 1),
                                      ("src1", QuantiseFlag.SCANNED, 9, len(ScanRow))):
            end = wide - STATE_ROWS * (tiles - 1) - read + 1
            yield [instruction(Opcode.QUANTISE, flags=flag, m=m, n=n, arg=arg,
                               **{"dst1": 24, name: end})]
    if quant < 1 << 16:
        tiles = -(-n // params.slots)
        yield [instruction(Opcode.QUANTISE, **quantised, dst0=quant - tiles * m + 1)]
    if master < 1 << 16:
        yield [instruction(Opcode.QUANTISE, **quantised, src0=master - 2 * m + 1)]
        yield scale(ScaleFlag.MASTER, src0=master - 2 * m + 1)
        yield scale(ScaleFlag.MASTER | ScaleFlag.SUM, src0=master)
        yield scale(ScaleFlag.MASTER | ScaleFlag.ALIGN, src0=0xFFFF)
        yield scale(ScaleFlag.UPDATE, dst0=master - 2 * m + 1)
        yield scale(ScaleFlag.UPDATE, dst0=0xFFFF)


def _at_the_end(params):
    """Programs whose last instruction reaches as far as there is memory, and no further."""
    wide, master, quant = params.wide_words, params.master_words, params.quant_words
    m, n, slots = 3, 2 * params.vector, params.slots
    rows = len(ScaleRow)
    scaled = {"m": m, "n": n, "src1": 16, "arg": 32}
    F = ScaleFlag
    for fields in ({"src0": wide - 2 * m}, {"dst0": wide - 2 * m}, {"src1": wide - 2 * rows},
                   {"flags": F.ADD, "tab1": wide - 1}, {"flags": F.ALIGN, "dst1": wide - 2},
                   {"flags": F.SUM, "dst0": wide - 2}, {"flags": F.PLUS, "dst1": wide - 2 * m},
                   # What is not read may be anywhere.
                   {"flags": F.SUM | F.ADD, "src1": 0xFFFF, "tab1": 0xFFFF, "dst1": 0xFFFF},
                   {"tab1": 0xFFFF, "dst1": 0xFFFF},
                   {"flags": F.MASTER, "src0": master - 2 * m},
                   {"flags": F.UPDATE, "dst0": master - 2 * m}):
        yield [instruction(Opcode.SCALE, **{**scaled, **fields})]
    combined = {"n": n, "tab0": 1, "tab1": 1, "tab2": 1}
    for name in ("src0", "src1", "dst0"):
        yield [instruction(Opcode.COMBINE, **{**combined, name: wide - 2})]
    # Strides go round.
    yield [instruction(Opcode.COMBINE, **{**combined, "src0": 1, "tab0": 0xFFFF})]
    yield [instruction(Opcode.COMBINE, **{**combined, "src1": wide - 1, "tab1": 0xFFFF,
                                          "flags": CombineFlag.BROADCAST})]
    loss = {"m": m, "n": n, "src1": 16, "dst0": 32, "dst1": 24}
    for name, need in (("src0", 2 * m), ("src1", m), ("dst0", 2 * m), ("dst1", len(LossRow))):
        yield [instruction(Opcode.CROSS_ENTROPY, **{**loss, name: wide - need})]
    both = PoolFlag.SPREAD | PoolFlag.CLIPPED
    for fields in ({"src0": wide - 2 * m}, {"dst0": wide - 2 * m}, {"tab0": 0xFFFF},
                   {"src0": wide - 2 * m, "flags": PoolFlag.SPREAD},
                   {"dst0": wide - 2 * m, "flags": PoolFlag.SPREAD, "tab0": 0xFFFF},
                   {"flags": both, "tab0": quant - -(-n // slots) * m}):
        yield [instruction(Opcode.POOL, **{**_lines(m, n), **fields})]
    if params.layer_norm:
        yield from _layer_norms(params, 0)
        # What is not written may be anywhere.
        yield [instruction(Opcode.LAYER_FORWARD, m=m, n=n, src1=8, dst0=32, dst1=0xFFFF,
                           tab0=0xFFFF, flags=LayerFlag.INFERENCE)]
    # What is outside of the image is not read.
    yield [_convolution(params)]
    for flags in (MoveFlag.WINDOWS, MoveFlag.WINDOWS | MoveFlag.UNSIGNED):
        yield [_window_move(params, flags=flags)]
        yield [_window_move(params, flags=flags | MoveFlag.TRANSPOSED)]
    # As tall as there is memory, and round to where the first tile is.
    move = {"m": m, "n": slots + 1, "src0": 0, "dst0": m}
    yield [instruction(Opcode.MOVE, **move, key1=quant - 2 * m)]
    yield [instruction(Opcode.MOVE, **move, key1=quant - 3 * m << 16)]
    yield [instruction(Opcode.MOVE, **move, key1=0xFFFF)]
    quantised = {"m": m, "n": n, "flags": QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN}
    # Row BIAS is not written.
    for fields in ({"src0": master - 2 * m}, {"dst0": quant - -(-n // slots) * m},
                   {"dst1": wide - rows - ScaleRow.EXPONENT - 1}):
        yield [instruction(Opcode.QUANTISE, **{**quantised, **fields})]
    if params.max_groups > 1:
        sort = instruction(Opcode.SORT, k=slots + 1, arg=1, tab0=0)
        for fields in ({"m": m, "n": slots + 1, "flags": MoveFlag.SORTED},
                       {"m": slots + 1, "n": m, "flags": MoveFlag.SORTED | MoveFlag.TRANSPOSED}):
            yield [sort, instruction(Opcode.MOVE, **fields, dst0=quant - 2 * m)]


def _clear(recording):
    """Zeros to what the instructions read that are lawful but for one thing."""
    params, rows = recording.params, 64 + recording.params.slots
    for space, words, lanes in (
            (Space.WIDE, 64 + 3 * (2 * params.slots // params.vector), params.vector),
            (Space.QUANT, params.rows * rows, params.depth), (Space.GROUP, _SECOND_WORD, 1)):
        recording.device.write(space, 0, np.zeros((words, lanes), np.int64))
    if params.masters:
        for space in (Space.MASTER, Space.VELOCITY):
            recording.device.write(space, 0, np.zeros((rows, params.vector), np.int64))
        _windows(params).store(recording.device)
        recording.device.write(Space.QUANT, params.rows * (params.quant_words - 8),
                               np.zeros((params.rows * 8, params.depth), np.int64))


def errors_programs(params, seed, most=0):
    """Instructions that are refused or reach beyond a memory, and what happens to the others."""
    recording = Recording(params, f"errors_programs {seed}")
    requests = Requests(recording)
    recording.begin("unlawful instructions")
    _clear(recording)
    recording.device.write(Space.GROUP, _SECOND_WORD, group_words(
        np.array([1]), np.array([params.slots]), params)[:, None])
    for step in _unlawful(params):
        requests.refused(step)
    recording.begin("addresses beyond the end")
    for steps in _beyond(params):
        requests.refused(*steps)
    recording.begin("a program that fails in its middle")
    x = recording.rng.integers(-100, 100, (4, params.cols))
    source = recording.stored(Space.WIDE, x)
    q = recording.place(Space.QUANT, *x.shape)
    exponents = recording.place(Space.WIDE, 1, x.shape[1])
    requests.refused(program.quantise(params, source, q, exponents), instruction(0),
                     program.quantise(params, source, q, exponents, unsigned=True))
    recording.read(q, exponents)
    requests.refused(program.quantise(params, source, q, exponents, unsigned=True),
                     instruction(Opcode.QUANTISE, m=4, n=1, src0=0xFFFF))
    recording.read(q, exponents)
    recording.begin("the limits of what is lawful")
    # The operands: what has failed may have written there.
    recording.device.write(Space.QUANT, 0, np.zeros((params.rows * (params.slots + 1),
                                                     params.depth), np.int64))
    for fields in ({"shift": MAX_SHIFT}, {"arg": 0xFF},
                   {"key0": 0xABCD0001, "key1": 0xFFFFFFFF},
                   # Round to where the first tile is.
                   {"k": params.slots + 1, "key0": 2, "key1": 0xFFFF}):
        assert requests.run(instruction(Opcode.GEMM, **{
            "m": 1, "k": 1, "n": 1, "key0": 1, "dst0": source.base, **fields})) == Status.OK
        recording.device.read(Space.WIDE, source.base, 1)
    if params.masters:
        for steps in _at_the_end(params):
            _clear(recording)
            # And the last words.
            for space, words, lanes in (
                    (Space.WIDE, params.wide_words, params.vector),
                    (Space.MASTER, params.master_words, params.vector),
                    (Space.VELOCITY, params.master_words, params.vector)):
                last = 2 * STATE_ROWS
                recording.device.write(space, words - last, np.zeros((last, lanes), np.int64))
            assert requests.run(*steps) == Status.OK
    recording.store(source, x)
    steps = [program.quantise(params, source, q, exponents)] * (MAX_BODY // INSTRUCTION_BYTES)
    assert requests.run(*steps) == Status.OK
    recording.read(q, exponents)
    return recording.session("errors_programs")


def errors_repetition(params, seed, most=0):
    """A RUN that is repeated runs once, until its answer is forgotten."""
    recording = Recording(params, f"errors_repetition {seed}")
    rng = recording.rng
    requests = Requests(recording)
    recording.begin("repeated requests")
    x = rng.integers(-2**20, 2**20, (4, params.cols))
    work, context = recording.stored(Space.WIDE, x), recording.place(Space.WIDE, *x.shape)
    state = recording.stored(Space.WIDE, rng.integers(1, 2**14, (STATE_ROWS, params.cols)))
    # In place, so that running twice shows.
    step = program.norm_forward(params, work, work, context, state, relu=False)

    def seen():
        recording.read(work)

    def others(count):
        for _ in range(count):
            requests.say(int(rng.choice([Kind.STATUS, Kind.READ, Kind.WRITE, 99])))

    # A repetition, at once, after other requests and after a damaged one.
    requests.run(step, seq=5)
    requests.run(step, seq=5)
    seen()
    recording.send(bytes([END, 5, Kind.RUN, 1, 2, 3, 4, 5, 6, END]))
    requests.run(step, seq=5)
    # Another body under the same number is still a repetition.
    requests.run(step, step, seq=5)
    seen()
    # One number further is not; nor is the number 0 on a machine that has run nothing.
    requests.run(step, seq=6)
    seen()
    requests.say(Kind.RESET)
    requests.run(step, seq=0)
    seen()
    # The last requests that remember, and the first that forgets.
    requests.run(step, seq=7)
    others(REPEAT_WINDOW - 1)
    requests.run(step, seq=7)
    others(1)
    seen()
    requests.run(step, seq=8)
    others(REPEAT_WINDOW)
    requests.run(step, seq=8)
    seen()
    # HELLO and RESET forget.
    for forget, body in ((Kind.HELLO, bytes([PROTOCOL_VERSION])), (Kind.RESET, b"")):
        requests.run(step, seq=9)
        requests.say(forget, body)
        requests.run(step, seq=9)
        seen()
    # Errors are repeated too, and a repetition comes before STICKY.
    for body in (b"", instruction(0)):
        requests.say(Kind.RUN, body, seq=20)
        requests.say(Kind.RUN, body, seq=20)
        requests.run(step, seq=20)
        requests.run(step, seq=21)
        requests.run(step, seq=21)
        requests.say(Kind.STATUS)
        requests.say(Kind.RESET)
    requests.run(step, seq=21)
    seen()
    return recording.session("errors_repetition")


def errors_stored(params, seed, most=0):
    """Stored programs that are not there, that fail, and that are repeated."""
    recording = Recording(params, f"errors_stored {seed}")
    rng = recording.rng
    requests = Requests(recording)
    recording.begin("parts of a stored program")
    word = INSTRUCTION_BYTES // 8
    instructions = PROGRAM_WORDS // word
    counter = recording.stored(Space.WIDE, np.zeros((1, 1), np.int64))
    zero = recording.stored(Space.WIDE, np.zeros((1, 1), np.int64))
    places = [program.combine(counter, zero, counter, added=int(added))
              for added in rng.integers(1, 1 << 20, instructions)]

    def write(first, steps):
        data = b"".join(steps)
        for start in range(0, len(data), 1024):
            assert requests.words(Kind.WRITE, Space.PROGRAM, first * word + start // 8,
                                  data[start:start + 1024]) == Status.OK

    def run(first, count, *, seq=None):
        status = requests.say(Kind.RUN, first.to_bytes(2, "little") + count.to_bytes(2, "little"),
                              seq=seq)
        recording.read(counter)
        return status

    write(0, places)
    some = int(rng.integers(1, 250))
    for first, count in ((0, 1), (instructions - 1, 1), (0, MAX_STORED), (1, MAX_STORED),
                         (some, 5), (5, some)):
        assert run(first, count) == Status.OK
    recording.about("stored programs that are not there")
    for first, count in ((0, 0), (0, MAX_STORED + 1), (0, 0xFFFF), (some, 0x200 | some),
                         (instructions, 0), (0xFFFF, 0x200)):
        assert run(first, count) == Status.BAD_LENGTH
    for first, count in ((instructions - 1, 2), (instructions, 1), (2, MAX_STORED), (0xFFFF, 1),
                         (0xFFFF, MAX_STORED), (0x8000, 1), (0x200 | some, 1)):
        assert run(first, count) == Status.ADDRESS
    # Nothing of that is an error of a program.
    requests.say(Kind.STATUS)
    assert run(some, 1) == Status.OK
    recording.about("stored programs that fail")
    first = int(rng.integers(0, 20))
    for number in (some, min(first + MAX_STORED, instructions) - 1, first):
        number = max(number, first)
        for bad in (instruction(0), instruction(Opcode.COMBINE), instruction(
                Opcode.CROSS_ENTROPY, m=1, n=1, src0=0xFFFF, src1=0xFFFF, dst0=0xFFFF,
                dst1=0xFFFF) if params.wide_words < 1 << 16 else bytes(INSTRUCTION_BYTES)):
            write(number, [bad])
            status = run(first, min(instructions - first, MAX_STORED))
            assert status in (Status.BAD_INSTRUCTION, Status.ADDRESS)
            requests.say(Kind.STATUS)
            # Neither way runs until RESET, whatever is asked for.
            assert run(some, 1) == run(0, 0) == run(0xFFFF, 1) == Status.STICKY
            assert requests.run(places[0]) == Status.STICKY
            recording.read(counter)
            requests.say(Kind.RESET)
        write(number, [places[number]])
    recording.about("stored programs that are repeated")
    assert run(some, 3, seq=40) == run(some, 3, seq=40) == run(0, 1, seq=40) == Status.OK
    requests.run(places[1], seq=40)
    recording.read(counter)
    assert run(0, 0, seq=41) == run(0, 1, seq=41) == Status.BAD_LENGTH
    assert run(0, 2, seq=42) == Status.OK
    # A word that changes between runs, in a RUN's own time.
    write(0, [program.combine(counter, zero, counter, added=1, subtract=True)])
    assert run(0, 2) == Status.OK
    requests.words(Kind.READ, Space.PROGRAM, 0, 12)
    # Instructions that come with a RUN leave the memory alone.
    assert requests.run(*places[:MAX_BODY // INSTRUCTION_BYTES]) == Status.OK
    assert run(0, MAX_STORED) == Status.OK
    requests.words(Kind.READ, Space.PROGRAM, PROGRAM_WORDS - 200, 200)
    return recording.session("errors_stored")


#: Scenarios by name, and those of machines with masters.
SCENARIOS = {function.__name__: function for function in (
    errors_frames, errors_requests, errors_programs, errors_repetition)}
SCENARIOS_WITH_MASTERS = {"errors_stored": errors_stored}
