"""Cluttered digits: the same frames every time, no source digit in two splits, difficulty that differs."""

import numpy as np
import pytest
import sklearn.datasets

from edge.errors import DataError
from edge.training.datasets import load_dataset
from edge.training.datasets.base import LabelledImages
from edge.training.datasets.cluttered_digits import SEED, SHARES, Composer, draw, split_digits
from edge.training.splits import draw_splits


@pytest.fixture(scope="module")
def cluttered() -> LabelledImages:
    return load_dataset("cluttered-digits", image_size=16)


@pytest.mark.parametrize(("asked", "size"), [(None, 32), (16, 16)])
def test_frames_are_gray_squares_of_the_size_asked_for(asked: int | None, size: int) -> None:
    images = load_dataset("cluttered-digits", image_size=asked)
    frames = np.asarray(images.frames)
    assert images.size == (1, size, size)
    assert frames.shape == (len(images.labels), size, size)
    assert frames.dtype == np.uint8
    assert (frames.min(), frames.max()) == (0, 255)
    assert images.augment == ("shift",)


def test_loading_twice_gives_the_same_frames(cluttered: LabelledImages) -> None:
    assert load_dataset("cluttered-digits", image_size=16).digests == cluttered.digests


def test_a_frame_too_small_for_a_digit_is_refused() -> None:
    with pytest.raises(DataError, match=r"15 pixels.*choose 16 or more"):
        load_dataset("cluttered-digits", image_size=15)


def test_splits_share_out_every_source_digit_once() -> None:
    labels = sklearn.datasets.load_digits().target
    parts = split_digits(labels, np.random.default_rng(SEED))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    for purpose, share in SHARES.items():
        assert len(parts[purpose]) == pytest.approx(share * len(labels), rel=0.1)
        assert set(labels[parts[purpose]]) == set(range(10))


def test_other_source_digits_in_one_split_change_no_frame_of_another(
    cluttered: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = sklearn.datasets.load_digits()
    tested = split_digits(digits.target, np.random.default_rng(SEED))["test"]
    digits.images[tested] = digits.images[tested][:, ::-1]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    changed = np.array(load_dataset("cluttered-digits", image_size=16).digests) != np.array(cluttered.digests)
    is_test = np.isin(np.arange(len(changed)), cluttered.fixed_splits["test"])
    assert not changed[~is_test].any()
    assert changed[is_test].mean() > 0.95


@pytest.mark.parametrize("seed", range(2))
def test_every_seed_of_training_keeps_the_splits(cluttered: LabelledImages, seed: int) -> None:
    splits = draw_splits(cluttered, seed)
    frames = sum(len(indices) for indices in splits.values())
    assert len(cluttered.labels) - 10 < frames <= len(cluttered.labels)  # equal frames are used once
    assert all(set(cluttered.labels[indices]) == set(range(10)) for indices in splits.values())
    np.testing.assert_array_equal(splits["test"], cluttered.fixed_splits["test"])


def test_hard_frames_hold_a_smaller_and_fainter_digit() -> None:
    composer = Composer(np.full((1, 8, 8), 255, dtype=np.float32), 32, 1.0, (0.0, 0.0), np.random.default_rng(0))
    sums = []
    for difficulty in (0.0, 0.5, 1.0):
        canvas = np.zeros((32, 32), dtype=np.float32)
        composer._draw_digit(canvas, 0, difficulty)
        sums.append((np.count_nonzero(canvas), canvas.max()))
    assert sums == sorted(sums, reverse=True)


@pytest.mark.parametrize(
    ("place", "drawn"), [((0, 0), 4), ((3, 3), 1), ((-1, 0), 2), ((-1, -1), 1), ((-2, 0), 0), ((1, 2), 4)]
)
def test_patches_are_cut_off_at_the_edge(place: tuple[int, int], drawn: int) -> None:
    canvas = np.zeros((4, 4), dtype=np.float32)
    draw(canvas, np.ones((2, 2), dtype=np.float32), place)
    assert canvas.sum() == drawn
