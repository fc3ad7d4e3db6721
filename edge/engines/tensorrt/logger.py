"""The logger that builders and engines of the TensorRT family share."""

from types import ModuleType
from typing import Any


def error_logger(trt: ModuleType) -> Any:
    """Return a logger that keeps the last error as `last_error` and prints nothing."""

    class ErrorLogger(trt.ILogger):  # type: ignore[misc, name-defined]  # the base class is known at run time only
        """Keeps the last error for error messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "it gave no reason"

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last_error = message

    return ErrorLogger()
