"""Small MobileNetV2 (Sandler et al., arXiv 1801.04381) with three exits."""

from torch import Tensor, nn

from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu

EXPANSION = 4


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3 and 1x1 projection, with a residual connection if the shape stays the same."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Create a block."""
        super().__init__()
        expanded = EXPANSION * channels
        self.block = nn.Sequential(
            nn.Conv2d(channels, expanded, kernel_size=1, bias=False),
            nn.BatchNorm2d(expanded),
            nn.ReLU(inplace=True),
            nn.Conv2d(expanded, expanded, kernel_size=3, stride=stride, padding=1, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            nn.ReLU(inplace=True),
            nn.Conv2d(expanded, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.is_residual = stride == 1 and channels == width

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the block's width."""
        output: Tensor = self.block(features)
        return features + output if self.is_residual else output


def build_mobilenet(channels: int, classes: int) -> MultiExitNetwork:
    """Build ten blocks in three stages with a total stride of 16, for inputs from about 48 pixels."""
    stages = [
        nn.Sequential(conv_bn_relu(channels, 16, stride=2), _blocks(16, 24, 2, stride=2)),
        _blocks(24, 48, 4, stride=2),
        nn.Sequential(_blocks(48, 96, 2, stride=2), _blocks(96, 128, 2, stride=1)),
    ]
    heads = [
        AttentionHead(64, classes, neck=conv_bn_relu(24, 64, stride=2), grid=2),
        AttentionHead(96, classes, neck=conv_bn_relu(48, 96, stride=2), grid=2),
        AttentionHead(128, classes, grid=2),
    ]
    return MultiExitNetwork(Stages(stages), heads)


def _blocks(channels: int, width: int, count: int, stride: int) -> nn.Sequential:
    first = InvertedResidual(channels, width, stride)
    return nn.Sequential(first, *(InvertedResidual(width, width, stride=1) for _ in range(count - 1)))
