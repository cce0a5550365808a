"""Charts as SVG inside a page, whose style sheet gives them their colours.

Every chart is drawn 400 units wide, so that its words can be read at the width of a phone.
Everything that stands for a figure links to its file and has the command as its title.
"""

from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

__all__ = ["Mark", "Series", "bars", "dots", "keys", "legend", "lines"]

_WIDTH = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 12, 44
_HEIGHT = 280


@dataclass(frozen=True)
class Mark:
    """One figure.

    Parameters
    ----------
    x, y : number
    href : str
        The file that it is from.
    title : str
        What it is, and the command that measures it.
    """
    x: float
    y: float
    href: str
    title: str


@dataclass(frozen=True)
class Series:
    """Figures that belong together.

    Parameters
    ----------
    name : str
    colour : int
        Number of the colour in the page's palette.
    marks : list of Mark
    level : bool
        There is one figure, whatever x is: it becomes a line across the chart.
    dash : str
        How its line is drawn: ``dashed`` or ``dotted``, else in one piece.
    ring : bool
        Thin, with rings for markers: what lies below, even at the same place, can be seen.
    """
    name: str
    colour: int
    marks: list = field(default_factory=list)
    level: bool = False
    dash: str = ""
    ring: bool = False


def legend(names):
    """``(name, colour)`` as a row of words."""
    items = "".join(f'<li><span class="b{colour}"></span>{escape(name)}</li>'
                    for name, colour in names)
    return f'<ul class="legend">{items}</ul>'


def keys(series):
    """Series of :func:`lines` as a row of words, each with its line and marker."""
    items = []
    for one in series:
        if not one.marks:
            continue
        line = f'<line x1="0" x2="32" y1="9" y2="9" class="{_stroke(one)}"/>'
        marker = "" if one.level else _marker(one, 16, 9)
        items.append(f'<li><svg viewBox="0 0 32 18" aria-hidden="true">{line}{marker}</svg>'
                     f'{escape(one.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _stroke(series):
    return (f"s{series.colour}" + (f" {series.dash}" if series.dash else "")
            + (" thin" if series.ring else ""))


def _linked(mark, shape):
    return (f'<a href="{escape(mark.href)}"><title>{escape(mark.title)}</title>{shape}</a>')


def _marker(series, x, y):
    """A shape for each colour, for those who cannot tell these apart."""
    colour, size = series.colour, 4.5
    if series.ring:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" class="s{colour} ring"/>'
    if colour % 4 == 1:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" class="f{colour}"/>'
    if colour % 4 == 2:
        return (f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" '
                f'class="f{colour}"/>')
    if colour % 4 == 3:
        points = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"
    else:
        points = (f"{x:.1f},{y - 5.5:.1f} {x + 5.5:.1f},{y:.1f} {x:.1f},{y + 5.5:.1f} "
                  f"{x - 5.5:.1f},{y:.1f}")
    return f'<polygon points="{points}" class="f{colour}"/>'


def _log_ticks(low, high):
    """Round numbers that enclose a range.

    >>> _log_ticks(12, 130)
    [10, 20, 50, 100, 200]
    """
    ticks = [factor * 10 ** power for power in range(floor(log10(low)), ceil(log10(high)) + 1)
             for factor in (1, 2, 5)]
    first = max((tick for tick in ticks if tick <= low), default=ticks[0])
    last = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    return [tick for tick in ticks if first <= tick <= last]


def _spread(values, scale, least=44):
    """Those of sorted values whose labels do not meet, the last one among them.

    >>> _spread([4, 16, 20, 60, 64], lambda x: 4 * x)
    [4, 20, 64]
    """
    kept = []
    for value in sorted(values, reverse=True):
        if not kept or scale(kept[-1]) - scale(value) >= least:
            kept.append(value)
    return kept[::-1]


def _linear_ticks(high):
    """Round numbers from 0.

    >>> _linear_ticks(170)
    [0, 50, 100, 150, 200]
    """
    step = 10 ** floor(log10(high))
    step = next(step * factor for factor in (0.1, 0.2, 0.5, 1, 2)
                if high / (step * factor) <= 5)
    step = int(step) if step >= 1 else step
    return [step * number for number in range(ceil(high / step) + 1)]


def _axis_number(value):
    return f"{value:,.10g}"


def _svg(height, name, shapes):
    return (f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(name)}">'
            f'{"".join(shapes)}</svg>')


def _text(x, y, words, anchor="middle", cls="", extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{cls}"{extra}>'
            f'{escape(words)}</text>')


def lines(series, *, name, x_label, y_label, log_x=False):
    """Figures over a number; the vertical axis is logarithmic, and so is ``log_x``'s."""
    drawn = [one for one in series if one.marks]
    if not drawn:
        return '<p class="missing">not measured</p>'
    xs = sorted({mark.x for one in drawn if not one.level for mark in one.marks}) or [0]
    ticks = _log_ticks(min(mark.y for one in drawn for mark in one.marks),
                       max(mark.y for one in drawn for mark in one.marks))
    if len(ticks) == 1:
        ticks = [ticks[0] / 2, ticks[0], ticks[0] * 2]
    pad = 14
    # Room for the label of the axis beside its numbers.
    left = max(_LEFT, 28 + 8.5 * max(len(_axis_number(tick)) for tick in ticks))

    def scale_x(x):
        at = log10 if log_x else float
        span = at(xs[-1]) - at(xs[0])
        share = (at(x) - at(xs[0])) / span if span else 0.5
        return left + pad + share * (_WIDTH - left - _RIGHT - 2 * pad)

    def scale_y(y):
        share = (log10(y) - log10(ticks[0])) / (log10(ticks[-1]) - log10(ticks[0]))
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    shapes = []
    for tick in ticks:
        y = scale_y(tick)
        shapes.append(f'<line x1="{left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                      'class="grid"/>')
        shapes.append(_text(left - 6, y + 4, _axis_number(tick), "end"))
    if any(not one.level for one in drawn):
        shapes += [_text(scale_x(x), _HEIGHT - _BOTTOM + 16, _axis_number(x))
                   for x in _spread(xs, scale_x)]
    shapes.append(_text((left + _WIDTH) / 2, _HEIGHT - 6, x_label, cls="label"))
    shapes.append(_text(12, _HEIGHT / 2 - 10, y_label, cls="label",
                        extra=f' transform="rotate(-90 12 {_HEIGHT / 2 - 10})"'))
    for one in drawn:
        if one.level:
            continue
        marks = sorted(one.marks, key=lambda mark: mark.x)
        points = " ".join(f"{scale_x(mark.x):.1f},{scale_y(mark.y):.1f}" for mark in marks)
        shapes.append(f'<polyline points="{points}" class="{_stroke(one)}"/>')
        shapes += [_linked(mark, _marker(one, scale_x(mark.x), scale_y(mark.y)))
                   for mark in marks]
    levels = [(scale_y(one.marks[0].y), one) for one in drawn if one.level]
    labels = _apart([y - 4 for y, _ in levels], _TOP + 8, _HEIGHT - _BOTTOM - 4)
    for (y, one), at in zip(levels, labels, strict=True):
        mark = one.marks[0]
        shapes.append(_linked(mark, (
            f'<line x1="{left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'class="{_stroke(one)}"/>'
            + _text(_WIDTH - _RIGHT, at, f"{one.name} {mark.y:,.4g}", "end",
                    f"f{one.colour}"))))
    return _svg(_HEIGHT, name, shapes)


def _apart(places, low, high, distance=15):
    """Places of labels, moved no further than it takes to be read.

    >>> _apart([50, 45, 90], 0, 100)
    [60, 45, 90]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    moved, least = list(places), low
    for place in order:
        moved[place] = max(places[place], least)
        least = moved[place] + distance
    most = high
    for place in reversed(order):
        moved[place] = min(moved[place], most)
        most = moved[place] - distance
    return moved


def dots(rows, *, name, x_label):
    """A row of dots for each ``(label, colour, marks, cap)``, with a bar at their median and a
    dashed one at the cap, a :class:`Mark` or None; x from 0."""
    rows = [row for row in rows if row[2]]
    if not rows:
        return '<p class="missing">not measured</p>'
    ticks = _linear_ticks(max(mark.x for _, _, marks, cap in rows
                              for mark in (*marks, *([cap] if cap else []))))
    height = 34 * len(rows) + _BOTTOM + 8

    def scale(x):
        return 8 + x / ticks[-1] * (_WIDTH - 36)

    shapes = []
    for tick in ticks:
        x = scale(tick)
        shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - _BOTTOM}" '
                      'class="grid"/>')
        shapes.append(_text(x, height - _BOTTOM + 14, _axis_number(tick)))
    shapes.append(_text(_WIDTH / 2, height - 6, x_label, cls="label"))
    for number, (label, colour, marks, cap) in enumerate(rows):
        y = 34 * number + 12
        shapes.append(_text(8, y, label, "start"))
        ordered = sorted(mark.x for mark in marks)
        count = len(ordered)
        median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        if cap:
            shapes.append(_linked(cap, (
                f'<line x1="{scale(cap.x):.1f}" x2="{scale(cap.x):.1f}" y1="{y + 3}" '
                f'y2="{y + 19}" class="cap"/>')))
        shapes += [_linked(mark, f'<circle cx="{scale(mark.x):.1f}" cy="{y + 11}" r="4" '
                                 f'class="f{colour} faint"/>') for mark in marks]
        shapes.append(f'<line x1="{scale(median):.1f}" x2="{scale(median):.1f}" y1="{y + 4}" '
                      f'y2="{y + 18}" class="s{colour}"/>')
    return _svg(height, name, shapes)


def bars(rows, *, name, x_label):
    """A stacked bar for each ``(label, parts)``; a part is ``(colour, Mark)``, its y the length."""
    rows = [row for row in rows if row[1]]
    if not rows:
        return '<p class="missing">not measured</p>'
    most = max(sum(mark.y for _, mark in parts) for _, parts in rows)
    ticks = _linear_ticks(most)
    height = 46 * len(rows) + _BOTTOM + 8

    def scale(value):
        return 8 + value / ticks[-1] * (_WIDTH - 36)

    shapes = []
    for tick in ticks:
        shapes.append(f'<line x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="4" '
                      f'y2="{height - _BOTTOM}" class="grid"/>')
        shapes.append(_text(scale(tick), height - _BOTTOM + 14, _axis_number(tick)))
    shapes.append(_text(_WIDTH / 2, height - 6, x_label, cls="label"))
    for number, (label, parts) in enumerate(rows):
        y, at = 46 * number + 14, 0
        shapes.append(_text(8, y, label, "start"))
        for colour, mark in parts:
            left, at = scale(at), at + mark.y
            shapes.append(_linked(mark, (
                f'<rect x="{left:.1f}" y="{y + 5}" width="{scale(at) - left:.1f}" height="22" '
                f'class="f{colour} part"/>')))
    return _svg(height, name, shapes)
