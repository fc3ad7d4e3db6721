"""A folder with a subfolder per class becomes a dataset; unusable folders are refused before training."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from compile.trained_model import TrainedModel
from edge.errors import DataError
from edge.frames.open import open_source
from edge.frames.preprocess import resize
from edge.training.data import measured_input
from edge.training.datasets import load_dataset
from edge.training.loading import preprocessed
from edge.training.splits import draw_splits


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Return a folder with 14 pictures of cats, one of them in a nested folder, and 12 of dogs."""
    generator = np.random.default_rng(0)
    for name, count in {"dog": 12, "cat": 14}.items():
        (tmp_path / name / "more").mkdir(parents=True)
        for index in range(count):
            parent = tmp_path / name / ("more" if (name, index) == ("cat", 13) else "")
            write_picture(parent / f"{index:02}.png", generator.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    return tmp_path


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    assert cv2.imwrite(str(path), picture)


def test_subfolders_are_classes_in_the_order_of_their_names(pets: Path) -> None:
    images = load_dataset("folder", pets)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0] * 14 + [1] * 12
    assert images.size == (3, 64, 64)
    np.testing.assert_array_equal(images.frames[15], cv2.imread(str(pets / "dog/01.png")))


def test_images_of_a_folder_become_network_input(pets: Path) -> None:
    images = load_dataset("folder", pets, 16)
    splits = draw_splits(images, seed=0)
    spec = measured_input(images, splits["train"])
    tensors = preprocessed(images, splits["test"], spec)
    assert tensors.shape == (len(splits["test"]), 3, 16, 16)
    assert set(images.labels[splits["test"]]) == {0, 1}
    assert resize(images.frames[0], spec).shape == (16, 16, 3)


def test_copies_of_a_file_have_equal_digests(pets: Path) -> None:
    (pets / "cat/copy.png").write_bytes((pets / "cat/00.png").read_bytes())
    images = load_dataset("folder", pets)
    assert len(images.digests) == 27
    assert len(set(images.digests)) == 26


def write_copies(path: Path) -> None:
    """Write the picture again beside its file: compressed otherwise, as BMP, and with a comment."""
    picture = cv2.imread(str(path))
    assert picture is not None
    assert cv2.imwrite(str(path.with_name(f"{path.stem}-small.png")), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    write_picture(path.with_suffix(".bmp"), np.asarray(picture, dtype=np.uint8))
    comment = PngInfo()
    comment.add_text("Comment", "a copy")
    Image.open(path).save(path.with_name(f"{path.stem}-noted.png"), pnginfo=comment)


@pytest.mark.parametrize("seed", range(3))
def test_a_picture_saved_in_several_files_is_in_one_split(pets: Path, seed: int) -> None:
    for path in list(pets.rglob("*.png")):
        write_copies(path)
    images = load_dataset("folder", pets)
    assert len(set(images.digests)) == len(images.digests) == 4 * 26
    used = np.concatenate(list(draw_splits(images, seed).values()))
    assert len({images.frames[index].tobytes() for index in used}) == len(used) == 26


def test_every_copy_of_a_used_picture_counts_as_used(pets: Path) -> None:
    for path in list(pets.rglob("*.png")):
        write_copies(path)
    images = load_dataset("folder", pets)
    trained = TrainedModel(None, images, draw_splits(images, 0))  # type: ignore[arg-type]  # files need no checkpoint
    copies = [len(trained.copy_digests(split)) for split in trained.splits]
    assert copies == [4 * len(indices) for indices in trained.splits.values()]
    assert sum(copies) == len(images.digests)


def test_a_picture_in_two_classes_is_refused_in_whichever_files(pets: Path) -> None:
    write_copies(pets / "cat/00.png")
    for name in ("00-small.png", "00.bmp", "00-noted.png"):
        moved = (pets / "cat" / name).rename(pets / "dog" / f"moved-{name}")
        with pytest.raises(DataError, match=rf"cat/00.* and .*dog/moved-{name} are the same image in two classes"):
            load_dataset("folder", pets)
        moved.unlink()


def test_images_of_the_same_bytes_in_another_shape_are_no_copies(pets: Path) -> None:
    write_picture(pets / "cat/wide.png", np.full((4, 16, 3), 9, np.uint8))
    write_picture(pets / "dog/high.png", np.full((16, 4, 3), 9, np.uint8))
    assert len(set(load_dataset("folder", pets).copy_digests)) == 28


def test_hidden_files_and_other_files_are_skipped(pets: Path) -> None:
    (pets / ".cache").mkdir()
    (pets / "cat/.thumbnails").mkdir()
    for name in (".cache/x.png", "cat/.thumbnails/x.png", "cat/._00.png", "cat/notes.txt", "cat/array.npy", "list.csv"):
        (pets / name).write_bytes(b"no image")
    assert len(load_dataset("folder", pets).frames) == 26


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_an_unreadable_image_is_reported_before_training(pets: Path, content: bytes | None) -> None:
    path = pets / "dog/07.png"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(DataError, match=r"dog/07\.png .*; remove or replace it"):
        load_dataset("folder", pets)


def test_an_image_too_large_to_decode_is_reported(pets: Path) -> None:
    path = pets / "dog/07.png"
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">2I", 60_000, 60_000)  # width and height in the header ...
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))  # ... and its checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"dog/07\.png cannot be read"):
        load_dataset("folder", pets)


def test_a_class_without_images_is_refused(pets: Path) -> None:
    (pets / "bird").mkdir()
    (pets / "bird/list.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"bird has no images.*add some, or remove the folder"):
        load_dataset("folder", pets)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="only one class, 'cat'"):
        load_dataset("folder", tmp_path)


def test_images_without_subfolders_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "cat.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=f"{tmp_path} has no subfolders; give --data"):
        load_dataset("folder", tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*photos; give --data"):
        load_dataset("folder", tmp_path / "photos")


def test_a_folder_must_be_given() -> None:
    with pytest.raises(DataError, match="give --data"):
        load_dataset("folder")


def test_an_image_size_of_zero_is_refused(pets: Path) -> None:
    with pytest.raises(DataError, match="size of 0 pixels"):
        load_dataset("folder", pets, 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_training_and_run_time_see_every_exif_orientation_as_a_viewer_shows_it(suffix: str, tmp_path: Path) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }  # fmt: skip
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "upright" / f"{orientation}{suffix}"
        path.parent.mkdir(exist_ok=True)
        options = {"lossless": True} if suffix == ".webp" else {"quality": 95}
        Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1])).save(path, exif=exif, **options)
    (tmp_path / "zebra").mkdir()
    write_picture(tmp_path / "zebra/striped.png", np.zeros((8, 8, 3), np.uint8))
    images = load_dataset("folder", tmp_path)
    source = open_source(tmp_path)
    for index in range(8):
        frame = source.read(None)
        assert frame is not None
        np.testing.assert_array_equal(images.frames[index], frame.pixels)
        assert np.abs(frame.pixels.astype(int) - upright).mean() <= (10 if suffix == ".jpg" else 0)
