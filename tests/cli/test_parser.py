"""Options with several values, and subcommands imported when they are used."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibration.__main__ import main as calibration
from edge.cli.main import main
from edge.cli.parser import CommandParser, precision_name
from tests.support.commands import ROOT, Result, call, contents, error_line, json_lines, run_command


def new_parser() -> CommandParser:
    parser = CommandParser(prog="command")
    parser.add_argument("bundle")
    parser.add_argument("--precision", action="append", type=precision_name)
    parser.add_argument("--threshold", action="append", type=float)
    parser.add_argument("--backend", action="append", choices=("a", "b"))
    parser.add_argument("--source")
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("B --precision fp32 int8", {"precision": ["fp32", "int8"]}),
        ("B --precision fp32 --precision int8", {"precision": ["fp32", "int8"]}),
        ("B --precision=fp32 int8", {"precision": ["fp32", "int8"]}),
        ("B --prec fp32 int8", {"precision": ["fp32", "int8"]}),
        ("--precision fp32 int8 runs/B", {"precision": ["fp32", "int8"], "bundle": "runs/B"}),
        ("--precision fp32 int8 here", {"precision": ["fp32", "int8"], "bundle": "here"}),
        ("--precision fp32 int8 -- B", {"precision": ["fp32", "int8"]}),
        ("--precision int8 --source 0 B", {"precision": ["int8"], "source": "0"}),
        ("B --precision int8 int4", {"precision": ["int8", "int4"]}),
        ("B --precision int8 --source fp32", {"precision": ["int8"], "source": "fp32"}),
        ("--threshold 0.9 0.8 B", {"threshold": [0.9, 0.8]}),
        ("B --threshold -0.5 .5 --source x", {"threshold": [-0.5, 0.5], "source": "x"}),
        ("B --threshold 1e-3 2 --threshold 0", {"threshold": [1e-3, 2, 0]}),
        ("--backend a b B", {"backend": ["a", "b"]}),
    ],
)
def test_repeatable_options_take_several_values(
    words: str, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "int8").mkdir()  # as inside a bundle
    monkeypatch.chdir(tmp_path)
    nothing = dict.fromkeys(("precision", "threshold", "backend", "source"))
    assert vars(new_parser().parse_args(words.split())) == nothing | {"bundle": "B"} | expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--precision fp32 B", "required: bundle (read as values: B after --precision; give positional arguments"),
        ("--precision runs/B", "runs/B is a path, not a precision; give positional arguments first"),
        ("--threshold 0.9 1 2", "required: bundle (read as values: 1 2 after --threshold"),
        ("B --threshold high", "invalid float value: 'high'"),
        ("B --backend a c", "unrecognized arguments: c"),
        ("B --precision", "expected one argument"),
        ("B --source a b", "unrecognized arguments: b"),
        ("B --source a --source b", "argument --source: it was given several times; give it once"),
        ("B --source=a --sou=a", "argument --source: it was given several times; give it once"),
    ],
)  # fmt: skip
def test_a_positional_argument_is_not_swallowed_silently(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        new_parser().parse_args(words.split())
    assert leaving.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_threads_are_a_whole_number_or_auto(bundle: Path) -> None:
    refused = edge_run(bundle, "--threads", "many")
    assert "argument --threads: 'many' is neither a whole number nor auto" in " ".join(refused.stderr.split())


def test_the_usage_of_the_subcommand_is_printed_for_unknown_arguments_without_secrets(bundle: Path) -> None:
    secret = "hunter" + "2"
    address = f"rtsp://admin:{secret}@camera/live"
    for words in (("--thresholds", "0.9"), ("--policy", "all", address)):
        result = edge_run(bundle, *words)
        assert result.code == 2
        assert result.stderr.startswith("usage: edge run ")
        assert "unrecognized arguments: " in result.stderr
        assert secret not in result.stderr
    result = call(main, "run", "--source", address, address)
    assert "(read as values: rtsp://camera/live after --source; give positional" in " ".join(result.stderr.split())
    assert secret not in result.stderr


def edge_run(bundle: Path, *words: object) -> Result:
    return call(main, "run", bundle, "--source", ROOT / "docs/seven.png", "--json", *words)


def test_thresholds_in_one_go_are_those_repeated(bundle: Path) -> None:
    at_once = json_lines(edge_run(bundle, "--threshold", 2, 2).stdout)
    assert [line["exit_index"] for line in at_once] == [2]
    assert "got 3 thresholds for 3 exits; give 2" in error_line(edge_run(bundle, "--threshold", 2, 2, 2))


@pytest.mark.parametrize(
    ("command", "words"),
    [(main, ("verify",)), (main, ("build", "--backend", "onnxruntime")), (main, ("bench",)),
     (calibration, ("--method", "none", "--limit", "0.01"))],
)  # fmt: skip
def test_every_command_for_several_precisions_takes_them_in_one_go(
    command: Callable[[], int], words: tuple[str, ...], bundle: Path
) -> None:
    before = contents(bundle)
    for order in ((*words, bundle, "--precision", "fp32", "int8"), (*words, "--precision", "fp32", "int8", bundle)):
        result = call(command, *order)
        assert result.code == 0, result.stderr
        assert "fp32" in result.stdout
        assert "int8" in result.stdout
    assert command is calibration or contents(bundle) == before


@pytest.mark.parametrize(
    ("command", "subcommand", "others"),
    [("edge", "info", ("edge.cli.run", "edge.cli.bench")),
     ("benchmarks", "cuda-chain", ("benchmarks.demo", "torch"))],
)  # fmt: skip
def test_only_the_named_subcommand_is_imported(command: str, subcommand: str, others: tuple[str, ...]) -> None:
    script = (
        "import importlib, sys\n"
        f"sys.argv = [{command!r}, {subcommand!r}, '--help']\n"
        f"main = importlib.import_module('edge.cli.main' if {command!r} == 'edge' else 'benchmarks.__main__').main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {others!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("words", [(), ("nothing",)])
def test_a_missing_or_unknown_report_is_refused(words: tuple[str, ...]) -> None:
    done = run_command("benchmarks", *words)
    assert done.returncode == 2
    assert "usage: python -m benchmarks" in done.stderr
