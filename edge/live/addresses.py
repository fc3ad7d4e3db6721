"""Addresses of hosts."""

from ipaddress import IPv6Address, ip_address, ip_network


def is_loopback(host: str) -> bool:
    """Check that only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def client_network(address: str) -> str:
    """Return the addresses that count as a single client: an IPv4 address, or the /64 network of an IPv6 address.

    A host of IPv6 usually has a /64 network of its own, and may take any address of it.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((int(parsed), 64), strict=False))
