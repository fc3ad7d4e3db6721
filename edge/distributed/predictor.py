"""Batches of images to columns of predictions; images that cannot be read have a reason instead."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from edge.decision import Prediction
from edge.errors import DataError, SourceError
from edge.frames.base import Frame, PixelFormat
from edge.frames.files import silence_opencv
from edge.frames.images import decode_image
from edge.frames.open import open_frame
from edge.inference.classifier import Classifier
from edge.inference.load import load

PREDICTION_SCHEMA = pa.schema(
    {
        "label": pa.string(),
        "label_index": pa.int32(),
        "probability": pa.float32(),
        "confidence": pa.float32(),
        "exit_index": pa.int32(),
        "error": pa.string(),
    }
)
"""Columns of predictions. Where an image cannot be read, `error` has the reason and the others are null."""

ENCODED = Path("the encoded image")
"""Name of an image without a file, for messages."""


class BundlePredictor:
    """Classifies batches of a Ray dataset with a bundle, which each worker loads once.

    For `ray.data.Dataset.map_batches`, in its default batch format:

        images.map_batches(BundlePredictor, fn_constructor_args=["bundle"], batch_size=256, concurrency=8)

    The column with the images has paths, encoded files as `read_binary_files` and Parquet files hold them (also as
    structs with `bytes`), or RGB arrays as `read_images` returns them. It is replaced by the columns of
    `PREDICTION_SCHEMA`.
    """

    def __init__(self, bundle: str | Path, column: str = "image", **options: Any) -> None:
        """Load a bundle.

        Args:
            bundle: Folder made by `python -m compile`, at the same path on every node.
            column: Column with the images.
            options: Options of `edge.load`, such as `precision`.

        Raises:
            EdgeError: as `edge.load`.
        """
        self._classifier, self._column = load(bundle, **options), column

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return a batch with predictions in place of the images; missing values are None.

        Raises:
            DataError: another column has the name of a prediction's.
        """
        others = {name: values for name, values in batch.items() if name != self._column}
        if taken := sorted(set(others) & set(PREDICTION_SCHEMA.names)):
            names = ", ".join(taken)
            raise DataError(f"columns of the dataset are named like those of predictions: {names}; rename them before")
        predictions = predictions_table(classify(self._classifier, batch[self._column]))
        return others | {name: _array(predictions[name]) for name in predictions.column_names}


def classify(classifier: Classifier, images: Iterable[Any]) -> list[Prediction | SourceError]:
    """Classify images in batches, with the reason in place of the prediction where an image cannot be read.

    Args:
        classifier: The classifier.
        images: Paths, encoded files or RGB arrays; arrays of their own kind for networks that read arrays.
    """
    opened = [open_image(image, classifier.chain.input.kind) for image in images]
    predictions = iter(_predict(classifier, [frame for frame in opened if isinstance(frame, Frame)]))
    return [next(predictions) if isinstance(frame, Frame) else frame for frame in opened]


def predictions_table(results: Iterable[Prediction | SourceError]) -> pa.Table:
    """Return predictions and reasons as a table with the columns of `PREDICTION_SCHEMA`."""
    rows = [
        {"error": str(result)} if isinstance(result, SourceError) else {**result._asdict(), "error": None}
        for result in results
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA)


def open_image(image: Any, kind: Literal["image", "array"]) -> Frame | SourceError:
    """Return an image of `classify` as a frame, or the reason why it cannot be read."""
    try:
        image = unpack(image)
        if isinstance(image, bytes):
            silence_opencv()
            return Frame(decode_image(image, ENCODED), PixelFormat.BGR)
        if isinstance(image, np.ndarray) and kind == "image" and image.ndim == 3 and image.shape[2] in (3, 4):
            image = np.ascontiguousarray(image[:, :, [2, 1, 0, *range(3, image.shape[2])]])  # RGB to BGR
        return open_frame(image, kind)
    except SourceError as error:
        return error


def unpack(image: Any) -> Any:
    """Return the encoded file of a struct with `bytes`, as Hugging Face writes it, and any other image as it is."""
    return image["bytes"] if isinstance(image, Mapping) else image


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as an array; with missing values, which NumPy's numbers lack, as one of objects."""
    if column.null_count:
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(column.to_numpy())


def _predict(classifier: Classifier, frames: list[Frame]) -> list[Prediction | SourceError]:
    """Classify frames; where one cannot be preprocessed, each alone."""
    try:
        return [*classifier.predict_batch(frames)]
    except SourceError as error:
        if len(frames) == 1:
            return [error]
        return [result for frame in frames for result in _predict(classifier, [frame])]
