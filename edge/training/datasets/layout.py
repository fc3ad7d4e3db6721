"""Layout of a user's images on disk: a folder per class, directly or in folders of splits."""

import unicodedata
from pathlib import Path

from edge.errors import DataError
from edge.frames.images import IMAGE_SUFFIXES
from edge.frames.labelled import class_folders

LAYOUT = "give --data a folder with a subfolder of images for each class"
SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Split by the name of its folder."""
UNPRINTABLE = ("Cc", "Cs")
"""Unicode's categories of control characters and surrogates, which stand for bytes that are not UTF-8."""

ClassImages = dict[str, list[Path]]
"""Image files of each class."""


def images_by_split(folder: Path | None) -> dict[str, ClassImages]:
    """Return the images of each class in each split; a folder without splits is the split `train`.

    Raises:
        DataError: the folder is missing, has fewer than two classes, an empty class, or another layout.
    """
    if folder is None:
        raise DataError(f"the dataset 'folder' needs the location of your images; {LAYOUT}")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; {LAYOUT}")
    splits = _split_folders(folder)
    if not splits:
        return {"train": _class_images(folder)}
    images = {purpose: _class_images(path) for purpose, path in splits.items()}
    for purpose, classes in images.items():
        if unknown := sorted(set(classes) - set(images["train"])):
            raise DataError(
                f"{splits[purpose]} has the classes {', '.join(unknown)}, which {splits['train']} lacks; "
                "give every split folders of the same classes"
            )
    return images


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; empty if the subfolders are classes.

    A folder named `train` with images directly in it is a class, of vehicles for instance.
    """
    subfolders = _subfolders(folder)
    named = {path: SPLITS[path.name.lower()] for path in subfolders if path.name.lower() in SPLITS}
    nested = [path for path in named if _subfolders(path) and not _has_images(path)]
    if named and len(named) == len(subfolders) == len(nested):
        return _each_once(folder, named)
    if nested:
        others = ", ".join(path.name for path in subfolders if path not in nested)
        raise DataError(
            f"{folder} has {', '.join(path.name for path in nested)}, which look like splits with a folder per class, "
            f"beside {others}; keep only train, val and test there, or give --data one of them"
        )
    if set(named.values()) >= {"train", "test"} and len(named) == len(subfolders):
        raise DataError(
            f"{folder} has only {', '.join(path.name for path in named)}, which look like splits and hold images "
            "directly; put the images of each split into a subfolder for each class"
        )
    _check_depth(folder, subfolders)
    return {}


def _each_once(folder: Path, named: dict[Path, str]) -> dict[str, Path]:
    """Return the folder of each split."""
    splits = {purpose: path for path, purpose in named.items()}
    if len(splits) < len(named):
        raise DataError(
            f"{folder} has several folders for one split: {', '.join(path.name for path in named)}; "
            "keep one for each split"
        )
    if "train" not in splits:
        raise DataError(
            f"{folder} has {', '.join(path.name for path in named)} but no folder train; add it, or give --data a "
            "folder with a subfolder of images for each class"
        )
    return splits


def _check_depth(folder: Path, subfolders: list[Path]) -> None:
    """Refuse folders whose classes are one level deeper.

    Raises:
        DataError: there is a single subfolder and it has several, or all have subfolders of the same names.
    """
    inner = [{path.name for path in _subfolders(subfolder)} for subfolder in subfolders]
    if any(_has_images(subfolder) for subfolder in subfolders) or not subfolders:
        return
    shared = set.intersection(*inner)
    if len(subfolders) == 1 and len(shared) > 1:
        raise DataError(
            f"{folder} has only {subfolders[0].name}, which has the subfolders {_listed(shared)}; "
            f"if these are the classes, give --data {subfolders[0]}"
        )
    if len(subfolders) > 1 and len(shared) > 1:
        raise DataError(
            f"all of {_listed({path.name for path in subfolders})} in {folder} have the subfolders {_listed(shared)}, "
            "so the classes seem to be one level deeper; give --data a folder whose subfolders are the classes, or "
            "name the splits train, val and test"
        )


def _listed(names: set[str]) -> str:
    first = sorted(names)[:5]
    return ", ".join(first) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") for path in folder.iterdir())


def _class_images(folder: Path) -> ClassImages:
    """Return the image files of each class."""
    classes = class_folders(folder)
    if not classes:
        raise DataError(f"{folder} has no subfolders; {LAYOUT}")
    if len(classes) == 1:
        raise DataError(
            f"{folder} has only one class, {next(iter(classes))!r}; a classifier needs at least 2: {LAYOUT}"
        )
    for name in classes:
        if any(unicodedata.category(character) in UNPRINTABLE for character in name):
            raise DataError(
                f"{folder} has the class {name!a}, a name with control characters or bytes that are no UTF-8; "
                "rename the folder"
            )
    images = {
        name: [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES] for name, files in classes.items()
    }
    for name, paths in images.items():
        if not paths:
            raise DataError(
                f"{folder / name} has no images ({', '.join(IMAGE_SUFFIXES)}); add some, or remove the folder"
            )
    return images
