"""Energy of a bundle: earlier exits cost less, and the balance follows from shares and energies."""

import pytest

from edge.bundle.bundle import Bundle
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import Frame, frame_from_array
from edge.measure.bench import EARLY_EXIT, WHOLE, bench, exit_workload
from edge.measure.bench_energy import bench_energy, break_even_share, exit_balance
from tests.support.meters import CORE_MW, IDLE_MW, SHORT, cpu_time_meters

RAIL = "board/VIN"


def test_a_bundle_has_the_energy_of_each_exit_of_the_mix_and_of_the_whole_network(digits_bundle: Bundle) -> None:
    reference, backend = digits_bundle.reference(), OnnxRuntime()
    frames: list[Frame] = [frame_from_array(pixels, "image") for pixels in reference.frames[:40]]
    measured = bench(digits_bundle, "fp32", backend, frames, reference.labels[:40].tolist())
    result = bench_energy(digits_bundle, "fp32", backend, frames, measured, cpu_time_meters(), method=SHORT)
    workloads = result.energy.workloads
    assert list(workloads) == [WHOLE, EARLY_EXIT, *map(exit_workload, range(3))]
    net_mj = {name: workload.rails[RAIL].net_mj.mean for name, workload in workloads.items()}
    assert 0 < net_mj[exit_workload(0)] < net_mj[exit_workload(2)]
    assert workloads[WHOLE].rails[RAIL].power_mw < IDLE_MW + 2 * CORE_MW
    assert sum(result.exit_shares) == pytest.approx(1)
    assert result.exit_shares == pytest.approx(measured.early_exit.exit_shares, abs=0.1)
    balance = result.balance[RAIL]
    gross_mj = {name: workload.rails[RAIL].gross_mj.mean for name, workload in workloads.items()}
    assert balance.gross == exit_balance(gross_mj, result.exit_shares)
    assert balance.net == exit_balance(net_mj, result.exit_shares)
    accuracy = measured.early_exit.accuracy
    assert accuracy is not None
    assert balance.joules_per_correct_prediction[EARLY_EXIT] == pytest.approx(gross_mj[EARLY_EXIT] / 1e3 / accuracy)


def test_the_expected_mix_weighs_each_exit_by_its_share() -> None:
    energies_mj = {WHOLE: 9.0, EARLY_EXIT: 5.2, "exit_0": 2.0, "exit_1": 6.0, "exit_2": 10.0}
    balance = exit_balance(energies_mj, (0.5, 0.25, 0.25))
    assert balance.expected_mix_mj == 0.5 * 2 + 0.25 * 6 + 0.25 * 10
    assert balance.mix_mj == 5.2
    assert balance.break_even_shares == (1 / 8, 1 / 4)


@pytest.mark.parametrize(
    ("early_mj", "last_mj", "whole_mj", "share"),
    [
        (2, 10, 9, 1 / 8),
        (8, 10, 9, 1 / 2),
        (9, 10, 9, 1.0),
        (9.5, 10, 9, None),  # this exit alone costs more than the whole network
        (11, 10, 9, None),
        (2, 8, 9, 0.0),  # cut into segments, the network costs less than whole
    ],
)
def test_the_break_even_share_makes_the_chain_cost_as_much_as_the_whole_network(
    early_mj: float, last_mj: float, whole_mj: float, share: float | None
) -> None:
    found = break_even_share(early_mj, last_mj, whole_mj)
    assert found == share
    if found:
        assert found * early_mj + (1 - found) * last_mj == pytest.approx(whole_mj)
