"""`edge keygen`: a pair of keys to sign bundles with."""

import argparse
from pathlib import Path

from edge.bundle.signing import PRIVATE_KEY, PUBLIC_KEY, generate_keys
from edge.cli.arguments import add_json
from edge.console import PASSED, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge keygen`."""
    add_json(parser)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder for private.pem and public.pem")


def main(arguments: argparse.Namespace) -> int:
    """Write the keys, and print where they belong."""
    generate_keys(arguments.folder)
    private, public = arguments.folder / PRIVATE_KEY, arguments.folder / PUBLIC_KEY
    if arguments.json:
        print_json({"private_key": str(private), "public_key": str(public)})
    else:
        print(f"{private}  signs bundles; keep it secret, and off the devices")
        print(f"{public}   verifies them; copy it to each device")
    return PASSED
