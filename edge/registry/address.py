"""Addresses of bundles in registries."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from edge.errors import RegistryError

ADDRESS = re.compile(
    r"oci://(?P<host>(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?)"
    r"/(?P<name>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@sha256:(?P<sha256>[0-9a-f]{64}))",
    re.ASCII,
)
"""As the OCI distribution specification defines names, tags and digests."""
MAX_NAME = 255
CREDENTIALS = re.compile(r"^(oci://)?.*@(?!sha256:[0-9a-f]*$)", re.DOTALL)
"""Everything before a host, which may hold a password; a password may contain any character."""


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """A tag of a repository, or exactly one content by its digest."""

    host: str
    """Host, with its port if one is given."""
    name: str
    tag: str | None
    sha256: str | None

    def __str__(self) -> str:
        return f"oci://{self.host}/{self.name}" + (f":{self.tag}" if self.tag else f"@sha256:{self.sha256}")

    @property
    def reference(self) -> str:
        """The tag, or the digest as registries write it."""
        return self.tag or f"sha256:{self.sha256}"

    @property
    def is_loopback(self) -> bool:
        """True if the registry is on this machine: only there, plain HTTP is used."""
        host = re.sub(r":\d+$", "", self.host).strip("[]")
        try:
            return host == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False


def parse_registry_address(text: str) -> RegistryAddress:
    """Parse `oci://HOST[:PORT]/NAME:TAG` or `oci://HOST[:PORT]/NAME@sha256:DIGEST`.

    Raises:
        RegistryError: the text is neither.
    """
    match = ADDRESS.fullmatch(text)
    if match is None or len(match["name"]) > MAX_NAME:
        shown = CREDENTIALS.sub(r"\1…@", text)
        raise RegistryError(
            f"{shown!r} is no address in a registry; give oci://HOST/NAME:TAG or "
            "oci://HOST/NAME@sha256:…; user and password come from `docker login HOST`"
        )
    return RegistryAddress(**match.groupdict())
