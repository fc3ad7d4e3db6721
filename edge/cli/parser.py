"""Parsers of command lines: options with several values, and subcommands that are imported on use."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, cast

from edge.entry import exit_at_signals, raise_signals
from edge.frames.address import public_address

NEGATIVE_NUMBER = re.compile(r"-\.?\d")
PRECISION = re.compile(r"(fp|bf|int)\d+|auto")
"""Names of precisions, which are also names of folders in a bundle."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose repeatable options (`action="append"`) accept several values at a time; others are given once.

    A word that a repeatable option does not accept, such as the path of a bundle after numbers, is a positional
    argument.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words, by default those of the command line."""
        self._read_as_values: dict[str, list[str]] = {}
        words = sys.argv[1:] if args is None else list(args)
        namespace, unknown = super().parse_known_args(list(self._repeat_options(words)), namespace)
        if unknown:  # refused here, so that the usage is that of the subcommand
            self.error(f"unrecognized arguments: {' '.join(map(public_address, unknown))}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and exit; if a positional argument is missing, name the words that options took as values."""
        if self._read_as_values and "required" in message:
            taken = "; ".join(
                f"{' '.join(map(public_address, words))} after {option}"
                for option, words in self._read_as_values.items()
            )
            message += f" (read as values: {taken}; give positional arguments first)"
        super().error(message)

    def _repeat_options(self, words: Sequence[str]) -> Iterator[str]:
        """Write `--option a b` as `--option a --option b`."""
        option, action, has_value = "", None, False
        given: set[argparse.Action] = set()
        for position, word in enumerate(words):
            if word == "--":
                yield from words[position:]
                return
            if word.startswith("-") and not NEGATIVE_NUMBER.match(word):
                option, equals, _ = word.partition("=")
                action, has_value = self._action(option), bool(equals)
                if isinstance(action, argparse._StoreAction) and action in given:
                    self.error(f"argument {'/'.join(action.option_strings)}: it was given several times; give it once")
                if action is not None:
                    given.add(action)
                action = action if isinstance(action, argparse._AppendAction) else None
            elif action is not None and not has_value:
                has_value = True
            elif action is not None and accepts(action, word):
                self._read_as_values.setdefault(option, []).append(word)
                yield option
            else:
                action = None
            yield word

    def _action(self, option: str) -> argparse.Action | None:
        """Return the action of the option with this name, or with this unique beginning."""
        known = self._option_string_actions
        names = [option] if option in known else [name for name in known if name.startswith(option)]
        return known[names[0]] if len(names) == 1 else None


def accepts(action: argparse.Action, word: str) -> bool:
    """Check that an option accepts a word as its value."""
    convert = cast(Callable[[str], Any], action.type or str)
    try:
        value = convert(word)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return action.choices is None or value in action.choices


def precision_name(text: str) -> str:
    """Parse the name of a precision, for argparse; a path is refused, since it is meant as a positional argument."""
    if not PRECISION.fullmatch(text) and (os.sep in text or os.path.exists(text)):
        raise argparse.ArgumentTypeError(f"{text} is a path, not a precision; give positional arguments first")
    return text


class Subcommand(Protocol):
    """Interface of a subcommand's module."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int]


class SubcommandSpec(NamedTuple):
    """Summary and module of a subcommand."""

    summary: str
    module: str


def run_subcommand(parser: CommandParser, subcommands: Mapping[str, SubcommandSpec]) -> int:
    """Run the subcommand of the command line; only its module is imported."""
    name = next((word for word in sys.argv[1:] if word in subcommands), None)
    exit_at_signals()
    subcommand = None if name is None else cast(Subcommand, importlib.import_module(subcommands[name].module))
    raise_signals()
    add_subcommands(parser, subcommands, name, subcommand)
    arguments = parser.parse_args()
    assert subcommand is not None, "argparse accepts no other name"  # noqa: S101 - for mypy
    return subcommand.main(arguments)


def add_subcommands(
    parser: CommandParser, subcommands: Mapping[str, SubcommandSpec], name: str | None, subcommand: Subcommand | None
) -> None:
    """Add all subcommands; only the named one, whose module was imported, has its arguments."""
    subparsers = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    for subcommand_name, (summary, _) in subcommands.items():
        description = summary[0].upper() + summary[1:] + "."
        subparser = subparsers.add_parser(subcommand_name, help=summary, description=description)
        if subcommand is not None and subcommand_name == name:
            subcommand.add_arguments(subparser)
