"""`edge run` with a bundle that rejects frames of which the last exit is unsure."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Rejection
from edge.cli.main import main
from edge.decision import NEVER
from tests.support.commands import call, error_line, json_lines, random_frames, write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.avi", random_frames(9))


@pytest.fixture
def rejecting(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """Return a bundle whose last exit is never sure enough."""
    rejection = Rejection(NEVER, 0.02, 0.95, "betting", 0.9, 100, "s")
    spec = dataclasses.replace(digits_bundle.precision("fp32"), rejection=rejection)
    copy = Bundle.open(Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle")))
    return copy.with_precisions({"fp32": spec}).path


def test_rejected_frames_have_the_label_none_and_enter_its_state(rejecting: Path, video: Path) -> None:
    words = ("run", rejecting, "--source", video, "--precision", "fp32", "--json", "--threshold", 2, "--threshold", 2)
    lines = json_lines(call(main, *words).stdout)
    assert [(line["label"], line["label_index"], line["exit_index"]) for line in lines] == [("none", -1, 2)] * 9
    events = [line["event"] for line in json_lines(call(main, *words, "--events", "3/5").stdout) if "event" in line]
    assert events == ["entered", "left"]
    ignoring = call(main, *words, "--events", "3/5", "--ignore", "none")
    assert not [line for line in json_lines(ignoring.stdout) if "event" in line]
    assert len(json_lines(ignoring.stdout)) == 9


def test_none_is_no_label_of_a_bundle_that_rejects_nothing(digits_bundle: Bundle, video: Path) -> None:
    words = ("run", digits_bundle.path, "--source", video, "--events", "3/5", "--ignore", "none")
    assert "--ignore none: the bundle has no such label" in error_line(call(main, *words))
