"""What TensorRT has to say, kept for our own messages."""

from types import ModuleType
from typing import Any


def logger_of(trt: ModuleType) -> Any:
    """Return a logger that remembers the last error as `last_error`."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # its base is known when it runs
        """Keeps the last error for our message, and the rest from the user."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "it gave no reason"

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last_error = message

    return Log()
