"""The folder of a followed tag: which bundle a run begins with, and which are not tried again."""

import shutil
from pathlib import Path

import pytest

from edge.bundle.files import MANIFEST
from edge.bundle.signing import PUBLIC_KEY, VerifyingKey, generate_keys, read_verifying_key
from edge.errors import RegistryError
from edge.registry.address import parse_registry_address
from edge.registry.store import MAX_ATTEMPTS, MAX_REFUSED, RECORD, BundleStore
from tests.support.damage import flip_bit
from tests.support.outputs import free_port

OLD, NEW = (f"sha256:{digit * 64}" for digit in "12")


@pytest.fixture
def key(keys: Path) -> VerifyingKey:
    return read_verifying_key(keys / PUBLIC_KEY)


@pytest.fixture
def folder(signed: Path, key: VerifyingKey, tmp_path: Path) -> Path:
    """Return a store that accepted one bundle after another."""
    store = BundleStore(tmp_path / "store", key)
    for digest in (OLD, NEW):
        shutil.copytree(signed, tmp_path / "store" / digest[7:])
        store.accept(digest)
    store.close()
    return tmp_path / "store"


def accepted(folder: Path, key: VerifyingKey) -> str | None:
    store = BundleStore(folder, key)
    pulled = store.accepted()
    store.close()
    return None if pulled is None else pulled.digest


def test_a_run_begins_with_the_bundle_accepted_last_or_if_it_is_damaged_with_the_one_before(
    folder: Path, key: VerifyingKey
) -> None:
    assert accepted(folder, key) == NEW
    flip_bit(folder / NEW[7:] / "fp32" / "whole.onnx")
    assert accepted(folder, key) == OLD


def test_a_bundle_of_another_key_is_no_longer_accepted(folder: Path, tmp_path: Path) -> None:
    generate_keys(tmp_path / "new keys")
    assert accepted(folder, read_verifying_key(tmp_path / "new keys" / PUBLIC_KEY)) is None


@pytest.mark.parametrize("label", ["an ordinary label, ", "🦆\x00"])
def test_refusals_with_long_reasons_leave_a_record_that_can_be_read(
    folder: Path, key: VerifyingKey, label: str
) -> None:
    refused = [f"sha256:{number:064x}" for number in range(MAX_REFUSED)]
    store = BundleStore(folder, key)
    for digest in refused:
        store.refuse(digest, f"its labels are {label * 5000}; receivers rely on them", lasting=True)
    store.close()
    assert accepted(folder, key) == NEW
    store = BundleStore(folder, key)
    for digest in refused:
        reason = store.refusal(digest)
        assert reason is not None
        assert reason.startswith("its labels are ")
        assert reason.endswith("; receivers rely on them")
    store.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"current": 5}', "[" * 100_000])
def test_a_damaged_record_begins_anew(folder: Path, key: VerifyingKey, content: str) -> None:
    (folder / RECORD).write_text(content)
    assert accepted(folder, key) is None


def test_two_processes_do_not_use_one_folder(folder: Path, key: VerifyingKey) -> None:
    store = BundleStore(folder, key)
    with pytest.raises(RegistryError, match="another process uses"):
        BundleStore(folder, key)
    store.close()


def test_attempts_that_end_with_the_process_are_limited_and_those_that_end_in_order_are_not(
    folder: Path, key: VerifyingKey
) -> None:
    for _ in range(2 * MAX_ATTEMPTS):
        store = BundleStore(folder, key)
        with store.attempt(NEW):
            pass
        assert store.blame(NEW) is None
        store.close()
    killed = []
    for _ in range(MAX_ATTEMPTS):
        store = BundleStore(folder, key)
        assert store.blame(NEW) is None
        killed.append(store.attempt(NEW))
        killed[-1].__enter__()
        store.close()  # as the system releases the lock of a killed process
    store = BundleStore(folder, key)
    assert store.blame(NEW) == f"{MAX_ATTEMPTS} attempts with it ended with the process"
    store.close()


def test_the_bundle_that_runs_is_kept_although_it_could_not_be_recorded(
    folder: Path, signed: Path, key: VerifyingKey
) -> None:
    store, running, next_one = BundleStore(folder, key), *(f"sha256:{digit * 64}" for digit in "34")
    shutil.copytree(signed, folder / running[7:])
    (folder / RECORD).unlink()
    (folder / RECORD).mkdir()  # cannot be replaced by a file
    store.accept(running)
    assert (folder / RECORD).is_dir()
    with pytest.raises(RegistryError):
        store.pull(parse_registry_address(f"oci://127.0.0.1:{free_port()}/a:stable"), next_one)
    assert (folder / running[7:]).is_dir()
    store.close()


def test_a_damaged_bundle_is_removed_and_pulled_again_and_nothing_of_others_is_removed(
    folder: Path, key: VerifyingKey
) -> None:
    store = BundleStore(folder, key)
    (folder / OLD[7:] / MANIFEST).unlink()
    (folder / "notes").mkdir()
    with pytest.raises(RegistryError, match="refused"):
        store.pull(parse_registry_address(f"oci://127.0.0.1:{free_port()}/a:stable"), OLD)
    assert not (folder / OLD[7:]).exists()
    assert (folder / "notes").is_dir()
    store.close()


def test_a_closed_store_changes_nothing(folder: Path, key: VerifyingKey) -> None:
    store = BundleStore(folder, key)
    before = (folder / RECORD).read_text()
    with store.attempt(NEW):
        store.end_attempt()
        store.close()
    store.refuse(NEW, "no parity", lasting=True)
    store.accept(f"sha256:{'5' * 64}")
    assert (folder / RECORD).read_text() == before
    assert (folder / OLD[7:]).is_dir()


def test_only_lasting_refusals_outlive_the_process(folder: Path, key: VerifyingKey) -> None:
    store = BundleStore(folder, key)
    store.refuse(OLD, "not signed", lasting=False)
    store.refuse(NEW, "no parity", lasting=True)
    assert (store.refusal(OLD), store.refusal(NEW)) == ("not signed", "no parity")
    store.close()
    store = BundleStore(folder, key)
    assert (store.refusal(OLD), store.refusal(NEW)) == (None, "no parity")
    store.close()
