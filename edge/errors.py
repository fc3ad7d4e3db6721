"""Every error this project raises on purpose.

EdgeError                  something the user can mend; the command line prints it and exits with 2
├── BundleError            a bundle that is missing, damaged, foreign or cannot be written
├── CheckpointError        a checkpoint that cannot be read or does not fit
├── DataError              labelled images that cannot be used as asked
├── EngineError            an engine that cannot be built, loaded or run here
├── SourceError            frames that cannot be had
└── ThresholdError         thresholds that are no thresholds, or cannot be fitted

Each message says what happened, with which value, and what to do.
"""


class EdgeError(Exception):
    """Base of all errors raised on purpose."""


class BundleError(EdgeError):
    """A bundle is missing, damaged, foreign or cannot be written."""


class CheckpointError(EdgeError):
    """A checkpoint cannot be read or does not fit the network it is asked for."""


class DataError(EdgeError):
    """Labelled images cannot be used as asked."""


class EngineError(EdgeError):
    """An engine cannot be built, loaded or run on this machine."""


class SourceError(EdgeError):
    """A camera, video or folder does not give frames."""


class ThresholdError(EdgeError):
    """Thresholds are invalid or cannot be fitted."""
