"""hdl.instructions: every name in it is one, and no field is left unsaid. What is refused is
compared with the gateware in test_sequencer."""

import importlib

import pytest

from hdl.instructions import INSTRUCTION, OPERATIONS, Opcode, instruction, is_lawful
from hdl.params import Params
from hdl.protocol import Unit

FIELDS = dict(INSTRUCTION)


def resolve(path):
    """What a dotted path means."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for name in parts[split:]:
            found = getattr(found, name)
        return found
    raise ImportError(path)


def test_operations_are_those_of_the_units():
    assert [int(op) for op in OPERATIONS] == [int(unit) for unit in Unit if unit]
    assert set(OPERATIONS) == set(Opcode)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=[op.name for op in OPERATIONS])
def test_names_are_those_of_the_code(operation):
    assert operation.fields.keys() | operation.sizes.keys() <= FIELDS.keys()
    assert all(limit < 1 << FIELDS[name] for name, limit in operation.sizes.items())
    assert all(int(flag) < 1 << FIELDS["flags"] for flag in operation.flags)
    assert resolve(operation.clocks)
    if operation.model != "a copy":
        assert callable(resolve(operation.model))


@pytest.mark.parametrize("op", [0, len(OPERATIONS) + 1, 255])
def test_other_opcodes_are_no_instructions(op):
    assert not is_lawful({"op": op, "flags": 0}, Params(masters=8))


@pytest.mark.parametrize(("fields", "error", "said"), [
    ({"place": 1}, TypeError, "no such instruction field: place"),
    ({"m": 1 << 16}, ValueError, "instruction field m must fit 16 bits, got 65536"),
    ({"shift": -1}, ValueError, "instruction field shift must fit 8 bits, got -1")])
def test_what_is_no_instruction_is_not_packed(fields, error, said):
    with pytest.raises(error, match=said):
        instruction(Opcode.GEMM, **fields)
