"""The web page's files: who gets the page, what a browser may keep, and that nothing in it comes from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from broker.core.jobs import Cause
from broker.wire.failures import FailureKind
from broker.wire.terms import JobState
from http_edge.base.error_table import TABLE
from http_edge.page import page_api
from tests.edge.conftest import World

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
STATIC = Path(page_api.__file__).with_name("static")


def test_browsers_get_the_page_and_programs_the_index(world: World) -> None:
    page = world.http.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    assert page.headers["vary"] == "Accept"
    for headers in ({}, {"Accept": "application/json"}, {"Accept": "*/*"}):
        assert world.http.get("/", headers=headers).json()["links"]["openapi"] == "/openapi.json"


def test_every_file_that_the_page_names_is_there_for_good(world: World) -> None:
    page = world.http.get("/", headers=BROWSER).text
    found = re.findall(r'(?:src|href)="(page/[^"]+)"', page)
    assert {Path(name).suffix for name in found} == {".css", ".js", ".svg"}
    for name in found:
        file = world.http.get(f"/{name}")
        assert file.status_code == 200, name
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert file.headers["x-content-type-options"] == "nosniff"


def test_files_are_sent_gzipped_to_those_who_can_read_that_and_the_page_names_all_modules(world: World) -> None:
    page = world.http.get("/", headers=BROWSER).text
    modules = re.findall(r'rel="modulepreload" href="(page/[^"]+)"', page)
    assert {Path(name).name for name in modules} == {path.name for path in STATIC.glob("*.js")}
    sent = 0
    for name in modules:
        plain = world.http.get(f"/{name}", headers={"Accept-Encoding": "identity"})
        packed = world.http.get(f"/{name}", headers={"Accept-Encoding": "gzip, br"})
        assert "content-encoding" not in plain.headers
        assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
        assert packed.content == plain.content
        sent += int(packed.headers["content-length"])
    assert sent < 50 * 1024


def test_the_page_is_asked_for_again_and_its_copy_is_good(world: World) -> None:
    page = world.http.get("/", headers=BROWSER)
    assert page.headers["cache-control"] == "no-cache"
    again = world.http.get("/", headers={**BROWSER, "If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = world.http.get("/", headers={**BROWSER, "If-None-Match": '"other"'})
    assert other.status_code == 200


def test_files_under_another_versions_address_are_not_kept(world: World) -> None:
    file = world.http.get("/page/0123456789abcdef/app.js")
    assert (file.status_code, file.headers["cache-control"]) == (200, "no-store")
    for path in ("/page/0123456789abcdef/app.py", "/page/x/index.html", "/page/x/%2e%2e%2fpage_api.py", "/page/x"):
        assert world.http.get(path).status_code == 404, path


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_in_the_markup(world: World) -> None:
    page = world.http.get("/", headers=BROWSER)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", page.text)


def test_the_files_are_small_and_make_no_markup_of_data() -> None:
    files = [path for path in STATIC.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 150 * 1024
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path.name
        )
        assert re.findall(r"https?://(?!www\.w3\.org/)[\w.]+", text) == [], path.name


def test_the_page_needs_no_key_and_what_it_shows_does(open_edge: Callable[..., World], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("")
    world = open_edge(keys_file=str(keys))
    assert world.http.get("/", headers=BROWSER).status_code == 200
    assert world.http.get("/page/x/app.js").status_code == 200
    for path in ("/v1/jobs", "/v1/workers", "/page", "/page/../v1/jobs"):
        assert world.http.get(path).status_code == 401, path


def test_every_word_that_the_page_uses_is_there_in_both_languages() -> None:
    i18n = (STATIC / "i18n.js").read_text(encoding="utf-8")
    table = re.findall(r"^  '([\w.]+)': \[('(?:[^'\\]|\\.)*'), ('(?:[^'\\]|\\.)*')\],$", i18n, re.MULTILINE)
    known = {key: (english, chinese) for key, english, chinese in table}
    assert len(known) == len(re.findall(r"^  '[\w.]+': ", i18n, re.MULTILINE))
    for key, (english, chinese) in known.items():
        assert english != "''", key
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), key
    code = "\n".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))
    used = set(re.findall(r"\bt\('([\w.]+)'", code)) | set(re.findall(r"\bt\(\w+ \? '([\w.]+)'", code))
    assert used - known.keys() == set()
    stems = set(re.findall(r"`(\w+)\.\$\{", code))
    unused = [key for key in known if f"'{key}'" not in code.replace(i18n, "") and key.split(".")[0] not in stems]
    assert unused == []


def test_every_error_and_failure_has_words_of_the_pages_own() -> None:
    """An error is told by its code, or by the class that it belongs to."""
    i18n = (STATIC / "i18n.js").read_text(encoding="utf-8")
    known = set(re.findall(r"^  '([\w.]+)': ", i18n, re.MULTILINE))
    for kind, row in TABLE.items():
        assert known & {f"error.{kind}", f"error.{row.type}"}, kind
    assert {f"failed.{kind}" for kind in FailureKind} <= known
    assert {f"state.{state}" for state in JobState} <= known
    assert {f"cause.{cause}" for cause in Cause} <= known
