"""Can a design fit a die? Answered from its parameters, before minutes are spent."""

from dataclasses import replace
from itertools import product

from hdl.dispatch import CLOCK_BITS
from hdl.loss.product import VALUE_BITS
from hdl.params import (
    ACC_BITS,
    DEFAULT_FORMATS,
    MAX_DEPTH,
    MAX_M,
    MAX_N,
    WIDE_BITS,
    ParameterError,
)
from hdl.program import units_of
from hdl.protocol import LOG_PART, MAX_BODY, PROGRAM_WORDS, LogPart, Unit
from hdl.timing import SHARE
from hdl.transpose import COLUMNS, mover_width
from hdl.unit import GROUP_BITS, ORDER_ENTRY

__all__ = ["EBR_SHAPES", "EstimateError", "FitError", "check_alone", "check_fit", "ebr_blocks",
           "estimate", "memories", "over", "product_comb", "product_ff"]

#: Widths and depths that a block RAM can have.
EBR_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
#: Names of resources as users read them.
_NAMES = {"comb": "LUT4 (COMB)", "ff": "flip-flops", "ebr": "block RAMs (EBR)",
          "dsp": "multipliers (DSP)"}


class EstimateError(ValueError):
    """Parameters ask for more than the die has. The message is one sentence for the user."""


class FitError(Exception):
    """A synthesised design is larger than the die. The message is one sentence for the user."""


def ebr_blocks(width, depth):
    """Block RAMs that Yosys makes of a memory of ``depth`` words with one port to read and one
    to write: the cheapest uniform shape. Small memories go to LUTs instead.

    >>> ebr_blocks(256, 4096), ebr_blocks(36, 512), ebr_blocks(8, 16)
    (58, 1, 0)
    """
    if width * depth <= 1536:
        return 0
    return min(-(-width // w) * -(-depth // d) for w, d in EBR_SHAPES)


def memories(params):
    """``(name, width, words)`` of every memory of the accelerator."""
    tables = [("group", GROUP_BITS, params.table_words)]
    if Unit.SORT in units_of(params):
        tables.append(("order", ORDER_ENTRY.size, params.table_words))
    if params.masters:
        # Products read tables at a port of their own.
        tables *= 2
        tables += [("master", params.master_bits * params.vector, params.master_words),
                   ("velocity", params.velocity_bits * params.vector, params.master_words),
                   ("program", 64, PROGRAM_WORDS), *[("log", CLOCK_BITS, LOG_PART)] * len(LogPart),
                   ("cross-entropy", VALUE_BITS + 1, MAX_N)]
        if Unit.SORT in units_of(params):
            tables.append(("move", mover_width(params) * params.bits, COLUMNS))
    return [
        *tables,
        ("wide", WIDE_BITS * params.vector, params.wide_words),
        # Lanes are written one by one, and have a memory each.
        *[("quant", params.bits, params.quant_words)] * params.slots,
        *[(name, ACC_BITS * min(SHARE, params.cols - first), MAX_M + 1)
          for name in ("accumulators", "results") for first in range(0, params.cols, SHARE)],
        ("frame", 8, MAX_BODY),
    ]


def _blocks(name, width, words):
    """Block RAMs of one of :func:`memories`. Lanes of the quantised memory have two ports that
    read, which LUTs have not, so the smallest are block RAM as well."""
    return max(ebr_blocks(width, words), int(name == "quant"))


def product_comb(bits, depth=MAX_DEPTH):
    """LUT4 of an integer product in the array, from below: no array has been placed smaller.

    >>> product_comb(4), product_comb(8), product_comb(4, 1)
    (19, 57, 50)
    """
    return _PRODUCT_COMB[bits] * _SHALLOW[depth] // 100


def product_ff(bits, depth=MAX_DEPTH):
    """Flip-flops of an integer product in the array, from below.

    >>> product_ff(4), product_ff(8), product_ff(4, 1)
    (18, 53, 47)
    """
    return _PRODUCT_FF[bits] * _SHALLOW[depth] // 100


#: Of a product in an element of four, by width, and what one in shallower elements takes of that,
#: in percent: at most what any array measured takes.
_PRODUCT_COMB = {2: 7, 3: 12, 4: 19, 5: 27, 6: 35, 7: 47, 8: 57}
_PRODUCT_FF = {2: 7, 3: 14, 4: 18, 5: 29, 6: 36, 7: 45, 8: 53}
_SHALLOW = {1: 264, 2: 164, 3: 128, 4: 100}


#: LUT4, flip-flops and multipliers of a machine without its array: once, and of a lane; and of one
#: that keeps masters. Multipliers of a lane are fewer where masters or velocities are narrower.
_LOGIC = {"comb": (3200, 2000), "ff": (1600, 1000), "dsp": (1, 4)}
_KEEPING = {"comb": (13_000, 4600), "ff": (13_000, 3400), "dsp": (42, 16)}
_NARROW = {**_KEEPING, "dsp": (42, 11)}


def _logic(params):
    if not params.masters:
        return _LOGIC
    return _KEEPING if params.formats == DEFAULT_FORMATS else _NARROW


def estimate(params):
    """Resources of the accelerator: block RAMs exactly, the rest from below.

    Fitted to synthesised designs: multipliers are four a lane (two each in the norms, forward
    and backward) and one more; logic is about 60 % of the default design's. On machines that keep
    masters multipliers are all but one, and logic 85 to 95 %; cross-entropy alone has 40 of them.
    """
    ebr = sum(_blocks(*memory) for memory in memories(params))
    logic = {name: once + lane * params.vector for name, (once, lane) in _logic(params).items()}
    return {"comb": logic["comb"] + params.macs * product_comb(params.bits, params.depth),
            "ff": logic["ff"] + params.macs * product_ff(params.bits, params.depth),
            "ebr": ebr, "dsp": logic["dsp"]}


def over(used, available):
    """What is too much, in words; empty if all fits.

    >>> over({"comb": 5, "ebr": 60}, {"comb": 9, "ebr": 56})
    '60 of 56 block RAMs (EBR), 4 too many'
    """
    return "; ".join(f"{used[name]} of {available[name]} {_NAMES[name]}, "
                     f"{used[name] - available[name]} too many"
                     for name in used if used[name] > available[name])


def check_fit(params, part):
    """Refuse a design that cannot fit, with what would."""
    available = part.die.has()
    excess = over(estimate(params), available)
    if not excess:
        return
    raise EstimateError(
        f"{params.name} does not fit {part.name}: about {excess}{_hint(params, available)}")


def _hint(params, available):
    """What like it would fit: with less memory, or else with fewer rows; of what keeps masters with
    fewer lanes, which take most of it."""
    def fits(smaller):
        return not over(estimate(smaller), available)

    for memory in range(params.memory - 1, 3, -1):
        smaller = replace(params, memory=memory)
        if fits(smaller):
            # Memories are rounded down to a power of two.
            return f"; --memory {max(4, -(-smaller.wide_words * smaller.vector // 1024))} would fit"
    for lanes in range(params.vector - 1, 0, -1) if params.masters else ():
        try:
            smaller = replace(params, lanes=lanes)
        except ParameterError:
            # They divide the slots, and the columns or these them.
            continue
        if fits(smaller):
            return f"; --lanes {lanes} may fit"
    for rows, memory in product(range(params.rows - 1, 0, -1), (params.memory, 4)):
        try:
            smaller = replace(params, rows=rows, memory=memory)
        except ParameterError:
            # Lanes divide the slots.
            continue
        if fits(smaller):
            return (f"; {rows} rows of {params.cols} columns may fit"
                    f"{f' with --memory {memory}' * (memory < params.memory)}")
    return "; --max finds the largest that fits"


def check_alone(subject, part):
    """Refuse a component of :mod:`hdl.build.alone` that cannot fit by itself."""
    excess = over(subject.estimate(), part.die.has())
    if excess:
        raise EstimateError(f"{subject.name} does not fit {part.name}: at least {excess}")
