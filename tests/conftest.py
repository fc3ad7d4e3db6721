"""Fixtures of many tests: a network trained for a moment on real digits, compiled, and engines away from the user's."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import edge.cuda
from edge.bundle.bundle import Bundle
from edge.bundle.signing import PRIVATE_KEY, generate_keys, read_signing_key
from tests.support.strict_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 - hooks

if TYPE_CHECKING:
    from edge.training.checkpoint import Checkpoint
    from tests.support.cuda_networks import Networks
    from tests.support.cuda_stand_in import World

# Before anything imports torch. Threads of OpenMP spin while they wait: on a busy machine with few cores, training
# takes forty times longer with two of them than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")


KERNELS = Path(edge.cuda.__file__).with_name("kernels.cu")
CUDA_ON_HOST = Path(__file__).parent / "support" / "cuda_on_host.h"


@pytest.fixture(scope="session", autouse=True)
def _own_engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither use nor fill the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(tmp_path_factory.mktemp("cache") / "engines"))
        yield


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> "Checkpoint":
    """Return the three-exit CNN after two epochs on small digits: mostly right, and seldom sure."""
    from tests.support.digits import train_digits

    return train_digits(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def digits_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return that network as a bundle in fp32 and int8; `EDGE_TEST_BUNDLE` is one for machines without torch."""
    if ready := os.environ.get("EDGE_TEST_BUNDLE"):
        return Bundle.open(Path(ready))
    digits_checkpoint: Checkpoint = request.getfixturevalue("digits_checkpoint")
    from tests.support.digits import compile_digits

    return compile_digits(digits_checkpoint, tmp_path_factory.mktemp("compiled") / "bundle")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder with a new pair of keys."""
    generate_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def signed(digits_bundle: Bundle, keys: Path, tmp_path: Path) -> Path:
    """Return a copy of that bundle, signed with these keys."""
    path = Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    Bundle.open(path).sign(read_signing_key(keys / PRIVATE_KEY))
    return path


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the CUDA kernels, compiled from their source for the host."""
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = ["c++", "-x", "c++", "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-include"]
    subprocess.run([*command, CUDA_ON_HOST, KERNELS, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def world(host_kernels: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["World"]:
    """Return a stand-in for a GPU; at the end no context may be left on the thread's stack."""
    from tests.support.cuda_modules import installed
    from tests.support.cuda_stand_in import World

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    with installed(World(host_kernels)) as world:
        yield world
    assert world.depth() == 0


@pytest.fixture
def network(world: "World", tmp_path: Path) -> "Networks":
    """Return a factory of tiny networks on the stand-in and on the host."""
    from tests.support.cuda_networks import Network

    return partial(Network, world=world, folder=tmp_path)
