"""Training in several processes gives the result of training in a single process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edge.training.checkpoint import read_checkpoint
from tests.support import distributed_run
from tests.support.commands import ROOT, run_command

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
ON_CPU = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a single process, uninterrupted."""
    folder = tmp_path_factory.mktemp("alone")
    distributed_run.main(folder, epochs_at_once=distributed_run.EPOCHS)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two processes, interrupted after each epoch."""
    folder = tmp_path_factory.mktemp("together")
    script = ROOT / "tests" / "support" / "distributed_run.py"
    result = run_command(*TORCHRUN, script, folder, env={**ON_CPU, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    return folder


def outcomes(regime: str, *folders: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{regime}.pt", weights_only=True) for folder in folders]


@pytest.mark.parametrize("regime", distributed_run.REGIMES)
def test_two_processes_give_the_weights_of_a_single_process(regime: str, alone: Path, together: Path) -> None:
    expected_weights, weights = (outcome["weights"] for outcome in outcomes(regime, alone, together))
    initial = distributed_run.small_network().state_dict()
    assert expected_weights.keys() == weights.keys() == initial.keys()
    for name, expected in expected_weights.items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-5)
        change = (expected - initial[name]).abs().max()
        assert change == 0 if ".unused." in name else change > 1e-4, f"{name} changed by {change}"


@pytest.mark.parametrize("regime", distributed_run.REGIMES)
def test_reported_losses_are_means_over_all_processes(regime: str, alone: Path, together: Path) -> None:
    expected_history, history = (outcome["history"] for outcome in outcomes(regime, alone, together))
    for expected, row in zip(expected_history, history, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-4), name


def test_a_batch_size_that_is_not_a_multiple_of_the_processes_is_refused(alone: Path, together: Path) -> None:
    assert not (alone / "refusal.txt").exists()
    assert "batch size 17 cannot be divided among 2 processes" in (together / "refusal.txt").read_text()


def test_the_training_command_in_two_processes_writes_a_single_checkpoint(tmp_path: Path) -> None:
    small = ("--dataset", "digits", "--image-size", 12, "--epochs", 1, "--batch-size", 128)
    result = run_command(*TORCHRUN, "-m", "edge.training", *small, "--output", tmp_path / "run", env=ON_CPU)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.count("wrote ") == 1
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"checkpoint.pt", "metrics.json", "tensorboard"}
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    checkpoint.network()
    [row] = checkpoint.metrics["history"]
    assert len(row["validation_accuracy"]) == 3
