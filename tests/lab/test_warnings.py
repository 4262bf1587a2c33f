"""A defense's warnings: shown once, kept in the record, silent where another defense is only asked what it flags."""

from __future__ import annotations

import pytest

from benchbd import testing
from benchbd.errors import UsageError
from benchbd.lab.lab import MOST_WARNINGS
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry

WARNS = '''
from benchbd import Defense, defense
import numpy as np

@defense("worried", version=1)
class Worried(Defense):
    """A defense that warns twice of the same."""

    def train(self, lab):
        for _ in range(2):
            lab.warn("worried: too few\\n samples")
        lab.suspect(np.zeros(len(lab.poisoned)), [0])
        return lab.train(lab.poisoned)
'''


def test_a_warning_is_one_line_shown_once(open_lab):
    heard = []
    lab = open_lab()
    lab._on_event = heard.append
    lab.warn("worried: too few\n  samples")
    lab.warn("worried: too few samples")
    assert heard == [{"event": "warning", "warning": "worried: too few samples"}]
    assert lab.warnings == ["worried: too few samples"]


@pytest.mark.parametrize("line", ["", "  ", None, 3])
def test_a_warning_is_text(open_lab, line):
    with pytest.raises(UsageError, match="a warning is a line of text"):
        open_lab().warn(line)


def test_a_cell_keeps_so_many_warnings(open_lab):
    lab = open_lab()
    for number in range(MOST_WARNINGS):
        lab.warn(f"warning {number}")
    lab.warn("warning 0")
    with pytest.raises(UsageError, match=f"{MOST_WARNINGS} different warnings"):
        lab.warn("one more")


@pytest.mark.usefixtures("fresh_registry")
def test_the_record_keeps_a_warning_and_an_imitated_defense_is_silent(tmp_path):
    (tmp_path / "worried.py").write_text(WARNS)
    testing.register()
    registry.add_plugin_file(str(tmp_path / "worried.py"))
    for defense, warned in (("worried", 1), ("random-filter(of='worried')", 0)):
        heard = []
        cell = testing.cell(dataset="tiny(train=40,test=20,size=16)", attack="tiny-patch", defense=defense, epochs=1)
        record = execute(cell.to_json(), output=tmp_path / "out", device="cpu", on_event=heard.append)
        assert record["status"] == "done", record["error"]
        assert record["notes"].get("warnings", []) == ["worried: too few samples"] * warned
        shown = [event["warning"] for event in heard if event["event"] == "warning"]
        assert shown == record["notes"].get("warnings", [])
