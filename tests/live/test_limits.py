"""Limits of the rate of calls, by client."""

import pytest

from edge.live import limits
from edge.live.addresses import client_network
from edge.live.limits import ClientLimits, RateLimit


def test_a_rate_limit_refills_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(limits, "monotonic", lambda: now_s)
    limit = RateLimit(2, 3)
    assert [limit.takes() for _ in range(4)] == [True, True, True, False]
    now_s += 0.6
    assert [limit.takes() for _ in range(2)] == [True, False]
    now_s += 1000
    assert [limit.takes() for _ in range(4)] == [True, True, True, False]


def test_a_client_that_is_over_its_limit_locks_no_other_out() -> None:
    clients = ClientLimits(1e-6, 2)
    assert [clients.takes("a") for _ in range(3)] == [True, True, False]
    assert clients.is_reached("a")
    assert not clients.is_reached("b")
    assert clients.takes("b")


def test_many_clients_share_a_limit() -> None:
    clients = ClientLimits(1e-6, 2)
    taken = [clients.takes(str(index)) for index in range(2 * limits.TOTAL_FACTOR + 1)]
    assert taken == [True] * 2 * limits.TOTAL_FACTOR + [False]
    assert clients.is_reached("another")


def test_only_the_client_that_called_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 2)
    clients = ClientLimits(1e-6, 1)
    for client in ("a", "b", "a", "c"):
        clients.takes(client)
    assert [clients.is_reached(client) for client in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.168.0.7", "192.168.0.7"),
        ("::ffff:192.168.0.7", "192.168.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_is_a_client(address: str, network: str) -> None:
    assert client_network(address) == network
