"""Threads of training on a CPU: a small network is trained as fast by a single one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from edge.bundle.manifest import InputSpec
from edge.training.network import MultiExitNetwork

MACS_PER_THREAD = 500_000_000
"""Multiply-accumulates of a batch that occupy a thread; with fewer, threads mostly wait for each other, spinning."""


@contextmanager
def fitting_threads(batch_macs: int) -> Iterator[None]:
    """Compute with no more threads than a batch occupies; restore the number of threads at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, batch_macs // MACS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def macs_per_image(network: MultiExitNetwork, spec: InputSpec) -> int:
    """Return the multiply-accumulates of all exits for one image. Leaves the network in evaluation mode."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *spec.shape))
    return int(counter.get_total_flops()) // 2
