"""`Classifier.predict` and `predict_batch`: images of every kind, alone, in batches and from several threads."""

import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edge
from edge.bundle.bundle import Bundle
from edge.errors import SourceError
from edge.inference.classifier import READ_AHEAD
from tests.support.commands import ROOT, random_frames
from tests.support.front_door import assert_equal_predictions


def test_a_prediction_has_plain_values(classifier: edge.Classifier, digits: NDArray[np.uint8]) -> None:
    for prediction in (classifier.predict(digits[0]), *classifier.predict_batch(digits[:1])):
        assert tuple(map(type, prediction)) == (str, int, float, int, float)
        assert prediction.label == classifier.chain.labels[prediction.label_index]
        assert 0 < prediction.probability <= 1
        assert repr(prediction).startswith(f"Prediction(label={prediction.label!r}, ")


def test_predictions_are_mostly_right_and_use_every_exit(classifier: edge.Classifier, digits_bundle: Bundle) -> None:
    reference = digits_bundle.reference()
    predictions = [classifier.predict(pixels) for pixels in reference.frames]
    correct = [p.label_index == label for p, label in zip(predictions, reference.labels, strict=True)]
    assert np.mean(correct) > 0.8
    assert {prediction.exit_index for prediction in predictions} == {0, 1, 2}


def test_a_file_an_array_a_frame_and_a_pil_image_give_the_same_prediction(
    classifier: edge.Classifier, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), picture)
    expected = classifier.predict(picture)
    with Image.open(path) as image:
        images = [str(path), path, edge.Frame(picture, edge.PixelFormat.BGR), image, image.convert("RGBA")]
        assert [classifier.predict(image) for image in images] == [expected] * len(images)
        assert classifier.predict_batch(images) == classifier.predict_batch([picture] * len(images))


def test_a_gray_image_gives_the_same_prediction_in_every_form(
    classifier: edge.Classifier, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    gray, path = picture[:, :, 0], tmp_path / "gray.png"
    cv2.imwrite(str(path), gray)
    expected = classifier.predict(gray)
    bgr = np.repeat(gray[:, :, None], 3, axis=2)
    bgrx = np.dstack([bgr, np.full_like(gray, 7)])
    with Image.open(path) as image:
        assert image.mode == "L"
        images = [str(path), image, bgr, bgrx, edge.Frame(gray, edge.PixelFormat.GRAY)]
        assert [classifier.predict(image) for image in images] == [expected] * len(images)


def test_a_rotated_photo_gives_the_same_prediction_as_file_and_as_pil_image(
    classifier: edge.Classifier, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    orientation, rotated = 0x0112, 6
    exif = Image.Exif()
    exif[orientation] = rotated
    Image.fromarray(picture[:, :, ::-1]).save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as image:
        assert classifier.predict(image) == classifier.predict(tmp_path / "photo.png")


def test_predictions_do_not_change_the_image(classifier: edge.Classifier, picture: NDArray[np.uint8]) -> None:
    before = picture.copy()
    classifier.predict(picture)
    classifier.predict_batch([picture])
    assert (picture == before).all()


NO_IMAGES = [
    pytest.param("nowhere.png", "there is no image nowhere.png", id="missing file"),
    pytest.param(Path("nowhere.png"), "there is no image nowhere.png", id="missing path"),
    pytest.param(ROOT / "docs", "docs is a folder; .* classify the folder with `Classifier.stream`", id="folder"),
    pytest.param(Path("/dev/null"), "null is not a file; give an image file, or", id="device"),
    pytest.param(ROOT / "Makefile", "Makefile cannot be read as an image: .*; give an image file; classify", id="text"),
    pytest.param(ROOT / "docs/digits.mp4", "decode; give an image file; classify videos with", id="video"),
    pytest.param(
        None, "None is not an image: OpenCV returns it for files that it cannot read; check the path", id="None"
    ),
    pytest.param(7, "int is not an image; give a file, a NumPy array or a PIL image", id="number"),
    pytest.param([[0, 0], [0, 0]], "list is not an image; give a file, a NumPy array or a PIL image", id="list"),
    pytest.param(np.zeros((8, 8, 3)), r"\(8, 8, 3\), dtype float64; .*; convert values from 0 to 1", id="float"),
    pytest.param(np.zeros((8, 8), np.uint16), r"dtype uint16; this bundle reads 8-bit images", id="uint16"),
    pytest.param(np.zeros((8, 8), bool), r"dtype bool; this bundle reads 8-bit images", id="bool"),
    pytest.param(np.zeros((3, 16, 16), np.uint8), r"\(3, 16, 16\), .*image.transpose\(1, 2, 0\)", id="channels first"),
    pytest.param(np.zeros((16, 16, 1), np.uint8), r"\(16, 16, 1\), .*image\[:, :, 0\]", id="gray with channel"),
    pytest.param(np.zeros((2, 8, 8, 3), np.uint8), r"\(2, 8, 8, 3\), .*with `predict_batch`", id="several images"),
    pytest.param(np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)", id="empty"),
    pytest.param(Image.new("RGBA", (0, 5)), "the image has 0 x 5 pixels; give one that is not empty", id="empty RGBA"),
    pytest.param(Image.new("I;16", (5, 0)), "the image has 5 x 0 pixels", id="empty 16 bits"),
    pytest.param(
        edge.Frame(np.zeros((8, 8), np.uint8), edge.PixelFormat.BGR), r"BGR frame has shape \(8, 8\)", id="form"
    ),
    pytest.param(
        edge.Frame(np.zeros((1, 8, 8)), edge.PixelFormat.ARRAY), "this bundle reads 8-bit images", id="array frame"
    ),
]


@pytest.mark.parametrize(("image", "message"), NO_IMAGES)
def test_an_image_that_cannot_be_classified_is_refused_in_plain_words(
    image: Any, message: str, classifier: edge.Classifier, picture: NDArray[np.uint8]
) -> None:
    expected = classifier.predict(picture)
    for call in (classifier.predict, lambda image: classifier.predict_batch([picture, image])):
        with pytest.raises(SourceError, match=message):
            call(image)
    assert classifier.predict(picture) == expected


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ("seven.png", "str"),
        (Path("seven.png"), "Path|PosixPath"),
        (np.zeros((16, 16), np.uint8), "ndarray"),
        (np.zeros((16, 16, 3), np.uint8), "ndarray"),
        (edge.Frame(np.zeros((16, 16), np.uint8), edge.PixelFormat.GRAY), "Frame"),
        (Image.new("RGB", (16, 16)), "Image"),
        (None, "NoneType"),
        (7, "int"),
    ],
)
def test_a_single_image_is_not_a_batch(images: Any, kind: str, classifier: edge.Classifier) -> None:
    message = f"predict_batch classifies several images, got ({kind}); give a list, or call `predict`"
    with pytest.raises(SourceError, match=message):
        classifier.predict_batch(images)


def test_a_damaged_image_is_refused(classifier: edge.Classifier, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    content = cv2.imencode(".png", picture)[1].tobytes()
    (tmp_path / "damaged.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"damaged\.png cannot be read as an image: it is damaged, or"):
        classifier.predict(tmp_path / "damaged.png")


@pytest.mark.parametrize("count", [0, 1, 3, 2 * READ_AHEAD + 2])
def test_a_batch_gives_the_predictions_of_single_images_in_order(
    count: int, classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    predictions = classifier.predict_batch(digits[:count])
    assert_equal_predictions(predictions, [classifier.predict(pixels) for pixels in digits[:count]])
    if count > READ_AHEAD:
        assert {prediction.exit_index for prediction in predictions} == {0, 1, 2}


def test_a_batch_may_hold_images_of_all_kinds_and_sizes(
    classifier: edge.Classifier, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    pictures = [random_frames(1, 20 + 7 * index, 50)[0] for index in range(5)]
    cv2.imwrite(str(tmp_path / "0.png"), pictures[0])
    images = [tmp_path / "0.png", *pictures[1:], digits[0], Image.fromarray(digits[1])]
    assert_equal_predictions(classifier.predict_batch(images), [classifier.predict(image) for image in images])


def test_a_batch_from_an_iterator_holds_few_images_in_memory(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    alive, most = 0, 0

    def forget() -> None:
        nonlocal alive
        alive -= 1

    def images() -> Iterator[NDArray[np.uint8]]:
        nonlocal alive, most
        for pixels in digits[: 4 * READ_AHEAD]:
            image = pixels.copy()
            weakref.finalize(image, forget)
            alive += 1
            most = max(most, alive)
            yield image

    assert len(classifier.predict_batch(images())) == 4 * READ_AHEAD
    assert most <= 2 * READ_AHEAD


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_concurrent_calls_give_the_same_predictions(
    threads: int, classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    expected = [classifier.predict(pixels) for pixels in digits]
    start = threading.Barrier(threads)

    def predict(part: NDArray[np.uint8]) -> list[edge.Prediction]:
        start.wait()
        return [classifier.predict(pixels) for pixels in part]

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(predict, np.array_split(digits, threads)))
    assert [prediction for part in parts for prediction in part] == expected


def test_concurrent_batches_and_single_images_give_the_same_predictions(
    classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    images = digits[:600]
    expected = [classifier.predict(pixels) for pixels in images]
    start = threading.Barrier(3)

    def batches(_: int) -> list[edge.Prediction]:
        start.wait()
        return classifier.predict_batch(images)

    def single(_: int) -> list[edge.Prediction]:
        start.wait()
        return [classifier.predict(pixels) for pixels in images]

    with ThreadPoolExecutor(3) as pool:
        first, second, third = pool.map(lambda call: call(0), (batches, batches, single))
    assert_equal_predictions(first, expected)
    assert_equal_predictions(second, expected)
    assert third == expected
