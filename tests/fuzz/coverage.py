"""Lines of a reader's modules that inputs execute, by Python's own tracing."""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "edge"), str(ROOT / "calibration"))


class LineCoverage:
    """Executed lines of functions in some modules."""

    def __init__(self, rooms: tuple[str, ...]) -> None:
        """Name modules or packages; those imported by the end count."""
        self._rooms = rooms
        self._executed: dict[str, set[int]] = defaultdict(set)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Trace this thread."""
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(None)

    def shares(self) -> dict[str, float]:
        """Return the share of executed lines of each module."""
        modules = {
            name: module.__file__
            for name, module in sorted(sys.modules.items())
            if any(name == room or name.startswith(f"{room}.") for room in self._rooms)
            and getattr(module, "__file__", None)
        }
        shares = {}
        for name, file in modules.items():
            if file is not None and (lines := function_lines(Path(file))):
                shares[name] = round(len(self._executed[file] & lines) / len(lines), 3)
        return shares

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._on_line if frame.f_code.co_filename.startswith(OURS) else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self._executed[frame.f_code.co_filename].add(frame.f_lineno)
        return self._on_line


def function_lines(file: Path) -> set[int]:
    """Return the executable lines inside functions; those of modules and classes run at import."""
    lines: set[int] = set()

    def visit(code: CodeType, *, is_function: bool) -> None:
        if is_function:
            lines.update(line for *_, line in code.co_lines() if line is not None and line != code.co_firstlineno)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                visit(constant, is_function=bool(constant.co_flags & 1))  # optimised: a function's, not a class's

    visit(compile(file.read_text(), str(file), "exec"), is_function=False)
    return lines
