"""``--compare``: a design beside plain integers and floating point, part by part.

Two machines, the requested one and its plain-integer twin, and the arrays alone: those of the two
machines and those of floating point, all in the same harness with the same options. Only what
stands in the same row of the same table is compared.
"""

from dataclasses import dataclass, replace

from hdl.build.alone import MeshAlone
from hdl.build.datapaths import DATAPATHS
from hdl.build.fit import EstimateError, check_alone
from hdl.build.tables import change, columns, number

__all__ = ["FLOATS", "Comparison", "array_table", "arrays_of", "compared", "float_twins",
           "gops_per_kilocomb", "plain_twin_params"]

#: Floating-point datapaths to compare with, the strongest of each format.
FLOATS = ("fp16",)


def plain_twin_params(params):
    """The same machine with plain integers."""
    return replace(params, arith="int", sample_groups=1, channel_groups=1)


def arrays_of(params):
    """The arrays of a machine and of its plain twins, alone: shift, int-wide, int."""
    shape = {"bits": params.bits, "rows": params.rows, "cols": params.cols, "depth": params.depth}
    groups = params.groups if params.arith == "shift" else "4x4"
    return [MeshAlone(arith="shift", groups=groups, **shape),
            MeshAlone(arith="int-wide", groups=groups, **shape),
            MeshAlone(arith="int", groups="1x1", **shape)]


def float_twins(params, part):
    """Arrays of as many floating-point products per clock, or as many as surely fit.

    One product per element: a machine of depth P has P times the rows. Where the array is too
    large its rows and then its columns are halved, and figures per product are what is left to
    compare.
    """
    twins = []
    for arith in FLOATS:
        made = DATAPATHS[arith]
        for mapping in made.mappings:
            rows, cols = min(params.slots, 64), params.cols
            while True:
                twin = MeshAlone(arith=arith, bits=made.widths[0], groups="1x1", rows=rows,
                                 cols=cols, depth=1, mapping=mapping)
                try:
                    check_alone(twin, part)
                    break
                except EstimateError:
                    if rows == cols == 1:
                        raise
                    rows, cols = (rows // 2, cols) if rows > 1 else (rows, cols // 2)
            twins.append(twin)
    return twins


@dataclass(frozen=True)
class Comparison:
    """What :func:`compared` found.

    Parameters
    ----------
    machines, arrays : dict
        Reports by name: ``shift``, ``int``; arrays also ``fp16-lut`` and the like.
    """
    machines: dict
    arrays: dict

    def json(self):
        return {"machines": self.machines, "arrays": self.arrays}

    def table(self):
        """Two tables in words; differences are the first column's against each other one's."""
        return "\n\n".join([_table("whole machine", self.machines, _MACHINE),
                            array_table(self.arrays)])


def array_table(reports):
    """A table in words of arrays alone."""
    return _table("array alone, in one harness", reports, _ARRAY)


def _table(title, reports, rows):
    first, *others = reports
    lines = [[title, first, *others, *(f"{first} against {name}" for name in others)]]
    for row, figure in rows.items():
        value, *rest = (figure(report) for report in reports.values())
        lines.append([row, *(number(figure) for figure in (value, *rest)),
                      *(change(value, other) for other in rest)])
    return columns(lines)


def _resource(name, of="total"):
    return lambda report: report[of][name]


def _fmax(report):
    return report["fmax_mhz"]["median"]


def _per_mac(name):
    return lambda report: round(report["array"][name] / report["macs_per_clock"], 2)


def gops_per_kilocomb(report):
    """Peak rate per thousand LUT4 of the array, None without a clock.

    >>> gops_per_kilocomb({"gops": 5.0, "array": {"comb": 2000}})
    2.5
    """
    if not report["gops"]:
        return None
    return round(report["gops"] / report["array"]["comb"] * 1000, 3)


_MACHINE = {
    "COMB (LUT4)": _resource("comb"), "FF": _resource("ff"), "EBR": _resource("ebr"),
    "DSP": _resource("dsp"), "array: COMB": _resource("comb", "array"),
    "array: FF": _resource("ff", "array"), "Fmax, MHz (median)": _fmax,
    "GOPS": lambda report: report["gops"],
}
_ARRAY = {
    "products per clock": lambda report: report["macs_per_clock"],
    "COMB (LUT4)": _resource("comb", "array"), "FF": _resource("ff", "array"),
    "DSP": _resource("dsp", "array"), "COMB per MAC": _per_mac("comb"),
    "FF per MAC": _per_mac("ff"), "DSP per MAC": _per_mac("dsp"), "Fmax, MHz (median)": _fmax,
    "GOPS": lambda report: report["gops"], "GOPS per 1,000 COMB": gops_per_kilocomb,
}


def compared(params, part, *, machine, alone):
    """The :class:`Comparison` of a machine.

    ``machine(params, name)`` builds a machine and ``alone(subject, name)`` an array; both return
    a report.
    """
    machines = {params.arith: machine(params, None)}
    if params.arith != "int":
        machines["int"] = machine(plain_twin_params(params), "int")
    arrays = {}
    for subject in [*arrays_of(params), *float_twins(params, part)]:
        name = subject.arith
        if len(DATAPATHS[name].mappings) > 1:
            name = f"{name}-{subject.mapping}"
        arrays[name] = alone(subject, f"array-{name}")
    return Comparison(machines, arrays)
