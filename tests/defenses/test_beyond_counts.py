"""What a plan foretells of spectral, dbd and asd in one row is what its run computes, stages shared with others too."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchbd.cli import main
from benchbd.defenses.asd import Asd
from benchbd.defenses.dbd import Dbd

DBD, ASD = {**Dbd.smoke}, {**Asd.smoke, "seeds": 1, "epochs": 2}
MATRIX = {
    "name": "beyond",
    "dataset": "digits(train=200, test=60)",
    "model": "resnet18(width=4)",
    "recipe": {"epochs": 1, "batch_size": 50},
    "attacks": ["bn-g"],
}
ROW = [
    "none", {"ac": {"preset": "per-class"}}, "spectral", {"spectral": {"features_of": "undefended"}},
    {"random-filter": {"of": "spectral()"}}, {"dbd": {**DBD, "semi_epochs": [1, 2]}}, {"asd": ASD},
]  # fmt: skip


@pytest.mark.usefixtures("quick_disk", "one_thread")
def test_a_row_computes_what_its_plan_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(json.dumps({**MATRIX, "defenses": ROW}))

    def planned():
        capsys.readouterr()
        assert main(["plan", "m.yaml", "--output", "out", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["trainings"]

    said = planned()
    # none, ac, two of spectral, random-filter, two of dbd, asd; one feature model for ac and spectral, one for dbd.
    assert said == {"full": 8, "feature-model": 2, "fine-tune": 1}
    command = ["run", "m.yaml", "--output", "out", "--executor", "inline", "--device", "cpu", "--display", "none"]
    assert main(command) == 0
    records = [json.loads(path.read_text()) for path in Path("out/records").glob("[0-9a-f]*.json")]
    assert [(r["defense"], r["error"]) for r in records if r["status"] != "done"] == []
    computed: Counter[str] = Counter()
    for record in records:
        computed.update(record["trainings_computed"])
    assert computed == said
    assert planned() == {}
    of = {record["defense"]: record for record in records}
    assert of["asd"]["needs"] == ["clean"]
    assert of["dbd"]["needs"] == []
