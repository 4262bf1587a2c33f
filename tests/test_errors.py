"""The words of messages."""

from __future__ import annotations

import pytest

from benchbd.errors import shown, with_article
from benchbd.report.wording import needs_text


@pytest.mark.parametrize(
    ("an", "names"),
    [
        ("an", "asr asr_all airbench(width=16) int OrderedDict mlp LfD RNN ndarray unknown ASR Array effnet imported"),
        ("a", "ca_non_target clean_asr resnet18 vgg11 unet uint8 UsageError list NoneType CNN toy-net _toy 3d b"),
    ],
)
def test_articles_follow_the_sound(an: str, names: str) -> None:
    for name in names.split():
        assert with_article(name) == f"{an} {name}"


def test_messages_have_them() -> None:
    assert shown(10**5000) == "an int too large to print"
    assert needs_text([], False, "airbench(width=16)") == "nothing; returns an airbench(width=16)"
    assert needs_text([], False, "resnet-s") == "nothing; returns a resnet-s"
