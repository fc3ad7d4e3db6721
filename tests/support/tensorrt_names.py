"""TensorRT's API names in our source, and the releases that have them: `tensorrt_names.json`.

To update the table after using a new name:

    pip download --no-deps --dest WHEELS tensorrt-cu12-bindings==VERSION    (for each VERSION of the table)
    python tests/support/tensorrt_names.py WHEELS [--python PYTHON]

The released bindings are imported and inspected. A binding is a Python extension that calls TensorRT's libraries, but
imports with empty stubs of them, which are compiled here with cc. PYTHON must have the version that the wheels are for;
no GPU is needed.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".json")
SOURCE = Path(__file__).parents[2] / "edge"
MODULES = ("tensorrt", "tensorrt_rtx")
UNTYPED = ("Any", "ModuleType")
"""Annotations of our parameters that hold TensorRT objects."""
NOT_TENSORRT = {
    "__name__", "dtype", "exists", "get", "intersection", "items", "keys", "last_error", "lower", "pop", "read_bytes",
    "sample_shape", "segment", "values",
}  # fmt: skip
"""Attributes of untyped variables that are Python's or ours."""
RTX_ONLY = {
    ".num_compute_capabilities",
    ".set_compute_capability",
    "ComputeCapability",
    "ComputeCapability.__members__",
    ".create_runtime_cache",
    ".set_runtime_cache",
    ".deserialize",
    "IRuntimeCache",
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
}
RUNTIME_CONFIG = {".create_runtime_config", ".set_execution_context_allocation_strategy"}
"""Names of TensorRT-RTX that newer TensorRT releases have too, and that we use with TensorRT-RTX only."""
CONTROLS = ("BuilderFlag.FP16", ".build_engine_with_config", ".num_bindings", ".set_timing_cache(mismatch)", ".set_tim")
"""Names that only some releases or none have: they show that the inspection can tell."""


def sources() -> list[Path]:
    """Return our files that use TensorRT."""
    files = sorted(SOURCE.rglob("*.py"))
    return [path for path in files if _uses_tensorrt(ast.parse(path.read_text()))]


def used_names(source: str) -> tuple[set[str], set[str]]:
    """Return TensorRT's names in Python code, and those of them that the code probes with `hasattr` or a default.

    `A.b` is an attribute of the module's A, `.b` of any class, `.b(c)` a keyword argument.
    """
    reader = _Reader()
    reader.visit(ast.parse(source))
    return reader.names, reader.probed


def has_name(module: Any, name: str) -> bool:
    """Look up a name from `used_names` in a module of the TensorRT family."""
    path, _, keyword = name.rstrip(")").partition("(")
    objects = _in_any_class(module, path[1:]) if path.startswith(".") else _in_module(module, path.split("."))
    return any(not keyword or _has_argument(item, keyword) for item in objects)


class _Reader(ast.NodeVisitor):
    """Collects names. `ours` are variables without TensorRT objects, `modules` variables that are TensorRT."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.probed: set[str] = set()
        self.ours: set[str] = set()
        self.modules: set[str] = set()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            (self.modules if alias.name in MODULES else self.ours).add(bound)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if node.module in MODULES:
                self.names.add(alias.name)
            else:
                self.ours.add(alias.asname or alias.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        match node:
            case ast.Assign([ast.Name(variable)], ast.Call(ast.Attribute(ast.Name("importlib"), "import_module"))):
                self.modules.add(variable)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = set(self.ours), set(self.modules)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            kind = ast.unparse(argument.annotation) if argument.annotation else "Any"
            self.ours.discard(argument.arg)
            if kind not in UNTYPED:
                self.ours.add(argument.arg)
            elif kind == "ModuleType":
                self.modules.add(argument.arg)
        for statement in node.body:
            self.visit(statement)
        self.ours, self.modules = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in map(self._name, node.bases):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            self.names |= {f"{base}.{method}" for method in methods if base and not method.startswith("_")}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if name := self._name(node):
            self.names.add(name)
        if not self._is_of_module(node):
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if name := self._name(node.func):
            self.names |= {f"{name}({keyword.arg})" for keyword in node.keywords}
        match node:
            case ast.Call(ast.Name("getattr" | "hasattr" as how), [thing, ast.Constant(str(attribute)), *default]):
                name = self._name(ast.Attribute(thing, attribute))
                self.names |= {name} if name else set()
                self.probed |= {name} if name and (default or how == "hasattr") else set()
        self.generic_visit(node)

    def _name(self, node: ast.expr) -> str | None:
        """Return the last name of an expression if it is TensorRT's."""
        if not isinstance(node, ast.Attribute) or node.attr in NOT_TENSORRT:
            return None
        if self._is_of_module(node):
            return ast.unparse(node).partition(".")[2]
        root = _root(node)
        is_own_field = isinstance(node.value, ast.Name) and node.value.id == "self"
        is_ours = isinstance(root, ast.Constant | ast.JoinedStr) or (
            isinstance(root, ast.Name) and root.id in self.ours
        )
        if is_own_field or is_ours or node.attr.startswith("_"):
            return None
        return f".{node.attr}"

    def _is_of_module(self, node: ast.Attribute) -> bool:
        value = node.value
        while isinstance(value, ast.Attribute):
            value = value.value
        return isinstance(value, ast.Name) and value.id in self.modules


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node


def _uses_tensorrt(tree: ast.Module) -> bool:
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return not imported.isdisjoint(MODULES) or any(isinstance(n, ast.Name) and n.id == "trt" for n in ast.walk(tree))


def _in_module(module: Any, path: list[str]) -> list[Any]:
    for part in path:
        if not hasattr(module, part):
            return []
        module = getattr(module, part)
    return [module]


def _in_any_class(module: Any, name: str) -> list[Any]:
    return [vars(base)[name] for cls in set(_classes(module)) for base in cls.__mro__[:-1] if name in vars(base)]


def _classes(owner: Any) -> Iterator[type]:
    for value in vars(owner).values():
        if isinstance(value, type) and "tensorrt" in value.__module__:
            yield value
            if value is not owner:
                yield from _classes(value)


def _has_argument(function: Any, keyword: str) -> bool:
    """Look for an argument in the signatures that pybind11 writes into docstrings."""
    signatures = re.findall(r"^(?: *\d+\. )?\w+\((.*)\) -> ", str(function.__doc__), re.MULTILINE)
    return any(re.search(rf"(^|, ){keyword}: ", signature) for signature in signatures)


def inspect_wheel(wheel: Path, python: str, names: Collection[str]) -> list[str]:
    """Return the names that the binding in a wheel has."""
    script = "import json, sys, tensorrt_bindings, tensorrt_names as t; "
    script += "print(json.dumps([name for name in json.load(sys.stdin) if t.has_name(tensorrt_bindings, name)]))"
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        _compile_stubs(Path(folder), Path(folder) / "tensorrt_bindings" / "tensorrt.so")
        env = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": f"{folder}:{Path(__file__).parent}"}
        command = [python, "-c", script]
        done = subprocess.run(command, input=json.dumps(sorted(names)), env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{python} cannot import {wheel.name}: {done.stderr}\nset a Python of its version with --python")
    return [str(name) for name in json.loads(done.stdout)]


def _compile_stubs(folder: Path, binding: Path) -> None:
    """Compile libraries with empty definitions of the functions that a binding needs."""
    undefined = subprocess.run(["nm", "-D", "--undefined-only", binding], check=True, capture_output=True, text=True)
    symbols = re.findall(r" U (\w+)$", undefined.stdout, re.MULTILINE)
    functions = [name for name in symbols if re.search("Nv|Infer|Plugin", name)]
    (folder / "stubs.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    needed = subprocess.run(["readelf", "-d", binding], check=True, capture_output=True, text=True)
    for library in re.findall(r"\[(libnv\S+)\]", needed.stdout):
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library]
        subprocess.run(["cc", folder / "stubs.c", *options], check=True)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="List the TensorRT releases that have each name we use.")
    parser.add_argument("wheels", type=Path, help="folder of tensorrt-cu12-bindings wheels")
    parser.add_argument("--python", default=sys.executable, help="Python of the wheels' version (default: this one)")
    arguments = parser.parse_args()
    names = set().union(*(used_names(path.read_text())[0] for path in sources()))
    wheels = {path.name.split("-")[1]: path for path in arguments.wheels.glob("tensorrt_cu12_bindings-*.whl")}
    versions = sorted(wheels, key=lambda version: [int(part) for part in version.split(".")])
    available = {version: inspect_wheel(wheels[version], arguments.python, {*names, *CONTROLS}) for version in versions}
    has = {
        name: [version for version in versions if name in available[version]] for name in sorted({*names, *CONTROLS})
    }
    digests = {version: hashlib.sha256(wheels[version].read_bytes()).hexdigest() for version in versions}
    table = {
        "wheels": {version: {"file": wheels[version].name, "sha256": digests[version]} for version in versions},
        "names": {name: has[name] for name in sorted(names)},
        "controls": {name: has[name] for name in CONTROLS},
    }
    TABLE.write_text(json.dumps(table, indent=2) + "\n")
    print(f"wrote {TABLE}: {len(names)} names in {', '.join(versions)}")


if __name__ == "__main__":
    main()
