"""reports.scaling: the table is what the files say."""

import json

from reports.points import SCALING, Store, scaling
from reports.scaling import sizes


def test_what_was_not_measured_is_left_out_and_what_failed_is_said(tmp_path):
    store = Store(tmp_path)
    assert sizes(store).count("\n") == 2
    first, second, third, *_ = scaling()
    found = json.loads(Store().path(first).read_text())
    report = found["report"]
    report["total"]["comb"], report["available"]["comb"] = 50, 200
    report["array"]["ff"], report["macs_per_clock"], report["comb_per_mac"] = 9600, 1200, 7.44
    report["fmax_mhz"].update(cap_mhz=min(200.0, report["fmax_mhz"]["median"]))
    (tmp_path / "alone").mkdir()
    store.path(first).write_text(json.dumps(found))
    store.path(second).write_text(json.dumps({**found, "report": None, "failure": "no place"}))
    store.path(third).write_text("{")
    *_, one, two = sizes(store).splitlines()
    bits, _, rows, cols = SCALING[0]
    assert one == (f"| {bits} | {rows}x{cols}x4 | LFE5U-25F | {rows * cols * 4:,} | 25% | 7.4 "
                   f"| 8.0 | {report['fmax_mhz']['median']:.0f} | 0.48 |")
    assert "does not route" in two


def test_every_width_is_tried_on_every_die():
    assert {(bits, die) for bits, die, _, _ in SCALING} == {
        (bits, die) for bits in (2, 3, 4, 6, 8) for die in ("25F", "45F", "85F")}
