"""MobileNetV2 (Sandler et al., arXiv 1801.04381), small, with three exits: cheap where memory is slow."""

from torch import Tensor, nn

from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu

EXPANSION = 4


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; the input is added where the shape stays."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Make a block."""
        super().__init__()
        wide = EXPANSION * channels
        self.block = nn.Sequential(
            nn.Conv2d(channels, wide, kernel_size=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, kernel_size=3, stride=stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.adds = stride == 1 and channels == width

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the block's width."""
        filtered: Tensor = self.block(features)
        return features + filtered if self.adds else filtered


def build_mobilenet(channels: int, classes: int) -> MultiExitNetwork:
    """Return ten blocks in three stages; the image shrinks sixteenfold: for inputs from about 48 pixels."""
    stages = [
        nn.Sequential(conv_bn_relu(channels, 16, stride=2), _blocks(16, 24, 2, stride=2)),
        _blocks(24, 48, 4, stride=2),
        nn.Sequential(_blocks(48, 96, 2, stride=2), _blocks(96, 128, 2, stride=1)),
    ]
    heads = [
        AttentionHead(64, classes, refine=conv_bn_relu(24, 64, stride=2), grid=2),
        AttentionHead(96, classes, refine=conv_bn_relu(48, 96, stride=2), grid=2),
        AttentionHead(128, classes, grid=2),
    ]
    return MultiExitNetwork(Stages(stages), heads)


def _blocks(channels: int, width: int, count: int, stride: int) -> nn.Sequential:
    first = InvertedResidual(channels, width, stride)
    return nn.Sequential(first, *(InvertedResidual(width, width, stride=1) for _ in range(count - 1)))
