"""Fuzzer of a bundle's ONNX segments: built, loaded and run by ONNX Runtime through `edge.load`."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from edge.bundle.bundle import MANIFEST, Bundle
from edge.engines import backend_named
from edge.engines.subprocess_build import shared_process
from edge.errors import BundleError, EngineError
from edge.inference.load import load_classifier
from edge.storage import cache_root, sha256_of
from tests.fuzz.base import Input
from tests.fuzz.values import BOUNDARIES, FLOATS, TEXTS, damage

OPERATORS = (
    "Add", "And", "ArgMax", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Einsum",
    "Expand", "Flatten",
    "Gather", "GatherND", "Gemm", "GlobalAveragePool", "Identity", "LayerNormalization", "MatMul", "MaxPool", "Mul",
    "NonZero",
    "OneHot", "Pad", "QuantizeLinear", "Range", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Resize", "RoiAlign",
    "ScatterND",
    "Shape", "Sigmoid", "Slice", "Softmax", "Split", "SplitToSequence", "Squeeze", "Tile", "TopK", "Transpose",
    "Unsqueeze",
    "Where", "If", "NoSuchOperator",
)  # fmt: skip
TYPES = (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 14, 16, 17, 21, 99)
SIZES = (0, 1, 2, 3, 10, 16, 17, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**63))
PLACES = (
    "manifest.json",
    "../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "fp32/whole.onnx",
    "",
    "missing",
    "a" * 300,
)
READS_PER_PROCESS = 50
"""Inputs that one process builds, unless one of them ends it before."""


class SegmentReader:
    """A bundle with a segment of one of its precisions replaced."""

    errors = (BundleError, EngineError)
    rooms = ("edge.bundle.external_data", "edge.engines.onnxruntime", "edge.engines.cache", "edge.inference.host")

    def __init__(self, base: Path, scratch: Path) -> None:
        shutil.copytree(base / "bundle", scratch / "bundle")
        self._path, self._engines = scratch / "bundle", cache_root()
        self._manifest = json.loads((self._path / MANIFEST).read_text())
        self._segments = {
            f"{precision}_{k}": self._path / segment["file"]
            for precision, spec in self._manifest["precisions"].items()
            for k, segment in enumerate(spec["segments"])
        }
        self._valid = {kind: path.read_bytes() for kind, path in self._segments.items()}
        self._known: set[str] = set()
        self._frame = np.zeros((16, 16, 3), np.uint8)
        self._process, self._reads = ExitStack(), 0

    def generate(self, random: Random) -> Input:
        kind = random.choice(tuple(self._segments))
        content = self._valid[kind]
        if random.random() < 0.12:
            return Input(kind, damage(random, content))
        if random.random() < 0.02:
            return Input(kind, random.choice(tuple(self._valid.values())))
        model = onnx.load_from_string(content)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            mutate_model(random, model)
        return Input(kind, model.SerializeToString())

    def passes_first_step(self, given: Input) -> bool:
        try:
            ModelProto.FromString(given.content)
        except DecodeError:
            return False
        return True

    def read(self, given: Input) -> None:
        path, precision = self._segments[given.kind], given.kind.split("_")[0]
        self._share_process()
        path.write_bytes(given.content)
        name = path.relative_to(self._path).as_posix()
        files = {**self._manifest["files"], name: sha256_of(path)}
        (self._path / MANIFEST).write_text(json.dumps({**self._manifest, "files": files}))
        try:
            self._use(precision, in_batches=given.content[-1:] < b"0")
        finally:
            path.write_bytes(self._valid[given.kind])
            for entry in self._entries() - self._known:
                shutil.rmtree(self._engines / entry)

    def close(self) -> None:
        """End the process that builds."""
        self._process.close()

    def _share_process(self) -> None:
        """Keep the process that builds, for a while: starting it takes ten times as long as most builds."""
        if self._reads % READS_PER_PROCESS == 0:
            self._process.close()
            self._process.enter_context(shared_process())
        self._reads += 1

    def prepare(self) -> None:
        """Build the engines of the intact segments."""
        bundle, backend = Bundle.open(self._path), backend_named("onnxruntime")
        for precision in bundle.manifest.precisions:
            with load_classifier(bundle, precision, backend) as classifier:
                classifier.predict(self._frame)
                classifier.predict_batch([self._frame])
        self._known = self._entries()

    def _entries(self) -> set[str]:
        return {path.name for path in self._engines.iterdir() if path.is_dir()}

    def _use(self, precision: str, *, in_batches: bool) -> None:
        bundle = Bundle.open(self._path)
        never = [2.0] * (len(bundle.manifest.exits) - 1)
        with load_classifier(bundle, precision, backend_named("onnxruntime"), never) as classifier:
            classifier.predict(self._frame)
            if in_batches:  # for some: another build
                classifier.predict_batch([self._frame, self._frame])


def mutate_model(random: Random, model: ModelProto) -> None:
    """Change one thing of a model."""
    edits: tuple[Callable[[Random, ModelProto], None], ...] = (
        edit_attribute, edit_attribute, edit_attribute, edit_node, edit_node, edit_initializer, edit_initializer,
        edit_edge, edit_border, edit_border, edit_model, edit_external, replace_input_shape,
    )  # fmt: skip
    random.choice(edits)(random, model)


def edit_attribute(random: Random, model: ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    node = random.choice(nodes)
    attribute = random.choice(node.attribute)
    if random.random() < 0.1:
        node.attribute.remove(attribute)
    elif attribute.type == AttributeProto.INT:
        attribute.i = wrapped(random.choice(BOUNDARIES))
    elif attribute.type == AttributeProto.INTS and random.random() < 0.7 and attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = wrapped(random.choice(BOUNDARIES))
    elif attribute.type == AttributeProto.INTS:
        attribute.ints[:] = random.choice(([], [1], [0, 0], [2**31] * 2, list(attribute.ints) * 2, [-1] * 4))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = random.choice(FLOATS[:7])
    elif attribute.type == AttributeProto.STRING:
        attribute.s = random.choice((b"", b"\xff\xfe", b"VALID", b"SAME_UPPER", b"x" * 1000))
    else:
        attribute.type = random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 11))
    if random.random() < 0.05:
        attribute.name = random.choice((*(name for name in TEXTS if name.isascii()), "kernel_shape", "axis", "to"))


def edit_node(random: Random, model: ModelProto) -> None:
    graph, node = model.graph, random.choice(model.graph.node)
    action = random.choice(("operator", "operator", "remove", "copy", "domain", "order", "name", "new", "if"))
    if action == "operator":
        node.op_type = random.choice(OPERATORS)
    elif action == "remove":
        graph.node.remove(node)
        if not graph.node:
            graph.node.append(helper.make_node("Identity", ["image"], ["x"]))
    elif action == "copy":
        graph.node.append(node)
    elif action == "domain":
        node.domain = random.choice(("", "ai.onnx", "com.microsoft", "no.such.domain", "ai.onnx.ml"))
    elif action == "order":
        nodes = list(graph.node)
        random.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes)
    elif action == "name":
        node.name = random.choice(model.graph.node).name
    else:
        add_node(random, graph, is_if=action == "if")


def add_node(random: Random, graph: GraphProto, *, is_if: bool) -> None:
    """Put a node with odd attributes, or a branch, between a tensor and its readers."""
    source = random.choice(tensor_names(graph))
    if is_if:
        leaf = body = helper.make_graph([helper.make_node("Identity", [source], ["inner"])], "body", [], [])
        for _ in range(random.choice((1, 5, 20))):
            node = helper.make_node("If", ["condition"], ["outer"], then_branch=body, else_branch=leaf)
            body = helper.make_graph([node], "body", [], [])
        new = helper.make_node("If", [source], ["added"], then_branch=body, else_branch=leaf)
    else:
        attributes: dict[str, Any] = {"axis": wrapped(random.choice(BOUNDARIES))} if random.random() < 0.5 else {}
        inputs = random.choices(tensor_names(graph), k=random.choice((0, 1, 2, 3)))
        new = helper.make_node(random.choice(OPERATORS), inputs, ["added"], **attributes)
    graph.node.insert(random.randrange(len(graph.node) + 1), new)
    if random.random() < 0.7:
        reader = random.choice(graph.node)
        if reader.input:
            reader.input[random.randrange(len(reader.input))] = "added"


def edit_initializer(random: Random, model: ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor = random.choice(model.graph.initializer)
    action = random.choice(("dims", "dims", "type", "data", "values", "remove", "copy", "name", "fields"))
    if action == "dims":
        edit_dims(random, tensor.dims)
    elif action == "type":
        tensor.data_type = random.choice(TYPES)
    elif action == "data":
        tensor.raw_data = random.choice(
            (b"", tensor.raw_data[:-1], tensor.raw_data * 2, b"\xff" * len(tensor.raw_data))
        )
    elif action == "values" and tensor.raw_data:
        tensor.raw_data = damage_values(random, tensor.raw_data)
    elif action == "remove":
        model.graph.initializer.remove(tensor)
    elif action == "copy":
        model.graph.initializer.append(tensor)
    elif action == "name":
        tensor.name = random.choice(tensor_names(model.graph))
    else:
        random.choice((tensor.float_data, tensor.double_data)).append(1.0)
        tensor.int64_data.append(1)


def damage_values(random: Random, raw: bytes) -> bytes:
    """Return raw data with values at boundaries, of the same length."""
    data = bytearray(raw)
    for _ in range(random.choice((1, 4, 50))):
        at = random.randrange(len(data)) // 4 * 4
        data[at : at + 4] = random.choice((b"\xff\xff\xff\xff", b"\0\0\x80\x7f", b"\0\0\0\x80", b"\xff\xff\xff\x7f"))[
            : len(data) - at
        ]
    return bytes(data[: len(raw)])


def edit_edge(random: Random, model: ModelProto) -> None:
    """Connect a node to other tensors."""
    node: NodeProto = random.choice(model.graph.node)
    ends = random.choice((node.input, node.input, node.output))
    if not ends:
        return
    action = random.choice(("other", "other", "empty", "remove", "more", "itself"))
    index = random.randrange(len(ends))
    if action == "other":
        ends[index] = random.choice(tensor_names(model.graph))
    elif action == "empty":
        ends[index] = ""
    elif action == "remove":
        del ends[index]
    elif action == "more":
        ends.extend(random.choices(tensor_names(model.graph), k=random.choice((1, 1, 2000))))
    elif node.output and node.input:
        node.input[0] = node.output[0]


def edit_border(random: Random, model: ModelProto) -> None:
    """Change an input or output of the graph."""
    values = random.choice((model.graph.input, model.graph.output))
    if not values:
        return
    value = random.choice(values)
    action = random.choice(("name", "name", "type", "shape", "shape", "remove", "copy", "order", "kind", "extra"))
    if action == "name":
        value.name = random.choice((*tensor_names(model.graph), "", "new", "threshold_0", "logits_1"))
    elif action == "type":
        value.type.tensor_type.elem_type = random.choice(TYPES)
    elif action == "shape":
        edit_shape(random, value.type.tensor_type.shape)
    elif action == "remove":
        values.remove(value)
    elif action == "copy":
        values.append(value)
    elif action == "order":
        kept = list(values)
        del values[:]
        values.extend(kept[::-1])
    elif action == "kind":
        value.type.CopyFrom(
            random.choice(
                (
                    TypeProto(),
                    helper.make_sequence_type_proto(value.type),
                    helper.make_optional_type_proto(value.type),
                    helper.make_map_type_proto(TensorProto.INT64, value.type),
                )
            )
        )
    else:
        values.append(helper.make_tensor_value_info(random.choice(tensor_names(model.graph)), 1, [1]))


def edit_shape(random: Random, shape: Any) -> None:
    if not shape.dim or random.random() < 0.2:
        shape.dim.add().dim_value = random.choice(SIZES)
    elif random.random() < 0.2:
        del shape.dim[random.randrange(len(shape.dim))]
    elif random.random() < 0.4:
        random.choice(shape.dim).dim_param = random.choice(("", "batch", "n", "x" * 1000))
    else:
        random.choice(shape.dim).dim_value = random.choice(SIZES)


def edit_dims(random: Random, dims: Any) -> None:
    if dims and random.random() < 0.6:
        dims[random.randrange(len(dims))] = random.choice(SIZES)
    else:
        dims[:] = random.choice(([], [0], [2**62], [2**31, 2**31, 2**31], [-1], [1] * 40, list(dims)[::-1]))


def edit_model(random: Random, model: ModelProto) -> None:
    action = random.choice(("ir", "opset", "opsets", "metadata", "function", "producer", "values", "sparse"))
    if action == "ir":
        model.ir_version = random.choice((0, 1, 3, 10, 99, 2**31, 2**62))
    elif action == "opset" and model.opset_import:
        model.opset_import[0].version = random.choice((0, 1, 6, 13, 99, 2**31, -1))
    elif action == "opsets":
        random.choice(
            (lambda: model.opset_import.add(domain="x", version=1), lambda: model.ClearField("opset_import"))
        )()
    elif action == "metadata":
        model.metadata_props.add(key=random.choice(("", "key")), value="x" * random.choice((0, 10, 100_000)))
    elif action == "function":
        name = random.choice(model.graph.node).op_type
        node = helper.make_node(name, ["x"], ["y"])  # calls itself
        model.functions.append(helper.make_function("", name, ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))
    elif action == "producer":
        model.producer_name = random.choice(("", "\x1b[31m", "pytorch" * 1000))
    elif action == "values":
        name = random.choice(tensor_names(model.graph))
        model.graph.value_info.append(helper.make_tensor_value_info(name, random.choice(TYPES), [random.choice(SIZES)]))
    elif model.graph.initializer:
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(model.graph.initializer[0])
        sparse.dims.append(random.choice(SIZES))


def edit_external(random: Random, model: ModelProto) -> None:
    """Move an initializer's data to a file beside the segment, or far from it."""
    if not model.graph.initializer:
        return
    tensor = random.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    if random.random() < 0.8:
        tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=random.choice(PLACES))
    for key in ("offset", "length"):
        if random.random() < 0.5:
            tensor.external_data.add(key=key, value=str(random.choice(BOUNDARIES)))


def replace_input_shape(random: Random, model: ModelProto) -> None:
    """Reshape a tensor on its way, so that later nodes meet other sizes than declared."""
    shape = helper.make_tensor(
        "odd_shape", TensorProto.INT64, [3], [random.choice((0, -1, 1, 2**31)) for _ in range(3)]
    )
    model.graph.initializer.append(shape)
    node = random.choice(model.graph.node)
    if node.input:
        new = helper.make_node("Reshape", [node.input[0], "odd_shape"], ["reshaped"])
        model.graph.node.insert(0, new)
        node.input[0] = "reshaped"


def tensor_names(graph: GraphProto) -> list[str]:
    """Return the names of all tensors."""
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    return sorted(names | {value.name for value in (*graph.input, *graph.output)})


def wrapped(number: int) -> int:
    """Return a number as 64 bits hold it."""
    return (number + 2**63) % 2**64 - 2**63


READER = SegmentReader
