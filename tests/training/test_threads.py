"""Threads of training: as many as a batch occupies, and the previous number afterwards."""

import pytest
import torch

from edge.bundle.manifest import InputSpec
from edge.training.backbones import build_network
from edge.training.network import AttentionHead, MultiExitNetwork, Stages
from edge.training.threads import MACS_PER_THREAD, fitting_threads, macs_per_image

CORES = 4


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give torch a number of threads of its own in each test, whatever this machine has."""
    threads = [CORES]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.__setitem__(0, count))


@pytest.mark.parametrize(
    ("batch_macs", "threads"),
    [(1, 1), (2 * MACS_PER_THREAD - 1, 1), (2 * MACS_PER_THREAD, 2), (100 * MACS_PER_THREAD, CORES)],
)
def test_a_batch_gets_the_threads_that_it_occupies(batch_macs: int, threads: int) -> None:
    with fitting_threads(batch_macs):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == CORES


def test_a_failed_training_restores_the_threads() -> None:
    with pytest.raises(ValueError, match="diverged"), fitting_threads(1):
        raise ValueError("diverged")
    assert torch.get_num_threads() == CORES


def test_macs_count_the_backbone_and_every_head() -> None:
    spec = InputSpec("image", "gray", 1, 4, 4, (0.0,), (1.0,))
    stage = torch.nn.Conv2d(1, 8, kernel_size=3, padding=1)
    network = MultiExitNetwork(Stages([stage]), [AttentionHead(8, 5)])
    assert macs_per_image(network, spec) == 16 * 8 * 9 + 16 * 8 + 8 * 5


def test_a_whole_network_costs_more_than_a_truncated_one() -> None:
    spec = InputSpec("image", "gray", 1, 16, 16, (0.0,), (1.0,))
    whole, truncated = (macs_per_image(build_network("cnn-small", 1, 10, k), spec) for k in (None, 0))
    assert whole > 2 * truncated
