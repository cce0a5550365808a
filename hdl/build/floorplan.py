"""A picture of the placed design: which unit lies where on the die."""

from collections import Counter, defaultdict
from xml.sax.saxutils import escape

__all__ = ["COLOURS", "floorplan"]

_TILE = 8
_MARGIN = 24
_LEGEND = 340
_STYLE = ("<style>svg{fill:#222}.paper{fill:#fff}.die{fill:#f4f4f2}.line{stroke:#000}"
          "@media(prefers-color-scheme:dark){svg{fill:#ddd}.paper{fill:#16181c}.die{fill:#22252b}"
          ".line{stroke:#fff}}</style>")
#: Colours of units in the order of their size; the array is always the first.
COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#7a9e3d", "#8e6bb0", "#c97b3c",
            "#4aa8a0", "#b0578d", "#6c757d", "#9c6644", "#3a5a40", "#a0a0a0")


def colours(units, first):
    """A colour for each unit, the largest ones first.

    >>> colours({"gemm": {"comb": 9}, "array": {"comb": 5}}, "array")
    {'array': '#d1495b', 'gemm': '#00798c'}
    """
    names = sorted(units, key=lambda unit: (unit != first, -units[unit]["comb"], unit))
    return {unit: COLOURS[min(i, len(COLOURS) - 1)] for i, unit in enumerate(names)}


def floorplan(placed, *, die, title, first, path=None):
    """An SVG of a :class:`hdl.build.netlist.Placed` on a :class:`boards.parts.Die`.

    A tile has the colour of the unit with most cells in it, the stronger the fuller it is; block
    RAMs and multipliers are outlined. ``path`` is a list of ``[x, y]``, drawn as a line.
    """
    tiles, marks = {}, set()
    for resource, unit, x, y in placed.bels:
        tiles.setdefault((x, y), Counter())[unit] += 1
        if resource in ("ebr", "dsp"):
            marks.add((x, y, resource))
    width, height = die.columns, die.rows
    palette = colours(placed.units, first)
    lines = defaultdict(list)
    for y in range(height):
        for left, right, unit, level in _runs(tiles, marks, y, width):
            lines[unit, level].append(f"M{left} {y}h{right - left}")
    # One path per look, in tiles: a die has thousands of runs.
    shapes = [f'<path d="{"".join(runs)}" transform="scale({_TILE}) translate(0,.5)" '
              f'stroke="{palette[unit]}" stroke-opacity="{level}"/>'
              for (unit, level), runs in sorted(lines.items())]
    for x, y, _ in sorted(marks):
        unit = tiles[x, y].most_common(1)[0][0]
        shapes.append(f'<rect x="{x * _TILE}" y="{y * _TILE}" width="{2 * _TILE}" '
                      f'height="{_TILE}" fill="{palette[unit]}" class="line"/>')
    if path:
        points = " ".join(f"{(x + 0.5) * _TILE:.0f},{(y + 0.5) * _TILE:.0f}" for x, y in path)
        shapes.append(f'<polyline points="{points}" fill="none" class="line" '
                      'stroke-width="2"/>')
    return _page(width * _TILE, height * _TILE, title, shapes, _legend(placed, palette, path))


def _runs(tiles, marks, y, width):
    """Neighbouring tiles of a row that look the same: ``(left, right, unit, opacity)``."""
    special = {(x, row) for x, row, _ in marks}
    run = None
    for x in range(width + 1):
        look = None
        if (x, y) in tiles and (x, y) not in special:
            unit = tiles[x, y].most_common(1)[0][0]
            # A tile of logic has 8 LUT4 positions and 8 flip-flops.
            look = unit, (0.35, 0.6, 0.85)[min(2, 3 * tiles[x, y].total() // 17)]
        if run and run[1] != look:
            yield run[0], x, *run[1]
            run = None
        if look and not run:
            run = x, look


def _legend(placed, palette, path):
    lines = [("#222", "LUT4", "FF", "EBR", "DSP", "unit", True)]
    for unit, colour in palette.items():
        used = placed.units[unit]
        if any(used.values()):
            lines.append((colour, used["comb"], used["ff"], used["ebr"], used["dsp"], unit,
                          False))
    total = placed.total
    lines.append((None, total["comb"], total["ff"], total["ebr"], total["dsp"], "whole", True))
    text = []
    for number, (colour, *figures, unit, bold) in enumerate(lines):
        y = 20 * number + 14
        weight = ' font-weight="bold"' if bold else ""
        if number and colour:
            text.append(f'<rect x="0" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        text.append(f'<text x="20" y="{y}"{weight}>{escape(unit)}</text>')
        for column, figure in enumerate(figures):
            text.append(f'<text x="{165 + 55 * column}" y="{y}" text-anchor="end"{weight}>'
                        f'{figure}</text>')
    if path:
        text.append(f'<text x="20" y="{20 * len(lines) + 24}">line: the slowest path</text>')
    return text


def _page(width, height, title, shapes, legend):
    total_width, total_height = width + _LEGEND + 3 * _MARGIN, height + 3 * _MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" '
        f'height="{total_height}" viewBox="0 0 {total_width} {total_height}" '
        'font-family="sans-serif" font-size="13">',
        _STYLE,
        f'<rect width="{total_width}" height="{total_height}" class="paper"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN}" font-size="16">{escape(title)}</text>',
        f'<g transform="translate({_MARGIN},{2 * _MARGIN})">',
        f'<rect width="{width}" height="{height}" class="die"/>', *shapes, "</g>",
        f'<g transform="translate({width + 2 * _MARGIN},{2 * _MARGIN})">', *legend, "</g>",
        "</svg>", ""])
