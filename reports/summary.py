"""The table of arrays in the project's README."""

from hdl.build.datapaths import DATAPATHS
from hdl.build.tables import change
from reports.figures import arithmetic, per_mac, rate
from reports.points import MESH, SMALL_MESH

__all__ = ["arrays"]

_WIDTHS = (4, 8)
_MAPPINGS = {"lut": "no DSP", "dsp": "DSP"}
_HEADS = ("COMB per MAC", "FF per MAC", "DSP per MAC", "Fmax, MHz: median (range)",
          "GOPS per 1,000 COMB")


def _figures(result):
    fmax = result.report["fmax_mhz"]
    seeds = "one seed" if len(fmax["seeds"]) == 1 else f"{fmax['min']:.1f} to {fmax['max']:.1f}"
    link = f"[{per_mac(result, 'comb'):.1f}](reports/{result.href})"
    return [link, f"{per_mac(result, 'ff'):.1f}", f"{per_mac(result, 'dsp'):g}",
            f"{fmax['median']:.1f} ({seeds})", f"{rate(result):.2f}"]


def _differences(points):
    """Rows of differences between arrays of which both are measured."""
    found = {(point.subject.arith, point.subject.bits, point.subject.mapping): result
             for point, result in points.items() if result.report}
    pairs = [(("shift", bits, "lut"), (plain, bits, "lut"))
             for bits in _WIDTHS for plain in ("int-wide", "int")]
    pairs += [(("shift", 4, "lut"), (arith, made.widths[0], mapping))
              for arith, made in DATAPATHS.items() if len(made.widths) == 1
              for mapping in made.mappings]
    for mine, other in pairs:
        if mine in found and other in found:
            a, b = found[mine], found[other]
            made = DATAPATHS[other[0]]
            name = (f"{other[0]}, {other[1]} bits" if len(made.widths) > 1 else
                    f"{other[0]}, {_MAPPINGS[other[2]]}")
            yield [f"{mine[0]}, {mine[1]} bits, against {name}",
                   change(per_mac(a, "comb"), per_mac(b, "comb")),
                   change(per_mac(a, "ff"), per_mac(b, "ff")), "",
                   change(a.report["fmax_mhz"]["median"], b.report["fmax_mhz"]["median"]),
                   change(rate(a), rate(b))]


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
        rows += _differences(points)
        lines = [(f"array, {size}", *_HEADS), ["---"] * (1 + len(_HEADS)), *rows]
        tables.append("".join("| " + " | ".join(row) + " |\n" for row in lines))
    return "\n".join(tables) + (f"\nNot measured yet: {'; '.join(missing)}.\n" if missing else "")
