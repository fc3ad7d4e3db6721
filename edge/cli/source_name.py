"""Names of sources as they may be shown and stored: without credentials."""

import re

USER_INFO = re.compile(r"(?<=://)[^/\s]*@")
SECRET_VALUE = re.compile(
    r"\b((?:user|username|user-id|user-pw|pass|passwd|password|pwd|token|key|apikey|api_key|secret|auth)=)"
    r"(\"[^\"]*\"|[^&\s!]*)",
    re.IGNORECASE,
)


def without_credentials(source: str) -> str:
    """Return an address or GStreamer pipeline without users, passwords and tokens."""
    return SECRET_VALUE.sub(r"\1***", USER_INFO.sub("", source))
