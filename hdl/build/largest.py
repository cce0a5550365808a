"""``--max``: the largest machine that can be placed and routed."""

from bisect import bisect_left
from dataclasses import replace
from math import prod

from hdl.build.fit import EstimateError, FitError, check_fit
from hdl.build.flow import Patience
from hdl.build.tools import ToolError
from hdl.params import ParameterError

__all__ = ["FILL", "PATIENCE", "largest", "sizes"]

#: Share of a die's LUT4 and flip-flops that a synthesised design may take. LUT RAMs each need a
#: slice with a write port, so arrays of 81 and 89 % of the LUT4 found no place, and one of 82 did
#: (docs/array.md). Machines that have one may not be routed in a time that one waits for: on an
#: LFE5U-85F one of 81 % was given up after 100 minutes of a processor; one of 76 % had 44 % of its
#: wires after 22, and one of 72 takes 30.
FILL = {"comb": 0.78, "ff": 0.97}
#: How soon a size is given up that finds no place; and after how many seconds in any case: a router
#: may never end.
PATIENCE = Patience(200, 100 * 60)
#: From one size to the next.
_STEP = 1.05
_MEMORIES = (256, 128, 64, 32, 16, 8, 4)


def sizes(params, part, *, cols=None, memory=None):
    """Machines like ``params`` that an estimate does not rule out, in order of products per clock.

    They grow in steps of at least 5 %, and are as square as there are: columns between half and
    twice the rows, so that loading weights hides behind few samples, and a divisor of the slots,
    so that a row of weights takes ``depth`` words. Given ``cols`` only the rows change. Without
    ``memory`` each has as much as there is block RAM for, at most ``params.memory``.

    >>> from boards.parts import parse_part
    >>> from hdl.params import Params
    >>> found = sizes(Params(), parse_part("LFE5U-25F-6BG381C"))
    >>> [(one.rows, one.cols, one.memory) for one in (found[0], found[6], found[-1])]
    [(1, 1, 16), (3, 4, 8), (6, 8, 4)]
    """
    shapes = [(rows, wide) for rows in range(1, 65)
              for wide in ([cols] if cols else range((rows + 1) // 2, min(2 * rows, 64) + 1))
              if cols or rows * params.depth % wide == 0]
    found = []
    for rows, wide in sorted(shapes, key=lambda shape: (prod(shape), abs(shape[0] - shape[1]))):
        if found and rows * wide < found[-1].rows * found[-1].cols * _STEP:
            continue
        try:
            shaped = replace(params, rows=rows, cols=wide)
        except ParameterError:
            # The lanes do not divide it.
            continue
        if sized := _with_memory(shaped, part, memory):
            found.append(sized)
    if not found:
        # The sentence that says why.
        check_fit(replace(params, rows=1, **({"memory": memory} if memory else {})), part)
    return found


def _with_memory(params, part, memory):
    choices = (memory,) if memory else [size for size in _MEMORIES if size <= params.memory]
    for size in choices:
        sized = replace(params, memory=size)
        try:
            check_fit(sized, part)
        except EstimateError:
            continue
        return sized
    return None


def largest(found, part, *, synthesise, route, say):
    """The report of the largest of ``found`` that can be placed and routed.

    Parameters
    ----------
    found : list of Params
        In order of size.
    part : boards.parts.Part
    synthesise, route : callable
        Build one, without and with place and route; both return a report or raise
        :class:`hdl.build.fit.FitError` or :class:`hdl.build.tools.ToolError`.
    say : callable
        Takes a line of progress.

    The largest that is synthesised within :data:`FILL` is looked for by bisection; from there on
    every smaller one is tried until one is routed.
    """
    available = part.die.has()

    def is_too_large(params):
        try:
            total = synthesise(params)["total"]
        except FitError:
            return True
        return any(total[name] > share * available[name] for name, share in FILL.items())

    say(f"looking for the largest of {len(found)} sizes, {found[0].macs} to {found[-1].macs} "
        "products per clock")
    count = bisect_left(found, True, key=is_too_large)
    if not count:
        raise FitError(f"not even {found[0].name} fits {part.name} once it is synthesised")
    for params in reversed(found[:count]):
        say(f"trying {params.name}, {params.macs} products per clock")
        try:
            return route(params)
        except (ToolError, FitError) as error:
            if isinstance(error, ToolError) and not error.told:
                raise
            say(f"{params.name} is too large: {error}")
    raise FitError(f"no size fits {part.name}: not even {found[0].name} could be routed")
