"""This user's cache folder. It contains code (engines and kernels), so only this user may write to it."""

import os
import stat
from pathlib import Path

from edge.errors import EngineError, UnavailableError

OWN_FOLDER = "set EDGE_CACHE to a folder of your own"


def cache_root() -> Path:
    """Return the folder for engines and kernels: `$EDGE_CACHE`, else `early-exit/engines` in this user's cache.

    Raises:
        UnavailableError: this user has no home folder.
    """
    if root := os.environ.get("EDGE_CACHE"):
        return Path(root)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise UnavailableError(
            f"user {os.getuid()} has no home folder for the engine cache; set EDGE_CACHE to a folder of this user"
        ) from error
    return cache / "early-exit" / "engines"


def private_cache_root(root: Path | None = None) -> Path:
    """Return the cache folder; if it is missing, create it for this user only.

    Args:
        root: By default `cache_root`.

    Raises:
            EngineError: it cannot be created, belongs to another user, or others may write to it.
    """
    root = root or cache_root()
    if not root.is_dir():
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise EngineError(f"engine cache {root} cannot be created ({reason}); {OWN_FOLDER}") from error
    check_private(root, root)
    return root


def check_private(path: Path, root: Path) -> None:
    """Refuse code that another user may have written.

    Raises:
        EngineError: `path` belongs to another user, or others may write to it.
        OSError: the file does not exist.
    """
    status = path.stat() if path == root else path.lstat()
    if path == root:
        name, remedy = f"engine cache {root}", OWN_FOLDER
    else:
        name, remedy = f"{path} in the engine cache", f"remove it or {root}, and build again"
    if status.st_uid != os.getuid():
        raise EngineError(f"{name} belongs to another user; {remedy}")
    if stat.S_ISLNK(status.st_mode):
        raise EngineError(f"{name} is a link; {remedy}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise EngineError(f"{name} may be written by other users (mode {mode:04o}); {remedy}, or `chmod go-w` it")
