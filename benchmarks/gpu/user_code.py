"""What a user of torch would write instead: a loop over the exits, or the whole network as one CUDA graph."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.gpu.ways import Answer, Answering
from edge.decision import validate_thresholds
from edge.frames.base import Frame
from edge.training.network import MultiExitNetwork


def eager_loop(network: MultiExitNetwork, thresholds: Sequence[float], device: str) -> Answering:
    """Return the loop that comes to mind first: exit by exit, asking each whether it is sure."""
    stages: Any = network.backbone.stages
    heads = network.heads
    limits = validate_thresholds(thresholds, len(heads)).tolist()

    @torch.inference_mode()
    def answer(frame: Frame) -> Answer:
        features = torch.from_numpy(frame)[None].to(device)
        for k, (stage, head) in enumerate(zip(stages, heads, strict=True)):
            features = stage(features)
            logits, _ = head(features)
            confidence, label = logits.softmax(dim=-1).max(dim=-1)
            if k == len(limits) or confidence.item() >= limits[k]:
                break
        return Answer(k, int(label.item()))

    return answer


def whole_as_graph(network: MultiExitNetwork, shape: tuple[int, int, int]) -> Answering:
    """Return the network without its early exits as one of torch's CUDA graphs."""
    last = len(network.heads) - 1
    image = torch.zeros(1, *shape, device="cuda")
    label, replay = recorded(network.truncated(last).eval(), image)

    def answer(frame: Frame) -> Answer:
        image.copy_(torch.from_numpy(frame)[None])
        replay()
        return Answer(last, int(label.item()))

    return answer


@torch.no_grad()
def recorded(network: MultiExitNetwork, image: torch.Tensor) -> tuple[torch.Tensor, Callable[[], None]]:
    """Return where a network's label of what is in `image` will be, and what computes it again."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]  # as torch left it
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up at the first calls, which a graph must not hold
        for _ in range(3):
            network(image)
    torch.cuda.current_stream().wait_stream(side)
    gc.collect()  # what is freed in the middle of a capture spoils it
    with torch.cuda.graph(graph):
        label = network(image)[0].logits.argmax(dim=-1)
    return label, graph.replay
