"""Benchmarks of the CUDA runtime on a GPU, with segments of a fixed duration and with networks in torch."""

import warnings


def torch_unavailable_reason() -> str:
    """Return why torch cannot run on a GPU here; empty if it can."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    with warnings.catch_warnings(record=True) as caught:  # for example about a driver that is too old for this torch
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    reasons = "; ".join(str(warning.message) for warning in caught)
    return f"torch {torch.__version__} has no CUDA{f': {reasons}' if reasons else ''}"
