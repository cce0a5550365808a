"""The table of arrays in the project's README."""

from hdl.build.datapaths import DATAPATHS
from hdl.build.summary import plain_twin
from hdl.build.tables import change
from reports.figures import arithmetic, fmax_words, per_mac, rate
from reports.points import MESH, SMALL_MESH

__all__ = ["arrays", "differences", "machine_twins"]

_WIDTHS = (4, 8)
_MAPPINGS = {"lut": "no DSP", "dsp": "DSP"}
_HEADS = ("COMB per MAC", "FF per MAC", "DSP per MAC", "Fmax, MHz: median (range)",
          "GOPS per 1,000 COMB")


def _figures(result):
    link = f"[{per_mac(result, 'comb'):.1f}](reports/{result.href})"
    return [link, f"{per_mac(result, 'ff'):.1f}", f"{per_mac(result, 'dsp'):g}",
            fmax_words(result.report["fmax_mhz"]), f"{rate(result):.2f}"]


def differences(points, widths, widths_to_floats=(4,)):
    """``(words, result, other)`` of arrays that are compared, both measured.

    ShiftQuant is compared with integers at every one of ``widths``, and at ``widths_to_floats``
    with every format of floating point.
    """
    found = {(point.subject.arith, point.subject.bits, point.subject.mapping): result
             for point, result in points.items() if result.report}
    pairs = [((mine, bits, "lut"), (plain, bits, "lut")) for bits in widths
             for mine, plain in (("shift", "int-wide"), ("int-wide", "int"), ("shift", "int"))]
    pairs += [(("shift", bits, "lut"), (arith, made.widths[0], mapping))
              for bits in widths_to_floats
              for arith, made in DATAPATHS.items() if len(made.widths) == 1
              for mapping in made.mappings]
    for mine, other in pairs:
        if mine in found and other in found:
            made = DATAPATHS[other[0]]
            name = (f"{other[0]}, {other[1]} bits" if len(made.widths) > 1 else
                    f"{other[0]}, {_MAPPINGS[other[2]]}")
            yield f"{mine[0]}, {mine[1]} bits, against {name}", found[mine], found[other]


def machine_twins(results):
    """``(result, other)`` of machines and their plain-integer twins, both measured."""
    reports = [result.report for result in results.machines]
    for result in results.machines:
        twin = plain_twin(result.report, reports)
        if twin and twin is not result.report:
            yield result, results.machines[reports.index(twin)]


def _difference(words, mine, other):
    dsp = per_mac(mine, "dsp") - per_mac(other, "dsp")
    return [words, *(change(per_mac(mine, of), per_mac(other, of)) for of in ("comb", "ff")),
            f"{dsp:+g}" if dsp else "",
            change(*(one.report["fmax_mhz"]["median"] for one in (mine, other))),
            change(rate(mine), rate(other))]


def arrays(results):
    """Arrays alone, those of integers at a few widths, as Markdown: a table for each shape."""
    tables, missing = [], []
    for shape in (MESH, SMALL_MESH):
        rows, points = [], results.comparison(shape)
        size = "{rows}x{cols}".format(**shape)
        for point, result in points.items():
            if len(DATAPATHS[point.subject.arith].widths) > 1 and point.subject.bits not in _WIDTHS:
                continue
            if result.report:
                rows.append([arithmetic(point), *_figures(result)])
            elif result.failure:
                rows.append([arithmetic(point), *["failed"] * len(_HEADS)])
            else:
                missing.append(f"{arithmetic(point)} ({size})")
        rows += [_difference(*pair) for pair in differences(points, _WIDTHS)]
        lines = [(f"array, {size}", *_HEADS), ["---"] * (1 + len(_HEADS)), *rows]
        tables.append("".join("| " + " | ".join(row) + " |\n" for row in lines))
    return "\n".join(tables) + (f"\nNot measured yet: {'; '.join(missing)}.\n" if missing else "")
