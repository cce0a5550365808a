"""``--compare``: a design beside plain integers and floating point, part by part.

Two machines, the requested one and its plain-integer twin, and the arrays alone: those of the two
machines and those of floating point, all in the same harness with the same options. Only what
stands in the same row of the same table is compared.
"""

from dataclasses import dataclass, replace

from hdl.build.alone import MeshAlone
from hdl.build.datapaths import DATAPATHS
from hdl.build.fit import EstimateError, FitError
from hdl.build.tables import change, columns, number
from hdl.build.tools import ToolError

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


def float_twins(params):
    """Arrays of floating-point elements, of one product each.

    As many products per clock as the machine, at most 4 x 4: those fit every die and are placed in
    minutes, and figures per product are what is compared.
    """
    # Square: rows and columns have an edge each.
    rows = 4 if params.macs >= 16 else 2 if params.macs >= 4 else 1
    cols = min(4, params.macs // rows)
    return [MeshAlone(arith=arith, bits=DATAPATHS[arith].widths[0], groups="1x1", rows=rows,
                      cols=cols, depth=1, mapping=mapping)
            for arith in FLOATS for mapping in DATAPATHS[arith].mappings]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compared` found.

    Parameters
    ----------
    machines, arrays : dict
        Reports by name: ``shift``, ``int``; arrays also ``fp16-lut`` and the like.
    failed : dict
        Why there is no report, by name; arrays as ``array-int``.
    """
    machines: dict
    arrays: dict
    failed: dict

    def json(self):
        return {"machines": self.machines, "arrays": self.arrays, "failed": self.failed}

    def table(self):
        """Two tables in words; differences are the first column's against each other one's."""
        return "\n\n".join([
            _table("whole machine", self.machines, _MACHINE), array_table(self.arrays),
            *(f"no {name}: {reason}" for name, reason in self.failed.items())])


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
    return report["gops"] / report["array"]["comb"] * 1000


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


def compared(params, *, machine, alone):
    """The :class:`Comparison` of a machine.

    ``machine(params, name)`` builds a machine and ``alone(subject, name)`` an array; both return
    a report. A twin that does not fit or cannot be placed is left out, and said to be; the
    requested machine must be there.
    """
    failed = {}

    def tried(build, subject, name):
        """Its report, if there is one."""
        try:
            return build(subject, name)
        except (EstimateError, FitError, ToolError) as error:
            if isinstance(error, ToolError) and not error.told:
                raise
            failed[name], _, _ = str(error).partition(" (logs in ")
            return None

    machines = {params.arith: machine(params, None)}
    if params.arith != "int":
        machines["int"] = tried(machine, plain_twin_params(params), "int")
    arrays = {}
    for subject in [*arrays_of(params), *float_twins(params)]:
        name = subject.arith
        if len(DATAPATHS[name].mappings) > 1:
            name = f"{name}-{subject.mapping}"
        arrays[name] = tried(alone, subject, f"array-{name}")
    return Comparison(*({name: report for name, report in reports.items() if report}
                        for reports in (machines, arrays)), failed)
