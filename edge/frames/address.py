"""Addresses of sources for messages: without user names, passwords and tokens."""

import os
import re

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ELISION = "…"


def public_address(address: str) -> str:
    """Return an address for messages, without the parts that may hold a secret. Paths of existing files are unchanged.

    The user, the password and everything from the first parameter on are left out: cameras accept passwords in queries
    (`?user=…&pwd=…`) and in paths (`/user=…_password=…`), under many names. Any property of a pipeline may hold a
    password, so no part of a pipeline is shown.
    """
    if " ! " in address:
        return "GStreamer pipeline"
    if os.path.lexists(address):
        return address
    scheme = SCHEME.match(address)
    start = scheme.group() if scheme else ""
    rest = address[len(start) :]
    user, at, host = rest.rpartition("@")
    is_user = ":" in user or (scheme is not None and "@" in re.split(r"[/?#]", rest)[0])
    if at and is_user:  # a password may contain any of "/?#@"
        start, rest = start or f"{ELISION}@", host
    shown = re.split(r"[?#=]", rest)[0]
    return f"{start}{shown}{'' if shown == rest else ELISION}"
