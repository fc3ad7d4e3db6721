"""Names of a segment's tensors. Names are created here only, and never parsed."""

IMAGE = "image"
"""Input of segment 0, float32 of shape (batch, channels, height, width)."""


def cut(exit_index: int, tensors: int) -> tuple[str, ...]:
    """Return the names of the cut after an exit.

    Args:
        exit_index: Exit of the segment that outputs the cut.
        tensors: Number of tensors in the cut.
    """
    if tensors == 1:
        return (f"cut_{exit_index}",)
    return tuple(f"cut_{exit_index}_{index}" for index in range(tensors))


def threshold(exit_index: int) -> str:
    """Return the name of an exit's threshold, float32 of shape (1,)."""
    return f"threshold_{exit_index}"


def logits(exit_index: int) -> str:
    """Return the name of an exit's logits, float32 of shape (batch, classes)."""
    return f"logits_{exit_index}"


def confidence(exit_index: int) -> str:
    """Return the name of an exit's confidence, float32 of shape (batch,)."""
    return f"confidence_{exit_index}"


def label(exit_index: int) -> str:
    """Return the name of an exit's label, int32 of shape (batch,)."""
    return f"label_{exit_index}"


def exit_flag(exit_index: int) -> str:
    """Return the name of an early exit's flag, bool of shape (batch,): True if the exit is taken."""
    return f"exit_{exit_index}"


def attention(exit_index: int) -> str:
    """Return the name of an exit's attention map, float32 of shape (batch, 1, height, width)."""
    return f"attention_{exit_index}"


def exit_outputs(exit_index: int, *, is_last: bool) -> tuple[str, ...]:
    """Return the names of an exit's outputs: logits, confidence, label and, for an early exit, its flag."""
    names = (logits(exit_index), confidence(exit_index), label(exit_index))
    return names if is_last else (*names, exit_flag(exit_index))


def decision(exit_index: int) -> tuple[str, ...]:
    """Return the names of the tensors that the decision of an exit reads and writes, besides its logits."""
    return (threshold(exit_index), confidence(exit_index), label(exit_index), exit_flag(exit_index))
