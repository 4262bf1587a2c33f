from __future__ import annotations

import math

import pytest

from benchbd.report.binomial import images_of, sampling_spread, wilson


@pytest.mark.parametrize(("hits", "images"), [(0, 50), (1, 50), (25, 50), (50, 50), (4_586, 10_000), (8_999, 9_000)])
def test_wilson_agrees_with_scipy(hits, images):
    from scipy.stats import binomtest

    expected = binomtest(hits, images).proportion_ci(0.95, "wilson")
    low, high, kind = wilson(hits / images, images)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert kind == "test set"


@pytest.mark.parametrize(("share", "images"), [(0.02, 500), (0.1, 100), (0.5, 100), (0.9, 1000)])
def test_wilson_covers_the_share_as_often_as_it_says(share, images):
    """Exact coverage: the probabilities of the counts whose interval holds the true share."""
    covered = math.fsum(
        math.comb(images, hits) * share**hits * (1 - share) ** (images - hits)
        for hits in range(images + 1)
        if math.comb(images, hits).bit_length() < 1000
        and (found := wilson(hits / images, images)).low <= share <= found.high
    )
    assert 0.93 < covered < 0.975


def test_the_number_of_images_comes_from_the_record():
    record = {"ca": 0.9, "asr": 0.5, "notes": {"test_images": 100, "triggered_test_images": 90}}
    assert images_of(record, "ca") == 100
    assert images_of(record, "asr") == 90
    assert images_of(record | {"triggered": {"images": 80}}, "asr") == 80
    assert images_of(record, "asr_all") is None
    assert sampling_spread(record, "ca") == wilson(0.9, 100)


@pytest.mark.parametrize("images", [None, True, 0, -5, "9", 10**15, 9.5])
def test_an_unknown_number_of_images_gives_no_interval(images):
    assert sampling_spread({"ca": 0.9, "notes": {"test_images": images}}, "ca") is None
    assert sampling_spread({"ca": None, "notes": {"test_images": 10}}, "ca") is None
