"""Addresses of sources as they may be shown: without user names, passwords and tokens."""

import re

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ELISION = "…"


def public_address(address: str) -> str:
    """Return an address for messages, without the parts that may hold a secret.

    User and password go, however they are written, and so does everything from the first parameter on: cameras take
    passwords in queries (`?user=…&pwd=…`) and in paths (`/user=…_password=…`), under names without number. Properties
    of pipelines hold them too, so that nothing of a pipeline is shown.
    """
    if " ! " in address:
        return "GStreamer pipeline"
    scheme = SCHEME.match(address)
    if scheme is None:
        user, at, host = address.rpartition("@")
        return f"{ELISION}@{host}" if at and ":" in user.partition("/")[0] else address
    rest = address[scheme.end() :]
    user, at, host = rest.rpartition("@")
    if at and ("@" in re.split(r"[/?#]", rest)[0] or ":" in user):  # a password may contain any of "/?#@"
        rest = host
    shown = re.split(r"[?#=]", rest)[0]
    return f"{scheme.group()}{shown}{'' if shown == rest else ELISION}"
