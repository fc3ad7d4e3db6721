"""Finished networks on disk: a row of figures and the correct predictions of each, so that a run can go on later."""

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.papers.evaluation import EvaluatedNetwork, Row
from benchmarks.papers.grid import Run
from edge.errors import DataError
from edge.storage import write_file

ROW, CORRECT = "row.json", "correct.npy"


def write_finished(folder: Path, network: EvaluatedNetwork) -> None:
    """Write the figures of a network into its folder, the row last: it marks the network as finished."""
    buffer = io.BytesIO()
    np.save(buffer, np.packbits(network.correct, axis=1))
    write_file(folder / CORRECT, buffer.getvalue())
    write_file(folder / ROW, json.dumps(network.row))


def read_finished(folder: Path, run: Run) -> EvaluatedNetwork | None:
    """Return the figures of a network, or None if it is not finished.

    Raises:
        DataError: the folder holds a network of another split or other epochs, or damaged files.
    """
    if not (folder / ROW).exists():
        return None
    try:
        row: Row = json.loads((folder / ROW).read_text())
        bits = np.load(io.BytesIO((folder / CORRECT).read_bytes()))
        correct: NDArray[np.bool_] = np.unpackbits(bits, axis=1, count=row["samples"]).astype(bool)
        is_same = (row["split"], row["epochs"]) == (run.split, run.epochs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} cannot be read ({error}); delete it to train this network again") from error
    if not is_same:
        raise DataError(f"{folder} holds a network of another grid; choose another --output, or delete it")
    return EvaluatedNetwork(row, correct)
