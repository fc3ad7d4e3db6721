"""TensorRT's API names in our source exist in its releases, and in the stand-in only those."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import tensorrt_names as names
from tests.support import tensorrt_stand_in as stand_in

RELEASES = ["10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106"]
TABLE = json.loads(names.TABLE.read_text())
READ = [names.used_names(path.read_text()) for path in names.sources()]
USED, PROBED = (set().union(*sets) for sets in zip(*READ, strict=True))


def test_the_table_has_every_name_that_we_use() -> None:
    assert list(TABLE["wheels"]) == RELEASES
    assert set(TABLE["names"]) == USED, (
        "the names of TensorRT in our source and in the table differ: run `python tests/support/tensorrt_names.py "
        "WHEELS` (see its docstring); if a name here is not TensorRT's, add it to NOT_TENSORRT there"
    )


@pytest.mark.parametrize("name", sorted(USED - PROBED - names.RTX_ONLY - names.RUNTIME_CONFIG))
def test_every_release_has_the_name(name: str) -> None:
    assert TABLE["names"].get(name) == RELEASES


@pytest.mark.parametrize("name", sorted(USED - PROBED))
def test_tensorrt_rtx_has_the_name(name: str) -> None:
    assert names.has_name(pytest.importorskip("tensorrt_rtx"), name)


@pytest.mark.parametrize("name", sorted(names.RTX_ONLY))
def test_names_of_tensorrt_rtx_only_are_in_no_tensorrt_release(name: str) -> None:
    assert name in USED
    assert TABLE["names"][name] == []


def test_the_table_tells_releases_apart() -> None:
    assert TABLE["controls"] == {
        "BuilderFlag.FP16": RELEASES[:4],
        ".build_engine_with_config": RELEASES[1:],
        ".num_bindings": [],
        ".set_timing_cache(mismatch)": [],
        ".set_tim": [],
    }


def test_only_the_engines_of_the_tensorrt_family_use_tensorrt() -> None:
    assert {path.parent for path in names.sources()} == {names.SOURCE / "engines" / "tensorrt"}


def test_the_stand_in_has_only_names_of_tensorrt() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    claimed = set(public_names(stand_in)) - {"IllegalUseError"}
    assert len(claimed) > 50
    assert [name for name in claimed if not names.has_name(rtx, name)] == []


def public_names(owner: Any) -> Iterator[str]:
    for name, value in vars(owner).items():
        if isinstance(value, type) and value.__module__ == stand_in.__name__ and not name.startswith("_"):
            yield name
            yield from (f"{name}.{attribute}" for attribute in vars(value) if not attribute.startswith("_"))
