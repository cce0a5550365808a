"""``python -m reports``: draw every table and picture from reports/data."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

from hdl.build.floorplan import COLOURS
from hdl.build.summary import DamagedError, plain_twin
from hdl.build.tables import change
from reports.accuracy.store import FOLDER as RESULTS
from reports.accuracy.table import study, summary
from reports.figures import Results, fmax_words, read_budget
from reports.instructions import format_table, operations, window_words
from reports.page import page
from reports.scaling import sizes
from reports.summary import arrays, machines, units
from reports.utilisation import markdown

__all__ = ["array_page", "bars", "machine_page", "main", "project_readme", "readme", "write"]

FOLDER = Path(__file__).resolve().parent
#: What tables stand between in README.md.
_STUDY = "<!-- study -->", "<!-- end of study -->"
_FIGURES = "<!-- figures -->", "<!-- end of figures -->"
_MACHINES = "<!-- machines -->", "<!-- end of machines -->"
_UNITS = "<!-- units -->", "<!-- end of units -->"
#: The same in docs/array.md.
_UTILISATION = "<!-- utilisation -->", "<!-- end of utilisation -->"
_SIZES = "<!-- sizes -->", "<!-- end of sizes -->"
#: In docs/machine.md.
_FORMAT = "<!-- format -->", "<!-- end of format -->"
_WINDOWS = "<!-- windows -->", "<!-- end of windows -->"
_INSTRUCTIONS = "<!-- instructions -->", "<!-- end of instructions -->"
_HEAD = """# Measured designs

Whole machines; [index.html](index.html) is a page of everything, arrays and units alone included.
Written by `python -m reports` from `data/*.json`, which `python -m reports.measure` measures. COMB,
FF, EBR and DSP are cells of the placed design: LUT4 positions (TRELLIS_COMB, carry chains
included), flip-flops, 18-kbit block RAMs and 18x18 multipliers. *Array* is the mesh of multipliers
and adders alone, counted within the same design; the rest is memory, control, quantiser,
normalisation and link. Fmax is nextpnr's, by default over five seeds. It says nothing about the
shortest clock pulse of block RAM, which caps each speed grade (-6: 190.7 MHz with clock phases of
45 % and 55 %). Rates are peak, two operations per MAC, at the clock the design was built for.
"""


def _design(report):
    design = report["design"]
    return (f"{design['arith']} {design['groups']}, {design['bits']} bits, "
            f"{design['rows']}x{design['cols']}x{design['depth']}")


def _table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def readme(reports):
    """The text of reports/README.md."""
    if not reports:
        return f"{_HEAD}\nNothing has been measured yet.\n"
    whole, array, costs = [], [], []
    for report in reports:
        total, fmax, name = report["total"], report["fmax_mhz"], _design(report)
        whole.append([
            name, report["part"], f"{total['comb']:,}", f"{total['ff']:,}", total["ebr"],
            total["dsp"], f"{report['design']['clock_mhz']:g}",
            fmax_words(fmax), report["gops"]])
        mesh = report["array"]
        array.append([name, report["macs_per_clock"], f"{mesh['comb']:,}", f"{mesh['ff']:,}",
                      mesh["dsp"], report["comb_per_mac"],
                      f"{mesh['ff'] / report['macs_per_clock']:.2f}"])
        twin = plain_twin(report, reports)
        if twin and report["design"]["arith"] != "int":
            costs.append([
                f"{name} against {_design(twin)}", change(mesh["comb"], twin["array"]["comb"]),
                change(mesh["ff"], twin["array"]["ff"]),
                change(total["comb"], twin["total"]["comb"]),
                change(total["ff"], twin["total"]["ff"]),
                change(fmax["median"], twin["fmax_mhz"]["median"])])
    text = _HEAD + "\n## Whole designs\n\n" + _table(
        ["design", "part", "COMB", "FF", "EBR", "DSP", "clock, MHz", "Fmax, MHz", "GOPS"], whole)
    text += "\n## Arrays\n\n" + _table(
        ["design", "MACs per clock", "COMB", "FF", "DSP", "COMB per MAC", "FF per MAC"], array)
    text += "\n![COMB by unit](comb.svg)\n"
    if costs:
        text += "\n## What ShiftQuant costs\n\n" + _table(
            ["design", "array COMB", "array FF", "all COMB", "all FF", "Fmax"], costs)
    tools = {f"{name} {version}" for report in reports
             for name, version in report["tools"].items()}
    return text + "\nTools: " + ", ".join(sorted(tools)) + ".\n"


def bars(reports):
    """An SVG: COMB of each design, by unit."""
    units = {}
    for report in reports:
        for unit, used in report["units"].items():
            units[unit] = max(units.get(unit, 0), used["comb"])
    order = sorted(units, key=lambda unit: (unit != "array", -units[unit], unit))
    colour = {unit: COLOURS[min(i, len(COLOURS) - 1)] for i, unit in enumerate(order)}
    most = max((report["total"]["comb"] for report in reports), default=1)
    shapes = []
    for number, report in enumerate(reports):
        y, x = 34 * number + 10, 240.0
        shapes.append(f'<text x="230" y="{y + 16}" text-anchor="end">{escape(_design(report))}'
                      '</text>')
        for unit in order:
            comb = report["units"].get(unit, {"comb": 0})["comb"]
            width = 480 * comb / most
            if comb:
                shapes.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="24" '
                              f'fill="{colour[unit]}"><title>{escape(unit)}: {comb} COMB</title>'
                              '</rect>')
            x += width
        shapes.append(f'<text x="{x + 6:.1f}" y="{y + 16}">{report["total"]["comb"]:,}</text>')
    top = 34 * len(reports) + 24
    for number, unit in enumerate(order):
        x, y = 20 + 200 * (number % 4), top + 22 * (number // 4)
        shapes.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour[unit]}"/>')
        shapes.append(f'<text x="{x + 18}" y="{y + 11}">{escape(unit)}</text>')
    height = top + 22 * -(-len(order) // 4) + 10
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{height}" '
        f'viewBox="0 0 820 {height}" font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="820" height="{height}" fill="#fff"/>', *shapes, "</svg>", ""])


def write(results, budget, folder=FOLDER):
    """Write everything that is drawn; the study's pictures only where matplotlib is installed."""
    reports = [result.report for result in results.machines]
    (folder / "README.md").write_text(readme(reports))
    (folder / "comb.svg").write_text(bars(reports))
    (folder / "index.html").write_text(page(results, budget))
    pictures = folder / "pictures"
    if find_spec("matplotlib"):
        from reports.accuracy.plots import draw
        draw(RESULTS, FOLDER / "data" / "numerics" / "numerics.json", pictures)
    (folder / "accuracy.md").write_text(study(RESULTS, pictures))


def with_table(text, marks, table):
    """``text`` with ``table`` between the two marks.

    >>> with_table("a <!-- x -->old<!-- y --> b", ("<!-- x -->", "<!-- y -->"), "new")
    'a <!-- x -->\nnew<!-- y --> b'
    """
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    if not after:
        raise SystemExit(f"reports: a page has not the marks {marks[0]} and {marks[1]}")
    return f"{before}{marks[0]}\n{table}{marks[1]}{after}"


def project_readme(text, results):
    """The project's README with the tables of the study, machines, arrays and units."""
    for marks, table in ((_STUDY, summary(RESULTS)), (_MACHINES, machines(results)),
                         (_FIGURES, arrays(results)), (_UNITS, units(results))):
        text = with_table(text, marks, table)
    return text


def array_page(text):
    """docs/array.md with its tables of products and of sizes."""
    return with_table(with_table(text, _UTILISATION, markdown()), _SIZES, sizes())


def machine_page(text):
    """docs/machine.md with the instruction set."""
    text = with_table(with_table(text, _FORMAT, format_table()), _WINDOWS, window_words())
    return with_table(text, _INSTRUCTIONS, f"\n{operations()}\n")


def main(argv=None):
    """Run the command; the exit status."""
    argparse.ArgumentParser(prog="python -m reports", description=__doc__,
                            allow_abbrev=False).parse_args(argv)
    results = Results()
    for error in results.damaged:
        print(error, file=sys.stderr)
    budget = None
    try:
        budget = read_budget()
    except DamagedError as error:
        print(error, file=sys.stderr)
    write(results, budget)
    path = FOLDER.parent / "README.md"
    path.write_text(project_readme(path.read_text(), results))
    for name, drawn in (("array.md", array_page), ("machine.md", machine_page)):
        path = FOLDER.parent / "docs" / name
        path.write_text(drawn(path.read_text()))
    if not find_spec("matplotlib"):
        print("matplotlib is not installed: the study's pictures are left as they are")
    print(f"written to {FOLDER}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
