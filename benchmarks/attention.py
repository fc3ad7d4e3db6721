"""Metrics of attention maps: consistency with the last exit's, faithfulness, and agreement with captum's Grad-CAM."""

import dataclasses

import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from edge.training.evaluate import Evaluation
from edge.training.explain import consistency, faithfulness
from edge.training.network import MultiExitNetwork

Metrics = dict[str, list[float]]


def attention_metrics(network: MultiExitNetwork, evaluated: Evaluation, images: Tensor) -> Metrics:
    """Return the metrics of attention maps, each with a value per exit; consistency for early exits only.

    Consistency is that of all evaluated samples. The others run the network many times, on `images` of its input.
    """
    compared = dataclasses.asdict(consistency(evaluated.maps))
    metrics = {f"consistency_{name}": values for name, values in compared.items()}
    metrics |= dataclasses.asdict(faithfulness(network, images))
    metrics["gradcam_agreement"] = agreement_with_gradcam(network, images)
    return {name: list(values) for name, values in metrics.items()}


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
