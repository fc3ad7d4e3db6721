"""Plain convolutional networks for inputs of about 8 to 64 pixels, among them one of the CGT paper's size."""

from torch import nn

from edge.training.network import AttentionHead, MultiExitNetwork, Stages, conv_bn_relu


def build_cnn(channels: int, classes: int, width: int = 32) -> MultiExitNetwork:
    """Build a CNN with three exits: seven convolutions in three stages; the first two halve the resolution.

    The first exit costs a tenth of the whole network, the first two together less than half.

    Args:
        channels: Channels of the input.
        classes: Number of classes.
        width: Output channels of the first stage; the following stages have two and four times as many.
    """
    stages = [
        nn.Sequential(conv_bn_relu(channels, width // 2), conv_bn_relu(width // 2, width, stride=2)),
        nn.Sequential(
            conv_bn_relu(width, 2 * width),
            conv_bn_relu(2 * width, 2 * width, stride=2),
            conv_bn_relu(2 * width, 2 * width),
        ),
        nn.Sequential(conv_bn_relu(2 * width, 4 * width), conv_bn_relu(4 * width, 4 * width)),
    ]
    heads = [*_early_heads(width, classes), AttentionHead(4 * width, classes, grid=2)]
    return MultiExitNetwork(Stages(stages), heads)


def build_small_cnn(channels: int, classes: int) -> MultiExitNetwork:
    """Build the CNN with half the width: a quarter of the computation, a third of the training time."""
    return build_cnn(channels, classes, width=16)


def build_deep_cnn(channels: int, classes: int) -> MultiExitNetwork:
    """Build a CNN whose exits see 17, 25 and 49 pixels of an image's height, for inputs from about 16 pixels.

    Seven convolutions in three stages, each of which halves the resolution.
    """
    width = 40
    stages = [
        nn.Sequential(conv_bn_relu(channels, width // 2), conv_bn_relu(width // 2, width, stride=2)),
        nn.Sequential(conv_bn_relu(width, 2 * width, stride=2), conv_bn_relu(2 * width, 2 * width)),
        nn.Sequential(
            conv_bn_relu(2 * width, 3 * width),
            conv_bn_relu(3 * width, 4 * width, stride=2),
            conv_bn_relu(4 * width, 4 * width),
        ),
    ]
    heads = [*_early_heads(width, classes), AttentionHead(4 * width, classes, grid=2)]
    return MultiExitNetwork(Stages(stages), heads)


def _early_heads(width: int, classes: int) -> list[AttentionHead]:
    """Return the heads of the first two stages, which have `width` and twice as many channels."""
    first_neck = nn.Sequential(conv_bn_relu(width, width, stride=2), conv_bn_relu(width, 2 * width, stride=2))
    return [
        AttentionHead(2 * width, classes, first_neck, grid=2, broadcast_1x1=True),
        AttentionHead(2 * width, classes, conv_bn_relu(2 * width, 2 * width, stride=2), grid=2, broadcast_1x1=True),
    ]
