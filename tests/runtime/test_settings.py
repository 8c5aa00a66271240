"""Where a setting comes from, and what a bad one is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from broker.runtime import environment
from broker.runtime import settings as runtime_settings
from broker.settings import BrokerSettings
from http_edge.base.settings import EdgeSettings
from workers.launchers.settings import LauncherSettings
from workers.rank.settings import RankSettings
from workers.settings import WorkerSettings


class Example(runtime_settings.CommonSettings, frozen=True, kw_only=True):
    """Options of a process that does nothing."""

    limit: Annotated[int, Meta(description="how many", ge=1, le=10)] = 5
    share: Annotated[float, Meta(description="how much; 100 % is all", ge=0)] = 0.5
    fast: Annotated[bool, Meta(description="hurry")] = False
    names: Annotated[tuple[str, ...], Meta(description="who")] = ("a", "b")


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """An empty working directory: a zoetrope.toml there would be read."""
    monkeypatch.chdir(tmp_path)


def load(*argv: str, **environ: str) -> Example:
    return runtime_settings.load(Example, "example", "broker", argv, environ)


def write_toml(text: str) -> None:
    Path("zoetrope.toml").write_text(text, encoding="utf-8")


def test_defaults():
    settings = load()
    assert (settings.limit, settings.share, settings.fast, settings.names) == (5, 0.5, False, ("a", "b"))
    assert settings.front_endpoint.startswith("ipc:///")
    assert settings.front_endpoint.endswith("/.zoetrope/run/front.sock")


def test_flag_beats_environment_beats_file_beats_default():
    write_toml("[broker]\nlimit = 2\nshare = 0.2\nfast = true\n")
    settings = load("--limit", "4", ZOETROPE_LIMIT="3", ZOETROPE_SHARE="0.3")
    assert (settings.limit, settings.share, settings.fast, settings.names) == (4, 0.3, True, ("a", "b"))


def test_a_process_key_beats_the_top_level_for_common_options():
    write_toml('home = "/top"\nlog_level = "error"\n[broker]\nhome = "/own"\n')
    settings = load()
    assert (settings.home, settings.log_level) == ("/own", "error")


def test_an_empty_variable_counts_as_not_set():
    assert load(ZOETROPE_LIMIT="").limit == 5


@pytest.mark.parametrize(
    ("text", "expected"), [("yes", True), ("ON", True), ("true", True), ("1", True), ("no", False), ("0", False)]
)
def test_words_for_true_and_false(text, expected):
    assert load(ZOETROPE_FAST=text).fast is expected


def test_lists_are_split_at_commas():
    assert load("--names", " x, y ,").names == ("x", "y")


@pytest.mark.parametrize(
    ("argv", "environ", "toml", "parts"),
    [
        (["--limit", "11"], {}, "", ["--limit", "'11'", "must be a whole number from 1 to 10"]),
        ([], {"ZOETROPE_LIMIT": "many"}, "", ["ZOETROPE_LIMIT", "'many'", "must be a whole number from 1 to 10"]),
        ([], {}, "[broker]\nlimit = 0\n", ["zoetrope.toml", "limit", "0", "from 1 to 10"]),
        ([], {"ZOETROPE_GPU": "1"}, "", ["ZOETROPE_GPU ", "did you mean ZOETROPE_GPUS?"]),
        (
            [],
            {"ZOETROPE_LOG_LEVEL": "loud"},
            "",
            ["ZOETROPE_LOG_LEVEL", "'loud'", "must be debug or info or warning or error"],
        ),
        ([], {}, "[broker]\nlimits = 3\n", ["zoetrope.toml", "'limits'", "[broker]", "limit"]),
        ([], {}, "limit = 3\n", ["zoetrope.toml", "'limit'", "top level"]),
        ([], {}, "broker = 3\n", ["zoetrope.toml", "[broker]", "table"]),
        ([], {}, "[broker\n", ["zoetrope.toml"]),
        (["--config", "absent.toml"], {}, "", ["absent.toml", "does not exist"]),
        ([], {"ZOETROPE_CONFIG": "absent.toml"}, "", ["absent.toml", "does not exist"]),
    ],
)
def test_a_bad_value_names_its_source_the_value_and_the_rule(argv, environ, toml, parts):
    if toml:
        write_toml(toml)
    with pytest.raises(runtime_settings.SettingsError) as caught:
        load(*argv, **environ)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_help_names_flag_variable_and_default(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--limit INT how many (ZOETROPE_LIMIT; default: 5)" in text
    assert "100 % is all" in text


def test_every_option_is_described():
    rows = {row.name: row for row in runtime_settings.describe(Example)}
    assert rows["names"].default == "a,b"
    assert rows["names"].type == "list"
    assert all(row.help for row in rows.values())


@pytest.mark.parametrize(
    ("endpoint", "rule"),
    [
        ("ipc://relative.sock", "absolute"),
        ("ipc://@abstract", "absolute"),
        ("inproc://x", "absolute"),
        ("tcp://10.0.0.1", "ADDRESS:PORT"),
        ("tcp://10.0.0.1:0", "ADDRESS:PORT"),
        ("tcp://10.0.0.1:65536", "ADDRESS:PORT"),
        ("tcp://*:7001", "ADDRESS:PORT"),
        ("tcp://10.0.0.1:7001;tcp://x:1", "ADDRESS:PORT"),
        ("tcp://:7001", "ADDRESS:PORT"),
    ],
)
def test_endpoints_that_are_neither_private_paths_nor_addresses_are_refused(endpoint, rule):
    with pytest.raises(runtime_settings.SettingsError, match=rule):
        runtime_settings.check_endpoint("front", endpoint)


def test_sockets_move_out_of_a_home_whose_path_is_too_long(tmp_path):
    home = tmp_path / ("x" * 100)
    endpoint = load("--home", str(home)).back_endpoint
    assert len(endpoint.removeprefix("ipc://")) < 107
    assert endpoint == load("--home", str(home)).back_endpoint
    assert endpoint != load("--home", str(home) + "y").back_endpoint


def test_the_directory_of_the_sockets_is_private(tmp_path):
    path = tmp_path / "a" / "run"
    runtime_settings.make_private_dir(path)
    runtime_settings.make_private_dir(path)
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "endpoint", ["tcp://10.0.0.1:7001", "tcp://broker.lan:7001", "tcp://[::1]:7001", "ipc:///run/x"]
)
def test_paths_and_addresses_are_taken(endpoint):
    runtime_settings.check_endpoint("front", endpoint)


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_directory_of_the_sockets_that_is_a_link_or_a_file_is_refused(tmp_path, kind):
    path = tmp_path / "run"
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    with pytest.raises(runtime_settings.SettingsError, match=f"run_dir: '{path}'"):
        runtime_settings.make_private_dir(path)


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    monkeypatch.setattr("os.getuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(runtime_settings.SettingsError, match="belongs to another user"):
        runtime_settings.make_private_dir(path)


def test_a_directory_that_others_may_enter_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    with pytest.raises(runtime_settings.SettingsError, match="can be entered by others"):
        runtime_settings.make_private_dir(path)
    assert path.stat().st_mode & 0o777 == 0o755


def test_an_editors_byte_order_mark_is_skipped():
    Path("zoetrope.toml").write_bytes(b"\xef\xbb\xbf[broker]\nlimit = 3\n")
    assert load().limit == 3


def test_variables_of_other_processes_clients_and_kubernetes_are_no_mistakes():
    assert load(ZOETROPE_GPUS="2", ZOETROPE_API_KEY="x", ZOETROPE_SERVICE_HOST="10.0.0.1").limit == 5


@pytest.mark.parametrize(
    ("process", "kind"),
    [("broker", BrokerSettings), ("workers", WorkerSettings), ("launcher", LauncherSettings), ("edge", EdgeSettings)],
)
def test_every_option_is_known_to_all_processes(process, kind):
    own = {row.name for row in runtime_settings.describe(kind)} - {
        row.name for row in runtime_settings.describe(runtime_settings.CommonSettings)
    }
    assert own == environment.OPTIONS[process]


def test_the_option_of_a_rank_host_is_known_to_all_processes():
    beside = {row.name for row in runtime_settings.describe(WorkerSettings)}
    own = {row.name for row in runtime_settings.describe(RankSettings)} - beside
    assert own == environment.OPTIONS["rank"]


@pytest.mark.parametrize(
    ("argv", "environ", "toml"),
    [
        (["--bench-after", "7"], {}, ""),
        ([], {"ZOETROPE_BENCH_AFTER": "7"}, ""),
        ([], {}, "[broker]\nbench_after = 7\n"),
        (["--breaker-failures", "7"], {"ZOETROPE_BENCH_AFTER": "2"}, "[broker]\nbench_after = 3\n"),
        ([], {"ZOETROPE_BREAKER_FAILURES": "7", "ZOETROPE_BENCH_AFTER": "2"}, ""),
    ],
)
def test_a_renamed_option_is_read_under_its_old_name_with_a_warning(argv, environ, toml, capsys):
    write_toml(toml)
    settings = runtime_settings.load(BrokerSettings, "broker", "broker", argv, environ)
    assert settings.policy.breaker_failures == 7
    old = not any("breaker" in word.lower() for word in (*argv, *environ))
    assert ("is called breaker_failures now" in capsys.readouterr().err) == old


def test_a_variable_of_another_process_may_bear_its_old_name(capsys):
    load(ZOETROPE_BENCH_S="5")
    assert capsys.readouterr().err == ""
