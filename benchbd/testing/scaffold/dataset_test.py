"""my-plugin keeps its promises, and its two splits share no image."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd import registry, testing


@pytest.fixture(autouse=True)
def _known() -> None:
    registry.add_plugin_file(str(Path(__file__).with_name("my_plugin.py")))


def test_it_keeps_what_every_data_set_promises() -> None:
    assert testing.check("datasets", "my-plugin") == []


def test_no_test_image_is_a_training_image() -> None:
    plugin = registry.make("datasets", "my-plugin")
    train, test = (plugin.load(split, None).images for split in ("train", "test"))
    assert not (train[:, None, 0, 0] == test[None, :, 0, 0]).all(-1).any()
