"""reports.scaling: the table is what the files say."""

import json

from reports.points import SCALING, Store, scaling
from reports.scaling import sizes


def test_what_was_not_measured_is_left_out_and_what_failed_is_said(tmp_path):
    store = Store(tmp_path)
    assert sizes(store).count("\n") == 2
    first, second, *_ = scaling()
    report = {"total": {"comb": 50}, "available": {"comb": 200}, "comb_per_mac": 7.44,
              "array": {"ff": 9600}, "macs_per_clock": 1200,
              "fmax_mhz": {"median": 300.0, "cap_mhz": 200.0}}
    (tmp_path / "alone").mkdir()
    for point, report in ((first, report), (second, None)):
        store.path(point).write_text(json.dumps({
            "key": "k", "name": point.name, "command": "c", "report": report,
            "failure": None if report else "no place"}))
    *_, one, two = sizes(store).splitlines()
    bits, _, rows, cols = SCALING[0]
    assert one == (f"| {bits} | {rows}x{cols}x4 | LFE5U-25F | {rows * cols * 4:,} | 25% | 7.4 | 8.0 "
                   "| 300 | 0.48 |")
    assert "does not route" in two


def test_every_width_is_tried_on_every_die():
    assert {(bits, die) for bits, die, _, _ in SCALING} == {
        (bits, die) for bits in (2, 3, 4, 6, 8) for die in ("25F", "45F", "85F")}
