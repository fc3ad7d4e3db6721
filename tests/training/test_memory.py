"""Memory that runs out while training is reported in one line; all other errors pass unchanged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import UnavailableError
from edge.training.datasets import load_dataset
from edge.training.memory import report_exhausted_memory
from edge.training.settings import Settings
from edge.training.train import train
from tests.support.commands import limited_memory

TOO_MUCH = 1 << 50
"""Bytes that no machine has."""


def test_a_batch_that_does_not_fit_into_memory_is_reported_with_the_remedy(tmp_path: Path) -> None:
    settings = Settings(dataset="digits", image_size=32, backbone="resnet18-cifar", batch_size=512, epochs=1)
    images = load_dataset(settings.dataset, image_size=settings.image_size)
    message = r"memory ran out: \d+ bytes more do not fit; lower --batch-size or --image-size, use"
    with limited_memory(500 << 20), pytest.raises(UnavailableError, match=message):
        train(settings, tmp_path / "run", images)
    assert not list(tmp_path.rglob("*.pt"))


def test_the_allocators_of_torch_and_numpy_are_recognised() -> None:
    with pytest.raises(UnavailableError, match=f"{TOO_MUCH} bytes more do not fit"), report_exhausted_memory():
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    with pytest.raises(UnavailableError, match=r"1\.00 PiB more do not fit"), report_exhausted_memory():
        np.empty(TOO_MUCH, dtype=np.uint8)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.44 GiB"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=str,
)
def test_the_errors_of_gpu_libraries_are_recognised(error: Exception) -> None:
    with pytest.raises(UnavailableError, match="lower --batch-size") as reported, report_exhausted_memory():
        raise error
    assert ("2.00 GiB more" in str(reported.value)) == isinstance(error, torch.OutOfMemoryError)


def test_an_error_of_another_cause_passes() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), report_exhausted_memory():
        torch.ones(2) + torch.ones(3)
