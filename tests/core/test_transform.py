"""Test transforms: which pixels a stamp covers, which outputs a map swaps, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchbd import Patch, TestTransform, UsageError

CORNER = Patch(0, 1, 2, 3, (2.0, 0.0, -1.0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_stamp_covers_its_rectangle_and_nothing_else(layout):
    images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    before = images.clone()
    out = CORNER.on(images)
    wanted = before.numpy().copy()
    for colour, value in enumerate((2.0, 0.0, -1.0)):
        wanted[:, colour, 0:2, 1:4] = value
    np.testing.assert_array_equal(out.numpy(), wanted)
    assert torch.equal(images, before)
    assert out.is_contiguous(memory_format=layout)


def test_a_spec_has_all_values_as_json():
    transform = TestTransform(CORNER, (1, 2, 0)).checked(3, 6)
    assert transform.spec() == {
        "stamp": {"top": 0, "left": 1, "height": 2, "width": 3, "value": [2.0, 0.0, -1.0]},
        "label_map": [1, 2, 0],
    }
    assert TestTransform(label_map=(1, 0)).spec() == {"stamp": None, "label_map": [1, 0]}


def test_numbers_of_numpy_become_plain_ones():
    rows = np.arange(6)
    given = TestTransform(Patch(rows[0], rows[1], rows[2], rows[3], np.float32([2, 0, -1])), rows[[1, 2, 0]])
    found = given.checked(3, 6)
    assert found == TestTransform(CORNER, (1, 2, 0))
    assert json.loads(json.dumps(found.spec())) == found.spec()


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (TestTransform(), "needs a stamp or a label map"),
        (TestTransform(label_map=(0, 0, 1)), "names each of the 3 outputs once"),
        (TestTransform(label_map=(0, 1)), "names each of the 3 outputs once"),
        (TestTransform(Patch(5, 0, 2, 1, (0, 0, 0))), "does not fit into 6x6 images"),
        (TestTransform(Patch(-1, 0, 2, 1, (0, 0, 0))), "at row -1"),
        (TestTransform(Patch(0, 0, 0, 1, (0, 0, 0))), "0x1 pixels"),
        (TestTransform(Patch(0, 0, 1, 1, (0, float("nan"), 0))), "three finite numbers"),
        (TestTransform(Patch(0, 0, 1, 1, (0, 0))), "three finite numbers"),
        (TestTransform(Patch(0, 0.5, 1, 1, (0, 0, 0))), "whole numbers"),
        (TestTransform(Patch(True, 0, 1, 1, (0, 0, 0))), "whole numbers"),
        (TestTransform(Patch("0", 0, 1, 1, (0, 0, 0))), "whole numbers"),
        (TestTransform(Patch(None, 0, 1, 1, (0, 0, 0))), "whole numbers"),
        (TestTransform(Patch(0, 0, 1, 1, 0.5)), "three finite numbers, not 0.5"),
        (TestTransform(Patch(0, 0, 1, 1, None)), "three finite numbers, not None"),
        (TestTransform(Patch(0, 0, 1, 1, "abc")), "three finite numbers, not 'abc'"),
        (TestTransform(Patch(0, 0, 1, 1, ("0", "0", "0"))), "three finite numbers"),
        (TestTransform(Patch(0, 0, 1, 1, (True, 0, 0))), "three finite numbers"),
        (TestTransform(Patch(0, 0, 1, 1, {0: 0, 1: 0, 2: 0})), "three finite numbers"),
        (TestTransform(Patch(0, 0, 1, 1, (10**400, 0, 0))), "three finite numbers"),
        (TestTransform((0, 0, 1, 1, (0, 0, 0))), "a stamp is a benchbd.Patch, not"),
        (TestTransform("stamp\nof two lines"), "a stamp is a benchbd.Patch, not"),
        (TestTransform(label_map=3), "names each of the 3 outputs once, not 3"),
        (TestTransform(label_map="012"), "names each of the 3 outputs once, not '012'"),
        (TestTransform(label_map=("0", "1", "2")), "names each of the 3 outputs once"),
        (TestTransform(label_map=(0.5, 1.5, 2.5)), "names each of the 3 outputs once"),
        (TestTransform(label_map=(False, True, 2)), "names each of the 3 outputs once"),
        (TestTransform(label_map=(None, 1, 2)), "names each of the 3 outputs once"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(transform, said):
    with pytest.raises(UsageError, match=said) as caught:
        transform.checked(3, 6)
    assert "\n" not in str(caught.value)
