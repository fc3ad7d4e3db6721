"""`edge sign`: sign a bundle."""

import argparse
from pathlib import Path

from edge.bundle.signing import SIGNATURE, read_signing_key
from edge.cli.arguments import add_bundle, open_bundle
from edge.console import PASSED, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge sign`."""
    add_bundle(parser)
    parser.add_argument(
        "--key", type=Path, required=True, metavar="PRIVATE_KEY", help="private.pem of a folder made by `edge keygen`"
    )


def main(arguments: argparse.Namespace) -> int:
    """Check the bundle and sign it."""
    key = read_signing_key(arguments.key)
    open_bundle(arguments).sign(key)
    signature = arguments.bundle / SIGNATURE
    if arguments.json:
        print_json({"signature": str(signature)})
    else:
        print(f"wrote {signature}")
    return PASSED
