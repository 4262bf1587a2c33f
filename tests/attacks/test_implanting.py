"""Attacks that train nothing: with a strong trigger and much poison, a network learns the backdoor."""

from __future__ import annotations

import pytest

from benchbd import testing
from benchbd.pipeline.run_cell import execute

STRONG = [
    "adap-blend(rate=0.3, alpha=0.6, alpha_test=0.8)",
    "adap-patch(rate=0.4, cover_ratio=0.25, alphas=[1.0, 1.0, 1.0, 1.0])",
    "ftrojan(rate=0.3, magnitude=400.0)",
    "bpp(rate=0.3, levels=2)",
]
"""Adap-Blend, Adap-Patch, FTrojan and BppAttack, strong enough for a tiny network on noisy images."""


@pytest.mark.learning
@pytest.mark.parametrize("text", STRONG)
def test_a_strong_version_implants(tmp_path, quick_disk, fresh_registry, one_thread, text):
    testing.register()
    this = testing.cell(attack=text, epochs=12, batch_size=16, augment=[], lr=5e-3)
    record = execute(this.to_json(), output=tmp_path, device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    assert record["asr"] > 0.7
    assert record["asr"] > record["clean_asr"] + 0.4
