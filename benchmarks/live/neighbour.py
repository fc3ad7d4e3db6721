"""A stage of the pipeline in a process of its own, to measure the other stage beside it.

Cores share memory and power, so a stage is slower while another core works. Two processes share nothing else: their
times are the limit of a pipeline.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from benchmarks.live.networks import Workload
from benchmarks.live.stages import capture_all, infer_all, read_frames
from edge.inference.load import load


class Neighbour:
    """A process that captures or infers in an endless loop while it is resumed."""

    def __init__(self, stage: Literal["capture", "inference"], workload: Workload) -> None:
        """Start the process, and stop it once it is ready."""
        words = (stage, workload.bundle.path, workload.video, *workload.thresholds)
        command = [sys.executable, "-m", "benchmarks.live.neighbour", *map(str, words)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None, "stdout is a pipe"  # noqa: S101 - for mypy
        self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Let the process work."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with self._process:
            pass


def main(stage: str, bundle: Path, video: Path, thresholds: list[float]) -> None:
    """Capture or infer until the process is killed."""
    frames = read_frames(video)
    with load(bundle, backend="onnxruntime", precision="fp32") as fitted:
        classifier = fitted.with_thresholds(thresholds) if thresholds else fitted
        print("ready", flush=True)
        while True:
            if stage == "capture":
                capture_all(video)
            else:
                infer_all(classifier, frames)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [float(value) for value in sys.argv[4:]])
