"""`python -m tests.fuzz`: mutated inputs for the readers, and killed commands.

python -m tests.fuzz                              1.1 million inputs
python -m tests.fuzz --inputs manifest=1000       some of one reader
python -m tests.fuzz replay runs/fuzz/failures/manifest-0-17.json
python -m tests.fuzz kills                        200 kills

Set TMPDIR to a folder in memory, such as /dev/shm: most of the time goes into small files.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter

from tests.fuzz.base import READERS, make_base
from tests.fuzz.campaign import fuzz, replay, row, summary
from tests.fuzz.record import add_rows

FULL = {
    "frames": 400_000,
    "manifest": 400_000,
    "npz": 130_000,
    "checkpoints": 45_000,
    "segments": 25_000,
    "signatures": 60_000,
    "registry": 40_000,
}
KILLS = 200


def campaign(arguments: argparse.Namespace) -> int:
    """Read mutated inputs; exit code 1 where one fails."""
    base = make_base(arguments.base)
    failures = 0
    for name, count in (dict(arguments.inputs) if arguments.inputs else FULL).items():
        started = perf_counter()
        tally = fuzz(name, count, base=base, seed=arguments.seed, failures=arguments.failures, first=arguments.first)
        where = {"reader": name, "seed": arguments.seed, "first": arguments.first, "minutes": minutes(started)}
        counts = where | row(tally)
        print(summary(counts), flush=True)
        for message, times in (tally.messages + tally.untidy).most_common(arguments.messages):
            print(f"    {times} x {message}")
        if arguments.output:
            add_rows(arguments.output, "readers", [counts])
        failures += counts["failures"]
    return 1 if failures else 0


def kills(arguments: argparse.Namespace) -> int:
    """Kill commands at random moments; exit code 1 where one leaves something broken."""
    from tests.fuzz.kills import run_kills

    failures = 0
    for name, (count, reasons) in run_kills(
        make_base(arguments.base), arguments.count, arguments.seed, only=arguments.only
    ):
        print(f"{name}: {count} kills, {len(reasons)} failures", *reasons, sep="\n  ", flush=True)
        failures += len(reasons)
        if arguments.output:
            counts = {"command": name, "seed": arguments.seed, "kills": count, "failures": reasons}
            add_rows(arguments.output, "commands", [counts])
    return 1 if failures else 0


def again(arguments: argparse.Namespace) -> int:
    """Read kept inputs again, in this process: a foreign exception is shown whole."""
    base = make_base(arguments.base)
    for file in arguments.files:
        print(f"{file}: {replay(file, base)}")
    return 0


def minutes(started: float) -> float:
    """Return the minutes since a reading of the performance counter."""
    return round((perf_counter() - started) / 60, 1)


def counted(text: str) -> tuple[str, int]:
    """Parse `READER=COUNT`, for argparse."""
    name, _, count = text.partition("=")
    if name not in READERS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of the readers {', '.join(READERS)}")
    return name, int(count)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--base", type=Path, default=Path("runs/fuzz/base"), help="folder of the valid material")
    shared.add_argument("--seed", type=int, default=0)
    shared.add_argument("--output", type=Path, help="JSON file of results, whose rows of the same inputs are replaced")
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, parents=[shared])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(verb=campaign)
    parser.add_argument("--inputs", type=counted, nargs="+", metavar="READER=COUNT", help="default: 1.1 million in all")
    parser.add_argument("--first", type=int, default=0, help="index of the first input")
    parser.add_argument("--failures", type=Path, default=Path("runs/fuzz/failures"), help="folder for failing inputs")
    parser.add_argument("--messages", type=int, default=0, help="print so many of the most frequent messages")
    verbs = parser.add_subparsers()
    verb = verbs.add_parser("replay", parents=[shared])
    verb.add_argument("files", type=Path, nargs="+")
    verb.set_defaults(verb=again)
    verb = verbs.add_parser("kills", parents=[shared])
    verb.add_argument("--count", type=int, default=KILLS)
    verb.add_argument("--only", help="the only command to kill")
    verb.set_defaults(verb=kills)
    return parser.parse_args()


def main() -> int:
    """Run the campaign or verb of the command line."""
    arguments = parse_arguments()
    exit_code: int = arguments.verb(arguments)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
