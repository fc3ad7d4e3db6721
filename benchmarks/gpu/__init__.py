"""What the CUDA runtime costs and saves on a real GPU: on segments that take a set time, and on networks in torch."""

import warnings


def why_no_torch() -> str:
    """Return why torch's kernels cannot be run here; nothing where they can."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    with warnings.catch_warnings(record=True) as said:  # of a driver that is too old for this torch, say
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    why = "; ".join(str(one.message) for one in said)
    return f"torch {torch.__version__} has no CUDA{f': {why}' if why else ''}"
