"""Reading what the tools write: how much of what there is, of which unit, and where; and what
nextpnr gets otherwise than Yosys writes it."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

__all__ = ["Placed", "critical_path", "open_carries", "output_registers", "read_placed",
           "synthesised_cells", "unit_cells", "unit_of", "write_modes"]

#: Names in reports by the types of cells that nextpnr places.
_RESOURCES = {"TRELLIS_COMB": "comb", "TRELLIS_FF": "ff", "DP16KD": "ebr", "MULT18X18D": "dsp"}
#: LUT4 positions and flip-flops by the types of cells that Yosys leaves.
_SYNTHESISED = {
    "LUT4": {"comb": 1}, "CCU2C": {"comb": 2}, "TRELLIS_FF": {"ff": 1}, "DP16KD": {"ebr": 1},
    "PDPW16KD": {"ebr": 1}, "MULT18X18D": {"dsp": 1}, "TRELLIS_DPR16X4": {"comb": 6},
    "PFUMX": {}, "L6MUX21": {},
}
_BEL = re.compile(r"X(\d+)/Y(\d+)/(.*)")


def _nothing():
    return {"comb": 0, "ff": 0, "ebr": 0, "dsp": 0}


def unit_of(name, units):
    """The unit of a cell or net: that of the longest instance its name begins with.

    >>> units = {"": "board", "accelerator.gemm": "gemm", "accelerator.gemm.mesh": "array"}
    >>> unit_of("accelerator.gemm.mesh.row0.q", units), unit_of("accelerator.gemm2.q", units)
    ('array', 'board')
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        unit = units.get(".".join(parts[:length]))
        if unit is not None:
            return unit
    return units[""]


@dataclass
class Placed:
    """A placed design.

    Parameters
    ----------
    total : dict
        ``comb``, ``ff``, ``ebr``, ``dsp`` of the whole.
    units : dict of str to dict
        The same for each unit.
    bels : list of tuple
        ``(resource, unit, x, y)`` of every cell that is counted.
    """
    total: dict = field(default_factory=_nothing)
    units: dict = field(default_factory=dict)
    bels: list = field(default_factory=list)


def read_placed(design, units):
    """Count the cells of the JSON that nextpnr writes.

    Carry chains get cells from nextpnr at their ends, whose names say nothing: they belong to
    the unit of the cell that their carry comes from or goes to.
    """
    (module,) = design["modules"].values()
    cells = module["cells"]
    owner = {name: unit_of(name, units) for name in cells if not name.startswith("$nextpnr_")}
    _adopt(cells, owner)
    placed = Placed(units={unit: _nothing() for unit in dict.fromkeys(units.values())})
    for name, cell in cells.items():
        resource = _RESOURCES.get(cell["type"])
        if resource is None:
            continue
        unit = owner.get(name, units[""])
        placed.total[resource] += 1
        placed.units[unit][resource] += 1
        match = _BEL.fullmatch(cell["attributes"].get("NEXTPNR_BEL", ""))
        if match:
            placed.bels.append((resource, unit, int(match[1]), int(match[2])))
    return placed


def _adopt(cells, owner):
    """Give the cells without an owner that of a neighbour along the carry chain."""
    nets = {}
    for name, cell in cells.items():
        for port in ("FCI", "FCO"):
            for net in cell["connections"].get(port, []):
                nets.setdefault(net, []).append(name)
    orphans = {name: [net for port in ("FCI", "FCO")
                      for net in cells[name]["connections"].get(port, [])]
               for name in cells if name not in owner}
    found = True
    while orphans and found:
        found = {}
        for name, around in orphans.items():
            for net in around:
                known = [owner[other] for other in nets[net] if other in owner]
                if known:
                    found[name] = known[0]
                    break
        owner.update(found)
        for name in found:
            del orphans[name]


def synthesised_cells(design):
    """Resources of a Yosys netlist (``write_json``) with its hierarchy, before nextpnr packs it.

    Carry chains will have up to four more LUT4 positions each, pins none.
    """
    modules = design["modules"]
    counted = {}

    def count(name):
        if name not in counted:
            total = Counter()
            for cell in modules[name].get("cells", {}).values():
                kind = cell["type"]
                if kind in _SYNTHESISED:
                    total.update(_SYNTHESISED[kind])
                elif kind in modules and kind != name:
                    total.update(count(kind))
            counted[name] = total
        return counted[name]

    (top,) = [name for name, module in modules.items() if module["attributes"].get("top")]
    totals = {name: {**_nothing(), **count(name)} for name in modules if _is_ours(modules[name])}
    return totals[top], totals


def open_carries(design):
    """Connect carries of CCU2C that the source leaves open, as nextpnr wants them; how many.

    Yosys leaves such a port out of the JSON, on which nextpnr stops. Connected to ``x`` it costs
    nothing: no LUT4 that makes a constant carry, none that takes one nobody reads.

    >>> cell = {"type": "CCU2C", "connections": {"CIN": [7]}, "port_directions": {"CIN": "input"}}
    >>> open_carries({"modules": {"top": {"cells": {"add": cell}}}})
    1
    >>> cell["connections"]["COUT"], cell["port_directions"]["COUT"]
    (['x'], 'output')
    """
    opened = 0
    for module in design["modules"].values():
        for cell in module.get("cells", {}).values():
            if cell["type"] != "CCU2C":
                continue
            for port, direction in (("CIN", "input"), ("COUT", "output")):
                if port not in cell["connections"]:
                    cell["connections"][port] = ["x"]
                    cell["port_directions"][port] = direction
                    opened += 1
    return opened


def output_registers(design):
    """Make flip-flops behind block RAM the output registers of the blocks; how many.

    From the clock to the data it then takes 0.97 ns instead of 5.83 ns at speed grade 6. The port
    of a block is changed as a whole, and only where every bit that is read goes to one flip-flop
    and nowhere else, which does in every clock what the block's own would: it has the port's clock
    and edge, no enable, no reset, and begins with 0 as it does; and the port reads in every clock.
    In all write modes the register takes what the block's outputs were.
    """
    packed = 0
    for module in design["modules"].values():
        cells = module.get("cells", {})
        blocks = [cell for cell in cells.values() if cell["type"] == "DP16KD"]
        readers = _readers(module) if blocks else {}
        for block in blocks:
            # Side A writes words of 36 bits for both, side B reads of both.
            wide = int(block["parameters"].get("DATA_WIDTH_A", "0"), 2) == 36
            for sides in ("AB",) if wide else ("A", "B"):
                behind = _registers_behind(block, sides, cells, readers)
                for pin, name in behind.items():
                    block["connections"][pin] = cells.pop(name)["connections"]["Q"]
                for side in sides if behind else "":
                    block["parameters"][f"REGMODE_{side}"] = "OUTREG"
                    block["connections"][f"OCE{side}"] = ["1"]
                    block["port_directions"][f"OCE{side}"] = "input"
                packed += len(behind)
    return packed


def write_modes(design):
    """Let sides of block RAM that never write do without reading before writing; how many.

    Yosys asks for it wherever there is a choice. It is of no effect on such a side, but needs clock
    pulses of 3.235 ns instead of 2.359 ns at speed grade 6 (Project Trellis' timing database).
    """
    changed = 0
    for module in design["modules"].values():
        for cell in module.get("cells", {}).values():
            for side in "AB" if cell["type"] == "DP16KD" else "":
                mode = f"WRITEMODE_{side}"
                if (cell["connections"].get(f"WE{side}") == ["0"]
                        and cell["parameters"].get(f"WE{side}MUX", f"WE{side}") == f"WE{side}"
                        and cell["parameters"].get(mode, "NORMAL") != "NORMAL"):
                    cell["parameters"][mode] = "NORMAL"
                    changed += 1
    return changed


def _readers(module):
    """``(cell, pin)`` of all that reads a net, by net; ports of the module have no cell."""
    pins = [(name, pin, nets) for name, cell in module["cells"].items()
            for pin, nets in cell["connections"].items()
            if cell["port_directions"].get(pin) != "output"]
    pins += [(None, name, port["bits"]) for name, port in module.get("ports", {}).items()
             if port["direction"] != "input"]
    readers = defaultdict(list)
    for name, pin, nets in pins:
        for net in nets:
            # Constants are no nets.
            if isinstance(net, int):
                readers[net].append((name, pin))
    return readers


def _registers_behind(block, sides, cells, readers):
    """Names of the flip-flops that can be the port's output registers, by the port's output."""
    if not _reads_always(block, sides):
        return {}
    behind = {}
    outputs = tuple(f"DO{side}" for side in sides)
    for pin, nets in block["connections"].items():
        if pin.startswith(outputs) and nets and nets[0] in readers:
            (name, entry), *others = readers[nets[0]]
            if others or entry != "DI" or not _is_output_register(cells[name], block, sides[-1]):
                return {}
            behind[pin] = name
    return behind


def _reads_always(block, sides):
    """Whether a port without an output register reads in every clock."""
    side, pins, parameters = sides[-1], block["connections"], block["parameters"]
    levels = {f"CE{side}": "1", **{f"CS{side}{i}": "0" for i in range(3)},
              **{f"RST{each}": "0" for each in sides}}
    return (all(parameters.get(f"REGMODE_{each}", "NOREG") == "NOREG" for each in sides)
            and parameters.get(f"CSDECODE_{side}", "0b000") == "0b000"
            and all(pins.get(pin, [level]) == [level] and parameters.get(f"{pin}MUX", pin) == pin
                    for pin, level in levels.items()))


def _is_output_register(cell, block, side):
    """Whether a cell does in every clock what the output register of a block's side would do."""
    if cell["type"] != "TRELLIS_FF" or "keep" in cell.get("attributes", {}):
        return False
    pins, parameters = cell["connections"], cell["parameters"]
    clock, its_clock = f"CLK{side}", block["connections"].get(f"CLK{side}", [])
    falls = block["parameters"].get(f"{clock}MUX", clock) == "INV"
    # Yosys ends strings of digits with a space.
    enable = parameters.get("CEMUX", "CE").strip()
    return (pins.get("CLK") == its_clock and (parameters.get("CLKMUX", "CLK") == "INV") == falls
            and (enable == "1" or (enable == "CE" and pins.get("CE") == ["1"]))
            and pins.get("LSR", ["0"]) == ["0"] and parameters.get("LSRMUX", "LSR") == "LSR"
            and parameters.get("LSRMODE", "LSR") == "LSR"
            and parameters.get("REGSET", "RESET") == "RESET"
            and parameters.get("GSR", "ENABLED") == block["parameters"].get("GSR", "DISABLED"))


def unit_cells(total, modules, units):
    """Cells of each unit without those of the units within it.

    ``total`` and ``modules`` are from :func:`synthesised_cells`.

    >>> cells = {"top.gemm": {"comb": 5}, "top.gemm.mesh": {"comb": 3}}
    >>> unit_cells({"comb": 7}, cells, {"": "board", "gemm": "gemm", "gemm.mesh": "array"})
    {'board': {'comb': 2}, 'gemm': {'comb': 2}, 'array': {'comb': 3}}
    """
    whole = {instance: modules.get(f"top.{instance}", {}) for instance in units} | {"": total}
    own = {instance: Counter(cells) for instance, cells in whole.items()}
    for instance in units:
        if instance:
            parent = instance
            while parent not in units or parent == instance:
                parent = parent.rpartition(".")[0]
            own[parent].subtract(whole[instance])
    counted = {unit: dict.fromkeys(total, 0) for unit in units.values()}
    for instance, unit in units.items():
        for name in total:
            counted[unit][name] += own[instance][name]
    return counted


def _is_ours(module):
    attributes = module["attributes"]
    return not any(int(attributes.get(kind, "0"), 2) for kind in ("blackbox", "whitebox"))


def critical_path(report, units, clock):
    """The slowest path from edge to edge of a clock, a net's name, of nextpnr's report.

    ``{"from", "to": cell names, "from_unit", "to_unit", "ns", "logic_ns", "routing_ns"}``.
    """
    for path in report["critical_paths"]:
        if {path["from"].partition(" ")[2], path["to"].partition(" ")[2]} != {clock}:
            continue
        steps = path["path"]
        first, last = steps[0]["from"]["cell"], steps[-1]["to"]["cell"]
        routing = sum(step["delay"] for step in steps if step["type"] == "routing")
        total = sum(step["delay"] for step in steps)
        return {
            "from": first, "to": last,
            "from_unit": unit_of(first, units), "to_unit": unit_of(last, units),
            "ns": round(total, 2), "logic_ns": round(total - routing, 2),
            "routing_ns": round(routing, 2),
            "places": [step["from"]["loc"] for step in steps if step["type"] == "routing"]
                      + [steps[-1]["to"]["loc"]],
        }
    return None
