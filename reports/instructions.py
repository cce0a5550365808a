"""The instruction set as docs/machine.md shows it, from :data:`hdl.instructions.OPERATIONS`."""

from hdl.instructions import INSTRUCTION, OPERATIONS, WINDOW_RUN, WINDOW_TABLE

__all__ = ["format_table", "operations", "window_words"]


def _bits(layout):
    """``(field, its bits)`` of a word."""
    offset = 0
    for name, width in layout:
        yield name, f"{offset} to {offset + width - 1}"
        offset += width


def format_table():
    """Fields of an instruction and their bits, a table.

    >>> print(format_table().splitlines()[2])
    | `op` | 0 to 7 |
    """
    lines = [f"| `{name}` | {bits} |" for name, bits in _bits(INSTRUCTION)]
    return "\n".join(["| field | bits |", "| --- | --- |", *lines]) + "\n"


def window_words():
    """Fields of the words of ``GEMM`` with ``WINDOWS``, a table.

    >>> print(window_words().splitlines()[2])
    | tab0 | `width` | 0 to 7 |
    """
    words = [f"tab0 + {place}" if place else "tab0" for place in range(len(WINDOW_TABLE))]
    lines = [f"| {word} | `{name}` | {bits} |"
             for word, layout in zip((*words, "dst1"), (*WINDOW_TABLE, WINDOW_RUN), strict=True)
             for name, bits in _bits(layout)]
    return "\n".join(["| word | field | bits |", "| --- | --- | --- |", *lines]) + "\n"


def _code(text):
    """Markup of docstrings as that of pages."""
    return text.replace("``", "`")


def _operation(opcode, operation):
    yield f"### {opcode.name}, {int(opcode)}"
    yield f"    {operation.equation}"
    yield _code(operation.text)
    larger, _ = operation.with_masters
    sizes = [(name, f"size, 1 to {limit:,}" + (
        f", {larger[name]:,} on a machine that keeps masters" if name in larger else ""))
        for name, limit in operation.sizes.items()]
    rows = [*sizes, *operation.fields.items()]
    rows += [(f"{flag.name}, {int(flag)}", text) for flag, text in operation.flags.items()]
    yield "\n".join(["| field or flag | |", "| --- | --- |",
                     *(f"| `{name}` | {_code(text)} |" for name, text in rows)])
    _, others = operation.with_masters
    refused = [rule.text for rule in (*operation.rules, *others)]
    if operation.needs_groups is True:
        refused.append("always on a machine without groups")
    elif operation.needs_groups:
        refused.append("on a machine without groups, flags of groups")
    if operation.needs_layer_norm:
        refused.append("always on a machine without the norm of channels")
    if operation.needs_masters is True:
        refused.append("always on a machine that keeps no masters")
    elif operation.needs_masters:
        refused.append(f"on a machine that keeps no masters, ``{operation.needs_masters.name}``")
    if refused:
        yield f"Refused: {_code('; '.join(refused))}."
    yield f"Model: `{operation.model}`. Clocks: `{operation.clocks}`."


def operations():
    """All operations, a section each."""
    return "\n\n".join(part for opcode, operation in OPERATIONS.items()
                       for part in _operation(opcode, operation)) + "\n"
