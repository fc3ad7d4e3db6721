"""What a user may ask of thresholds, on the command line of whatever fits them."""

import argparse


def add_bound_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--max-drop` and `--confidence`."""
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.003,
        metavar="FRACTION",
        help="accuracy early exits may cost (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="LEVEL",
        help="probability, such as 0.99, with which other images are to keep to that (default: only the samples the "
        "thresholds are fitted to)",
    )
