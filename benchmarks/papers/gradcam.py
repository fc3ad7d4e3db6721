"""Agreement of attention maps with Grad-CAM, as computed by captum."""

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from edge.training.network import MultiExitNetwork


def agreement_with_gradcam(network: MultiExitNetwork, images: Tensor) -> list[float]:
    """Return for each exit the mean centred cosine of its attention map and Grad-CAM's map for its prediction.

    Grad-CAM (Selvaraju et al. 2017) is computed for the features that the head weights with its attention map.
    """
    network.eval()
    with torch.no_grad():
        outputs = network(images)
    agreement = []
    for index, output in enumerate(outputs):
        gradcam = LayerGradCam(_ExitLogits(network, index), network.heads[index].get_submodule("neck"))
        maps = gradcam.attribute(images, target=output.logits.argmax(dim=-1), relu_attributions=True).detach()
        maps = F.interpolate(maps, size=output.attention.shape[-2:], mode="bilinear", align_corners=False)
        cosine = F.cosine_similarity(_centred(maps), _centred(output.attention), dim=1)
        agreement.append(float(cosine.mean()))
    return agreement


def _centred(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat - flat.mean(dim=1, keepdim=True)


class _ExitLogits(nn.Module):
    """A model whose output is the logits of one exit, as captum requires."""

    def __init__(self, network: MultiExitNetwork, exit_index: int) -> None:
        super().__init__()
        self.network = network
        self.exit_index = exit_index

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[self.exit_index].logits
        return logits
