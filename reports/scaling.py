"""How large arrays get on each die: the table of docs/array.md."""

from hdl.build.summary import DamagedError, read_point
from reports.points import SCALING, Store, scaling

__all__ = ["sizes"]


def _rows(store):
    for (bits, die, rows, cols), point in zip(SCALING, scaling(), strict=True):
        name = [f"{bits}", f"{rows}x{cols}x4", f"LFE5U-{die}", f"{point.subject.macs:,}"]
        try:
            found = read_point(store.path(point))
        except (FileNotFoundError, DamagedError):
            continue
        report = found["report"]
        if report is None:
            yield [*name, "does not route", "", "", "", ""]
            continue
        fmax, products = report["fmax_mhz"], report["macs_per_clock"]
        clock = min(fmax["median"], fmax["cap_mhz"])
        yield [*name, f"{report['total']['comb'] / report['available']['comb']:.0%}",
               f"{report['comb_per_mac']:.1f}", f"{report['array']['ff'] / products:.1f}",
               f"{fmax['median']:.0f}", f"{2 * products * clock / 1e6:.2f}"]


def sizes(store=None):
    """The table, of what has been measured."""
    heads = ["bits", "array", "die", "products", "of the LUTs", "COMB per MAC", "FF per MAC",
             "Fmax, MHz", "TOPS"]
    return "".join(f"| {' | '.join(row)} |\n" for row in (
        heads, ["---"] * len(heads), *_rows(store or Store())))
