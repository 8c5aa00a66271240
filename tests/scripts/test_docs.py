"""What the documents say is what the code does, as far as a test can tell."""

import importlib.util
import re
import sys

import pytest

from broker.runtime.settings import load
from http_edge.base.errors import TABLE as ERRORS
from tests.scripts.support import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.fixture(scope="module")
def make_docs():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts/make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_printed_parts_are_up_to_date(make_docs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_docs.py", "--check"])
    assert make_docs.main() == 0, capsys.readouterr().out


def test_every_option_is_documented_once(make_docs):
    text = (ROOT / "docs/configuration.md").read_text()
    for kind in (make_docs.CommonSettings, make_docs.BrokerSettings, make_docs.WorkerSettings, make_docs.EdgeSettings):
        for row in make_docs.describe(kind):
            assert text.count(f"\n| `{row.name}` |") == 1, row.name


def test_the_diagram_has_every_move_of_the_table(make_docs):
    diagram = make_docs.state_diagram()
    for state, moves in make_docs.TABLE.items():
        assert state in diagram
        for cause, target in moves.items():
            arrows = [
                line for line in diagram.splitlines() if f"--> {target}:" in line and re.search(rf"\b{cause}\b", line)
            ]
            assert arrows, (state, cause, target)


def test_markers_must_be_there_once(make_docs):
    text = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    assert make_docs.filled(text, "x", "new") == "a\n<!-- generated: x -->\nnew\n<!-- end: x -->\nb\n"
    for broken in ("a", text + text, text.replace("end: x", "end: y")):
        with pytest.raises(ValueError, match="generated: x"):
            make_docs.filled(broken, "x", "new")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        assert named <= targets, document.name


def test_every_error_code_is_documented():
    text = (ROOT / "docs/api.md").read_text()
    # A taken alias is told in words, to clients of the API that has aliases.
    assert [kind for kind in ERRORS if f"`{kind}`" not in text and kind != "alias_taken"] == []


def test_every_file_of_the_guide_is_there():
    commands = re.findall(r"(?:bash|python) (scripts/\S+)", (ROOT / "README.md").read_text())
    assert len(commands) == 6
    assert all((ROOT / command).is_file() for command in commands)


def test_both_readmes_have_the_same_commands():
    """And lead to the same documents."""
    commands, links = [], []
    for name in ("README.md", "README.zh.md"):
        text = (ROOT / name).read_text()
        blocks = re.findall(r"```(?:sh|json)\n(.*?)```", text, re.DOTALL)
        commands.append([re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()])
        links.append(set(re.findall(r"\]\(((?:docs/|workers/|SECURITY)[^)#]+)", text)))
    assert commands[0] == commands[1]
    assert len(commands[0]) > 15
    assert links[0] == links[1]


def test_the_example_configuration_is_taken_by_every_process(make_docs, tmp_path):
    example = re.search(r"```toml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)[1]
    file = tmp_path / "zoetrope.toml"
    file.write_text(example)
    tables = {"broker": make_docs.BrokerSettings, "workers": make_docs.WorkerSettings, "edge": make_docs.EdgeSettings}
    loaded = {table: load(kind, table, table, ["--config", str(file)], {}) for table, kind in tables.items()}
    assert {settings.home for settings in loaded.values()} == {"/data/zoetrope"}
    assert loaded["broker"].policy.queue_limit == 5000
    assert loaded["workers"].gpus == "0-7"
    assert loaded["edge"].output_roots == ("/data/videos",)


def test_files_that_the_architecture_names_are_there():
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:broker|workers|http_edge|zoetrope|bench|tests|scripts)/[\w/.]*)`", text))
    assert len(named) > 60
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_what_the_architecture_says_is_in_a_file_is_there():
    """Names of code in the table of where a change goes stand in a file of their row."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = text[text.index("## Where a change goes") : text.index("## Words")].splitlines()
    missing, seen = [], 0
    for row in rows:
        quoted = re.findall(r"`([\w./]+)`", row)
        files = [ROOT / word for word in quoted if "/" in word and (ROOT / word).is_file()]
        code = "\n".join(file.read_text() for file in files)
        for word in quoted:
            if re.search("[A-Z]", word) and "/" not in word:
                seen += 1
                missing += [word for part in word.split(".") if not re.search(rf"\b{part}\b", code)]
    assert missing == []
    assert seen > 12
