"""Command lines of `edge run --follow` that are refused."""

from pathlib import Path

import pytest

from edge.bundle.signing import PUBLIC_KEY
from edge.cli.main import main as edge
from tests.support.commands import call, error_line
from tests.support.outputs import free_port

TAG = "oci://127.0.0.1/a:stable"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "add --require-signature public.pem"),
        (("--require-signature", PUBLIC_KEY, "--threshold", "1", "1"), "--threshold fits one bundle"),
        (("--require-signature", PUBLIC_KEY, "--follow", f"oci://127.0.0.1/a@sha256:{'0' * 64}"), "follow a tag"),
        (("--require-signature", PUBLIC_KEY, "--follow", "127.0.0.1/a:stable"), "is no address in a registry"),
    ],
)
def test_a_tag_is_not_followed(words: tuple[str, ...], reason: str, signed: Path, keys: Path) -> None:
    follow = () if "--follow" in words else ("--follow", TAG)
    given = [keys / word if word == PUBLIC_KEY else word for word in words]
    assert reason in error_line(call(edge, "run", signed, "--source", "test://", *follow, *given))


def test_without_a_bundle_and_without_the_registry_nothing_runs(keys: Path, tmp_path: Path) -> None:
    words = ("--follow", f"oci://127.0.0.1:{free_port()}/a:stable", "--require-signature", keys / PUBLIC_KEY)
    refused = call(edge, "run", tmp_path / "device", "--source", "test://", *words)
    assert "Connection refused" in error_line(refused)
