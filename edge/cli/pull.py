"""`edge pull`: copy a bundle from a registry."""

import argparse
from pathlib import Path

from edge.cli.arguments import add_json, add_registry_address, add_signature, required_key
from edge.console import PASSED, ProgressDisplay, log, print_json
from edge.registry.address import parse_registry_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge pull`."""
    add_json(parser)
    add_registry_address(parser)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write; a bundle in it is replaced")
    add_signature(parser)


def main(arguments: argparse.Namespace) -> int:
    """Pull the bundle."""
    address, key = parse_registry_address(arguments.address), required_key(arguments)
    from edge.registry.transfer import pull

    if key is None:
        log("the signature is not checked, so anyone may have made this bundle; add --require-signature")
    with ProgressDisplay() as display:
        pulled = pull(address, arguments.folder, key, display)
    if arguments.json:
        print_json({"bundle": str(arguments.folder), "digest": pulled.digest})
    else:
        print(f"pulled {arguments.folder} from {address}, digest {pulled.digest}")
    return PASSED
