"""An attack that changes no pixel is named at once, and its record says it."""

from __future__ import annotations

import pytest
from poison_steps import run

from benchbd.plugins import registry

PLUGINS = '''
    class Lazy(Attack):
        def stamp(self, images, context):
            out = images.clone()
            out[self.kept(len(images)):, :, :4, :4] = 255
            return out

    @attack("no-op", version=1)
    class NoOp(Lazy):
        """Relabels, and leaves the images as they are."""
        def kept(self, count):
            return count

    @attack("half-op", version=1)
    class HalfOp(Lazy):
        """Leaves two images as they are."""
        def kept(self, count):
            return 2
'''


@pytest.fixture(autouse=True)
def _lazy(plugin_file):
    registry.add_plugin_file(str(plugin_file(PLUGINS)))


def warnings(events):
    return [event["warning"] for event in events if event["event"] == "warning"]


@pytest.mark.parametrize("defense", ["none", "tiny-filter"])
def test_an_attack_without_a_trigger_warns_once_in_every_cell(tmp_path, defense):
    events = []
    record = run(tmp_path, "no-op", defense, on_event=events.append)
    count = record["poison"]["count"]
    assert warnings(events) == [f"attack 'no-op' changes no pixel of the {count} images that it poisons"]
    assert record["poison"]["unchanged"] == count
    assert record["triggered"]["unchanged"] == record["triggered"]["images"] == 15
    assert record["triggered"]["gained"] == record["triggered"]["lost"] == 0
    assert record["asr"] == record["clean_asr"]


def test_a_few_unchanged_images_are_counted_without_a_warning(tmp_path):
    events = []
    record = run(tmp_path, "half-op", on_event=events.append)
    assert warnings(events) == []
    assert record["poison"]["unchanged"] == record["triggered"]["unchanged"] == 2
    assert "unchanged" not in run(tmp_path, "watch-dirty")["poison"]
