"""`edge push`: copy a bundle to a registry."""

import argparse

from edge.cli.arguments import add_bundle, add_registry_address, open_bundle
from edge.console import PASSED, ProgressDisplay, log, print_json
from edge.registry.address import parse_registry_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edge push`."""
    add_bundle(parser)
    add_registry_address(parser)


def main(arguments: argparse.Namespace) -> int:
    """Check the bundle and push it."""
    address = parse_registry_address(arguments.address)
    bundle = open_bundle(arguments)
    from edge.registry.transfer import push

    if not bundle.is_signed:
        log(f"{bundle.path} is not signed: devices that require a signature refuse it; sign it with `edge sign`")
    with ProgressDisplay() as display:
        digest = push(bundle, address, display)
    if arguments.json:
        print_json({"address": str(address), "digest": digest})
    else:
        print(f"pushed {address}, digest {digest}")
    return PASSED
