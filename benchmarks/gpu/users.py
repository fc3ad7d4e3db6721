"""The chain against what a user of torch would write, on the same modules and frames."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.examples import Example, example
from benchmarks.gpu.torch_segments import torch_classifier
from benchmarks.gpu.user_code import eager_loop, whole_as_graph
from benchmarks.gpu.ways import Answering, Answers, answers_of, by_the_host, interleaved, summed_up
from edge.console import log, print_table
from edge.cuda.identity import device_facts
from edge.cuda.runtime import Level, Runtime
from edge.cuda.slot import CudaSlot
from edge.frames.base import Frame

NETWORKS = {"cnn-small": 32, "resnet18": 224}
"""Backbones, and pixels a side of what they see."""
DEVICE = "cuda"
LEVELS: tuple[Level, ...] = ("graph", "stepwise")
LOOP, WHOLE = "torch loop", "torch whole graph"


def against_users(runtime: Runtime, shares: Sequence[float], frames: int, warm_up: int) -> dict[str, Any]:
    """Return, for each network, what every way takes and says."""
    networks = {}
    for backbone, size in NETWORKS.items():
        log(f"{backbone} in torch, every way in turns")
        one = example(backbone, size, shares, DEVICE)
        networks[f"{backbone} {size}x{size}"] = measured(runtime, one, one.frames(warm_up + frames), warm_up)
    return {"what": what_runs(), "networks": networks}


def what_runs() -> str:
    """Return what times of a network in torch are to be labelled with."""
    return f"random weights, kernels of torch {torch.__version__} on {device_facts()['gpu']}, no TensorRT"


def measured(runtime: Runtime, one: Example, frames: Sequence[Frame], warm_up: int) -> dict[str, Any]:
    """Return what every way takes, from a frame in host memory to its answer there, in turns."""
    classifier = torch_classifier(runtime, one.network, one.spec, one.thresholds)
    slots = {level: CudaSlot(classifier, replace(runtime, level=level)) for level in LEVELS}
    answering: dict[str, Answering] = {
        LOOP: eager_loop(one.network, one.thresholds, DEVICE),
        WHOLE: whole_as_graph(one.network, one.spec.shape),
        **{level: answers_of(slot) for level, slot in slots.items()},
    }
    with ExitStack() as stack:
        for slot in slots.values():
            stack.callback(slot.close)
        found = interleaved({name: by_the_host(answer) for name, answer in answering.items()}, frames, warm_up)
    waits = {level: slot.syncs / len(frames) for level, slot in slots.items()}
    return {"thresholds": one.thresholds, "waits_a_frame": waits, "ways": compared(found)}


def compared(found: Mapping[str, Answers]) -> dict[str, Any]:
    """Return each way's times, exits taken, and how far it answers as the loop does."""
    loop, graph = found[LOOP], found["graph"]
    exits = range(int(found[WHOLE].exit_index[0]) + 1)
    result = {}
    for name, one in found.items():
        same = one.exit_index == loop.exit_index
        result[name] = {
            "latency_us": summed_up(one.us),
            "mean_over_graph": float(one.us.mean() / graph.us.mean()),
            "exit_shares": [float((one.exit_index == k).mean()) for k in exits],
            "same_exit_as_loop": float(same.mean()),
            "same_label_there": float((one.label == loop.label)[same].mean()) if same.any() else None,
        }
    return result


def print_users(result: Mapping[str, Any]) -> None:
    """Print a table for each network."""
    columns = ("way", "mean", "p50", "p99", "mean over graph", "exit shares", "same exit", "same label there")
    for name, network in result["networks"].items():
        lines = [cells(way, found) for way, found in network["ways"].items()]
        print_table(f"{name}: {result['what']}", columns, lines)


def cells(way: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
    label = found["same_label_there"]
    return (
        way,
        *(f"{found['latency_us'][name]:.1f} us" for name in ("mean", "p50", "p99")),
        f"{found['mean_over_graph']:.2f}x",
        " ".join(f"{share:.2f}" for share in found["exit_shares"]),
        f"{found['same_exit_as_loop']:.2%}",
        "-" if label is None else f"{label:.2%}",
    )
