"""Atomic writes, locks, bounded reads, and this user's cache folder."""

from edge.storage.atomic import atomic_dir, atomic_file, find_retired, remove_stale, write_file
from edge.storage.cache_root import cache_root, check_private, private_cache_root
from edge.storage.locks import holder, locked_dir, locked_file
from edge.storage.reading import open_regular, read_file, sha256_of

__all__ = [
    "atomic_dir",
    "atomic_file",
    "cache_root",
    "check_private",
    "find_retired",
    "holder",
    "locked_dir",
    "locked_file",
    "open_regular",
    "private_cache_root",
    "read_file",
    "remove_stale",
    "sha256_of",
    "write_file",
]
