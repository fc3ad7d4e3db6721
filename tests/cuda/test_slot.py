"""The CUDA runtime on a stand-in that refuses illegal use: the same answers as the host's chain, one wait a frame."""

import ctypes
import platform
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import edge.cuda
from edge.bundle.manifest import InputSpec
from edge.errors import SourceError
from edge.frames.base import Nv12
from edge.frames.preprocess import center_crop, normalization_lut, preprocess_for
from tests.support.cuda_networks import PICTURES, Networks, answers, frames
from tests.support.cuda_stand_in import (
    OUR_KERNELS,
    World,
    host_launch,
)

LEVELS = ("graph", "stepwise")
EXITS = {2: "two exits", 3: "tiny cnn", 5: "five exits"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("exits", EXITS)
def test_the_gpu_answers_as_the_host_does_whichever_exit_is_taken(exits: int, level: str, network: Networks) -> None:
    one = network(EXITS[exits])
    assert one.exits == exits
    gpu = one.on_gpu(level)
    taken = set()
    for values in ([0.0] * (exits - 1), [2.0] * (exits - 1), one.precision.thresholds.values):
        one.host.set_thresholds(values)
        gpu.set_thresholds(values)
        expected = answers(one.host, frames(12))
        assert answers(gpu, frames(12)) == expected
        taken |= {exit_index for _, exit_index, _, _ in expected}
    assert {0, exits - 1} <= taken


@pytest.mark.parametrize("level", LEVELS)
def test_the_whole_network_answers_at_its_one_exit_as_on_the_host(level: str, network: Networks) -> None:
    one = network("tiny cnn", is_whole=True)
    expected = answers(one.host, frames(4))
    assert answers(one.on_gpu(level), frames(4)) == expected
    assert {exit_index for _, exit_index, _, _ in expected} == {0}


@pytest.mark.parametrize("level", LEVELS)
def test_a_confidence_at_the_threshold_exits_and_nan_never_does(level: str, network: Networks) -> None:
    one = network("tiny cnn")
    [frame] = frames(1)
    one.host.set_thresholds([0, 0])
    exact = one.host.classify(frame).confidence
    above = float(np.nextafter(np.float32(exact), np.float32(2)))
    gpu = one.on_gpu(level)
    for threshold, exit_index in ((exact, 0), (above, 1)):
        gpu.set_thresholds([threshold, 0])
        assert gpu.classify(frame).exit_index == exit_index
    gpu.set_thresholds([0, 0])
    engine = one.engines[0]
    run = engine.session.run
    spoilt = SimpleNamespace(
        get_inputs=engine.session.get_inputs,
        get_outputs=engine.session.get_outputs,
        run=lambda names, given: [
            np.full_like(value, np.nan) if tensor.name in ("logits_0", "confidence_0") else
            np.zeros_like(value) if tensor.name == "exit_0" else value
            for tensor, value in zip(engine.session.get_outputs(), run(names, given), strict=True)
        ],
    )  # fmt: skip
    engine.session = spoilt
    assert gpu.classify(frame).exit_index == 1


def test_a_frame_costs_one_launch_and_one_wait_and_untaken_segments_never_run(network: Networks, world: World) -> None:
    one = network("five exits")
    gpu = one.on_gpu("graph")
    gpu.classify(frames(1)[0])
    for exit_index in range(5):
        gpu.set_thresholds([2.0] * exit_index + [0.0] * (4 - exit_index))
        world.calls.clear()
        world.ran.clear()
        gpu.classify(frames(1)[0])
        ours = {name: count for name, count in world.calls.items() if name != "push"}
        assert ours == {"graph launch": 1, "synchronize": 1}
        assert [name for name in world.ran if name.startswith("segment")] == [
            f"segment {k}" for k in range(exit_index + 1)
        ]


def test_stepwise_waits_once_for_each_exit_and_replays_a_graph_for_each_segment(
    network: Networks, world: World
) -> None:
    gpu = network("tiny cnn").on_gpu("stepwise")
    gpu.classify(frames(1)[0])
    for exit_index in range(3):
        gpu.set_thresholds([2.0] * exit_index + [0.0] * (2 - exit_index))
        world.calls.clear()
        gpu.classify(frames(1)[0])
        assert (world.calls["graph launch"], world.calls["synchronize"]) == (exit_index + 1, exit_index + 1)


def test_frames_of_memory_that_is_shared_are_not_copied(network: Networks, world: World) -> None:
    world.is_integrated = True
    one = network("tiny cnn")
    gpu = one.on_gpu("graph")
    assert answers(gpu, frames(6)) == answers(one.host, frames(6))
    assert world.calls["memcpy_htod_async"] == 1  # of what is said once


FRAME_KINDS = {
    "BGR of the network's size": ((12, 12, 3), np.ndarray),
    "BGR": ((40, 60, 3), np.ndarray),
    "small BGR": ((9, 7, 3), np.ndarray),
    "gray": ((33, 21), np.ndarray),
    "BGRx of the network's size": ((12, 12, 4), np.ndarray),
    "BGRx": ((40, 60, 4), np.ndarray),
    "NV12 of the network's size": ((18, 12), Nv12),
    "NV12": ((60, 60), Nv12),
}


@pytest.mark.parametrize("frame_kind", FRAME_KINDS)
@pytest.mark.parametrize("level", LEVELS)
def test_pictures_are_preprocessed_as_the_host_does_it(level: str, frame_kind: str, network: Networks) -> None:
    one = network("tiny cnn", spec=PICTURES)
    slot, (shape, kind) = one.on_gpu(level).new_slot(), FRAME_KINDS[frame_kind]
    expected = np.empty(PICTURES.shape, np.float32)
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8).view(kind)
        slot.frame = frame
        slot.load()
        slot.infer()
        assert type(slot.frame) is kind
        preprocess_for(PICTURES)(frame, expected)
        if shape[0] >= PICTURES.height and platform.machine() == "x86_64":
            np.testing.assert_array_equal(slot.tensors["image"][0], expected)
        levels = np.abs(slot.tensors["image"][0] - expected) * np.array(PICTURES.std)[:, None, None] * 255
        assert levels.max() <= 1.001
        assert (levels < 0.001).mean() > 0.9


def test_a_source_may_write_into_the_slots_own_memory(network: Networks) -> None:
    slot = network("tiny cnn", spec=PICTURES).on_gpu("graph").new_slot()
    first, second = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    slot.frame = first
    slot.load()
    slot.infer()
    assert slot.frame is not first
    np.testing.assert_array_equal(slot.frame, first)
    before = slot.tensors["image"].copy()
    slot.frame[:] = second
    slot.load()
    slot.infer()
    assert not np.array_equal(slot.tensors["image"], before)


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8).view(Nv12)],
)
def test_what_is_no_picture_is_refused_before_the_gpu_sees_it(
    frame: np.ndarray, world: World, network: Networks
) -> None:
    slot = network("tiny cnn", spec=PICTURES).on_gpu("graph").new_slot()
    slot.frame = frame
    before = world.calls.copy()
    with pytest.raises(SourceError, match="this network reads 8-bit images"):
        slot.load()
    assert world.calls == before


def test_a_frame_of_other_numbers_is_refused_after_pictures_of_its_size_too(network: Networks) -> None:
    gpu = network("tiny cnn", spec=PICTURES).on_gpu("graph")
    gpu.classify(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(SourceError, match="type float32; this network reads 8-bit images"):
        gpu.classify(np.zeros((20, 30, 3), np.float32))
    assert gpu.classify(np.zeros((20, 30, 3), np.uint8)).exit_index >= 0


def test_an_nv12_frame_is_not_taken_for_a_gray_one_of_its_shape(network: Networks) -> None:
    slot = network("tiny cnn", spec=PICTURES).on_gpu("graph").new_slot()
    frame = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    inputs = []
    for one in (frame, frame.view(Nv12), frame):
        slot.frame = one
        slot.load()
        slot.infer()
        inputs.append(slot.tensors["image"])
    np.testing.assert_array_equal(inputs[0], inputs[2])
    assert not np.array_equal(inputs[0], inputs[1])


def test_frames_in_flight_keep_the_thresholds_they_were_loaded_with(network: Networks) -> None:
    gpu = network("tiny cnn").on_gpu("graph")
    early, late = gpu.new_slot(), gpu.new_slot()
    for slot, values in ((early, [0, 0]), (late, [2, 2])):
        gpu.set_thresholds(values)
        slot.frame = frames(1)[0]
        slot.load()
    gpu.set_thresholds([2, 0])
    assert (late.infer().exit_index, early.infer().exit_index) == (2, 0)


def test_two_threads_have_the_context_each_for_itself(network: Networks, world: World) -> None:
    one = network("tiny cnn")
    gpu, expected = one.on_gpu("graph"), answers(one.host, frames(8))
    found: dict[int, list[Any]] = {}

    def work(index: int) -> None:
        found[index] = answers(gpu.with_thresholds(gpu.thresholds), frames(8))
        assert world.depth() == 0

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert found == {0: expected, 1: expected}


PARTS = (("few", "many"), ("said",), ("told",), ("stays",))
"""What is sent, constant, told, and what stays."""


@pytest.mark.parametrize("uploads", [True, False])
def test_what_is_sent_gets_to_the_gpu_and_nothing_beside_it_is_touched(uploads: bool, world: World) -> None:
    from pycuda import driver

    from edge.cuda.memory import NON_BLOCKING, Buffers

    sizes = {"few": 4, "many": 1000, "said": 300, "told": 600, "stays": 2000}
    sent, constant, told, stays = ({name: sizes[name] for name in names} for names in PARTS)
    generator = np.random.default_rng(0)
    expected = {name: generator.integers(1, 256, size, dtype=np.uint8) for name, size in sizes.items()}
    with edge.cuda.get_runtime().context.activate("sending"):
        stream = driver.Stream(NON_BLOCKING)
        buffers = Buffers(sent=sent, constant=constant, stays=stays, told=told, uploads=uploads)
        driver.memcpy_htod(buffers.addresses["stays"], expected["stays"])

        def check(unused_bytes: int) -> None:
            for name in (*sent, *constant, *told):
                buffers.view(name, np.uint8)[:] = expected[name]
            buffers.send_constants(stream)
            buffers.send(stream, unused_bytes=unused_bytes)
            stream.synchronize()
            for name, values in expected.items():
                np.testing.assert_array_equal(buffers.fetched(name, values.shape, "uint8")[:300], values[:300])

        check(unused_bytes=0)
        before = buffers.fetched("many", (1000,), "uint8")
        np.testing.assert_array_equal(before, expected["many"])
        expected["many"] = ~before
        check(unused_bytes=700)
        np.testing.assert_array_equal(buffers.fetched("many", (1000,), "uint8")[400:] == before[400:], uploads)
        np.testing.assert_array_equal(buffers.fetched("stays", (2000,), "uint8"), expected["stays"])
        [(base, size)] = [(at, size) for at, size in world.pinned.items() if at not in world.freed]
        shared = {name for name, at in buffers.addresses.items() if base <= at < base + size}
        assert shared == ({*told} if uploads else {*told, *sent})
        buffers.close()


# Kernels


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_110", "sm_121"])
def test_every_kernel_compiles_once_for_each_gpu(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.cuda import kernels

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    code = kernels.compiled(arch)
    assert code.startswith(b"\x7fELF")
    assert all(name.encode() + b"\0" in code for name in OUR_KERNELS)
    monkeypatch.setattr(kernels, "Program", None)  # not asked again
    assert kernels.compiled(arch) == code
    assert len(list(tmp_path.glob("kernels-*.cubin"))) == 1


def tables_of(shape: tuple[int, int], spec: InputSpec) -> dict[str, np.ndarray]:
    from edge.cuda.preprocess_params import places

    top, left, height, width = center_crop(shape, spec)
    rows, columns = places(spec.height, height, top), places(spec.width, width, left)
    return {"rows": rows, "columns": columns, "levels": normalization_lut(spec)}


def order_of(
    pixels: np.ndarray, shape: tuple[int, int], pitch: int, kind: int, spec: InputSpec, tables: dict[str, np.ndarray]
) -> np.ndarray:
    from edge.cuda.kernels import ORDER

    order = np.zeros(1, dtype=ORDER)
    order["pixels"] = pixels.ctypes.data
    order["chroma"] = pixels.ctypes.data + pitch * shape[0]
    order["picture"] = (*shape, pitch, kind)
    order["shape"] = (spec.height, spec.width, spec.channels)
    for name, table in tables.items():
        order[name] = table.ctypes.data
    return order


def smooth(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


GRAY = InputSpec("image", "gray", 1, 20, 28, (0.4,), (0.2,))
COLOUR = InputSpec("image", "rgb", 3, 20, 28, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("spec", [GRAY, COLOUR], ids=["gray", "colour"])
@pytest.mark.parametrize("kind", ["gray", "bgr", "bgrx", "nv12"])
@pytest.mark.parametrize("shape", [(20, 28), (40, 56), (480, 640), (1080, 1920), (18, 22), (2, 2)])
@pytest.mark.parametrize("padding", [0, 12])
def test_the_preprocess_kernel_is_edge_preprocess(
    shape: tuple[int, int], kind: str, spec: InputSpec, padding: int, host_kernels: ctypes.CDLL
) -> None:
    """Its source compiled for the host: bit for bit, and within one of 255 levels where pictures are enlarged."""
    height, width = shape
    if kind == "nv12":
        stored = smooth(height * 3 // 2, width, 1)[:, :, 0]
        frame = cv2.cvtColor(stored, cv2.COLOR_YUV2BGR_NV12)
    else:
        channels = {"gray": 1, "bgr": 3, "bgrx": 4}[kind]
        stored = smooth(height, width, channels)
        frame = stored[:, :, 0] if channels == 1 else np.ascontiguousarray(stored[:, :, :3])
    rows = stored.reshape(stored.shape[0], -1)
    padded = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, padding)), constant_values=77))
    kinds = {"gray": 0, "bgr": 1, "bgrx": 2, "nv12": 3}
    tables = tables_of(shape, spec)
    order = order_of(padded, shape, padded.shape[1], kinds[kind], spec, tables)
    found, expected = np.empty(spec.shape, np.float32), np.empty(spec.shape, np.float32)
    grid = (-(-spec.width // 32), -(-spec.height // 8))
    host_launch(host_kernels, "preprocess", grid, (32, 8), (order.ctypes.data, found.ctypes.data))
    preprocess_for(spec)(frame, expected)
    if height >= spec.height and platform.machine() == "x86_64":
        np.testing.assert_array_equal(found, expected)
    else:  # OpenCV enlarges, and works on ARM, by other code
        levels = np.abs(found - expected) * np.array(spec.std)[:, None, None] * 255
        assert levels.max() <= 1.001
        assert (levels < 0.001).mean() > 0.85


@pytest.mark.parametrize("classes", [1, 4, 17, 32, 33, 1000])
@pytest.mark.parametrize("leaves", [True, False, None])
def test_what_an_exit_says_is_noted_and_the_condition_is_to_go_on_where_it_does_not_answer(
    leaves: bool | None, classes: int, host_kernels: ctypes.CDLL
) -> None:
    """None is the last exit's flag, which it does not have."""
    from edge.cuda.kernels import ANSWER, SAID

    logits = np.random.default_rng(classes).normal(0, 2, classes).astype(np.float32)
    label, confidence, flag = np.array([7], np.int32), np.array([0.25], np.float32), np.array([leaves or 0], np.uint8)
    said, temperature = np.zeros(1, SAID), 1.5
    for name, array in (("label", label), ("confidence", confidence), ("logits", logits), ("exits", flag)):
        said[name] = array.ctypes.data
    said["classes"], said["exit_index"], said["inverse_temperature"] = classes, 3, 1 / temperature
    if leaves is None:
        said["exits"] = 0
    powers = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    condition = ctypes.c_uint(9)
    for name, given in (("answer", ()), ("answer_or_go_on", (ctypes.addressof(condition),))):
        found = np.full(1, -1, dtype=ANSWER)
        host_launch(host_kernels, name, 1, 32, (*given, said.ctypes.data, found.ctypes.data))
        [(noted, sure, probability, exit_index, is_final)] = found.tolist()
        assert (noted, sure, exit_index, is_final) == (7, 0.25, 3, leaves in (True, None))
        assert probability == pytest.approx(1 / powers.sum(), rel=1e-5)
    assert condition.value == (leaves is False)
