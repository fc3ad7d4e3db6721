"""Command-line arguments that several subcommands share."""

import argparse
from pathlib import Path

from edge.bundle.bundle import Bundle
from edge.bundle.signing import VerifyingKey, read_verifying_key
from edge.cli.parser import precision_name
from edge.console import at_least
from edge.engines import BACKENDS, MAX_THREADS
from edge.inference.selection import Threads


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the positional BUNDLE, `--require-signature` and `--json`; `open_bundle` opens it."""
    add_json(parser)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    add_signature(parser)


def add_signature(parser: argparse.ArgumentParser) -> None:
    """Add `--require-signature`."""
    parser.add_argument(
        "--require-signature",
        type=Path,
        metavar="PUBLIC_KEY",
        help="refuse the bundle unless it is signed by the private key of this public.pem",
    )


def add_registry_address(parser: argparse.ArgumentParser) -> None:
    """Add the positional ADDRESS in a registry."""
    parser.add_argument(
        "address", metavar="ADDRESS", help="oci://HOST[:PORT]/NAME:TAG, or @sha256:DIGEST instead of the tag"
    )


def open_bundle(arguments: argparse.Namespace) -> Bundle:
    """Open the bundle of the command line.

    Raises:
        BundleError: the bundle is missing or damaged, or not signed as required.
    """
    return Bundle.open(arguments.bundle, required_key(arguments))


def required_key(arguments: argparse.Namespace) -> VerifyingKey | None:
    """Return the key of `--require-signature`; None if it was not given.

    Raises:
        SignatureError: the key cannot be read.
    """
    return None if arguments.require_signature is None else read_verifying_key(arguments.require_signature)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add `--backend` and `--threads`."""
    add_backend_name(parser)
    add_threads(parser)


def add_backend_name(parser: argparse.ArgumentParser) -> None:
    """Add a single `--backend`."""
    parser.add_argument(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="inference library (default: tensorrt if it is installed and there is a GPU, else the fastest that `edge "
        "build` measured, else onnxruntime)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add `--threads`."""
    parser.add_argument(
        "--threads",
        type=whole_number_or_auto,
        default=1,
        metavar="N",
        help="CPU threads per segment; 0 uses all cores, auto the fastest number that `edge build --threads auto` "
        "measured (default: %(default)s)",
    )


def whole_number_or_auto(text: str) -> Threads:
    """Parse a number of threads or `auto`, for argparse."""
    try:
        return "auto" if text == "auto" else at_least(0, MAX_THREADS)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor auto") from None


def add_precisions(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add a `--precision` for several values."""
    parser.add_argument(
        "--precision",
        action="append",
        type=precision_name,
        metavar="NAME",
        help=f"precisions to {verb}, one or more (default: all)",
    )


def add_precision(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add a single `--precision`."""
    parser.add_argument(
        "--precision",
        metavar="NAME",
        type=precision_name,
        help=f"precision to {verb} (default: the fastest on the backend)",
    )
