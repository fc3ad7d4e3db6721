"""Engines built with Torch-TensorRT meet the segment contract: names, types, and results on the GPU stand-in."""

import json
import re
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

from compile import torch_tensorrt
from compile.fp16 import to_fp16
from compile.torch_tensorrt import TorchSegment, engine_from_segment, segment_engines, torch_segments
from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import PrecisionSpec, SegmentSpec
from edge.console import PASSED
from edge.decision import NEVER
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.engines.tensorrt.engine import TensorRtEngine
from edge.errors import CheckpointError, EngineError, UnavailableError
from edge.frames.base import frame_from_array
from edge.inference.slots import new_slot
from edge.system import pip_install
from edge.training.network import Backbone, MultiExitNetwork
from tests.support import tensorrt_stand_in, torch_tensorrt_names
from tests.support.commands import call
from tests.support.networks import (
    CLASSES,
    INPUT,
    NETWORKS,
    compile_graph,
    multi_exit_graph,
    random_images,
    seeded_network,
    write_precision,
)
from tests.support.torch_tensorrt_stand_in import TorchTensorRt

if TYPE_CHECKING:
    from tests.support.cuda_stand_in import World

SHAPED = ("tiny cnn", "residual", "two tensors", "five exits", "two exits")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}

each_network = pytest.mark.parametrize("name", SHAPED)
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


def bundle_precision(folder: Path, name: str, precision: str) -> PrecisionSpec:
    """Return a network's segments as a bundle has them."""
    graph = multi_exit_graph(name, "fp32")
    if precision == "fp16":
        graph = to_fp16(graph, random_images(2))
    return write_precision(folder, compile_graph(graph), precision)


def segments_of(name: str, precision: str = "fp32") -> list[TorchSegment]:
    """Return a network's segments in torch."""
    return list(torch_segments(seeded_network(NETWORKS[name]).to(PRECISIONS[precision]), INPUT))


def contract(spec: SegmentSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape, batch 1, of every tensor of a segment by name."""
    return {tensor.name: (tensor.dtype, tensor.sample_shape) for tensor in (*spec.inputs, *spec.outputs)}


# Segments in torch


@each_network
@each_precision
def test_segments_in_torch_have_the_tensors_of_the_bundles_segments(name: str, precision: str, tmp_path: Path) -> None:
    expected = bundle_precision(tmp_path / "bundle", name, precision).segments
    segments = segments_of(name, precision)
    assert [contract(segment.spec) for segment in segments] == [contract(spec) for spec in expected]
    for segment, spec in zip(segments, expected, strict=True):
        assert segment.spec.exit_index == spec.exit_index
        assert (segment.spec.cuts_in, segment.spec.cuts_out) == (spec.cuts_in, spec.cuts_out)
        assert {tensor.name for tensor in segment.spec.inputs} == {tensor.name for tensor in spec.inputs}


@each_network
def test_segments_in_torch_compute_the_network(name: str) -> None:
    network, images = seeded_network(NETWORKS[name]), torch.from_numpy(random_images(5))
    values: dict[str, torch.Tensor] = {tensors.IMAGE: images}
    for k, segment in enumerate(torch_segments(network, INPUT)):
        values[tensors.threshold(k)] = torch.tensor([0.4])
        with torch.no_grad():
            outputs = segment.module(*(values[tensor.name] for tensor in segment.spec.inputs))
        values |= dict(zip((tensor.name for tensor in segment.spec.outputs), outputs, strict=True))
    with torch.no_grad():
        expected = network(images)
    for k, exit_ in enumerate(expected):
        torch.testing.assert_close(values[tensors.logits(k)], exit_.logits)
        torch.testing.assert_close(values[tensors.attention(k)], exit_.attention)
        torch.testing.assert_close(values[tensors.confidence(k)], exit_.logits.softmax(dim=-1).amax(dim=-1))
        assert torch.equal(values[tensors.label(k)], exit_.logits.argmax(dim=-1).int())
        if k < len(expected) - 1:
            assert torch.equal(values[tensors.exit_flag(k)], values[tensors.confidence(k)] >= 0.4)


def test_a_backbone_whose_stages_are_not_modules_is_refused() -> None:
    class Opaque(Backbone):
        """A backbone without separate stages."""

    network = seeded_network(NETWORKS["tiny cnn"])
    opaque = MultiExitNetwork(Opaque(), list(network.heads))
    with pytest.raises(CheckpointError, match="stages are not separate modules; use `python -m compile`"):
        list(torch_segments(opaque, INPUT))


# Engines


def torch_engines(library: TorchTensorRt, folder: Path, name: str, precision: str, chain: ChainSpec) -> list[Any]:
    """Build a network's segments with Torch-TensorRT; load them as the engines of a bundle's segments."""
    engines = []
    for segment, spec in zip(segments_of(name, precision), chain.segments, strict=True):
        file = folder / segment.spec.file
        file.write_bytes(engine_from_segment(segment, library.convert))
        engines.append(TensorRtEngine(tensorrt_stand_in, file, spec))
    return engines


def bundle_chain(folder: Path, name: str, precision: str = "fp32") -> ChainSpec:
    """Write a network's segments as a bundle; return their chain."""
    spec = bundle_precision(folder, name, precision)
    return ChainSpec(INPUT, tuple(f"class {k}" for k in range(CLASSES)), spec.segments, spec.temperatures)


@each_network
@each_precision
def test_engines_load_as_engines_of_the_bundles_segments(name: str, precision: str, tmp_path: Path) -> None:
    """Loading compares every name and type with the segment contract."""
    chain = bundle_chain(tmp_path / "bundle", name, precision)
    assert len(torch_engines(TorchTensorRt(), tmp_path, name, precision, chain)) == chain.exits


@each_network
def test_bound_engines_answer_as_the_bundles_segments_do(
    name: str, world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = TorchTensorRt()
    library.compute_on(world, monkeypatch)
    chain = bundle_chain(tmp_path / "bundle", name)
    engines = torch_engines(library, tmp_path, name, "fp32", chain)
    slots = (
        new_slot("cuda", chain, engines),
        new_slot("cpu", chain, load_engines(tmp_path / "bundle", chain.segments, OnnxRuntime())),
    )
    exits = set()
    for image, threshold in product(random_images(6), (0.0, 0.4, NEVER)):
        frame, thresholds = frame_from_array(image, "array"), np.full(chain.exits - 1, threshold, np.float32)
        for slot in slots:
            slot.start(frame, thresholds)
        gpu, host = (slot.result() for slot in slots)
        assert (gpu.label, gpu.exit_index) == (host.label, host.exit_index)
        assert gpu.confidence == pytest.approx(host.confidence, abs=1e-5)
        exits.add(gpu.exit_index)
    assert {0, chain.exits - 1} <= exits
    expected = slots[1].tensors()
    for tensor, value in slots[0].tensors().items():  # every segment ran in the last frame
        np.testing.assert_allclose(value, expected[tensor], atol=1e-4, err_msg=tensor)
    slots[0].close()


def test_an_engine_without_our_names_is_refused(tmp_path: Path) -> None:
    """Torch-TensorRT before 2.14 ignores `output_binding_names`."""

    def convert(program: ExportedProgram, *, output_binding_names: tuple[str, ...], **options: Any) -> bytes:
        names = tuple(f"output{index}" for index, _ in enumerate(output_binding_names))
        return TorchTensorRt().convert(program, output_binding_names=names, **options)

    [first, *_] = segments_of("tiny cnn")
    (tmp_path / first.spec.file).write_bytes(engine_from_segment(first, convert))
    with pytest.raises(EngineError, match=r"has output0 .* where the segment has .*logits_0 \(float32 1x4\)"):
        TensorRtEngine(tensorrt_stand_in, tmp_path / first.spec.file, first.spec)


def test_a_segment_that_torch_tensorrt_refuses_is_an_error_with_its_reason() -> None:
    def refuse(program: ExportedProgram, **options: Any) -> bytes:
        raise RuntimeError("While interpreting the module\ngot an error")

    [first, *_] = segments_of("tiny cnn")
    message = r"cannot build segment_0.engine \(While interpreting the module got an error\); use `python -m compile`"
    with pytest.raises(EngineError, match=message):
        engine_from_segment(first, refuse)


# The library


def test_torch_tensorrt_has_the_arguments_that_we_pass() -> None:
    passed: set[str] = set()

    def convert(program: ExportedProgram, **options: Any) -> bytes:
        passed.update(options)
        return b""

    [first, *_] = segments_of("tiny cnn")
    engine_from_segment(first, convert)
    assert {"arg_inputs", "arg_input_binding_names", "output_binding_names"} <= passed
    assert passed <= set(json.loads(torch_tensorrt_names.TABLE.read_text())["takes"])


def install(monkeypatch: pytest.MonkeyPatch, convert: Callable[..., bytes] | None) -> None:
    """Let this machine have a GPU and Torch-TensorRT with that function, or no Torch-TensorRT."""
    dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=convert)
    library = convert and SimpleNamespace(__version__="2.13.0", dynamo=dynamo)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", library)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_an_error_before_the_library_is_imported() -> None:
    with pytest.raises(UnavailableError, match=r"builds on an NVIDIA GPU, and torch finds none here; use `edge build`"):
        segment_engines(seeded_network(NETWORKS["tiny cnn"]), INPUT, half=False)


def test_a_missing_library_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    with pytest.raises(UnavailableError, match=rf"is not installed .*; {re.escape(pip_install('torch-tensorrt'))}$"):
        segment_engines(seeded_network(NETWORKS["tiny cnn"]), INPUT, half=False)


def test_a_library_without_binding_names_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda program, *, arg_inputs, **options: b"")
    with pytest.raises(
        UnavailableError, match=r"Torch-TensorRT 2.13.0 cannot name an engine's tensors; pip install '?/"
    ):
        segment_engines(seeded_network(NETWORKS["tiny cnn"]), INPUT, half=False)


@pytest.mark.parametrize("options", [[], ["--half"]])
def test_the_command_writes_an_engine_of_each_segment(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, TorchTensorRt().convert)
    checkpoint = SimpleNamespace(network=lambda: seeded_network(NETWORKS["tiny cnn"]), input=INPUT)
    monkeypatch.setattr(torch_tensorrt, "read_checkpoint", lambda path: checkpoint)
    on_cpu = torch.nn.Module.to
    monkeypatch.setattr(MultiExitNetwork, "to", lambda self, device, dtype: on_cpu(self, dtype=dtype))
    done = call(torch_tensorrt.main, "checkpoint.pt", "--output", tmp_path / "engines", *options)
    assert (done.code, done.stdout) == (PASSED, f"wrote 3 engines to {tmp_path / 'engines'}\n")
    chain = bundle_chain(tmp_path / "bundle", "tiny cnn", "fp16" if options else "fp32")
    for k, spec in enumerate(chain.segments):
        TensorRtEngine(tensorrt_stand_in, tmp_path / "engines" / f"segment_{k}.engine", spec)
