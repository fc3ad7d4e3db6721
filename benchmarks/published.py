"""Energies that others have published for the same boards, to stand beside measured ones."""

from typing import NamedTuple


class Published(NamedTuple):
    """A published energy per inference."""

    board: str
    """Text in the name of the board that the figure is for."""
    source: str
    energy_mj: float
    note: str


MLPERF = "ResNet-50 in int8, TensorRT, batch 1; the whole system at the wall, gross"
PUBLISHED = (
    Published("AGX Orin", "MLPerf Inference v3.0, MaxQ, as submitted", 22.2, MLPERF),
    Published("AGX Orin", "MLPerf Inference v3.0, MaxQ, as reproduced", 27.6, MLPERF),
    Published("Orin NX", "MLPerf Inference v3.1, MaxQ", 19.4, MLPERF),
)


def published_for(board: str | None) -> list[Published]:
    """Return the figures for a board, such as `NVIDIA Jetson AGX Orin Developer Kit`."""
    return [figure for figure in PUBLISHED if board is not None and figure.board in board]
