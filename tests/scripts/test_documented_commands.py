"""Commands, routes and names in the documents: each is there, and takes what it is shown with."""

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
import tempfile
import tomllib
import warnings
from functools import cache
from pathlib import Path

import msgspec
import pytest
import typer.main

from broker.runtime.environment import PREFIX, unknown
from http_edge.app import FAMILIES, build_app, build_edge
from http_edge.base.errors import ErrorResponses
from http_edge.base.settings import EdgeSettings
from http_edge.http.routing import operations_of
from http_edge.openapi.document import document
from tests.scripts.support import ROOT
from zoetrope.cli.app import app as command

#: What was true of earlier versions stands in the changelog.
DOCUMENTS = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if path.name != "CHANGELOG.md"]

#: Programs of others, or of this machine.
FOREIGN = {"pip", "docker", "honcho", "nvidia-smi", "git", "sqlite3", "systemctl", "kubectl"}


def blocks(text: str, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def shell_lines() -> list[tuple[str, str]]:
    """(document, line) of every shell block, and of every span that begins as a command."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        # A line that ends with a backslash goes on in the next.
        joined = [block.replace("\\\n", " ") for block in blocks(text, "sh", "bash")]
        lines = [line for block in joined for line in block.splitlines()]
        lines += [
            span for span in spans(text) if re.match(r"(\.venv/bin/)?(python3? -m|zoetrope|curl|bash|make) \S", span)
        ]
        found += [(path.name, line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found


def words_of(line: str) -> list[str]:
    """The words of a command, without comment, variables before it, and the directory of the program."""
    words = shlex.split(line.replace("…", "x"), comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        del words[0]
    return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


COMMANDS = [(name, words_of(line)) for name, line in shell_lines()]


@cache
def help_of(module: str, *subcommands: str) -> str:
    """What a program of this repository says of itself. Run in this process: each start would cost a second."""
    said = io.StringIO()
    argv, sys.argv = sys.argv, [module, *subcommands, "--help"]
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit), warnings.catch_warnings():
            # Another test has imported it already, which does no harm to a help text.
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = argv
    return said.getvalue()


def test_modules_that_are_named_take_their_options():
    checked = 0
    for name, words in COMMANDS:
        if words[0] not in ("python", "python3") or words[1] != "-m" or words[2] == "pytest":
            continue
        module, rest = words[2], words[3:]
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), (name, words)
        subcommands = []
        while rest and re.fullmatch(r"[a-z][a-z-]+", rest[0]) and len(subcommands) < 2:
            subcommands.append(rest.pop(0))
        flags = {word.partition("=")[0] for word in rest if word.startswith("--") and word != "--help"}
        if not (flags or subcommands):
            continue
        if module in ("workers",) and subcommands == ["pull"]:  # replaces the process
            module, subcommands = "workers.pull", []
        text = help_of(module, *subcommands)
        if "--launcher" in flags:  # another process, which takes the workers' options as well
            text += help_of("workers.launchers", "--launcher", "ray")
        assert text, (name, words)
        assert [flag for flag in flags if not re.search(rf"{flag}\b", text)] == [], (name, words)
        checked += 1
    assert checked > 10


def test_commands_of_zoetrope_take_their_options():
    group = typer.main.get_command(command)
    checked = 0
    for name, words in COMMANDS:
        if words[0] != "zoetrope" or words[1].startswith("-"):
            continue
        assert words[1] in group.commands, (name, words)
        one = group.commands[words[1]]
        known = {name for parameter in one.params for name in (*parameter.opts, *parameter.secondary_opts)}
        flags = {word.partition("=")[0] for word in words[2:] if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
        assert flags - known == set(), (name, words)
        checked += 1
    assert checked > 5


def test_scripts_that_are_named_exist():
    scripts = {(document, words[1]) for name, words in COMMANDS if words[0] in ("bash", "python") and "/" in words[1]}
    assert len(scripts) >= 6
    assert [one for one in scripts if not (ROOT / one[1]).is_file()] == []


@pytest.fixture(scope="module")
def openapi():
    with tempfile.TemporaryDirectory() as start:
        app = build_app(build_edge(EdgeSettings(home=start), Path(start)))
    return document(operations_of(app.routes), ErrorResponses(FAMILIES), "0", keys=False)


def found(openapi, method: str, path: str):
    """The operation that serves a path, whose parts may be parameters of a template or examples of them."""

    def fits(template: str) -> bool:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/?]+", re.escape(template))
        return re.fullmatch(pattern + "/?", path) is not None

    # A template itself counts before one of which it could be an example.
    templates = sorted((template for template in openapi["paths"] if fits(template)), key=lambda one: one != path)
    return next(
        (openapi["paths"][one][method.lower()] for one in templates if method.lower() in openapi["paths"][one]), None
    )


def parameters(openapi, operation) -> set[str]:
    named = [
        one if "$ref" not in one else openapi["components"]["parameters"][one["$ref"].rsplit("/", 1)[1]]
        for one in operation.get("parameters", ())
    ]
    return {one["name"] for one in named if one["in"] == "query"}


def test_routes_that_are_named_exist(openapi):
    checked, wrong = 0, []
    for path in DOCUMENTS:
        for span in spans(path.read_text()):
            match = re.fullmatch(r"(GET|POST|PUT|DELETE|PATCH) (/[^ ?…]*)(?:\?(\S*))?", span)
            if match is None:
                continue
            method, route, query = match.groups()
            operation = found(openapi, method, route)
            names = set(re.findall(r"(\w+)=", query or ""))
            if operation is None or names - parameters(openapi, operation):
                wrong.append(f"{path.name}: {span}")
            checked += 1
    assert wrong == []
    assert checked > 150


def test_requests_of_curl_have_a_route_and_fields_of_its_body(openapi):
    checked = 0
    for name, words in COMMANDS:
        if words[0] != "curl":
            continue
        url = next(word for word in words if word.startswith(("localhost", "http://localhost")))
        path = "/" + url.partition("localhost:8000/")[2]
        data = words[words.index("-d") + 1] if "-d" in words else None
        method = words[words.index("-X") + 1] if "-X" in words else "GET" if data is None else "POST"
        operation = found(openapi, method, path.partition("?")[0])
        assert operation is not None, (name, words)
        if data is not None:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            declared = openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]["properties"]
            assert json.loads(data).keys() <= declared.keys(), (name, words)
        checked += 1
    assert checked > 8


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_examples_can_be_read(path):
    text = path.read_text()
    for block in blocks(text, "toml"):
        tomllib.loads(block)
    for block in blocks(text, "json"):
        # Several documents in a block, or a member of one; what is left out is written as an ellipsis.
        whole = re.sub(r"\}\s*\n\{", "},{", re.sub(r",?\s*…", "", block))
        msgspec.json.decode(f"{{{whole}}}" if whole.startswith('"') else f"[{whole}]")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_variables_that_are_named_are_read(path):
    names = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z_0-9]*\b", path.read_text()))
    assert unknown(dict.fromkeys(names, "x"), ()) == ""


def test_metrics_that_are_named_are_exported():
    code = "\n".join(path.read_text() for room in ("broker", "http_edge") for path in (ROOT / room).rglob("*.py"))
    for path in (*DOCUMENTS, *(ROOT / "deploy").rglob("*.yml"), *(ROOT / "deploy").rglob("*.json")):
        names = {
            re.sub(r"_(bucket|sum|count|total)$", "", name)
            for name in re.findall(r"\bzoetrope_[a-z_]+\b", path.read_text())
            if not name.endswith("_")
        }
        assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", code)] == [], path.name
