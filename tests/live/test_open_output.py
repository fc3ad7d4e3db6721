"""Outputs by name."""

import json
import sys
from pathlib import Path

import pytest

from edge.errors import OutputError, UnavailableError
from edge.live.outputs.lines import Lines, StdoutLines
from edge.live.outputs.open import open_output, output_path
from tests.support.observations import observation
from tests.support.outputs import event, opened

OUTPUT_MODULES = ("edge.live.outputs.", "edge.live.view.", "edge.live.web")


@pytest.mark.parametrize(
    ("name", "kind", "shown", "path"),
    [
        ("-", "StdoutLines", "stdout", None),
        ("/dev/stdout", "StdoutLines", "stdout", None),
        ("run.jsonl", "Lines", "lines run.jsonl", "run.jsonl"),
        ("some:file", "Lines", "lines some:file", "some:file"),
        ("record/Door.MP4", "Video", "video record/Door.MP4", "record/Door.MP4"),
        ("mqtt://u:secret@broker/a/b", "Mqtt", "mqtt://broker:1883/a/b", None),
        ("MQTTS://broker:99/a", "Mqtt", "mqtts://broker:99/a", None),
        ("http://127.0.0.1:9464", "View", "http://127.0.0.1:9464", None),
        ("http://[::1]:9464/?timeout=30", "View", "http://[::1]:9464", None),
    ],
)
def test_names_are_opened(name: str, kind: str, shown: str, path: str | None) -> None:
    output = open_output(name)
    assert (type(output).__name__, output.name) == (kind, shown)
    assert output_path(name) == (None if path is None else Path(path))


@pytest.mark.parametrize(
    "name",
    [
        "ftp://user:secret@host/file", "rtsp://host/stream?pwd=secret", "https://127.0.0.1:9464",
        "http://127.0.0.1", "http://:9464", "http://127.0.0.1:99999", "http://127.0.0.1:9464/page",
        "http://127.0.0.1:9464?timeout=0", "http://127.0.0.1:9464?timeout=nan", "http://127.0.0.1:9464?time=secret",
        "http://127.0.0.1:9464?secret", "mqtt://", "mqtt:///topic", "mqtt://u:secret@host:port/a",
        "mqtt://u:secret/2@host/a", "mqtt://u:secret?2@host/a", "mqtt://u:secret#2@host/a", "mqtt://u:secret\u2100@host/a",
        "mqtts://u:secret[2@host/a", "http://u:secret/2@127.0.0.1:9464", "http://u:secret[2@127.0.0.1:9464",
        "mqtt://u:secret@host/a/#", "mqtt://u:secret@host/\udcff", "mqtt://u:secret@host/+/a", "mqtt://u:secret@host/a?retain=secret",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_without_their_secrets(name: str) -> None:
    with pytest.raises(OutputError, match="; give ") as caught:
        open_output(name)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("user", ["admin:secret", "secret", ""])
def test_the_page_has_no_user_and_the_token_is_named_instead(user: str) -> None:
    with pytest.raises(OutputError, match="set a token as EDGE_VIEW_TOKEN instead") as caught:
        open_output(f"http://{user}@127.0.0.1:9464")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("mqtt://u:secret@host/a", "aiomqtt", "live"),
        ("http://127.0.0.1:1", "prometheus_client", "live"),
        ("http://127.0.0.1:1", "websockets", "live"),
        ("video.mp4", "av", "runtime"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(
    name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for module in [module for module in sys.modules if module.startswith(OUTPUT_MODULES)]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(
        UnavailableError, match=rf"needs a library \(.*{library}.*\); pip install .*\[{extra}\]"
    ) as caught:
        open_output(name)
    assert isinstance(caught.value, UnavailableError)
    assert "secret" not in str(caught.value)


def test_the_same_lines_go_to_a_file_and_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [observation(0), event(), observation(1, probability=float("nan"))]
    for output in (Lines(tmp_path / "lines"), StdoutLines()):
        with opened(output):
            output.write(messages[:2])
            output.write(messages[2:])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [record.get("event") for record in printed] == [None, "entered", None]
    assert printed[2]["probability"] is None
