"""Gradient equilibrium (Li et al. 2019, Improved Techniques for Training Adaptive Deep Networks)."""

from torch import Tensor, nn

from edge.bundle.manifest import InputSpec
from edge.training.network import MultiExitNetwork


def equalise_gradients(network: MultiExitNetwork, spec: InputSpec) -> None:
    """Bound the gradient of every stage, however many exits come after it.

    Of `n` exits from a stage on, the stage's own head passes on `1 / n` of its gradient, the next stage `(n - 1) / n`.
    Outputs stay the same, and so do the gradients of the heads' parameters.
    """
    stages = network.backbone.get_submodule("stages")
    for index, (head, next_stage) in enumerate(zip(network.heads[:-1], list(stages.children())[1:], strict=True)):
        exits = len(network.heads) - index
        _scale_input_gradient(head, 1 / exits)
        _scale_input_gradient(next_stage, (exits - 1) / exits)


def _scale_input_gradient(module: nn.Module, factor: float) -> None:
    """Multiply the gradient that leaves a module through its inputs."""

    def scale(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_scaled(tensor, factor) for tensor in inputs) if inputs[0].requires_grad else inputs

    module.register_forward_pre_hook(scale)


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    same = tensor.view_as(tensor)
    same.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]  # torch's own stub
    return same
