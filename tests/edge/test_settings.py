"""The edge's options and what `python -m http_edge` does with bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.runtime.settings import load
from http_edge import cli
from http_edge.base.settings import EdgeSettings


def read(*argv: str, **environ: str) -> EdgeSettings:
    return load(EdgeSettings, "edge", "edge", argv, environ)


def test_the_port_comes_from_the_flag_or_our_variable_and_never_from_port() -> None:
    assert read().port == 8000
    assert read(PORT="5100").port == 8000
    assert read(ZOETROPE_PORT="9000", PORT="5100").port == 9000
    assert read("--port", "9001", ZOETROPE_PORT="9000").port == 9001


def test_it_listens_where_lightx2v_did() -> None:
    assert read().host == "0.0.0.0"


def test_lists_are_given_with_commas() -> None:
    assert read("--output-roots", "films, /data").output_roots == ("films", "/data")


#: (arguments, words on stderr)
BAD = [
    (("--port", "99999"), "--port: '99999'"),
    (("--port", "http"), "--port: 'http'"),
    (("--lightx2v-admission", "wait"), "--lightx2v-admission: 'wait'"),
    (("--keep-alive-s", "60"), "--keep-alive-s: '60'"),
    (("--front", "tcp://10.0.0.1:5555"), "needs a CURVE key"),
    (("--front", "ipc://relative"), "absolute path"),
    (
        ("--allowed-hosts", "a, http://x/"),
        "--allowed-hosts: 'a, http://x/' must be a list with commas; each part must be *, a",
    ),
    (("--config", "nowhere.toml"), "does not exist"),
    (("--fetch-allow", "files.lan,10.0.0.0/99"), "fetch_allow: '10.0.0.0/99' is neither a host name"),
    (("--retention-s", "-1"), "--retention-s: '-1'"),
    (("--max-upload-mb", "0"), "--max-upload-mb: '0'"),
]


@pytest.mark.parametrize(("argv", "words"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_a_bad_option_is_one_sentence_and_exit_2(
    argv: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert cli.main([*argv, "--home", str(tmp_path)], {}) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("http_edge: ")
    assert said.count("\n") == 1


def test_help_tells_every_option_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"], {})
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in EdgeSettings.__struct_fields__:
        assert f"--{name.replace('_', '-')}" in text
        assert f"ZOETROPE_{name.upper()}" in text
