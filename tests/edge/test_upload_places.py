"""Who may send a large body: clients share the places, and a slow upload gives way to another, an honest one never."""

from __future__ import annotations

import pytest

from http_edge.body.upload_places import AT_ONCE, Upload, UploadPlaces, network_of


class Clients:
    """Uploads of several clients, and which were stopped."""

    def __init__(self) -> None:
        self.places = UploadPlaces()
        self.stopped: list[Upload] = []

    def come(self, client: str, now: float, size: int = 0) -> Upload | None:
        """One more upload, which has brought so much at once; None: it was refused."""
        upload = Upload(client, now, lambda: self.stopped.append(upload))
        upload.size = size
        return upload if self.places.enter(upload) else None


def test_a_client_has_half_of_the_places() -> None:
    clients = Clients()
    taken = [clients.come("a", 0.0) for _ in range(AT_ONCE)]
    assert taken.count(None) == AT_ONCE // 2
    assert all(clients.come(f"client {number}", 0.0) for number in range(AT_ONCE // 2))
    assert clients.come("late", 0.0) is None
    assert clients.stopped == []


def test_an_honest_upload_takes_the_place_of_a_slow_one_of_the_same_client() -> None:
    clients = Clients()
    slow = [clients.come("a", 0.0, size=1000 + number) for number in range(AT_ONCE // 2)]
    other = clients.come("b", 0.0)
    honest = clients.come("a", 60.0)
    assert honest is not None
    assert clients.stopped == [slow[0]]
    assert other not in clients.stopped


def test_of_several_clients_the_one_with_the_most_places_gives_one_up() -> None:
    clients = Clients()
    single = clients.come("single", 0.0, size=1)
    for client in ("a", "b"):
        for _ in range(AT_ONCE // 2 - (client == "b")):
            clients.come(client, 0.0, size=100)
    assert clients.come("honest", 60.0) is not None
    (stopped,) = clients.stopped
    assert (stopped.client, stopped is single) == ("a", False)


def test_what_is_new_or_quick_is_never_ended_for_another() -> None:
    clients = Clients()
    for number in range(AT_ONCE):
        assert clients.come(f"client {number}", 0.0, size=10_000_000)
    assert clients.come("late", 1.0) is None
    assert clients.come("late", 10.0) is None
    assert clients.come("late", 1000.0) is not None


def test_a_place_is_free_when_its_upload_is_over_once() -> None:
    clients = Clients()
    uploads = [clients.come("a", 0.0) for _ in range(AT_ONCE // 2)]
    assert uploads[0] is not None
    clients.places.leave(uploads[0])
    clients.places.leave(uploads[0])
    assert clients.come("a", 0.0) is not None
    assert clients.come("a", 0.0) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_of_ipv6_is_its_network(address: str, network: str) -> None:
    assert network_of(address) == network
