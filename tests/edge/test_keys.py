"""The file of API keys and the command that changes it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from http_edge import cli
from http_edge.auth.keys import KeyFileError, KeyRecord, KeyRing, hash_of, new_key, read_keys, write_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def run(path: Path, *words: str) -> int:
    return cli.main(["keys", *words, "--keys-file", str(path)], {})


def test_a_key_is_printed_once_and_only_its_hash_is_kept(path, capsys):
    assert run(path, "add", "studio", "--tenant", "red", "--max-queued", "5", "--max-running", "2") == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("zk_")
    assert len(key) >= 40
    text = path.read_text()
    assert key not in text
    (record,) = read_keys(path)
    assert (record.name, record.tenant, record.hash) == ("studio", "red", hash_of(key))
    assert (record.max_queued, record.max_running, record.max_priority) == (5, 2, 9)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert run(path, "list") == 0
    listed = capsys.readouterr().out
    assert "studio tenant=red max_queued=5 max_running=2" in listed
    assert key not in listed


def test_the_list_shows_an_operators_key(path, capsys):
    assert run(path, "add", "chief", "--operator") == 0
    assert [record.operator for record in read_keys(path)] == [True]
    capsys.readouterr()
    assert run(path, "list") == 0
    assert capsys.readouterr().out.rstrip().endswith("operator=yes")


def test_two_keys_are_two_and_a_removed_one_is_gone(path, capsys):
    run(path, "add", "one")
    run(path, "add", "two", "--expires-days", "1")
    first, second = capsys.readouterr().out.split()
    assert first != second
    assert [record.tenant for record in read_keys(path)] == ["one", "two"]
    assert run(path, "remove", "one") == 0
    ring = KeyRing(path)
    assert ring.find(first) is None
    assert ring.find(second).name == "two"
    assert KeyRing(path, wall_clock=lambda: 4e9).find(second) is None


def test_keys_are_told_as_json_without_their_hashes(path, capsys):
    assert run(path, "add", "one", "--max-queued", "3", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["name"], made["max_queued"], hash_of(made.pop("key"))) == ("one", 3, read_keys(path)[0].hash)
    assert run(path, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [made]
    assert "hash" not in made
    assert run(path, "remove", "one", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "one", "removed": True}
    assert run(path, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_file_that_is_not_there_has_no_keys(path, capsys):
    assert run(path, "list") == 0
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()[0]) == ("", f"no keys in {path}: `add NAME` makes one")
    assert run(path, "remove", "one") == 2
    assert "there is no key named one" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "one"), "there is a key named one already"),
        (("remove", "nobody"), "there is no key named nobody"),
        (("add", "a name"), "name"),
        (("add", "two", "--max-priority", "11"), "max_priority"),
        (("add", "two", "--tenant", "../x"), "tenant"),
    ],
)
def test_what_cannot_be_done_is_said(path, capsys, words, said):
    run(path, "add", "one")
    before = path.read_bytes()
    capsys.readouterr()
    assert run(path, *words) == 2
    assert said in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "{}",
        '{"name": "a", "hash": "sha256:12", "tenant": "b"}',
        '{"name": "a", "tenant": "b", "key": "zk_x"}',
    ],
)
def test_a_file_with_a_bad_line_is_refused_with_its_number(path, line):
    path.write_text(f"# keys\n\n{line}\n")
    with pytest.raises(KeyFileError, match="line 3"):
        KeyRing(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "it is not one JSON object, as `python -m http_edge keys add` writes"),
        ("zk_secret", "it is not one JSON object, as `python -m http_edge keys add` writes"),
        ('{"name": "a", "tenant": "b"}', "hash is missing"),
        ('{"name": "a", "hash": "zk_secret", "tenant": "b"}', "hash must be sha256: and 64 hex digits"),
        (json.dumps({"name": "a", "hash": hash_of("x"), "tenant": "b", "max_quued": 1}), "'max_quued' is not known"),
        (
            json.dumps({"name": "a", "hash": hash_of("x"), "tenant": "b", "max_priority": 11}),
            "max_priority must be a whole number from 0 to 9",
        ),
        (
            json.dumps({"name": "a/b", "hash": hash_of("x"), "tenant": "b"}),
            "name must be text of 1 to 64 letters, digits and . _ -, a letter or digit first",
        ),
    ],
)
def test_a_bad_line_is_explained_in_words_and_its_key_not_shown(path, line, words):
    path.write_text(f"{line}\n")
    with pytest.raises(KeyFileError) as caught:
        KeyRing(path)
    assert f"line 1: {words}" in str(caught.value)
    assert "zk_secret" not in str(caught.value)


def test_names_are_unique(path):
    line = json.dumps({"name": "a", "hash": hash_of("x"), "tenant": "b"})
    path.write_text(f"{line}\n{line}\n")
    with pytest.raises(KeyFileError, match="two keys named a"):
        KeyRing(path)


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(path):
    old, new = new_key(), new_key()
    write_keys(path, [KeyRecord(name="a", hash=hash_of(old), tenant="red")])
    ring = KeyRing(path)
    assert ring.find(old).tenant == "red"
    assert ring.find(new) is None
    write_keys(path, [KeyRecord(name="b", hash=hash_of(new), tenant="blue")])
    assert ring.find(old) is None
    assert ring.find(new).tenant == "blue"
    path.write_text("half a li")
    assert ring.find(new).tenant == "blue"
    path.unlink()
    assert ring.find(new).tenant == "blue"


def test_an_editors_byte_order_mark_is_skipped(path):
    key = new_key()
    write_keys(path, [KeyRecord(name="one", tenant="red", hash=hash_of(key))])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert KeyRing(path).find(key).name == "one"
