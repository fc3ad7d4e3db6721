"""The papers' grid can be trained, and its networks are evaluated completely."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.papers import evaluate_all, train_all
from benchmarks.papers.claims import BUDGETS, WITHIN, claims_of
from benchmarks.papers.figures import write_figures
from benchmarks.papers.grid import ALPHA, BACKBONE, OURS, full_grid, name_of, quick_grid
from benchmarks.papers.regimes import PAPER_REGIMES
from benchmarks.results import write_result
from edge.training.backbones import build_network
from edge.training.checkpoint import read_checkpoint
from edge.training.datasets import dataset_names
from edge.training.regimes import REGIMES, phase_ends
from edge.training.settings import Settings
from edge.training.train import CHECKPOINT, train

Row = dict[str, Any]
POINTS = ("whole", WITHIN, *BUDGETS)
ALL_REGIMES = REGIMES | PAPER_REGIMES


# Grid


@pytest.mark.parametrize("grid", [full_grid, quick_grid])
def test_every_run_has_a_folder_of_its_own(grid: Callable[[], list[Settings]]) -> None:
    names = [name_of(run) for run in grid()]
    assert len(names) == len(set(names))
    assert all(name == name.strip("/") and ".." not in name for name in names)
    assert not any(other.startswith(f"{name}/") for name in names for other in names)


@pytest.mark.parametrize("grid", [full_grid, quick_grid])
def test_every_run_can_be_trained(grid: Callable[[], list[Settings]]) -> None:
    for run in grid():
        assert run.dataset in dataset_names()
        assert phase_ends(ALL_REGIMES[run.regime], run)[-1] == run.epochs
    for backbone, truncated_at in {(run.backbone, run.truncated_at) for run in grid()}:
        build_network(backbone, 1, 10, truncated_at)


def test_the_full_grid_repeats_every_run_per_seed_and_covers_the_claims() -> None:
    runs = full_grid((0, 1, 2))
    assert {run.seed for run in runs} == {0, 1, 2}
    assert all(dataclasses.replace(run, seed=0) in runs for run in runs if run.seed == 1)
    for dataset in ("fashion-mnist", "fashion-mnist-small", "indian-pines", "indian-pines-disjoint"):
        members = [run for run in runs if (run.dataset, run.backbone, run.seed) == (dataset, BACKBONE, 2)]
        unguided = {run.regime for run in members if not run.attention_weight and run.truncated_at is None}
        assert {run.regime for run in members if run.attention_weight} == {"joint", OURS} <= unguided
        assert sorted(run.truncated_at for run in members if run.truncated_at is not None) == [0, 1, 2]
    assert unguided_regimes(runs, "fashion-mnist") == set(ALL_REGIMES)


def unguided_regimes(runs: Sequence[Settings], dataset: str) -> set[str]:
    return {run.regime for run in runs if run.dataset == dataset and not run.attention_weight}


def test_runs_of_a_dataset_are_consecutive_so_that_it_is_loaded_once() -> None:
    for runs in (full_grid(), quick_grid()):
        order = [run.dataset for run in runs]
        assert sum(first != second for first, second in itertools.pairwise(order)) == len(set(order)) - 1


# Trained networks

JOINT = Settings(dataset="digits", backbone=BACKBONE, image_size=16, epochs=2, batch_size=64, attention_weight=0.0)
GROUP = [dataclasses.replace(JOINT, truncated_at=1, epochs=1), JOINT]
NEEDED = {
    "accuracy", "macro_f1", "precision", "recall", "exit_shares", "macs_ratio", "consistency_raw",
    "consistency_centred", "consistency_shuffled", "map_entropy", "speedup_measured",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvaluatedRuns:
    """A folder of trained networks, and their rows."""

    folder: Path
    rows: list[Row]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedRuns:
    """Train and evaluate a network and a truncated network, the latter first."""
    folder = tmp_path_factory.mktemp("papers")
    for run in GROUP:
        train(run, folder / name_of(run))
    return EvaluatedRuns(folder, evaluate_all(GROUP, folder))


def test_every_operating_point_of_every_network_has_a_row(evaluated: EvaluatedRuns) -> None:
    points = [(row["regime"], row["truncated_at"], row["operating_point"]) for row in evaluated.rows]
    expected = [("truncated", 1, "alone"), *(("joint", None, point) for point in POINTS)]
    assert sorted(points, key=str) == sorted(expected, key=str)
    assert all((row["dataset"], row["backbone"], row["seed"]) == ("digits", BACKBONE, 0) for row in evaluated.rows)


def test_every_row_has_all_fields_and_is_serialisable(evaluated: EvaluatedRuns, tmp_path: Path) -> None:
    assert all(set(row) >= NEEDED for row in evaluated.rows)
    assert len({frozenset(row) for row in evaluated.rows}) == 1  # claims expect the same fields in all rows
    json.dumps(evaluated.rows, allow_nan=False)
    write_result(tmp_path / "papers.json", {"rows": evaluated.rows})
    assert len(json.loads((tmp_path / "papers.json").read_text())["rows"]) == len(evaluated.rows)


def test_per_exit_fields_have_a_value_for_each_exit(evaluated: EvaluatedRuns) -> None:
    for row in evaluated.rows:
        exits = 1 if row["operating_point"] == "alone" else 3
        for field in ("exit_shares", "routed_accuracy", "exit_accuracy", "ece", "auroc", "map_entropy", "deletion",
                      "insertion", "gradcam_agreement"):  # fmt: skip
            assert len(row[field]) == exits, field
        for field in ("thresholds", "consistency_raw", "consistency_centred", "consistency_shuffled"):
            assert len(row[field]) == exits - 1, field
        assert sum(row["exit_shares"]) == pytest.approx(1)
        assert row["speedup_measured"] > 0


def test_the_whole_network_uses_its_last_exit_and_the_truncated_network_its_only_exit(evaluated: EvaluatedRuns) -> None:
    rows = {row["operating_point"]: row for row in evaluated.rows}
    whole, alone = rows["whole"], rows["alone"]
    assert whole["exit_shares"] == [0, 0, 1]
    assert whole["accuracy"] == whole["exit_accuracy"][-1] > 0.3  # better than chance
    assert whole["macs_ratio"] == pytest.approx(1)
    assert alone["exit_shares"] == [1]
    assert alone["accuracy"] == alone["exit_accuracy"][0]
    assert 0.1 < alone["macs_ratio"] < 0.7  # relative to the whole network


def test_budgets_are_approximately_kept_on_the_test_split(evaluated: EvaluatedRuns) -> None:
    rows = {row["operating_point"]: row for row in evaluated.rows}
    ratios = [rows[budget]["macs_ratio"] for budget in BUDGETS]
    assert ratios == sorted(ratios)
    assert all(ratio <= float(budget.split()[1]) + 0.1 for ratio, budget in zip(ratios, BUDGETS, strict=True))


def test_map_metrics_do_not_depend_on_thresholds(evaluated: EvaluatedRuns) -> None:
    rows = [row for row in evaluated.rows if row["truncated_at"] is None]
    for field in ("consistency_raw", "map_entropy", "deletion", "insertion", "gradcam_agreement", "ece"):
        assert len({tuple(row[field]) for row in rows}) == 1
    for row in rows:
        assert all(0 <= value <= 1 + 1e-6 for field in ("consistency_raw", "map_entropy") for value in row[field])


@pytest.mark.parametrize("regime", PAPER_REGIMES)
def test_a_regime_of_the_papers_is_trained_and_its_checkpoint_restored(regime: str, tmp_path: Path) -> None:
    run = dataclasses.replace(JOINT, regime=regime, batch_size=32)
    train_all([run], tmp_path)
    checkpoint = read_checkpoint(tmp_path / name_of(run) / CHECKPOINT)
    assert checkpoint.settings == run
    assert len(checkpoint.network().heads) == 3
    assert min(checkpoint.metrics["history"][-1]["validation_accuracy"]) > 0.2  # better than chance
    assert train(run, tmp_path / name_of(run)).settings == run  # a finished run needs no phases


def test_runs_are_trained_at_their_own_image_size(tmp_path: Path) -> None:
    runs = [dataclasses.replace(JOINT, image_size=size, epochs=1, seed=size) for size in (12, 16)]
    train_all(runs, tmp_path)
    sizes = [read_checkpoint(tmp_path / name_of(run) / CHECKPOINT).input.height for run in runs]
    assert sizes == [12, 16]


def test_finished_runs_are_not_trained_again(evaluated: EvaluatedRuns) -> None:
    paths = [evaluated.folder / name_of(run) / CHECKPOINT for run in GROUP]
    before = [path.stat().st_mtime_ns for path in paths]
    train_all(GROUP, evaluated.folder)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_figure_is_written_for_each_dataset(evaluated: EvaluatedRuns, tmp_path: Path) -> None:
    pines = [row | {"dataset": "indian-pines", "alpha": ALPHA} for row in evaluated.rows]
    write_figures(tmp_path, [*pines, *evaluated.rows])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.png", "indian-pines.png"]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_rows_of_another_backbone_have_no_figure(evaluated: EvaluatedRuns, tmp_path: Path) -> None:
    write_figures(tmp_path, [row | {"backbone": "resnet18-cifar"} for row in evaluated.rows])
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_dataset_give_no_claims(evaluated: EvaluatedRuns) -> None:
    assert claims_of(evaluated.rows) == []
