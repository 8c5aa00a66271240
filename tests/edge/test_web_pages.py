"""What web pages may not do to a service without API keys, in every family and with everything that a page can send."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from http_edge.app import FAMILIES, build_app
from http_edge.auth.keys import KeyRecord, hash_of, write_keys
from http_edge.base.errors import ErrorResponses
from http_edge.http.routing import EdgeRoute
from tests.edge.conftest import World

#: What a form, a beacon or a no-cors fetch can send without asking, and what a page that asks may send.
BODIES = {
    "nothing": {},
    "json": {"json": {"prompt": "a red circle"}},
    "json as text": {"content": b'{"prompt": "a red circle"}', "headers": {"Content-Type": "text/plain"}},
    "json as nothing": {"content": b'{"prompt": "a red circle"}'},
    "form": {"data": {"prompt": "a red circle"}},
    "multipart": {"files": {"prompt": (None, "a red circle")}},
}
FOREIGN = {
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "a site of a later kind": {"Sec-Fetch-Site": "far-away"},
    "cross-site from here": {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    "origin": {"Origin": "https://evil.example"},
    "null origin": {"Origin": "null"},
    "another port": {"Origin": "http://localhost:3000"},
    "a longer name": {"Origin": "http://localhost.evil.example"},
    "no browser's origin": {"Origin": "localhost"},
    "empty origin": {"Origin": ""},
    "referer": {"Referer": "https://evil.example/page"},
}
#: The safe methods that change something, each for the API that it was taken over from.
CHANGING_GETS = {
    "/v1/local/video/generate/stop_running_task",
    "/api/v1/task/cancel",
    "/api/v1/task/resume",
}


def routes(world: World) -> list[EdgeRoute]:
    return [one for one in build_app(world.edge).routes if isinstance(one, EdgeRoute)]


def changing(world: World) -> Iterator[tuple[str, str]]:
    for one in routes(world):
        for method in sorted(one.handlers):
            if method not in ("GET", "HEAD") or one.path in CHANGING_GETS:
                yield method, re.sub(r"\{[^}]*\}", "x", one.path)


def refused(response: Any) -> bool:
    return response.status_code == 403 and b"pages of other sites" in response.content


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_no_route_that_changes_something_can_be_asked_by_a_foreign_page(world: World, headers: dict[str, str]) -> None:
    asked = list(changing(world))
    assert len(asked) > 30
    for method, path in asked:
        for name, body in BODIES.items():
            given = {**body, "headers": {**body.get("headers", {}), **headers}}
            if method != "HEAD":
                assert refused(world.http.request(method, path, **given)), (method, path, name)
            else:
                assert world.http.request(method, path, **given).status_code == 403, path
    assert not {"submit", "cancel", "drain_worker"} & set(world.fake.calls)


def test_the_refusal_has_the_shape_of_the_family(world: World) -> None:
    page = {"Origin": "https://evil.example"}
    for path, member in [
        ("/v1/jobs", "detail"),
        ("/v1/videos", "error"),
        ("/v1/local/video/generate", "error"),
        ("/v1/tasks/", "detail"),
        ("/api/v1/task/submit", "message"),
    ]:
        response = world.http.post(path, json={"prompt": "a red circle"}, headers=page)
        assert response.status_code == 403, path
        assert 'Origin: "https://evil.example"' in str(response.json()[member]), path


def test_an_image_or_a_link_of_another_page_stops_nothing(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    stop = "/v1/local/video/generate/stop_running_task"
    for headers in (
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        # To a plain address of the network a browser says nothing of sites, and a page can have it leave out the referer.
        {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"},
        {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "Referer": "http://evil.example/"},
    ):
        assert world.http.get(stop, headers=headers).status_code == 403, headers
        assert world.http.head(stop, headers=headers).status_code == 403, headers
    assert world.http.get(job["urls"]["self"]).json()["state"] == "running"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Origin": "HTTP://LOCALHOST"},
        {"Origin": "http://localhost:80"},
        {"Origin": "https://localhost"},
        {"Host": "media.example.com:443", "Origin": "https://media.example.com"},
        {"Host": "10.0.0.7:8000", "Origin": "http://10.0.0.7:8000"},
        {"Origin": "https://media.example.com", "Sec-Fetch-Site": "same-origin"},
        {"Referer": "http://localhost/docs"},
        {"Origin": "https://studio.example", "Sec-Fetch-Site": "cross-site"},
        {"User-Agent": "Mozilla/5.0"},
    ],
)
def test_programs_and_own_and_configured_pages_are_served(
    open_edge: Callable[..., World], headers: dict[str, str]
) -> None:
    world = open_edge(cors_origins=("https://studio.example",), public_url="https://media.example.com")
    response = world.http.post("/v1/jobs", json={"prompt": "a red circle"}, headers=headers)
    assert response.status_code == 200, response.text


def test_a_person_and_a_program_may_stop_a_task_by_its_address(world: World) -> None:
    stop = "/v1/local/video/generate/stop_running_task"
    browser = {"User-Agent": "Mozilla/5.0"}
    for headers in (
        {},
        {"User-Agent": "python-requests/2.32"},
        {**browser, "Sec-Fetch-Site": "none"},
        {**browser, "Sec-Fetch-Site": "same-origin"},
        {**browser, "Referer": "http://localhost/"},
    ):
        assert world.http.get(stop, headers=headers).status_code == 200, headers


def test_pages_may_read_what_the_browser_lets_them(world: World) -> None:
    job = world.submit()
    for headers in FOREIGN.values():
        assert world.http.get(job["urls"]["self"], headers=headers).status_code == 200
        assert "access-control-allow-origin" not in world.http.get("/v1/jobs", headers=headers).headers


def test_any_page_may_where_every_origin_is_configured(open_edge: Callable[..., World]) -> None:
    world = open_edge(cors_origins=("*",))
    for headers in FOREIGN.values():
        assert world.http.post("/v1/jobs", json={"prompt": "x"}, headers=headers).status_code == 200


def test_with_keys_a_page_that_has_one_is_served(open_edge: Callable[..., World], tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", [KeyRecord(name="red", hash=hash_of("zk_red"), tenant="red")])
    world = open_edge(keys_file=str(tmp_path / "keys"), cors_origins=("https://studio.example",))
    page = {"Origin": "https://studio.example", "Sec-Fetch-Site": "cross-site"}
    asked = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert world.http.options("/v1/jobs", headers=asked).status_code == 200
    assert world.http.post("/v1/jobs", json={"prompt": "x"}, headers=page).status_code == 401
    answer = world.http.post("/v1/jobs", json={"prompt": "x"}, headers={**page, "X-API-Key": "zk_red"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://studio.example")


# ---------------------------------------------------------------- names

OWN = (
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "studio.localhost",
    "127.0.0.1",
    "127.0.0.1.",
    "127.0.0.1:8000",
    "127.1",
    "2130706433",
    "0x7f000001",
    "192.168.1.5:8000",
    "[::1]",
    "[::1]:8000",
    "[fe80::1%25eth0]:8000",
    "[::ffff:127.0.0.1]",
)
OTHERS = (
    "rebind.example",
    "rebind.example:8000",
    "localhost.rebind.example",
    "127.0.0.1.rebind.example",
    "notlocalhost",
    "999.1.1.1",
    "1.2.3.4.5",
    "rebind.example.",
    ".",
    ".:8000",
    "..",
    "-",
)
MALFORMED = (
    "",
    " ",
    "user@localhost",
    "localhost:99999999",
    "local host",
    "localhost/x",
    "[::1",
    "[::1]x",
    "[gg::]",
    "ü",
)


@pytest.mark.parametrize("host", OWN)
def test_addresses_and_localhost_are_names_of_every_service(world: World, host: str) -> None:
    assert world.http.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", OTHERS)
def test_no_route_answers_to_another_name(world: World, host: str) -> None:
    for one in routes(world):
        path = re.sub(r"\{[^}]*\}", "x", one.path)
        for method in (*sorted(one.handlers), "OPTIONS"):
            response = world.http.request(method, path, headers={"Host": host})
            assert response.status_code == 421, (method, path)
            assert method == "HEAD" or b"allowed_hosts" in response.content
    assert world.http.get("/nowhere", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", MALFORMED)
def test_what_is_no_name_is_refused(world: World, host: str) -> None:
    response = world.http.get("/livez", headers={"Host": host.encode()})
    assert response.status_code == 400
    assert "Host" in response.json()["detail"]


def test_configured_names_are_own_names(open_edge: Callable[..., World]) -> None:
    world = open_edge(allowed_hosts=("Zoetrope.LAN", "*.farm.example"), public_url="https://media.example.com:8443")
    for host in (
        "zoetrope.lan:8000",
        "zoetrope.lan.",
        "a.b.farm.example",
        "media.example.com:8443",
        "media.example.com",
    ):
        assert world.http.get("/v1/jobs", headers={"Host": host}).status_code == 200, host
    for host in ("x.zoetrope.lan", "farm.example", "badfarm.example"):
        assert world.http.get("/v1/jobs", headers={"Host": host}).status_code == 421, host
    assert open_edge(allowed_hosts=("*",)).http.get("/v1/jobs", headers={"Host": "any.example"}).status_code == 200


def test_the_machine_answers_to_its_own_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "GPU-Box.lab.example")
    client = world.http
    client.app.__init__(world.edge, routes(world), ErrorResponses(FAMILIES))  # type: ignore[attr-defined]
    for host in ("gpu-box", "gpu-box.lab.example", "gpu-box.local:8000"):
        assert client.get("/livez", headers={"Host": host}).status_code == 200, host


def test_with_keys_names_are_free_until_they_are_listed(open_edge: Callable[..., World], tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", [KeyRecord(name="red", hash=hash_of("zk_red"), tenant="red")])
    keys = str(tmp_path / "keys")
    elsewhere = {"Host": "media.example.com", "X-API-Key": "zk_red"}
    assert open_edge(keys_file=keys).http.get("/v1/jobs", headers=elsewhere).status_code == 200
    listed = open_edge(keys_file=keys, allowed_hosts=("zoetrope.lan",))
    assert listed.http.get("/v1/jobs", headers=elsewhere).status_code == 421


@pytest.mark.parametrize(
    "name", ["Host", "Origin", "Authorization", "X-API-Key", "Content-Type", "Content-Length", "Sec-Fetch-Site"]
)
def test_a_header_that_decides_comes_once(world: World, name: str) -> None:
    pair = [(name, "localhost"), (name, "127.0.0.1")] if name == "Host" else [(name, "1"), (name, "1")]
    response = world.http.get("/livez", headers=pair)
    assert (response.status_code, response.json()["error"]["param"].lower()) == (400, name.lower())
    assert "sent twice" in response.json()["detail"]
    assert world.http.get("/livez", headers=[("X-Any", "1"), ("X-Any", "2")]).status_code == 200
