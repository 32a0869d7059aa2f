"""The digits: real, whole, and split once and for all."""

import hashlib

import pytest
import torch
from sklearn.datasets import load_digits

from gdm_lib.data import digits


@pytest.fixture(scope="module")
def data():
    return digits.load()


def rows(x):
    return {tuple(row) for row in x.flatten(1).tolist()}


def test_shapes_levels_and_types(data):
    assert data.train.x.shape == (1438, 1, 8, 8)
    assert data.test.x.shape == (359, 1, 8, 8)
    for part in (data.train, data.test):
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert len(part) == len(part.y)
        levels = part.x * (digits.LEVELS - 1)
        assert torch.equal(levels, levels.round())
        assert (float(part.x.min()), float(part.x.max())) == (0.0, 1.0)


def test_parts_share_no_image_and_together_are_all_of_it(data):
    train, test = rows(data.train.x), rows(data.test.x)
    assert not train & test
    bunch = load_digits()
    assert train | test == rows(torch.from_numpy(bunch.images / 16))
    assert len(data.train) + len(data.test) == 1797


def test_labels_stayed_with_their_images(data):
    bunch = load_digits()
    label = {
        tuple((i / 16).ravel()): int(y) for i, y in zip(bunch.images, bunch.target, strict=True)
    }
    for part in (data.train, data.test):
        assert [label[tuple(row)] for row in part.x.flatten(1).tolist()] == part.y.tolist()


def test_each_class_gives_a_fifth_to_the_test_part(data):
    train, test = data.train.y.bincount(), data.test.y.bincount()
    share = test / (train + test)
    assert bool((share - 0.2).abs().max() < 0.5 / 174)  # half an item of the smallest class


def test_classes_are_mixed_along_the_order(data):
    # A minibatch cut from the front must look like the whole: neighbours differ nine times in ten.
    for part in (data.train, data.test):
        assert float((part.y.diff() != 0).float().mean()) > 0.85
        assert len(part.y[:100].unique()) == 10


def test_split_is_the_one_that_results_were_measured_on(data):
    levels = (data.test.x * 16).to(torch.uint8)
    digest = hashlib.sha256(levels.numpy().tobytes() + data.test.y.numpy().tobytes()).hexdigest()
    assert digest == "9861950bb37c6fc04eda8232acea339d90ec76f77821c450fb3a619f0a4b54a0"
