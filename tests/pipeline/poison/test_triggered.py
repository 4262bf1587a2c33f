"""Triggered test images: stamped once for a row where that is slow, and again where anything changed."""

from __future__ import annotations

import torch
from poison_steps import calls, make, run

from benchbd.core.images import Images
from benchbd.pipeline import poison as module
from benchbd.plugins import registry


def test_test_images_that_are_slow_to_stamp_are_stamped_once_for_a_row(tmp_path, monkeypatch):
    quick = run(tmp_path, "watch-drawn")
    assert calls() == ["prepare", "stamp", "stamp", "stamp"]  # training images, test images, those of the target class
    assert not (tmp_path / "out" / "store" / "triggered").exists()  # most attacks are quicker than the disk
    monkeypatch.setattr(module, "KEEP_FROM", 0.0)
    calls().clear()
    kept = run(tmp_path, "watch-drawn")
    assert calls() == ["stamp", "stamp"]
    calls().clear()
    for other in ({"defense": "tiny-filter"}, {"defense": "oracle", "model": "tiny-net(width=4)"}, {}):
        last = run(tmp_path, "watch-drawn", **other)
    assert calls() == []
    measured = ("ca", "asr", "ra")
    assert [quick[k] for k in measured] == [kept[k] for k in measured] == [last[k] for k in measured]
    run(tmp_path, "watch-drawn", seed=1)
    assert calls() == ["stamp"]  # other training images; the test images' trigger is the same


def test_kept_test_images_are_those_of_this_attack_code_and_data(poisoner, monkeypatch):
    monkeypatch.setattr(module, "KEEP_FROM", 0.0)

    def stamped(attack="watch-drawn", test=None, **given) -> tuple[int, torch.Tensor]:
        worker = poisoner(attack, **given)
        _, info, poison = make(worker)
        calls().clear()
        images, labels = worker.triggered(test or worker.components.dataset.load("test", None), info, poison)
        assert len(images) == len(labels)
        return len(calls()), images

    assert stamped()[0] == 1
    count, images = stamped()
    assert count == 0
    assert images.dtype == torch.uint8
    data = registry.make("datasets", "tiny", train=200, test=40, size=16).load("test", None)
    other = Images(data.images.clone(), data.labels)
    other.images[3, 0, 15, 15] ^= 1
    assert stamped(test=other)[0] == 1
    assert stamped("watch-drawn(trigger_seed=1)")[0] == 1
    assert stamped("watch-drawn(target=2)")[0] == 1
    with monkeypatch.context() as patch:
        patch.setattr(registry, "source_digest", lambda kind, name: "edited")
        assert stamped()[0] == 1
