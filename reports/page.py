"""reports/index.html: every figure on one page that needs no network and no program."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from boards.parts import parse_part
from hdl.build.datapaths import DATAPATHS
from hdl.build.harness import TARGET_MHZ
from hdl.build.tables import change
from hdl.params import Params
from reports.budget import SUBJECTS
from reports.charts import Mark, Series, bars, dots, keys, legend, lines
from reports.elsewhere import BY_HAND, FOREIGN, KINDS, LIMITS, PAPER
from reports.figures import (
    CATEGORIES,
    FILL,
    NORM_ROWS,
    arithmetic,
    by_category,
    by_seed,
    fits,
    fmax_words,
    microseconds,
    norm_cycles,
    per_mac,
    per_throughput,
    rate,
    seeds_words,
    usable_mhz,
)
from reports.points import LARGE_MESH, MESH, SMALL_MESH
from reports.summary import differences, machine_twins
from reports.units import UNITS

__all__ = ["page"]

_STYLE = Path(__file__).with_name("style.css")
#: Colours of arithmetic and of what units do, by name.
_COLOURS = {name: place + 1 for place, name in enumerate(DATAPATHS)}
_CATEGORY_COLOURS = {"array": 1, "quantiser": 2, "norm": 3, "sorter": 4, "memory": 5,
                     "sequencer": 6, "link": 7, "operands and sums": 8}
_NOT_MEASURED = '<span class="missing">not measured</span>'
_MESH, _SMALL_MESH, _LARGE_MESH = ("{rows}x{cols}".format(**shape)
                                   for shape in (MESH, SMALL_MESH, LARGE_MESH))


# Pieces.


def _title(result, what):
    return f"{result.name}: {what}\n{result.command}"


def _absent(result):
    """Why there is no figure."""
    if result.failure:
        return f'<a href="{result.href}" title="{escape(result.failure)}">failed</a>'
    return f'<span class="missing" title="{escape(result.command)}">not measured</span>'


def _link(result, words):
    """A figure with its file and command."""
    return (f'<a href="{result.href}" title="{escape(result.command)}">{escape(words(result))}'
            "</a>")


def _row(name, result, figures):
    """A row of figures, or of one cell that says why there are none."""
    cells = ([_link(result, words) for words in figures] if result.report else
             [_Wide(len(figures), _absent(result))])
    return [_named(name, result), *cells]


@dataclass(frozen=True)
class _Wide:
    """A cell as wide as several columns."""
    columns: int
    content: str


def _named(words, result):
    """A row's name; opened it shows the command."""
    return (f"<details><summary>{escape(words)}</summary><code>{escape(result.command)}</code>"
            "</details>")


def _table(heads, rows, words=()):
    """A table; columns numbered in ``words`` hold sentences."""
    head = "".join(f"<th{' class=words' if place in words else ''}>{head}</th>"
                   for place, head in enumerate(heads))

    def cell(place, content):
        if isinstance(content, _Wide):
            return f'<td class="words" colspan="{content.columns}">{content.content}</td>'
        kind = ' class="words"' if place in words else ""
        return f"<td{kind}>{content}</td>"

    def line(row):
        place, cells = 0, []
        for content in row:
            cells.append(cell(place, content))
            place += content.columns if isinstance(content, _Wide) else 1
        return "".join(cells)

    body = "".join(f"<tr>{line(row)}</tr>\n" for row in rows)
    return f'<div class="table"><table><tr>{head}</tr>\n{body}</table></div>\n'


def _figure(caption, *content):
    return f"<figure><figcaption>{caption}</figcaption>{''.join(content)}</figure>\n"


def _fmax(result):
    return fmax_words(result.report["fmax_mhz"])


def _cells(resource, of="array"):
    return lambda result: f"{result.report[of][resource]:,}"


def _each(resource):
    return lambda result: f"{per_mac(result, resource):,.2f}"


def _rate(result):
    return f"{rate(result):,.2f}"


def _by_arithmetic(points):
    """Points of the same arithmetic and mapping together: ``{name: {point: result}}``."""
    found = {}
    for point, result in points.items():
        made = DATAPATHS[point.subject.arith]
        name = point.subject.arith
        if len(made.mappings) > 1:
            name += {"lut": ", no DSP", "dsp": ", DSP"}[point.subject.mapping]
        found.setdefault(name, {})[point] = result
    return found


def _series(points, x, y, what):
    """A series for each arithmetic, dotted with multiplier blocks; those of a single width become
    levels.

    ShiftQuant lies where integers with as wide sums lie: it comes last, as rings.
    """
    series = []
    for name, group in _by_arithmetic(points).items():
        arith = next(iter(group)).subject.arith
        marks = [Mark(x(point), y(result), result.href,
                      _title(result, f"{y(result):,.2f} {what}"))
                 for point, result in group.items() if y(result)]
        level = x is _width and len(DATAPATHS[arith].widths) == 1
        dsp = next(iter(group)).subject.mapping == "dsp"
        dash = "dotted" if dsp else "dashed" if level else ""
        series.append(Series(name, _COLOURS[arith], marks, level, dash, arith == "shift"))
    return sorted(series, key=lambda one: one.ring)


def _shape(subject):
    return f"{subject.rows}x{subject.cols}x{subject.depth}"


def _sums(subject):
    """The width of an integer array's sums in words."""
    made = DATAPATHS[subject.arith]
    return f", {made.sum_bits(subject.params())}-bit sums" if len(made.widths) > 1 else ""


def _width(point):
    return point.subject.bits


def _lines(caption, series, **options):
    """A figure of series over a number, with their names."""
    return _figure(caption, keys(series), lines(series, **options))


def _columns(caption, points, value, what):
    """A figure with a bar for each array."""
    rows = []
    for point, result in points.items():
        if result.report:
            number = f"{value(result):,.2f}"
            mark = Mark(0, value(result), result.href, _title(result, f"{number} {what}"))
            rows.append((f"{arithmetic(point)}: {number}",
                         [(_COLOURS[point.subject.arith], mark)]))
    return _figure(caption, bars(rows, name=f"{what}, {_SMALL_MESH}", x_label=what))


# Sections.


def _arrays(results):
    points = results.comparison()
    comb = _lines("COMB (LUT4 positions) per MAC; less is better.",
                  _series(points, _width, lambda result: per_mac(result, "comb"), "COMB per MAC"),
                  name="COMB per MAC against width", x_label="bits of an operand",
                  y_label="COMB per MAC")
    speed = _lines("Peak rate per thousand COMB; more is better.",
                   _series(points, _width, rate, "GOPS per 1,000 COMB"),
                   name="GOPS per 1,000 COMB against width", x_label="bits of an operand",
                   y_label="GOPS per 1,000 COMB")
    formats = results.comparison(SMALL_MESH)
    size = _columns("COMB per MAC; less is better.", formats,
                    lambda result: per_mac(result, "comb"), "COMB per MAC")
    peak = _columns("Peak rate per thousand COMB; more is better.", formats, rate,
                    "GOPS per 1,000 COMB")
    figures = (_each("comb"), _each("ff"), _rate, _fmax, _cells("comb"), _cells("ff"),
               _cells("dsp"))
    rows, small = ([_row(arithmetic(point), result, figures) for point, result in some.items()]
                   for some in (points, formats))
    heads = ["array", "COMB per MAC", "FF per MAC", "GOPS per 1,000 COMB", "Fmax, MHz", "COMB",
             "FF", "DSP"]
    return (
        f"<p>Arrays of {_MESH} elements alone, each in the same harness, with the same options "
        "and the same aim of the clock, on an LFE5U-25F at -6. The harness is not counted. An "
        "element of integers makes four products per clock; one of floating point makes one, and "
        "so does int-mult, a multiplier and an adder as one writes them down, left to Yosys. "
        "Floating point has no width to vary: a dashed line; with multiplier blocks lines "
        "are dotted. GOPS are two operations per MAC at "
        "the median of the seeds, or at the cap below where that is lower.</p>"
        f'<div class="pair">{comb}{speed}</div>' + _table(heads, rows)
        + f"<h3>Every format</h3><p>Arrays of {_SMALL_MESH} elements, half of which have "
        "nothing above them to add to, otherwise as before. Floating point has no width to vary, "
        f'and the integers here have 4 bits.</p><div class="pair">{size}{peak}</div>'
        + _table(heads, small) + _differences(results))


def _seeds(label, colour, result):
    """A row of :func:`reports.charts.dots`."""
    fmax = result.report["fmax_mhz"]
    marks = [Mark(mhz, 0, result.href, _title(result, f"{mhz} MHz with seed {seed}"))
             for seed, mhz in by_seed(fmax)]
    cap = Mark(fmax["cap_mhz"], 0, result.href,
               _title(result, f"cap, {fmax['cap_mhz']} MHz: {fmax['cap_reason']}"))
    if fmax["failed"]:
        label += f", {seeds_words(fmax)}"
    return label, colour, marks, cap


def _compared(pair, figures):
    """A row of what sets the first of two results apart from the second."""
    words, mine, other = pair
    title = escape(f"{mine.name} against {other.name}\n{mine.command}\n{other.command}")
    names = "<br>against ".join(f'<a href="{one.href}">{escape(one.name)}</a>'
                                for one in (mine, other))
    return [f"<details><summary>{escape(words)}</summary><code>{names}</code></details>",
            *(f'<a href="{mine.href}" title="{title}">{change(of(mine), of(other))}</a>'
              for of in figures)]


def _differences(results):
    figures = (*(lambda result, of=of: per_mac(result, of) for of in ("comb", "ff")),
               lambda result: result.report["fmax_mhz"]["median"], rate)
    heads = ["COMB per MAC", "FF per MAC", "Fmax, MHz: median", "GOPS per 1,000 COMB"]
    tables = ""
    for shape, words in ((LARGE_MESH, _LARGE_MESH), (MESH, _MESH), (SMALL_MESH, _SMALL_MESH)):
        rows = [_compared(pair, figures)
                for pair in differences(results.comparison(shape), (2, 4, 8), (2, 4, 8))]
        if rows:
            tables += _table([f"arrays of {words}", *heads], rows)
    return (
        "<h3>What the shift costs, and what floating point does</h3>"
        "<p>Against int-wide: the price of the shift, at sums of equal width. int-wide against "
        "int: that of the wider sums, which any design pays that adds up in groups. Against int: "
        "both. Open a row for its two files.</p>"
        + (tables or f"<p>{_NOT_MEASURED}</p>"))


def _clock(results):
    figures = []
    for words, shape in ((_MESH, MESH), (_SMALL_MESH, SMALL_MESH)):
        rows = [_seeds(f"{arithmetic(point)}, LFE5U-{point.part.size} at -{point.part.speed}",
                       _COLOURS[point.subject.arith], result)
                for point, result in results.meshes(**shape).items()
                if point.subject.bits in (4, 16) and result.report
                and point.subject.depth == DATAPATHS[point.subject.arith].deepest]
        figures.append(_figure(f"Fmax by seed: arrays of {words}.", dots(
            rows, name=f"Fmax by seed, {words}", x_label="MHz")))
    machines = [_seeds(f"{_machine_name(result.report)}",
                       _COLOURS[result.report["design"]["arith"]], result)
                for result in results.machines]
    figures.append(_figure("Fmax by seed: machines.", dots(
        machines, name="Fmax by seed, machines", x_label="MHz")))
    caps = []
    for speed in (6, 8):
        part = parse_part(f"LFE5U-25F-{speed}BG381C")
        (ebr, why), (dsp, block) = part.clock_cap(), part.clock_cap(dsp=True)
        caps.append(f"At -{speed}: {ebr} MHz ({why})"
                    + (f", {dsp:g} MHz with multipliers ({block})" if dsp != ebr else "") + ".")
    return ("<p>A dot is a place-and-route run, the bar their median. What nextpnr reports is not "
            f"the last word, and the dashed bar is a cap. {escape(' '.join(caps))} nextpnr checks "
            f"neither: {LIMITS['ebr']}, and {LIMITS['dsp']}.</p>"
            f"<p>Arrays and units are placed timing-driven with an aim of {TARGET_MHZ:g} MHz, "
            "machines for short wires (<code>--no-tmdriv</code>) unless they are called "
            "timing-driven: compare neither with the other.</p>"
            f'<div class="pair">{"".join(figures)}</div>')


def _machine_name(report):
    design = report["design"]
    return (f"{design['arith']} {design['groups']}, {design['bits']} bits, "
            f"{design['rows']}x{design['cols']}x{design['depth']}, "
            f"{report['board'] or report['part']}"
            + (", timing-driven" if report["placement"] == "timing" else ""))


def _machines(results):
    machines = results.machines
    figures = (_cells("comb", "total"), _cells("ff", "total"), _fmax, _each("comb"),
               lambda result: f"{result.report['gops']:.2f}", _cells("ebr", "total"),
               _cells("dsp", "total"))
    rows = [_row(_machine_name(result.report), result, figures) for result in machines]
    parts = []
    for result in machines:
        parts.append((_machine_name(result.report), [
            (_CATEGORY_COLOURS[category],
             Mark(0, comb, result.href, _title(result, f"{category}, {comb:,} COMB")))
            for category, comb in sorted(by_category(result.report).items(),
                                         key=lambda pair: list(_CATEGORY_COLOURS).index(pair[0]))
        ]))
    missing = "".join(
        f"<li><span class=missing>not measured:</span> <code>{escape(point.command)}</code></li>"
        for point in results.standing
        if point.is_machine and results.every[point.name].state == "not measured")
    price = [_compared((f"{_machine_name(mine.report)} against {twin.report['design']['arith']}",
                        mine, twin), (
        *(lambda result, where=where, of=of: result.report[where][of]
          for where in ("array", "total") for of in ("comb", "ff")),
        lambda result: result.report["fmax_mhz"]["median"]))
             for mine, twin in machine_twins(results)]
    return (
        "<p>The whole accelerator, with link, sequencer, memories, quantiser and norms, placed for "
        "short wires unless it is called timing-driven. The array's clock is a multiple of the "
        "machine's. GOPS are at the clock it was built for; Fmax is the machine's over its "
        "seeds, the array's multiple met.</p>"
        + _table(["machine", "COMB", "FF", "Fmax, MHz", "array: COMB per MAC", "GOPS", "EBR",
                  "DSP"], rows)
        + (_table(["ShiftQuant's price", "array: COMB", "array: FF", "COMB", "FF",
                   "Fmax, MHz: median"], price) if price else "")
        + _figure("COMB by what it is for.",
                  legend((name, _CATEGORY_COLOURS[name]) for name in _CATEGORY_COLOURS
                         if name in CATEGORIES),
                  bars(parts, name="COMB by unit", x_label="COMB"))
        + (f"<details><summary>Machines that are not measured</summary><ul>{missing}</ul></details>"
           if missing else ""))


def _floorplans(results):
    drawn = [(result, results.floorplan(result.name)) for result in results.machines]
    pictures = "".join(
        _figure(f'<a href="{path}">{escape(_machine_name(result.report))}</a>, by itself in full '
                'size',
                f'<img loading="lazy" src="{path}" alt="Floorplan of {escape(result.name)}">')
        for result, path in drawn if path)
    missing = "".join(
        f"<li>{_named(_machine_name(result.report), result)} "
        "<span class=missing>not measured since floorplans are kept</span></li>"
        for result, path in drawn if not path)
    return f'<div class="pair small">{pictures}</div>' + (missing and f"<ul>{missing}</ul>")


#: What a quantiser consists of: words, a unit, and the one that it is compared with.
_STEPS = (
    ("scan for the maximum of the tensor", "quantise-1x1", "quantise-given"),
    ("a maximum per column instead", "quantise-column", "quantise-1x1"),
    ("4 channel groups instead", "quantise-1x4", "quantise-column"),
    ("4 sample groups more", "quantise-4x4", "quantise-1x4"),
    ("all groups, against a scale per tensor", "quantise-4x4", "quantise-1x1"),
    ("every mode, and clips", "quantise-all", "quantise-4x4"),
    ("random hash and rounding, given scale", "quantise-given", "quantise-given-nearest"),
    ("random hash and rounding, scale per tensor", "quantise-1x1", "quantise-1x1-nearest"),
    ("random hash and rounding, 4 channel groups", "quantise-1x4", "quantise-1x4-nearest"),
    ("random hash and rounding, 4x4 groups", "quantise-4x4", "quantise-4x4-nearest"),
    ("random hash alone", "noise", None),
    ("sorter of 4 groups, alone", "sort-4", None),
)


def _added(resource, mine, other):
    """What one unit takes more than another, linked to the first."""
    count = mine.report["array"][resource]
    words, title = f"{count:,}", f"{mine.name}\n{mine.command}"
    if other:
        base = other.report["array"][resource]
        words = f"{count - base:+,} ({change(count, base)})"
        title += f"\nagainst {other.name}\n{other.command}"
    return f'<a href="{mine.href}" title="{escape(title)}">{words}</a>'


def _steps(units):
    """What each step of a quantiser costs, as differences."""
    found = {(point.subject.scope, point.subject.lanes): result for point, result in units.items()
             if result.report and point.subject.mapping == "dsp"}
    rows = []
    for lanes in dict.fromkeys(lanes for _, lanes in found):
        for words, scope, base in _STEPS:
            mine, other = found.get((scope, lanes)), found.get((base, lanes))
            if mine and (other or not base):
                against = f"{scope} against {base}" if base else scope
                rows.append([escape(words), str(lanes), _added("comb", mine, other),
                             _added("ff", mine, other), escape(against)])
    if not rows:
        return ""
    return ("<h3>What a quantiser's steps cost</h3><p>Differences between the units above, all "
            "stochastic but where the step is random rounding.</p>"
            + _table(["step", "lanes", "COMB", "FF", ""], rows, words={4}))


def _units(results):
    figures = [_cells("comb"), _cells("ff"), _fmax, _cells("dsp"), _cells("ebr")]
    heads = ["unit", "COMB", "FF", "Fmax, MHz", "DSP", "EBR"]
    text = (
        "<p>Units and what they are compared with, alone, in the harness of the arrays. "
        "Multipliers are in DSP blocks unless a row says no DSP. Quantisers differ in how a scale "
        "is found and numbers are rounded, and so in how often a row is read. The L1 and L2 norms "
        "in integers do the same work with the same accesses to memory; the norm in binary16 does "
        "less: it has no rectifier, no mask of one, no inference and no count of clamped numbers. "
        "All take "
        f"different times: cycles are those of a column of {NORM_ROWS} rows in every lane, "
        "microseconds those per column at the median of the seeds, or the cap where that is "
        "lower.</p>")
    units = results.units()
    for category in dict.fromkeys(unit.category for unit in UNITS.values()):
        rows, timed = [], category.startswith("norm")
        for point, result in units.items():
            subject = point.subject
            unit = UNITS[subject.scope]
            if unit.category != category:
                continue
            more = [lambda _, subject=subject: f"{norm_cycles(subject):,}",
                    lambda result, subject=subject: f"{microseconds(subject, result):.1f}"
                    ] if timed else []
            mapping = ", no DSP" if subject.mapping == "lut" else ""
            name, *cells = _row(f"{subject.scope}{mapping}, {subject.lanes} "
                                f"{'lane' if subject.lanes == 1 else 'lanes'}, "
                                f"LFE5U-{point.part.size}", result, figures + more)
            rows.append([name, *cells, escape(unit.description)])
        columns = [*heads, *(["cycles", "µs per column"] if timed else []), ""]
        text += f"<h3>{escape(category.capitalize())}</h3>" + _table(
            columns, rows, words={len(columns) - 1})
    return text + _steps(units)


def _scaling(results):
    def size(point):
        return point.subject.macs

    def label(point):
        subject = point.subject
        return f"{arithmetic(point)}, {_shape(subject)}, LFE5U-{point.part.size}"
    every = {point: result for point, result in results.meshes(speed=6).items()
             if point.subject.bits in (4, 16) and point.subject.mapping == "lut"
             and result.state != "not measured"}
    # One die for each size, the smallest that was measured; integers in elements of four products.
    smallest = {}
    for point, result in sorted(every.items(), key=lambda pair: pair[0].part.size):
        deepest = DATAPATHS[point.subject.arith].deepest
        if result.report and point.subject.depth == deepest:
            smallest.setdefault((point.subject.arith, point.subject.macs), (point, result))
    points = dict(smallest.values())
    comb = _lines("COMB per MAC.", _series(points, size, lambda result: per_mac(result, "comb"),
                                           "COMB per MAC"),
                  name="COMB per MAC against size", x_label="products per clock",
                  y_label="COMB per MAC", log_x=True)
    mhz = _lines("Median Fmax.", _series(
        points, size, lambda result: result.report["fmax_mhz"]["median"], "MHz"),
        name="Fmax against size", x_label="products per clock", y_label="Fmax, MHz", log_x=True)
    rows = [_row(label(point), result, (_each("comb"), _each("ff"), _fmax, _rate))
            for point, result in sorted(every.items(), key=lambda pair: (
                pair[0].subject.arith, pair[0].subject.macs, pair[0].part.size))]
    cores = [_row(label(point), result, (_each("comb"), _each("ff"), _cells("ebr"), _fmax))
             for point, result in results.cores().items()]
    return (f'<div class="pair">{comb}{mhz}</div>'
            "<p>Integers have 4 bits and, in the plots, elements of four products; floating point "
            "has one. Rows x columns x products per element:</p>"
            + _table(["array", "COMB per MAC", "FF per MAC", "Fmax, MHz", "GOPS per 1,000 COMB"],
                     rows)
            + "<p>With all that has the array's clock, which is what Fmax is of: the memory of its "
              "operands and the addresses to it, accumulators and results. The units' ports have "
              "another clock, as in a machine:</p>"
            + _table(["array with memories", "COMB per MAC", "FF per MAC", "EBR", "Fmax, MHz"],
                     cores))


def _boards(results):
    rows = []
    every = fits(results)
    for fit in every:
        if not fit.mesh.report or not fit.rest:
            estimated = _absent(fit.mesh) if not fit.mesh.report else _NOT_MEASURED
        elif not fit.shape:
            estimated = "none"
        else:
            words = f"{fit.macs:,} ({fit.shape[0]}x{fit.shape[1]}x{Params.depth})"
            estimated = "about " + _link(fit.mesh, lambda _, words=words: words)
        measured = _NOT_MEASURED
        if fit.measured:
            measured = _link(fit.measured, lambda result: str(result.report["macs_per_clock"]))
        rows.append([escape(fit.board), str(fit.bits), estimated,
                     f"{fit.memory}k" if fit.memory else "-", measured])
    base = ""
    rest = next((fit.rest for fit in every if fit.rest), None)
    if rest:
        base = (" The rest is that of the measured machine nearest in width, such as "
                f"{_link(rest, lambda result: _machine_name(result.report))}, with one lane; the "
                "unit around the array grows with its rows or columns.")
    return (
        "<p>Products per clock of the largest ShiftQuant machine, rows x columns x products per "
        f"element. <em>Estimated</em>: {FILL:.0%} of the die's LUT4 and flip-flops, less the rest "
        f"of the machine, divided by what a product takes in a {_MESH} array.{base} At most 64 "
        "rows; memory is in units of 1,024 elements. Nobody has placed these. <em>Measured</em>: "
        "the largest machine that was placed.</p>"
        + _table(["board", "bits", "estimated", "memory", "measured"], rows))


def _calibration(design):
    """Cells of somebody else's design."""
    low, high = design.mhz or (None, None)
    if not design.mhz:
        clock, unit = "-", "-"
    else:
        clock = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        unit = f"{per_throughput(design.comb_per_mac, (low + high) / 2):,.0f}"
    return [f"{escape(design.name)}: {escape(design.what)}", f"{design.comb_per_mac:,}",
            str(design.dsp_per_mac), clock, unit, escape(f"by hand, see below; {design.home}")]


def _elsewhere(results):
    heads = ["design", "COMB per MAC", "DSP per MAC", "Fmax, MHz",
             "COMB per MAC per 100 MHz", "source"]
    figures = (_each("comb"), lambda result: f"{per_mac(result, 'dsp'):g}", _fmax,
               lambda result: f"{per_throughput(per_mac(result, 'comb'), usable_mhz(result)):,.0f}")
    rows = []

    def ours(name, result):
        name, *cells = _row(f"ours: {name}", result, figures)
        rows.append([f'<div class="ours">{name}</div>', *cells,
                     f'<a href="{result.href}">{escape(result.name)}</a>' if result.href else ""])

    for kind, (arithmetics, bits) in KINDS.items():
        rows.append([_Wide(len(heads), f"<strong>{escape(kind.capitalize())}</strong>")])
        rows += [_calibration(design) for design in FOREIGN if design.kind == kind]
        for point, result in results.units().items():
            _, _, element = point.subject.scope.partition("element-")
            if element.removesuffix("-dsp") in arithmetics and point.subject.lanes == 1:
                mapping = {"lut": "no DSP", "dsp": "DSP"}[point.subject.mapping]
                ours(f"{element.removesuffix('-dsp')}, {mapping}, one element", result)
        for shape in (MESH, SMALL_MESH):
            for point, result in results.comparison(shape).items():
                subject = point.subject
                if subject.arith not in arithmetics or subject.bits != bits or (
                        shape == SMALL_MESH and len(DATAPATHS[subject.arith].widths) > 1):
                    continue
                ours(f"{arithmetic(point)}, {_shape(subject)}{_sums(subject)}", result)
    return (
        "<p>Ours beside others, so that a reader sees whether what we compare with is strong. "
        "Those of others are written by hand. Out of context and without a harness, paths from a "
        "design's ports do not count, which flatters its clock; ours stand between the registers "
        "of the harness, and meshes of floating point include what unpacks and packs numbers at "
        "their edges and the registers that delay operands. Our sums are as wide as a column "
        "needs, and what adds them up further lies outside the array; those of others are wider "
        "and stay in it. COMB per MAC per 100 MHz is the price of throughput: at the middle of a "
        "range, or at our median, or the cap where that is lower.</p>"
        + _table(heads, rows, words={5})
        + f"<p>{escape(BY_HAND)}</p>"
        f"<p>The paper's own claim is {PAPER['change']:g} % ({escape(PAPER['source'])}): another "
          "device, another design, and not measured here.</p>")


def _history(budget):
    if budget is None:
        return '<p class="missing">The file of sizes is damaged.</p>'
    entries = budget.content["entries"]
    if not entries:
        return f"<p>{_NOT_MEASURED}</p>"
    href = "../tests/hdl/size_budget.json"
    series, rows = [], []
    for colour, name in enumerate(SUBJECTS, 1):
        marks = [Mark(place, entry[name]["comb"], href,
                      f"{entry['date']}, {entry['what']}: {name}, {entry[name]['comb']:,} COMB\n"
                      "python -m reports.budget")
                 for place, entry in enumerate(entries, 1)]
        series.append(Series(name, colour, marks))
    for place, entry in enumerate(entries, 1):
        figures = [f'<a href="{href}" title="python -m reports.budget">{entry[of][resource]:,}</a>'
                   for of in SUBJECTS for resource in ("comb", "ff")]
        rows.append([escape(f"{place}. {entry['date']}, {entry['what']}"), *figures])
    return (
        "<p>Sizes after synthesis of a small machine (4 bits, 2x2x4), an array (4 bits, 4x4x4) and "
        "a quantiser of one lane. A test fails when COMB or FF of one of them grow by more than "
        f"{budget.content['tolerance_percent']} % and nobody enters the new size: "
        "<code>python -m reports.budget --update WHAT</code>.</p>"
        + _lines("COMB by entry.", series, name="COMB by entry", x_label="entry", y_label="COMB")
        + _table(["entry", *(f"{name}: {resource}" for name in SUBJECTS
                             for resource in ("COMB", "FF"))], rows))


def _everything(results):
    rows = []
    for result in sorted(results.every.values(), key=lambda result: result.name):
        state = escape(result.failure or result.state)
        if result.href:
            state = f'<a href="{result.href}">{state}</a>'
        else:
            state = f'<span class="missing">{state}</span>'
        rows.append([_named(result.name, result), state])
    tools = {f"{name} {version}" for result in results.every.values() if result.report
             for name, version in result.report["tools"].items()}
    damaged = "".join(f"<p>{escape(str(error))}</p>" for error in results.damaged)
    return (damaged + _table(["point", "state"], rows, words={1})
            + f"<p class=soft>Tools: {escape(', '.join(sorted(tools)))}.</p>")


def page(results, budget):
    """The page of a :class:`reports.figures.Results` and a :class:`reports.budget.Budget`, or None
    where that is damaged."""
    sections = [
        ("arrays", "Arithmetic", _arrays(results)),
        ("clock", "Clock", _clock(results)),
        ("scaling", "Size of the array", _scaling(results)),
        ("machines", "Machines", _machines(results)),
        ("units", "Units", _units(results)),
        ("floorplans", "Floorplans", _floorplans(results)),
        ("boards", "What fits your board", _boards(results)),
        ("elsewhere", "Elsewhere", _elsewhere(results)),
        ("history", "Size by version", _history(budget)),
        ("points", "Every point", _everything(results)),
    ]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>\n{text}</section>\n'
                   for key, title, text in sections)
    return f"""<!DOCTYPE html>
<html lang="en-GB"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>shiftgrad: measured designs</title>
<style>
{_STYLE.read_text()}</style></head>
<body><h1>shiftgrad: measured designs</h1>
<p>Written by <code>python -m reports</code> from committed files alone. Every figure links to its
file; point at it, or open its row, for the command that measures it. COMB, FF, EBR and DSP are
cells of the placed design (nextpnr): LUT4 positions with carry chains, flip-flops, 18-kbit block
RAMs, 18x18 multipliers. Nothing here was seen on a board.</p>
<nav><ul>{links}</ul></nav>
{body}</body></html>
"""
