"""The papers' grid can be trained; a run evaluates its networks completely and goes on where it stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.papers import RESULT, run_papers
from benchmarks.papers.evaluation import area, exit_macs
from benchmarks.papers.finished import CORRECT, ROW
from benchmarks.papers.grid import (
    BEST_CGT,
    BUDGETS,
    CURVE,
    MAIN_TASK,
    TEST_SEEDS,
    VALIDATION_SEEDS,
    Run,
    full_grid,
    quick_grid,
)
from benchmarks.papers.methods import CGT, DEFAULT, FORMER, JOINT, METHODS, PLAIN
from benchmarks.papers.tasks import TASKS, WRONG_LABELS, Task, fashion, long_tail
from edge.bundle.manifest import InputSpec
from edge.errors import DataError
from edge.training.__main__ import parser
from edge.training.backbones import build_network
from edge.training.checkpoint import read_checkpoint
from edge.training.datasets import fashion_mnist, load_dataset
from edge.training.regimes import REGIMES, phase_ends
from edge.training.settings import Settings
from edge.training.splits import draw_splits
from edge.training.train import CHECKPOINT
from tests.training.test_datasets import write_fashion_mnist

Row = dict[str, Any]


# Grid


@pytest.mark.parametrize("grid", [full_grid, quick_grid])
def test_every_run_has_a_folder_of_its_own(grid: Callable[[], list[Run]]) -> None:
    names = [run.name for run in grid()]
    assert len(names) == len(set(names))
    assert all(name == name.strip("/") and ".." not in name for name in names)


@pytest.mark.parametrize("grid", [full_grid, quick_grid])
def test_every_run_can_be_trained(grid: Callable[[], list[Run]]) -> None:
    for run in grid():
        phases = METHODS[run.method].phases or REGIMES[run.settings.regime]
        assert phase_ends(phases, run.settings)[-1] == run.epochs
    for backbone, truncated_at in {(run.settings.backbone, run.settings.truncated_at) for run in grid()}:
        build_network(backbone, 1, 10, truncated_at)


def test_no_seed_serves_both_the_choice_and_the_test() -> None:
    assert not set(VALIDATION_SEEDS) & set(TEST_SEEDS)
    seeds = {"validation": VALIDATION_SEEDS, "test": TEST_SEEDS}
    assert all(run.seed in seeds[run.split] for run in full_grid())


def test_all_methods_of_a_task_train_the_same_epochs_and_differ_in_their_method_only() -> None:
    for run in full_grid():
        assert run.epochs == TASKS[run.task].settings.epochs
    joint, best, default = (Run(MAIN_TASK, method, 3, "test", 5).settings for method in (JOINT, BEST_CGT, DEFAULT))
    assert replace(joint, regime=best.regime) == best
    assert replace(joint, attention_weight=default.attention_weight) == default


def test_the_default_recipe_is_that_of_the_training_command() -> None:
    command = parser().parse_args(["--output", "runs/x"])
    settings = Run(MAIN_TASK, DEFAULT, 0, "test", 1).settings
    for name in ("regime", "attention_weight", "attention_loss", "distillation_weight", "learning_rate"):
        assert getattr(settings, name) == getattr(command, name)


def test_the_former_recipe_differs_from_joint_in_its_learning_rate_only() -> None:
    joint, former = (Run(MAIN_TASK, method, 0, "test", 5).settings for method in (JOINT, FORMER))
    assert former.learning_rate < joint.learning_rate
    assert replace(former, learning_rate=joint.learning_rate) == joint


def test_every_form_of_gating_takes_part_in_the_choice() -> None:
    validated = {run.method for run in full_grid() if run.split == "validation"}
    assert {JOINT, *CGT} <= validated


def test_the_main_claims_are_tested_first() -> None:
    tested = [run for run in full_grid() if run.split == "test"]
    first = tested[: len(TEST_SEEDS) * (4 + len(PLAIN))]
    assert {(run.task, run.method) for run in first} == {
        (MAIN_TASK, name) for name in (JOINT, BEST_CGT, DEFAULT, FORMER, *PLAIN)
    }


def test_there_is_a_plain_network_at_the_cost_of_each_budget() -> None:
    spec = InputSpec("image", "gray", 1, 28, 28, (0.0,), (1.0,))
    whole = sum(exit_macs(build_network(TASKS[MAIN_TASK].settings.backbone, 1, 10), spec))
    networks = (METHODS[name].settings for name in PLAIN)
    costs = [sum(exit_macs(build_network(n["backbone"], 1, 10, n["truncated_at"]), spec)) / whole for n in networks]
    assert costs == sorted(costs)
    for budget in BUDGETS:
        assert 1 <= min(cost for cost in costs if cost >= budget) / budget < 1.25


def test_each_exit_costs_the_products_of_its_stage_and_head() -> None:
    spec = InputSpec("image", "gray", 1, 28, 28, (0.0,), (1.0,))
    stages = [
        9 * 8 * 28**2 + 9 * 8 * 16 * 14**2,
        9 * 16 * 32 * 14**2 + 2 * 9 * 32 * 32 * 7**2,
        9 * 32 * 64 * 7**2 + 9 * 64 * 64 * 7**2,
    ]
    necks = [9 * 16 * 16 * 7**2 + 9 * 16 * 32 * 4**2, 9 * 32 * 32 * 4**2, 0]
    attention = [32 * 4**2, 32 * 4**2, 64 * 7**2]
    classes = [10 * 4 * channels for channels in (32, 32, 64)]
    expected = [sum(parts) for parts in zip(stages, necks, attention, classes, strict=True)]
    assert exit_macs(build_network("cnn:16", 1, 10), spec) == expected == [470_656, 1_955_584, 2_715_200]


# Tasks


@pytest.fixture
def clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a Fashion-MNIST of 3,000 random images, of which tasks train on 400."""
    write_fashion_mnist(tmp_path, train=3000)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    monkeypatch.setattr("benchmarks.papers.tasks.TRAINING_IMAGES", 400)


@pytest.mark.usefixtures("clothes")
def test_the_small_task_keeps_every_image_with_its_label_and_the_other_splits() -> None:
    whole, images = load_dataset("fashion-mnist"), fashion("fashion")
    label_of = dict(zip(whole.digests, whole.labels, strict=True))
    assert [label_of[digest] for digest in images.digests] == images.labels.tolist()
    splits, whole_splits = draw_splits(images, seed=5), draw_splits(whole, seed=0)
    assert len(splits["train"]) == 400
    for purpose in ("test", "thresholds", "validation"):
        kept = {images.digests[index] for index in splits[purpose]}
        assert kept == {whole.digests[index] for index in whole_splits[purpose]}


@pytest.mark.usefixtures("clothes")
def test_wrong_labels_are_in_the_training_split_only() -> None:
    clean, noisy = fashion("fashion"), fashion("fashion-noisy", wrong_labels=WRONG_LABELS)
    label_of = dict(zip(clean.digests, clean.labels, strict=True))
    for purpose, indices in draw_splits(noisy, seed=1).items():
        wrong = np.mean([label_of.get(noisy.digests[i], noisy.labels[i]) != noisy.labels[i] for i in indices])
        assert wrong == pytest.approx(WRONG_LABELS if purpose == "train" else 0, abs=0.05)


@pytest.mark.usefixtures("clothes")
def test_class_sizes_fall_by_a_constant_factor_in_the_long_tail() -> None:
    images = fashion("fashion-long-tail", long_tail)
    held_out = sum(len(indices) for indices in images.fixed_splits.values())
    counts = np.bincount(images.labels[:-held_out], minlength=10)
    ratios = counts[1:5] / counts[:4]
    assert ratios == pytest.approx(np.full(4, 100 ** (-1 / 9)), abs=0.05)
    assert counts.min() >= 1


# Trained networks

JOINT_RUN = Run(MAIN_TASK, JOINT, 0, "test", 2)
RUNS = [replace(JOINT_RUN, method=method) for method in (JOINT, DEFAULT, "cgt-budget", "equilibrium", "plain-4")]
DIGITS = Task(
    lambda: load_dataset("digits", image_size=16),
    Settings(dataset="digits", backbone="cnn:12", image_size=16, epochs=2, batch_size=64),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and evaluate the runs on digits."""
    path = tmp_path_factory.mktemp("papers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, MAIN_TASK, DIGITS)
        patch.setattr("benchmarks.papers.evaluation.MAX_EXPLAINED", 32)
        run_papers(path, RUNS)
    return path


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return result


def test_every_network_has_a_row_with_a_value_for_each_exit_and_budget(folder: Path) -> None:
    rows = result_of(folder)["rows"]
    assert [row["method"] for row in rows] == [run.method for run in RUNS]
    for row in rows:
        plain = row["method"] in PLAIN
        exits = 1 if plain else 3
        assert len(row["exit_macs"]) == len(row["exit_accuracy"]) == len(row["ece"]) == exits
        assert [point["budget"] for point in row["points"]] == ([None] if plain else list(CURVE))
        assert (row["area"] is None) == plain
        assert ("maps" in row) == (row["method"] in (JOINT, DEFAULT))


def test_budgets_are_approximately_kept_and_the_last_point_is_the_whole_network(folder: Path) -> None:
    *curved, plain = result_of(folder)["rows"]
    for row in curved:
        assert all(point["macs_ratio"] <= point["budget"] + 0.1 for point in row["points"])
        assert row["points"][-1]["accuracy"] >= row["exit_accuracy"][-1] - 0.02
    assert plain["points"][0]["macs_ratio"] == pytest.approx(0.107, abs=0.01)
    assert plain["points"][0]["accuracy"] == plain["exit_accuracy"][0]


def test_a_regime_of_the_comparison_is_trained_and_its_checkpoint_restored(folder: Path) -> None:
    checkpoint = read_checkpoint(folder / f"{MAIN_TASK}/cgt-budget/seed-0" / CHECKPOINT)
    assert checkpoint.settings.regime == "cgt-budget"
    assert min(checkpoint.metrics["history"][-1]["validation_accuracy"]) > 0.2  # better than chance


def test_each_method_is_compared_with_joint_and_the_default_with_plain_networks(folder: Path) -> None:
    compared = {(c["method"], c["baseline"], c["budget"]) for c in result_of(folder)["comparisons"]}
    expected = {(method, JOINT, budget) for method in (DEFAULT, "cgt-budget", "equilibrium") for budget in BUDGETS}
    assert compared == expected | {(DEFAULT, "plain-4", 0.1)}
    rows = {row["method"]: row["points"][0]["accuracy"] for row in result_of(folder)["rows"]}
    [comparison] = [c for c in result_of(folder)["comparisons"] if c["baseline"] == "plain-4"]
    assert comparison["difference"] == pytest.approx(rows[DEFAULT] - rows["plain-4"], abs=1e-4)


def test_a_run_goes_on_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, MAIN_TASK, DIGITS)
    monkeypatch.setattr("benchmarks.papers.evaluation.MAX_EXPLAINED", 32)
    before, checkpoints = result_of(folder), sorted(folder.rglob(CHECKPOINT))
    times = [path.stat().st_mtime_ns for path in checkpoints]
    (folder / RUNS[1].name / ROW).unlink()  # killed between training and evaluation
    (folder / RESULT).unlink()
    run_papers(folder, RUNS)
    assert [path.stat().st_mtime_ns for path in checkpoints] == times
    assert sorted(result_of(folder)["rows"], key=str) == sorted(before["rows"], key=str)
    assert result_of(folder)["claims"] == before["claims"]


def test_networks_of_another_grid_and_damaged_figures_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another grid"):
        run_papers(folder, [replace(JOINT_RUN, epochs=3)])
    damaged = tmp_path / JOINT_RUN.name
    damaged.mkdir(parents=True)
    (damaged / ROW).write_bytes((folder / JOINT_RUN.name / ROW).read_bytes())
    (damaged / CORRECT).write_bytes((folder / JOINT_RUN.name / CORRECT).read_bytes()[:100])
    with pytest.raises(DataError, match="delete it"):
        run_papers(tmp_path, [JOINT_RUN])


def test_a_figure_is_written_for_each_task(folder: Path) -> None:
    assert (folder / f"{MAIN_TASK}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_area_is_the_mean_accuracy_over_the_budgets() -> None:
    points = [{"budget": budget, "accuracy": accuracy} for budget, accuracy in ((0.1, 0.5), (0.2, 0.7), (1.0, 0.9))]
    assert area(points) == pytest.approx((0.1 * 0.6 + 0.8 * 0.8) / 0.9)
    assert area(points[:1]) is None
