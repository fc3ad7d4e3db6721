"""The arguments of the Torch-TensorRT function that we call: `torch_tensorrt_names.json`, from a released wheel.

The function silently ignores unknown keywords, so that a misspelt one would have no effect. To update the table:

    pip download --no-deps --dest WHEELS torch-tensorrt==VERSION
    python tests/support/torch_tensorrt_names.py WHEELS/torch_tensorrt-VERSION-...whl
"""

import argparse
import ast
import hashlib
import json
import zipfile
from pathlib import Path

TABLE = Path(__file__).with_suffix(".json")
FUNCTION = "convert_exported_program_to_serialized_trt_engine"
DEFINED_IN, EXPORTED_BY = "torch_tensorrt/dynamo/_compiler.py", "torch_tensorrt/dynamo/__init__.py"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description="List the arguments of Torch-TensorRT's function.")
    parser.add_argument("wheel", type=Path, help="torch-tensorrt wheel")
    wheel: Path = parser.parse_args().wheel
    with zipfile.ZipFile(wheel) as files:
        defined = [n for n in ast.walk(ast.parse(files.read(DEFINED_IN))) if isinstance(n, ast.FunctionDef)]
        exported = [n for n in ast.walk(ast.parse(files.read(EXPORTED_BY))) if isinstance(n, ast.ImportFrom)]
    if FUNCTION not in {alias.name for node in exported for alias in node.names}:
        parser.error(f"torch_tensorrt.dynamo of {wheel.name} has no {FUNCTION}")
    arguments = next(node.args for node in defined if node.name == FUNCTION)
    takes = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    table = {"file": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "takes": takes}
    TABLE.write_text(json.dumps(table, indent=2) + "\n")
    print(f"wrote {TABLE}: {len(takes)} arguments")


if __name__ == "__main__":
    main()
