"""Audits and deadlines of `edge run`."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.bundle.bundle import Bundle
from edge.cli.main import main
from edge.cli.parser import CommandParser
from edge.cli.run import add_arguments
from edge.cli.run_watch import make_auditor
from edge.live.audit import DEFAULT_SHARE
from edge.live.deployment import Deployment
from tests.support.candidates import certified
from tests.support.commands import call, json_lines, random_frames, write_video

CAMERA = "test://?size=64x64&rate=0"


@pytest.fixture(scope="module")
def watched(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle with three certified candidates."""
    path = Path(shutil.copytree(digits_bundle.path, tmp_path_factory.mktemp("watched") / "bundle"))
    bundle = Bundle.open(path)
    return bundle.with_precisions({"fp32": certified(bundle, (0.5, 0.6, 0.7))})


def run(bundle: Bundle, *words: object) -> list[dict[str, Any]]:
    """Return the JSON lines of a run."""
    result = call(main, "run", bundle.path, "--source", CAMERA, "--precision", "fp32", "--json", *words)
    assert result.code == 0, result.stderr
    return json_lines(result.stdout)


def test_audits_are_lines_of_frames_that_were_classified(watched: Bundle) -> None:
    lines = run(watched, "--frames", 500, "--audit", 1)
    labels = {line["frame"]: line["label"] for line in lines if "frame" in line}
    audits = [line for line in lines if "audit" in line]
    assert audits
    for line in audits:
        assert line["label"] == labels[line["audited_frame"]]
        assert line["audit"] == ("agrees" if line["label"] == line["last_label"] else "differs")


def test_a_deadline_that_cannot_be_met_ends_at_the_cheapest_candidate(watched: Bundle) -> None:
    lines = run(watched, "--frames", 500, "--audit", 0, "--deadline", 1e-6)
    changes = [line for line in lines if "candidates" in line]
    assert [change["candidate_index"] for change in changes] == [1, 2, 2]
    assert changes[-1]["reason"].endswith("no cheaper one is certified: late frames may be dropped")
    assert not [line for line in lines if "audit" in line]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--deadline", 33, "--threshold", 0.5, "--threshold", 0.5), "remove one of the two"),
        (("--audit", 0.1, "--threshold", 0.5, "--threshold", 0.5), "have none; remove --threshold, or give --audit 0"),
        (("--audit", 2), "2 is more than all frames; give a share such as 0.01"),
        (("--audit", -1), "-1.0 is not a finite number of 0 or more"),
        (("--deadline", 0), "0 is not above 0"),
    ],
)
def test_contradictions_are_refused(watched: Bundle, words: tuple[object, ...], error: str) -> None:
    result = call(main, "run", watched.path, "--source", CAMERA, "--precision", "fp32", "--frames", 5, *words)
    assert result.code == 2
    assert error in " ".join(result.stderr.split())


def test_audits_without_a_bound_are_refused_with_a_remedy(digits_bundle: Bundle) -> None:
    result = call(main, "run", digits_bundle.path, "--source", CAMERA, "--frames", 5, "--audit", 0.1)
    assert result.code == 2
    assert "compile or refit with a guarantee, such as --method exact" in " ".join(result.stderr.split())


@pytest.mark.parametrize("is_certified", [True, False])
def test_cameras_are_audited_by_default_where_there_is_a_bound(
    is_certified: bool, watched: Bundle, digits_bundle: Bundle, tmp_path: Path
) -> None:
    parser, bundle = CommandParser(), watched if is_certified else digits_bundle
    add_arguments(parser)
    video = write_video(tmp_path / "video.avi", random_frames(3))
    with edge.load(bundle.path, precision="fp32") as classifier:
        for source, share in (("0", DEFAULT_SHARE), (str(video), None)):
            arguments = parser.parse_args([str(bundle.path), "--source", source])
            auditor = make_auditor(arguments, Deployment(bundle, "fp32", classifier))
            assert (auditor and auditor.share) == (share if is_certified else None)


def test_info_describes_the_candidates(watched: Bundle) -> None:
    line = (
        "candidates at run time: 50% / 50% / 50% of the MACs; at most 50.0% / 60.0% / 70.0% differ from the last exit"
    )
    assert line in call(main, "info", watched.path).stdout
