"""ResNet-18 (He et al., arXiv 1512.03385) with three exits."""

import torch.nn.functional as F
from torch import Tensor, nn

from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Create a block; the shortcut is a 1x1 convolution if the shape changes, else the identity."""
        super().__init__()
        self.first = conv_bn_relu(channels, width, stride)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the block's width."""
        return F.relu(self.second(self.first(features)) + self.shortcut(features))


def build_resnet18(channels: int, classes: int) -> MultiExitNetwork:
    """Build ResNet-18 with the ImageNet stem (stride 4), for inputs from about 96 pixels."""
    stem = nn.Sequential(
        nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    return _resnet18(stem, classes)


def build_resnet18_cifar(channels: int, classes: int) -> MultiExitNetwork:
    """Build ResNet-18 with the CIFAR stem (stride 1), for inputs of about 32 pixels."""
    return _resnet18(conv_bn_relu(channels, 64), classes)


def _resnet18(stem: nn.Module, classes: int) -> MultiExitNetwork:
    """Join a stem and the four groups of blocks, with exits after the first, the second and the fourth group."""
    stages = [
        nn.Sequential(stem, _group(64, 64, stride=1)),
        _group(64, 128, stride=2),
        nn.Sequential(_group(128, 256, stride=2), _group(256, 512, stride=2)),
    ]
    heads = [
        AttentionHead(128, classes, neck=conv_bn_relu(64, 128, stride=2), grid=2),
        AttentionHead(128, classes, neck=conv_bn_relu(128, 128, stride=2), grid=2),
        AttentionHead(512, classes),
    ]
    return MultiExitNetwork(Stages(stages), heads)


def _group(channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, width, stride), ResidualBlock(width, width, stride=1))
