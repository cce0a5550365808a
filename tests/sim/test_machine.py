"""sim.model.machine: what instructions do to memory, and what it refuses."""

import numpy as np
import pytest

from hdl.instructions import (
    GemmFlag,
    MoveFlag,
    Opcode,
    QuantiseFlag,
    ScaleFlag,
    ScaleRow,
    instruction,
    unpack_instruction,
)
from hdl.params import MAX_K, Params
from hdl.protocol import INSTRUCTIONS, Kind, Space, Status, decode, encode, unescape
from hdl.unit import GROUP_WORD
from sim.model.gemm import gemm
from sim.model.machine import Machine, RunError, group_words, slot_of
from sim.model.order import inner_tiles, order

MACHINES = [Params(rows=3, cols=6, depth=2, lanes=2, memory=4), Params(memory=4),
            Params(rows=1, cols=2, depth=1, bits=2, memory=4), Params(rows=5, cols=3, depth=3)]
machines = pytest.mark.parametrize("params", MACHINES, ids=lambda params: params.name)


def execute(machine, op, **fields):
    machine.execute(unpack_instruction(instruction(op, **fields)))


def status(machine, op, **fields):
    """The status that an instruction ends with."""
    try:
        execute(machine, op, **fields)
    except RunError as error:
        return error.status
    return Status.OK


def filled(params, seed):
    """A machine with junk in its quantised and its group memory, and its random numbers."""
    machine, rng = Machine(params), np.random.default_rng(seed)
    half = 1 << params.bits - 1
    machine.quant.array[:] = rng.integers(-half, half, machine.quant.array.shape)
    machine.group.array[:] = rng.integers(-2**31, 2**31, machine.group.array.shape)
    return machine, rng


def element(params, base, rows, i, j):
    """Word and lane of an element, as hdl.params has it."""
    return base + j // params.slots * rows + i, j % params.slots


@machines
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("placed", ["natural", "sorted", "by words"])
def test_move_changes_the_elements_it_names_and_nothing_else(params, transposed, placed):
    machine, rng = filled(params, [transposed, len(placed)])
    for m, n in ((1, 1), (1, 7), (4, params.slots), (7, 2 * params.slots + 1), (params.slots, 5)):
        rows, cols = (n, m) if transposed else (m, n)
        source, target, table = 200, 3, 40
        flags = MoveFlag.TRANSPOSED * transposed | MoveFlag.SORTED * (placed != "natural")
        columns = np.arange(cols)
        words = machine.group.array[table:table + cols, 0]
        if placed == "sorted":
            words[:] = rng.integers(-2**27, 2**27, cols) * 16 + rng.integers(0, 3, cols)
            execute(machine, Opcode.SORT, k=cols, tab0=table, arg=3)
            columns = slot_of(words, params)
        elif placed == "by words":
            columns = rng.permutation(cols + 2 * params.slots)[:cols]
            words[:] = group_words(rng.integers(0, 16, cols), columns, params)
        expected = machine.quant.array.copy()
        for i in range(rows):
            for j, column in enumerate(columns):
                at = (j, i) if transposed else (i, j)
                expected[element(params, target, rows, i, int(column))] = (
                    machine.quant.array[element(params, source, m, *at)])
        execute(machine, Opcode.MOVE, m=m, n=n, src0=source, dst0=target, tab1=table, flags=flags)
        assert (machine.quant.array == expected).all()


@machines
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_sort_adds_to_every_word_the_slot_of_its_index(params, groups):
    machine, rng = filled(params, groups)
    for count in (1, 5, 40):
        # Junk above the groups; some are of none.
        before = rng.integers(-2**31, 2**31, count)
        before[rng.random(count) < 0.8] &= ~(15 ^ groups - 1)
        machine.group.array[10:10 + count, 0] = before
        execute(machine, Opcode.SORT, k=count, tab0=10, arg=groups)
        words = machine.group.array[10:10 + count, 0].copy()
        taking = np.flatnonzero(before & 15 < groups)
        assert (np.delete(words, taking) == np.delete(before, taking)).all()
        slots, _ = order(before[taking] & 15, groups, params.depth)
        for slot, number in enumerate(slots):
            if number >= 0:
                word = GROUP_WORD.from_bits(int(words[taking[number]]))
                assert word.group == before[taking[number]] & 15
                assert word.place < params.depth and word.row < params.rows
                assert word.place + params.depth * (word.row + params.rows * word.tile) == slot
        execute(machine, Opcode.SORT, k=count, tab0=10, arg=groups)
        assert (machine.group.array[10:10 + count, 0] == words).all()


@machines
@pytest.mark.parametrize("unsigned", [False, True])
def test_a_product_takes_its_operand_in_the_order_of_the_slots(params, unsigned):
    machine, rng = filled(params, unsigned)
    half = 1 << params.bits - 1
    for m, k, n, groups in ((3, 1, 1, 4), (4, 9, 5, 2), (2, 2 * params.slots + 1, 7, 4)):
        a = rng.integers(-half, half, (m, k))
        b = rng.integers(1 - half, half, (k, n))
        of, rows = rng.integers(0, groups, k), rng.integers(0, 4, m)
        junk = rng.integers(-2**27, 2**27, k + m) << 4
        machine.group.array[:k, 0] = of + junk[:k]
        machine.group.array[1000:1000 + m, 0] = rows + junk[k:]
        machine.quant.put(0, a)
        machine.quant.put(100, b)
        tiles = inner_tiles(k, params.depth, params.rows, groups)
        flags = GemmFlag.UNSIGNED * unsigned | GemmFlag.INNER_GROUPS | GemmFlag.ROW_GROUPS
        execute(machine, Opcode.SORT, k=k, tab0=0, arg=groups)
        for _ in range(2):
            # Whatever padding holds.
            machine.quant.put(200, rng.integers(-half, half, (m, tiles * params.slots)))
            execute(machine, Opcode.MOVE, m=m, n=k, src0=0, dst0=200, tab1=0,
                    flags=MoveFlag.SORTED)
            execute(machine, Opcode.GEMM, m=m, k=k, n=n, src0=200, src1=100, dst0=0, tab0=0,
                    tab1=1000, arg=3, key0=tiles, flags=flags)
            expected, _ = gemm(a + half * unsigned, b, inner=of, inner_groups=groups, rows=rows,
                               row_groups=4)
            assert (machine.wide.get(0, m, n) == expected).all()


def test_an_index_without_a_slot_has_no_part_in_a_product():
    machine = Machine(Params(rows=2, depth=2))
    machine.group.array[:3, 0] = [1, 9, 0]
    machine.quant.put(8, np.array([[2], [3], [5]]))
    execute(machine, Opcode.SORT, k=3, tab0=0, arg=2)
    # Slots: the third, padding, the first.
    machine.quant.put(0, np.array([[1, 7, 4, 7]]))
    execute(machine, Opcode.GEMM, m=1, k=3, n=1, src0=0, src1=8, dst0=0, key0=1,
            flags=GemmFlag.INNER_GROUPS)
    assert machine.wide.get(0, 1, 1) == 2 * 1 * 5 + 4 * 2


@machines
def test_the_parts_of_a_word_are_those_of_the_rows(params):
    machine, rng = filled(params, 0)
    count = params.quant_words * params.rows
    for part in (0, 1, count - 1, *rng.integers(0, count, 5)):
        word, row = divmod(int(part), params.rows)
        lanes = slice(params.depth * row, params.depth * (row + 1))
        assert (machine.words(Space.QUANT, int(part), 1)[0]
                == machine.quant.array[word, lanes]).all()
    with pytest.raises(RunError):
        machine.words(Space.QUANT, count, 1)


def test_refused_moves():
    for params in (Params(), Params(sample_groups=1, channel_groups=1)):
        grouped = params.max_groups > 1
        machine = Machine(params)
        assert status(machine, Opcode.MOVE, m=1, n=1) == Status.OK
        for flags in (MoveFlag.SORTED, MoveFlag.SORTED | MoveFlag.TRANSPOSED):
            assert status(machine, Opcode.MOVE, m=1, n=1, flags=flags) == (
                Status.OK if grouped else Status.BAD_INSTRUCTION)
        for fields in ({"flags": 4}, {"flags": 128}, {"m": 0}, {"n": 0}, {"m": MAX_K + 1},
                       {"n": MAX_K + 1}):
            assert status(machine, Opcode.MOVE, **{"m": 1, "n": 1, **fields}) == (
                Status.BAD_INSTRUCTION)


def test_addresses_beyond_the_end_of_a_memory():
    params = Params(rows=2, depth=2, memory=4)
    machine = Machine(params)
    slots, end, table = params.slots, params.quant_words, params.table_words
    # Two tiles of columns.
    shape = {"m": 3, "n": slots + 1}
    assert status(machine, Opcode.MOVE, **shape, src0=0, dst0=end - 6) == Status.OK
    assert status(machine, Opcode.MOVE, **shape, src0=end - 6, dst0=0) == Status.OK
    for fields in ({"src0": end - 5}, {"dst0": end - 5}, {"src0": 0xFFFF}):
        assert status(machine, Opcode.MOVE, **{**shape, "dst0": 8, **fields}) == Status.ADDRESS
    turned = {"m": 3, "n": 2, "flags": MoveFlag.TRANSPOSED}
    assert status(machine, Opcode.MOVE, **turned, dst0=end - 2) == Status.OK
    assert status(machine, Opcode.MOVE, **turned, dst0=end - 1) == Status.ADDRESS
    # Sorted: as far as the slots reach, and the words of all columns.
    machine.group.array[:2, 0] = group_words(np.array([0, 0]), np.array([slots, 1]), params)
    sorted_ = {"m": 3, "n": 2, "flags": MoveFlag.SORTED}
    assert status(machine, Opcode.MOVE, **sorted_, dst0=end - 6) == Status.OK
    assert status(machine, Opcode.MOVE, **sorted_, dst0=end - 5) == Status.ADDRESS
    assert status(machine, Opcode.MOVE, **sorted_, tab1=table - 2, dst0=8) == Status.OK
    assert status(machine, Opcode.MOVE, **sorted_, tab1=table - 1, dst0=8) == Status.ADDRESS
    # The operand of a product with groups inside has columns of padding.
    execute(machine, Opcode.SORT, k=2, tab0=0, arg=4)
    product = {"m": 3, "k": 2, "n": 1, "src1": 0, "flags": GemmFlag.INNER_GROUPS,
               "key0": inner_tiles(2, 2, 2, 4)}
    assert product["key0"] == 2
    assert status(machine, Opcode.GEMM, **product, src0=end - 6) == Status.OK
    assert status(machine, Opcode.GEMM, **product, src0=end - 5) == Status.ADDRESS
    # An order table has a header.
    assert status(machine, Opcode.SORT, k=1, arg=1, tab0=table - 10) == Status.OK
    assert status(machine, Opcode.SORT, k=1, arg=1, tab0=table - 9) == Status.ADDRESS


# Machines that keep masters.

KEEPER = Params(rows=2, depth=2, cols=4, lanes=2, memory=4, masters=4)


@pytest.mark.parametrize("transposed", [False, True])
def test_where_masters_are_kept_columns_go_where_the_order_table_says(transposed):
    machine, rng = filled(KEEPER, 7)
    flags = MoveFlag.SORTED | MoveFlag.TRANSPOSED * transposed
    m, n = (9, 3) if transposed else (3, 9)
    words = machine.group.array[40:49, 0]
    # Of two groups; the others take no slot.
    words[:] = [0, 5, 1, 1, 0, 9, 1, 0, 1]
    execute(machine, Opcode.SORT, k=9, tab0=40, arg=2)
    # From now on only the table matters.
    words[:] = rng.integers(-2**31, 2**31, 9)
    x = machine.quant.get(500, m, n)
    x = x.T if transposed else x
    expected = machine.quant.array.copy()
    # Three of group 0, padding, four of group 1.
    for slot, index in ((0, 0), (1, 4), (2, 7), (4, 2), (5, 3), (6, 6), (7, 8)):
        expected[3 + slot // 4 * 3:][:3, slot % 4] = x[:, index]
    execute(machine, Opcode.MOVE, m=m, n=n, src0=500, dst0=3, tab1=40, flags=flags)
    assert (machine.quant.array == expected).all()
    for tab1, ended in ((KEEPER.table_words - 1, Status.OK), (KEEPER.table_words, Status.ADDRESS)):
        assert status(machine, Opcode.MOVE, m=m, n=n, src0=500, tab1=tab1, flags=flags) == ended


def test_quantised_masters_leave_the_bias_of_a_scale_tensor():
    machine = Machine(KEEPER)
    rng = np.random.default_rng(0)
    machine.master.put(5, rng.integers(-2**20, 2**20, (4, 5)))
    end = KEEPER.wide_words
    machine.wide.put(40, np.full((len(ScaleRow), 5), -9))
    fields = {"m": 4, "n": 5, "src0": 5, "flags": QuantiseFlag.MASTER | QuantiseFlag.PER_COLUMN}
    execute(machine, Opcode.QUANTISE, **fields, dst1=40)
    scales = machine.wide.get(40, len(ScaleRow), 5)
    assert (scales[ScaleRow.BIAS] == -9).all()
    assert (scales[ScaleRow.FACTOR] >= 4).all() and (scales[ScaleRow.FACTOR] < 8).all()
    assert (scales[ScaleRow.EXPONENT] != -9).all()
    # Three tiles of three words, of which the last stays.
    assert status(machine, Opcode.QUANTISE, **fields, dst1=end - 8) == Status.OK
    assert status(machine, Opcode.QUANTISE, **fields, dst1=end - 7) == Status.ADDRESS


def test_addresses_beyond_the_end_of_the_masters():
    machine, end = Machine(KEEPER), KEEPER.master_words
    shape = {"m": 3, "n": 3, "arg": 32}
    for flags in (ScaleFlag.MASTER, ScaleFlag.MASTER | ScaleFlag.SUM):
        assert status(machine, Opcode.SCALE, **shape, flags=flags, src0=end - 6) == Status.OK
        assert status(machine, Opcode.SCALE, **shape, flags=flags, src0=end - 5) == Status.ADDRESS
    update = {**shape, "flags": ScaleFlag.UPDATE}
    assert status(machine, Opcode.SCALE, **update, dst0=end - 6) == Status.OK
    assert status(machine, Opcode.SCALE, **update, dst0=end - 5) == Status.ADDRESS
    # What a sum does not look at.
    assert status(machine, Opcode.SCALE, **shape, flags=ScaleFlag.SUM | ScaleFlag.ADD,
                  src1=0xFFFF, tab1=0xFFFF) == Status.OK


def test_stored_programs_of_the_model():
    machine = Machine(KEEPER)

    def say(seq, kind, body):
        answer = decode(unescape(machine.feed(encode(seq, kind, body))[1:-1]))[2]
        return Status(answer[0]), answer[1:]

    add = instruction(Opcode.COMBINE, n=1, src1=1, tab0=1, tab1=1, tab2=1, key0=1)
    for first in range(0, INSTRUCTIONS, 32):
        assert say(1, Kind.WRITE, bytes([Space.PROGRAM, 0]) + (4 * first).to_bytes(2, "little")
                   + 32 * add) == (Status.OK, b"")
    for seq, (first, count, ended) in enumerate((
            (0, 0, Status.BAD_LENGTH), (0, 512, Status.BAD_LENGTH), (511, 2, Status.ADDRESS),
            (0xFFFF, 511, Status.ADDRESS), (0, 511, Status.OK), (1, 511, Status.OK),
            (511, 1, Status.OK))):
        before = machine.wide.array[0, 0]
        body = first.to_bytes(2, "little") + count.to_bytes(2, "little")
        found, rest = say(seq, Kind.RUN, body)
        assert found == ended
        assert machine.wide.array[0, 0] - before == (count if ended == Status.OK else 0)
        assert rest[:2] == (count.to_bytes(2, "little") if ended == Status.OK else b"")
