"""The error tree: every exception this project raises on purpose.

EdgeError                  user-correctable error; command lines print it and exit with 2
├── BundleError            the bundle is missing, damaged, of another version or cannot be written
├── CheckpointError        the checkpoint cannot be read or does not fit
├── DataError              the labelled images cannot be used as requested
├── EngineError            the engine cannot be built, loaded or run on this machine
├── SourceError            the source gives no frames, or a frame cannot be used
└── ThresholdError         the thresholds are invalid or cannot be fitted

Each message states the fact, the value and the remedy.
"""


class EdgeError(Exception):
    """Base of all errors raised on purpose."""


class BundleError(EdgeError):
    """The bundle is missing, damaged, of another version or cannot be written."""


class CheckpointError(EdgeError):
    """The checkpoint cannot be read or does not fit the network."""


class DataError(EdgeError):
    """The labelled images cannot be used as requested."""


class EngineError(EdgeError):
    """The engine cannot be built, loaded or run on this machine."""


class SourceError(EdgeError):
    """The source gives no frames, or a frame cannot be used."""


class ThresholdError(EdgeError):
    """The thresholds are invalid or cannot be fitted."""
