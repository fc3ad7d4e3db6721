"""`edge bench --energy`: a table and JSON, and exit code 4 where no meter can be read."""

import json
from functools import partial
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.cli.main import main
from edge.measure.power.base import Meters, RailMeter, Total, Unavailable
from edge.measure.power.find import find_meters
from tests.support.commands import call
from tests.support.meters import SHORT, cpu_time_meters

CLASSIFIERS = ("whole", "early exit", "exit 0 forced", "exit 1 forced", "exit 2 forced", "beside ")


@pytest.fixture
def _metered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meter this process, for a short time."""
    monkeypatch.setattr("edge.cli.bench.find_meters", cpu_time_meters)
    monkeypatch.setattr("edge.cli.bench_energy.METHOD", SHORT)


@pytest.mark.usefixtures("_metered", "launches")
def test_the_table_has_every_classifier_the_break_even_shares_and_the_missing_meters(digits_bundle: Bundle) -> None:
    words = ("--backend", "onnxruntime", "--precision", "fp32", "--energy", "--beside", digits_bundle.path)
    result = call(main, "bench", digits_bundle.path, *words)
    assert result.code == 0, result.stderr
    table = result.stdout.partition("energy per inference")[2]
    rows = [line for line in table.splitlines() if "board/VIN" in line and line.startswith("│")]
    assert all(name in row for name, row in zip(CLASSIFIERS, rows, strict=True))
    [gross, net] = [line for line in table.splitlines() if "saves energy" in line]
    assert gross.startswith("fp32, board/VIN: gross mix ")
    assert net.startswith("fp32, board/VIN: net mix ")
    assert "board/VIN: updated every " in table
    assert "; total of the board's input" in table
    assert "rapl is unavailable: permission denied: energy_uj; run as root" in table
    assert "leave the machine alone" in result.stderr


@pytest.mark.usefixtures("_metered", "launches")
def test_json_has_the_energy_of_every_classifier_with_its_uncertainty(digits_bundle: Bundle) -> None:
    words = (digits_bundle.path, "--backend", "onnxruntime", "--precision", "fp32", "--energy", "--json")
    result = call(main, "bench", *words)
    assert result.code == 0, result.stderr
    energy = json.loads(result.stdout)["precisions"]["fp32"]["energy"]
    assert list(energy["energy"]["workloads"]) == ["whole", "early_exit", "exit_0", "exit_1", "exit_2"]
    for workload in energy["energy"]["workloads"].values():
        for rail in workload["rails"].values():
            assert rail["gross_mj"]["mean"] > rail["net_mj"]["mean"]
            assert rail["gross_mj"]["plus_minus"] >= 0
    assert [meter["name"] for meter in energy["energy"]["unavailable"]] == ["rapl"]
    assert energy["energy"]["method"]["rounds"] == SHORT.rounds
    assert set(energy["balance"]["board/VIN"]) == {"gross", "net", "joules_per_correct_prediction"}


@pytest.mark.usefixtures("_metered", "launches")
def test_a_meter_that_fails_meanwhile_does_not_lose_the_latencies(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> float:
        raise OSError(5, "Input/output error", "energy_uj")

    meter = RailMeter("board", "energy_mj", {"VIN": fail}, Total(("VIN",), "the board's input"))
    monkeypatch.setattr("edge.cli.bench.find_meters", lambda: Meters((meter,)))
    words = (digits_bundle.path, "--backend", "onnxruntime", "--precision", "fp32", "--energy", "--json")
    result = call(main, "bench", *words)
    assert result.code == 4
    assert "error: no rail gave usable readings: board/VIN: Input/output error: energy_uj" in result.stderr
    measured = json.loads(result.stdout)["precisions"]["fp32"]
    assert measured["whole"]["latency_ms"]["mean"] > 0
    assert "energy" not in measured


def test_without_a_meter_the_reason_of_each_kind_is_printed_before_anything_is_measured(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.measure.power.find.find_nvml", lambda: Unavailable("nvml", "Driver Not Loaded"))
    monkeypatch.setattr("edge.cli.bench.find_meters", partial(find_meters, tmp_path))
    result = call(main, "bench", digits_bundle.path, "--energy")
    assert result.code == 4
    assert result.stderr.startswith("error: no meter of power or energy can be read here: ina: no INA3221 or INA238")
    assert "nvml: Driver Not Loaded; rapl: no domain" in result.stderr
    assert not result.stdout
