"""What the CUDA runtime costs and saves on a real GPU: on segments that take a set time, and on networks in torch."""


def why_no_torch() -> str:
    """Return why torch's kernels cannot be run here; nothing where they can."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} has no CUDA"
