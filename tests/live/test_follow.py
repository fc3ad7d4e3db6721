"""A followed tag, with a real registry: which bundle answers each frame."""

import gc
import json
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import ENOSPC
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.bundle.bundle import Bundle
from edge.bundle.signing import PUBLIC_KEY, generate_keys
from edge.decision import Prediction
from edge.engines import backend_named
from edge.errors import EngineError, RegistryError
from edge.inference.base import Slot
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.inference.result import Result
from edge.live import run
from edge.live.deployment import Deployment
from edge.live.follow import Follower
from edge.live.messages import BundleChange, Message, Observation
from edge.progress import OnProgress
from edge.registry.address import parse_registry_address
from edge.registry.store import MAX_ATTEMPTS
from edge.registry.transfer import tag_digest
from tests.support.commands import full_disk, start_command, wait_until
from tests.support.follow import (
    EndlessSource,
    publish,
    renamed,
    variant,
    with_greedy_thresholds,
    with_other_labels,
    with_other_logits,
    with_rejection,
)
from tests.support.registry import docker_registry

pytestmark = pytest.mark.services
INTERVAL_S = 0.1


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def address(registry: str, request: pytest.FixtureRequest) -> str:
    return f"oci://{registry}/tests/n{abs(hash(request.node.name))}:stable"


class Following:
    """A run that follows a tag, in a thread, and everything that it published."""

    def __init__(self, follower: Follower, digits: NDArray[np.uint8]) -> None:
        self.follower, self.source = follower, EndlessSource(digits)
        self.messages: list[Message] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    @property
    def results(self) -> list[Result]:
        return [message.result for message in list(self.messages) if isinstance(message, Observation)]

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Status and bundle of each change."""
        return [(each.status, each.bundle) for each in list(self.messages) if isinstance(each, BundleChange)]

    def reasons(self, status: str) -> str:
        changes = [each for each in self.messages if isinstance(each, BundleChange)]
        return " ".join(each.reason for each in changes if each.status == status)

    def answering(self) -> list[str]:
        """Return the bundles that answered, in their order."""
        return [bundle for bundle, _ in groupby(result.bundle for result in self.results)]

    def _run(self) -> None:
        classifier = self.follower.load().classifier
        try:
            run(classifier, [self.source], follower=self.follower, on_message=self.messages.append)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> "Following":
        self._thread.start()
        wait_until(lambda: len(self.results) > 10, "results")
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop.set()
        self._thread.join()
        assert self.error is None, self.error
        indices = [result.frame_index for result in self.results]
        assert indices == list(range(self.source.given)), "each frame is answered once, in order"


Follow = Callable[..., Following]


@pytest.fixture
def follow(
    address: str, signed: Path, keys: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> Callable[..., Following]:
    def start(**options: Any) -> Following:
        follower = Follower(address, tmp_path / "device", keys / PUBLIC_KEY, interval_s=INTERVAL_S, **options)
        return Following(follower, digits)

    return start


def record_of(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "device.follow" / "record.json").read_text()))


def test_a_swap_loses_no_frame_and_the_next_run_begins_with_the_new_bundle(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    names = [publish(signed, address)]
    with follow() as following:
        engines = [weakref.ref(engine) for engine in following.follower.load().classifier._engines]
        for version in ("second", "third"):
            names.append(publish(variant(signed, keys, tmp_path / version, renamed), address))
            wait_until(lambda: record_of(tmp_path)["current"][7:19] == names[-1], f"the {version} bundle")
        gc.collect()
        assert all(engine() is None for engine in engines), "freed with their last slot"
    assert following.answering() == names
    assert following.changes == [("swapped", name) for name in names[1:]]
    kept = {path.name[:12] for path in (tmp_path / "device.follow").iterdir() if path.is_dir()}
    assert kept == set(names[1:]), "the bundle in use and the one before"
    with follow() as again:
        pass
    assert again.answering() == names[-1:]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_other_logits, "FAILED, first in segment 0"),
        (with_greedy_thresholds, "within its limit of 0.001"),
        (with_other_labels, "its labels are new 0"),
        (with_rejection, "it may answer none, as the one in use never does"),
    ],
)
def test_a_bundle_that_cannot_be_trusted_is_refused_once_and_the_one_before_answers_on(
    change: Any, reason: str, address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    first = publish(signed, address)
    with follow() as following:
        refused = publish(variant(signed, keys, tmp_path / "second", change), address)
        wait_until(lambda: following.changes, "the refusal")
        answered = len(following.results)
        wait_until(lambda: len(following.results) > answered + 300, "more polls")
    assert following.changes == [("refused", refused)]
    assert reason in following.reasons("refused")
    assert following.answering() == [first]
    assert next(iter(record_of(tmp_path)["refused"]))[7:19] == refused
    assert not list((tmp_path / "device.follow").glob(f"{refused}*"))


def test_a_bundle_of_another_key_is_refused_before_it_is_opened(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    first = publish(signed, address)
    generate_keys(tmp_path / "other")
    with follow() as following:
        refused = publish(variant(signed, tmp_path / "other", tmp_path / "second", renamed), address)
        wait_until(lambda: following.changes, "the refusal")
    assert following.changes == [("refused", refused)]
    assert "is not signed by" in following.reasons("refused")
    assert following.answering() == [first]
    assert len([path for path in (tmp_path / "device.follow").iterdir() if path.is_dir()]) == 1


class FailingClassifier(Classifier):
    """A classifier that fails some frames after its verification."""

    working = 0

    def new_slot(self) -> Any:
        return FailingSlot(super().new_slot(), self)


class FailingSlot:
    def __init__(self, slot: Slot, classifier: FailingClassifier) -> None:
        self._slot, self._classifier = slot, classifier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)

    def result(self) -> Prediction:
        self._classifier.working -= 1
        if self._classifier.working < 0:
            raise EngineError("the device was lost")
        return self._slot.result()


def load(bundle: Bundle, digest: str, on_progress: OnProgress, failing: str) -> Deployment:
    """Load a bundle; the failing one fails after 20 frames of the stream."""
    classifier = load_classifier(bundle, "fp32", backend_named("onnxruntime"), None, on_progress)
    if bundle.manifest.name == failing:
        classifier.__class__ = FailingClassifier
        classifier.working = len(bundle.reference().frames) + 20  # type: ignore[attr-defined]
    return Deployment(bundle, "fp32", classifier, digest)


def test_a_bundle_that_fails_after_the_swap_is_rolled_back_and_no_frame_is_lost(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    first = publish(signed, address)
    with follow(deploy=partial(load, failing="second")) as following:
        refused = publish(variant(signed, keys, tmp_path / "second", renamed), address)
        wait_until(lambda: len(following.changes) == 3, "the rollback")
        answered = len(following.results)
        wait_until(lambda: len(following.results) > answered + 300, "more polls")
    assert following.changes == [("swapped", refused), ("refused", refused), ("swapped", first)]
    assert "EngineError: the device was lost" in following.reasons("refused")
    assert following.answering() == [first, refused, first]
    assert sum(result.bundle == refused for result in following.results) == 20
    assert record_of(tmp_path)["current"][7:19] == first


class CrowdedClassifier(Classifier):
    """A classifier without memory for the slots of a rollback, at first."""

    calls = 0

    def new_slots(self) -> Any:
        self.calls += 1
        if self.calls == 2:
            raise EngineError("out of memory")
        return super().new_slots()


def test_a_rollback_that_fails_is_repeated(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    def deploy(bundle: Bundle, digest: str, on_progress: OnProgress) -> Deployment:
        deployment = load(bundle, digest, on_progress, failing="second")
        if bundle.manifest.name != "second":
            deployment.classifier.__class__ = CrowdedClassifier
        return deployment

    first = publish(signed, address)
    with follow(deploy=deploy) as following:
        second = publish(variant(signed, keys, tmp_path / "second", renamed), address)
        wait_until(lambda: ("following", first) in following.changes, "the rollback")
        assert not any(result.bundle == second for result in following.results[-5:])
    expected = [("swapped", second), ("refused", second), ("failing", first), ("swapped", first), ("following", first)]
    assert following.changes == expected
    assert following.answering() == [first, second, first]


def test_a_fault_of_the_disk_while_engines_are_built_is_tried_again(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    faults = [OSError(ENOSPC, "No space left on device")]

    def deploy(bundle: Bundle, digest: str, on_progress: OnProgress) -> Deployment:
        if bundle.manifest.name == "second" and faults:
            raise faults.pop()
        return load(bundle, digest, on_progress, failing="")

    first = publish(signed, address)
    with follow(deploy=deploy) as following:
        second = publish(variant(signed, keys, tmp_path / "second", renamed), address)
        wait_until(lambda: record_of(tmp_path)["current"][7:19] == second, "the second bundle")
    assert following.changes[:2] == [("failing", first), ("swapped", second)]


def test_a_bundle_that_ended_too_many_processes_is_refused_with_the_reason(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    publish(signed, address)
    with follow():
        pass
    second = publish(variant(signed, keys, tmp_path / "second", renamed), address)
    record = record_of(tmp_path) | {"attempts": {tag_digest(parse_registry_address(address)): MAX_ATTEMPTS}}
    (tmp_path / "device.follow" / "record.json").write_text(json.dumps(record))
    with follow() as following:
        wait_until(lambda: following.changes, "the refusal")
    assert following.changes == [("refused", second)]
    assert following.reasons("refused") == "3 attempts with it ended with the process"


def test_the_first_bundle_of_a_tag_is_verified_before_it_is_accepted(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    publish(variant(signed, keys, tmp_path / "wrong", with_other_logits), address)
    follower = Follower(address, tmp_path / "device", keys / PUBLIC_KEY)
    with pytest.raises(RegistryError, match=r"is refused: .*FAILED, first in segment 0"):
        follower.load()
    follower.close(0)
    assert record_of(tmp_path)["current"] is None
    with pytest.raises(RegistryError, match="is refused"):
        Follower(address, tmp_path / "device", keys / PUBLIC_KEY)


def test_a_folder_signed_by_a_key_that_was_replaced_is_passed_over(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    first = publish(signed, address)
    generate_keys(tmp_path / "old keys")
    variant(signed, tmp_path / "old keys", tmp_path / "device", renamed)
    with follow() as following:
        pass
    assert following.answering() == [first]


def test_an_error_of_a_listener_ends_the_run_and_is_raised(
    address: str, signed: Path, keys: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    def listen(message: Message) -> None:
        if isinstance(message, BundleChange):
            raise RuntimeError("the listener failed")

    publish(signed, address)
    follower = Follower(address, tmp_path / "device", keys / PUBLIC_KEY, interval_s=INTERVAL_S)
    classifier = follower.load().classifier
    publish(variant(signed, keys, tmp_path / "second", with_other_labels), address)
    with pytest.raises(RuntimeError, match="the listener failed"):
        run(classifier, [EndlessSource(digits)], follower=follower, on_message=listen)


def test_a_full_disk_is_a_fault_and_the_pull_is_tried_again(
    address: str, signed: Path, keys: Path, tmp_path: Path, follow: Follow
) -> None:
    first = publish(signed, address)
    with follow() as following:
        second = publish(variant(signed, keys, tmp_path / "second", renamed), address)
        with full_disk(4096):
            wait_until(lambda: following.follower.faults >= 3, "faults")
            assert following.answering() == [first]
        wait_until(lambda: record_of(tmp_path)["current"][7:19] == second, "the second bundle")
    assert [status for status, _ in groupby(status for status, _ in following.changes)] in (
        ["failing", "swapped", "following"],
        ["failing", "following", "swapped"],
    )


def test_a_run_killed_in_an_attempt_or_a_trial_begins_again_with_the_accepted_bundle(
    address: str, signed: Path, keys: Path, tmp_path: Path
) -> None:
    first = publish(signed, address)
    follower = Follower(address, tmp_path / "device", keys / PUBLIC_KEY)
    follower.load()
    follower.close(0)
    second = publish(variant(signed, keys, tmp_path / "second", renamed), address)
    command = (
        "edge", "run", tmp_path / "device", "--follow", address, "--require-signature", keys / PUBLIC_KEY,
        "--source", "test://?size=64x48&rate=100", "--backend", "onnxruntime", "--output",
    )  # fmt: skip

    def bundles(number: int) -> list[str]:
        """Return the bundle of each complete line, in the order of its frames."""
        lines = [json.loads(line) for line in (tmp_path / f"{number}.jsonl").read_text().splitlines(keepends=True)
                 if line.endswith("\n")] if (tmp_path / f"{number}.jsonl").exists() else []  # fmt: skip
        frames = [line for line in lines if "frame" in line]
        assert [line["frame"] for line in frames] == sorted({line["frame"] for line in frames})
        return [line["bundle"] for line in frames]

    moments: list[Callable[[int], object]] = [
        lambda number: record_of(tmp_path)["attempts"],
        lambda number: second in bundles(number),
        lambda number: record_of(tmp_path)["current"][7:19] == second,
    ]
    for number, moment in enumerate(moments):
        with start_command(*command, tmp_path / f"{number}.jsonl", stderr=subprocess.DEVNULL) as process:
            wait_until(lambda moment=moment, number=number: moment(number), f"moment {number}")  # type: ignore[misc]
            process.kill()
        assert set(bundles(number)[:1]) <= {first}
        if number == 1:
            assert sum(record_of(tmp_path)["attempts"].values()) == 2, "killed in its trial, after its first answers"
    assert record_of(tmp_path)["previous"][7:19] == first
    assert record_of(tmp_path)["attempts"] == {}


def test_a_registry_that_is_away_is_counted_and_the_next_run_begins_without_it(
    signed: Path, keys: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    (tmp_path / "registry").mkdir()
    options = {"require_signature": keys / PUBLIC_KEY, "interval_s": INTERVAL_S}
    with ExitStack() as registry:
        address = f"oci://{registry.enter_context(docker_registry(tmp_path / 'registry'))}/a:stable"
        first = publish(signed, address)
        with Following(Follower(address, tmp_path / "device", **options), digits) as following:
            registry.close()
            wait_until(lambda: following.follower.faults >= 3, "faults")
    assert set(following.changes) == {("failing", first)}
    repeated = [each.is_repeated for each in following.messages if isinstance(each, BundleChange)]
    assert repeated == [index > 0 for index in range(following.follower.faults)], "each is counted, the first shown"
    assert "Connection refused" in following.reasons("failing")
    with Following(Follower(address, tmp_path / "device", **options), digits) as again:
        wait_until(lambda: again.follower.faults >= 1, "a fault")
    assert again.answering() == [first]
