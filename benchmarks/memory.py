"""Peak memory of `edge run`, and of a minimal process that decodes the same video and loads the same segments."""

import subprocess
import sys
from pathlib import Path

from edge.bundle.bundle import Bundle
from edge.engines.cache import EngineCache
from edge.engines.onnxruntime import OnnxRuntime

BARE = """
import sys, cv2, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[2:]]
video = cv2.VideoCapture(sys.argv[1])
while video.read()[0]:
    pass
"""
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_rss_mb_over_bare(bundle: Bundle, precision: str, video: Path) -> dict[str, float]:
    """Return the peak resident memory of both, each in its own process, in megabytes (10^6 bytes)."""
    cache = EngineCache()
    segments = bundle.precision(precision).segments
    engines = [cache.get(bundle.path / segment.file, OnnxRuntime(), batch=1).path for segment in segments]
    run = ["-m", "edge", "run", str(bundle.path), "--source", str(video), "--precision", precision]
    edge_mb = _peak_mb([sys.executable, *run])
    bare_mb = _peak_mb([sys.executable, "-c", BARE, str(video), *map(str, engines)])
    return {"edge_run_mb": edge_mb, "bare_mb": bare_mb, "over_bare_mb": edge_mb - bare_mb}


def _peak_mb(command: list[str]) -> float:
    """Return a command's peak memory, measured by a process that has no other children."""
    done = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024 / 1e6
