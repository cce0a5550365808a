"""The tables of arrays, the machine and units in the project's README."""

from hdl.build.datapaths import DATAPATHS
from hdl.build.summary import plain_twin
from hdl.build.tables import change
from reports.figures import arithmetic, fmax_words, microseconds, norm_cycles, per_mac, rate
from reports.points import LARGE_MESH, MESH, SMALL_MESH, machine

__all__ = ["arrays", "differences", "machine_twins", "machines", "units"]

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

    ShiftQuant is compared with integers at every one of ``widths``, those with plain multipliers,
    and ShiftQuant at ``widths_to_floats`` with every format of floating point.
    """
    found = {(point.subject.arith, point.subject.bits, point.subject.mapping): result
             for point, result in points.items() if result.report}
    pairs = [((mine, bits, "lut"), (plain, bits, "lut")) for bits in widths
             for mine, plain in (("shift", "int-wide"), ("int-wide", "int"), ("shift", "int"))]
    pairs += [(("int", bits, "lut"), ("int-mult", bits, mapping))
              for bits in widths for mapping in DATAPATHS["int-mult"].mappings]
    pairs += [(("shift", bits, "lut"), (arith, made.widths[0], mapping))
              for bits in widths_to_floats
              for arith, made in DATAPATHS.items() if len(made.widths) == 1
              for mapping in made.mappings]
    for mine, other in pairs:
        if mine in found and other in found:
            made = DATAPATHS[other[0]]
            name = ", ".join([other[0], *([f"{other[1]} bits"] if len(made.widths) > 1 else []),
                              *([_MAPPINGS[other[2]]] if len(made.mappings) > 1 else [])])
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


def _markdown(rows):
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _linked(result, words):
    return f"[{words}](reports/{result.href})"


def machines(results):
    """The default machine beside plain integers, as Markdown."""
    mine, plain = (results.every[point.name] for point in (
        machine(), machine(arith="int", sample_groups=1, channel_groups=1)))
    rows = [("", "COMB", "FF", "EBR", "DSP", "Fmax, MHz: median (range)"), ["---"] * 6]
    for name, result in (("ShiftQuant, 4x4 groups", mine), ("plain integers", plain)):
        if result.report:
            total = result.report["total"]
            rows.append([_linked(result, name), *(f"{total[of]:,}" for of in (
                "comb", "ff", "ebr", "dsp")), fmax_words(result.report["fmax_mhz"])])
        else:
            rows.append([name, *[result.state] * 5])
    if mine.report and plain.report:
        for name, where in (("whole machine", "total"), ("array alone", "array")):
            rows.append([f"ShiftQuant's price, {name}", *(
                change(mine.report[where][of], plain.report[where][of])
                for of in ("comb", "ff")), "", "", ""])
    text = _markdown(rows)
    if mine.report:
        fmax, path = mine.report["fmax_mhz"], mine.report.get("slowest_path")
        clock = mine.report["design"]["clock_mhz"]
        meet = sum(mhz >= clock for mhz in fmax["seeds"])
        text += (f"\nThe clock is {clock:g} MHz by default, which {meet} of "
                 f"{len(fmax['seeds']) + len(fmax['failed'])} seeds meet.")
        if "array" in fmax:
            times = mine.report["design"]["array_clock"]
            text += (f" That of the array is {times} times as fast; the array by itself reaches "
                     f"{fmax['array']['median']:.0f} MHz.")
        if path:
            text += (f" Of the {path['ns']:.1f} ns of the best seed's slowest path "
                     f"{path['routing_ns']:.1f} are wire.")
        text += "\n"
    return text


#: Units in the README, by their category's heading.
_UNITS = {
    "quantiser": ("quantise-given", "quantise-1x1", "quantise-column", "quantise-1x4",
                  "quantise-4x4", "quantise-4x4-nearest", "quantise-all"),
    "norm": ("norm-l1-forward", "norm-l2-forward", "norm-fp16-forward", "norm-l1-backward",
             "norm-l2-backward", "norm-fp16-backward"),
}


def units(results):
    """A lane of the quantiser and of the norms alone, as Markdown."""
    found = {point.subject.scope: (point, result) for point, result in results.units().items()
             if point.subject.lanes == 1 and point.subject.mapping == "dsp"}
    tables = []
    for category, names in _UNITS.items():
        timed = category == "norm"
        heads = [f"{category}, one lane", "COMB", "FF", "DSP", "Fmax, MHz: median (range)",
                 *(["cycles", "µs per column"] if timed else [])]
        rows = [heads, ["---"] * len(heads)]
        for name in names:
            point, result = found[name]
            if not result.report:
                rows.append([name, *[result.state] * (len(heads) - 1)])
                continue
            used = result.report["array"]
            rows.append([
                _linked(result, name), *(f"{used[of]:,}" for of in ("comb", "ff", "dsp")),
                fmax_words(result.report["fmax_mhz"]),
                *([f"{norm_cycles(point.subject):,}",
                   f"{microseconds(point.subject, result):.1f}"] if timed else [])])
        tables.append(_markdown(rows))
    return "\n".join(tables)


def arrays(results):
    """Arrays alone, those of integers at a few widths, as Markdown: a table for each shape."""
    tables, missing = [], []
    for shape in (LARGE_MESH, MESH, SMALL_MESH):
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
        tables.append(_markdown(lines))
    return "\n".join(tables) + (f"\nNot measured yet: {'; '.join(missing)}.\n" if missing else "")
