"""The error tree: every exception this project raises on purpose.

EdgeError                  user-correctable error; command lines print it and exit with its exit code
├── BundleError            the bundle is missing, damaged, of another version, or cannot be written
│   └── SignatureError     the bundle is not signed by the required key, or a key cannot be used
├── CheckpointError        the checkpoint cannot be read or does not fit
├── DataError              the labelled images cannot be used as requested
├── EngineError            the engine cannot be built, loaded or run on this machine
│   └── UnavailableError   this machine lacks a GPU, library or permission
├── OutputError            the output would destroy an input or another file
├── RegistryError          the registry cannot be reached, refuses, or gives something other than the bundle
├── SourceError            the source gives no frames, or a frame cannot be used
│   ├── AddressError       the source can never work as it is addressed
│   └── SourceLostError    the source worked and stopped
└── ThresholdError         the thresholds are invalid or cannot be fitted

Each message states the fact, the value and the remedy.
"""

import re

ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

OUT_OF_MEMORY = re.compile(r"out of memory|(?:can't|cannot|unable to) allocate|ALLOC_FAILED|bad_alloc", re.IGNORECASE)
"""As CUDA, torch's allocator for the CPU, NumPy, cuDNN and cuBLAS, and C++ say it."""

MAX_MESSAGE, MESSAGE_END = 2000, 400
"""Longest message, and how much of its end is kept: the remedy stands there."""


class EdgeError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2
    """Exit code of a command that fails with this error."""

    def __str__(self) -> str:
        """Return the message in one line; quoted messages of libraries may have several lines and colours."""
        return shortened(one_line(super().__str__()))


class BundleError(EdgeError):
    """The bundle is missing, damaged, of another version or cannot be written."""


class SignatureError(BundleError):
    """The bundle is not signed by the required key, or a key cannot be used."""


class CheckpointError(EdgeError):
    """The checkpoint cannot be read or does not fit the network."""


class DataError(EdgeError):
    """The labelled images cannot be used as requested."""


class EngineError(EdgeError):
    """The engine cannot be built, loaded or run on this machine."""


class UnavailableError(EngineError):
    """This machine lacks a GPU, library or permission."""

    exit_code = 4


class OutputError(EdgeError):
    """The output would destroy an input or another file."""


class RegistryError(EdgeError):
    """The registry cannot be reached, refuses, or gives something other than the bundle."""


class SourceError(EdgeError):
    """The source gives no frames, or a frame cannot be used."""


class AddressError(SourceError):
    """The source can never work as it is addressed: an unknown scheme or option, a crop outside of its frames."""


class SourceLostError(SourceError):
    """The source worked and stopped."""

    exit_code = 3


class ThresholdError(EdgeError):
    """The thresholds are invalid or cannot be fitted."""


def is_out_of_memory(error: Exception) -> bool:
    """Return True if memory ran out; torch raises `RuntimeError` on a CPU, and a subclass of it on a GPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))
    )


def utf8(text: str) -> str:
    """Return text whose bytes that are not UTF-8, as names of files may have, are escaped; every encoder accepts it."""
    return text.encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """Return text as a single line of UTF-8 without colour codes and control characters."""
    parts = (part.strip() for part in CONTROL_CHARACTERS.split(ESCAPE_SEQUENCE.sub("", utf8(text))))
    return " ".join(part for part in parts if part)


def described(error: BaseException) -> str:
    """Return the type and the message of any exception in one line."""
    return shortened(one_line(f"{type(error).__name__}: {error}"))


def shortened(text: str) -> str:
    """Return a message without its middle where it is too long to read, as with a value of a damaged file."""
    if len(text) <= MAX_MESSAGE:
        return text
    return f"{text[: MAX_MESSAGE - MESSAGE_END - 3]} … {text[-MESSAGE_END:]}"
