"""Grad-CAM, by a library of its own, as a second opinion on where an exit looks."""

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from edge.training.network import MultiExitNetwork


def agreement_with_gradcam(network: MultiExitNetwork, images: Tensor) -> list[float]:
    """Return for each exit the mean centred cosine of its attention map and of Grad-CAM's for its answer.

    Grad-CAM (Selvaraju et al. 2017) looks at the features the head weighs, just before it weighs them.
    """
    network.eval()
    with torch.no_grad():
        outputs = network(images)
    found = []
    for index, one in enumerate(outputs):
        camera = LayerGradCam(_LogitsOf(network, index), network.heads[index].get_submodule("refine"))
        heat = camera.attribute(images, target=one.logits.argmax(dim=-1), relu_attributions=True).detach()
        heat = F.interpolate(heat, size=one.attention.shape[-2:], mode="bilinear", align_corners=False)
        similar = F.cosine_similarity(_centred(heat), _centred(one.attention), dim=1)
        found.append(float(similar.mean()))
    return found


def _centred(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat - flat.mean(dim=1, keepdim=True)


class _LogitsOf(nn.Module):
    """One exit's logits, as the library wants them."""

    def __init__(self, network: MultiExitNetwork, exit_index: int) -> None:
        super().__init__()
        self.network = network
        self.exit_index = exit_index

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[self.exit_index].logits
        return logits
