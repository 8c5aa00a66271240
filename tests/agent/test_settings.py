"""From options to one configuration an agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.runtime.settings import SettingsError, load
from workers import cli
from workers.settings import WorkerSettings, agent_configs, read_models
from workers.supervisor.exit_codes import EXIT_SETTINGS
from workers.supervisor.gpus import VisibleGpu, resolve

CPU2 = resolve("cpu:2", ())


def settings(*argv: str, environ: dict[str, str] | None = None) -> WorkerSettings:
    return load(WorkerSettings, "workers", "workers", argv, environ or {})


def test_flag_beats_environment_beats_default() -> None:
    assert settings().gpus == "auto"
    assert settings(environ={"ZOETROPE_GPUS": "cpu"}).gpus == "cpu"
    assert settings("--gpus", "0-3", environ={"ZOETROPE_GPUS": "cpu"}).gpus == "0-3"


def test_every_budget_reaches_the_agent() -> None:
    chosen = settings(
        "--step-floor-s",
        "3",
        "--load-budget-s",
        "4",
        "--cancel-grace-s",
        "0.5",
        "--cancel-grace-max-s",
        "7",
        "--detached-s",
        "9",
    )
    policy = chosen.policy()
    assert (policy.step_floor_s, policy.load_budget_s, policy.detached_s) == (3, 4, 9)
    assert (policy.cancel_grace_s, policy.cancel_grace_max_s) == (0.5, 7)
    assert policy.beat_gap_s == 0.25


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"POD_NAME": "zoetrope-workers-5f-x2", "CUDA_VISIBLE_DEVICES": "3"}, "zoetrope-workers-5f-x2.cpu-0"),
        ({"SLURM_JOB_ID": "81", "SLURM_ARRAY_TASK_ID": "4"}, "slurm-81-4-0.cpu-0"),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, "node-7-2-3.cpu-0"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "node-7.cpu-0"),
        ({"POD_NAME": "p" * 90 + "-1"}, "p" * 61 + "-1.cpu-0"),
    ],
)
def test_names_that_no_other_process_has_come_from_the_launcher(
    environ: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node.7")
    chosen = settings("--name-prefix", "auto", "--model", "fake")
    (config,) = agent_configs(chosen, resolve("cpu", ()), read_models(chosen, {}), 2, environ)
    assert config.name == name


def test_without_a_model_the_demo_model_is_used() -> None:
    card = read_models(settings(), {})[0].card
    assert (card.name, card.output) == ("demo", "video")
    assert Path(card.source).is_dir()


def test_the_model_named_is_the_first_one() -> None:
    models = read_models(settings("--model", "fake", "--models", "quick,fake"), {"quick": {"engine": "fake"}})
    assert [model.card.name for model in models] == ["fake", "quick"]


def test_without_a_name_all_tables_are_offered_in_their_order() -> None:
    tables = {"b": {"engine": "fake"}, "a": {"engine": "fake", "output": "image"}}
    cards = [model.card for model in read_models(settings(), tables)]
    assert [(card.name, card.output) for card in cards] == [("b", "video"), ("a", "image")]


@pytest.mark.parametrize(
    ("argv", "tables", "message"),
    [
        (["--model", "/nowhere"], {}, "/nowhere"),
        (["--model", "x"], {"x": {"engine": "fake", "colour": 1}}, "[models.x] colour: unknown key"),
        (
            ["--model", "some/one"],
            {},
            "neither a directory nor in the hub's cache; fetch it: python -m workers pull some/one",
        ),
        ([], {"x": {"path": "some/one", "pipeline": "WanPipeline"}}, "fetch it: python -m workers pull some/one"),
        ([], {"x": 5}, "[models] holds tables only, and 'x' is none"),
    ],
)
def test_models_that_are_none(argv: list[str], tables: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_models(settings(*argv), tables)
    assert message in str(refused.value)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    tables = {"fake": {"engine": "fake", "output": "image"}}
    twins = [tmp_path / "one" / "same", tmp_path / "two" / "same"]
    for twin in twins:
        twin.mkdir(parents=True)
        (twin / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    (twins[1] / "zoetrope.toml").write_text('name = "same"\n[defaults]\nfps = 8.0\n')
    with pytest.raises(SettingsError, match="two models bear the name 'same'"):
        read_models(settings("--model", str(twins[0]), "--models", str(twins[1])), tables)


def test_more_models_than_a_hello_carries_are_refused() -> None:
    with pytest.raises(SettingsError, match="65 are named, at most 64"):
        read_models(settings(), {f"m{index}": {"engine": "fake"} for index in range(65)})


def test_one_configuration_a_device(tmp_path: Path) -> None:
    chosen = settings("--home", str(tmp_path), "--name-prefix", "hostA-", "--model", "fake")
    models = read_models(chosen, {})
    one, two = agent_configs(chosen, CPU2, models, cores=5)
    assert (one.name, two.name) == ("hostA-cpu-0", "hostA-cpu-1")
    assert (one.device, one.visible, one.preload, one.threads) == ("cpu", ("",), "fake", 2)
    assert one.endpoint == f"ipc://{tmp_path}/run/back.sock"
    assert one.artefacts == f"{tmp_path}/artefacts"


def test_each_worker_keeps_loras_in_as_much_memory_as_is_set(tmp_path: Path) -> None:
    chosen = settings("--home", str(tmp_path), "--model", "fake", "--lora-host-mb", "100", "--lora-device-mb", "0")
    (config, _) = agent_configs(chosen, CPU2, read_models(chosen, {}), cores=1)
    assert (config.lora_memory.host_mb, config.lora_memory.device_mb) == (100, 0)


def test_a_cancel_may_take_longer_on_a_group_which_obeys_between_passes(tmp_path: Path) -> None:
    for grace_s, of_groups in (("30", 300.0), ("900", 900.0)):
        chosen = settings("--home", str(tmp_path), "--model", "fake", "--cancel-grace-max-s", grace_s)
        for gpus, expected in (("cpu:2", float(grace_s)), ("cpu:2/2", of_groups)):
            (config, *_) = agent_configs(chosen, resolve(gpus, ()), read_models(chosen, {}), cores=2)
            assert config.policy.cancel_grace_max_s == expected


def test_threads_are_shared_out_among_cpu_workers_only(tmp_path: Path) -> None:
    chosen = settings("--home", str(tmp_path), "--model", "fake")
    models = read_models(chosen, {})
    assert [config.threads for config in agent_configs(chosen, CPU2, models, cores=1)] == [1, 1]
    assert [config.threads for config in agent_configs(chosen, resolve("0", (VisibleGpu("0"),)), models, cores=8)] == [
        0
    ]
    fixed = settings("--home", str(tmp_path), "--model", "fake", "--threads", "3")
    assert [config.threads for config in agent_configs(fixed, CPU2, models, cores=64)] == [3, 3]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gpus", "7-0"], "runs backwards"),
        (["--gpus", "cpu", "--model", "/nowhere"], "/nowhere"),
        (["--dtype", "int4"], "dtype"),
        (["--back", "tcp://0.0.0.0:1"], "back: 'tcp://0.0.0.0:1' is an address to listen on"),
        (["--step-floor-s", "0"], "step-floor-s"),
        (["--lora-device-mb", "-1"], "lora-device-mb"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_a_bad_option_is_one_sentence_and_exit_code_2(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--home", str(tmp_path), *argv], {}) == EXIT_SETTINGS
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_configuration_file_names_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "zoetrope.toml"
    config.write_text('[workers]\ngpus = "cpu"\n[models.mine]\nengine = "fake"\ncolour = 3\n')
    assert cli.main(["--home", str(tmp_path), "--config", str(config)], {}) == EXIT_SETTINGS
    assert "[models.mine] colour: unknown key" in capsys.readouterr().err
    config.write_text("models = 5\n")
    assert cli.main(["--home", str(tmp_path), "--config", str(config)], {}) == EXIT_SETTINGS
    assert "[models]" in capsys.readouterr().err


def test_help_tells_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"], {})
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 stopped or drained; 2 an option is wrong" in text
    assert "4 no worker can load its model" in text


#: A key as an operator copies it to each machine of a group.
_KEY = 'name = "ray"\nrole = "worker"\npublic = "{0}"\nsecret = "{0}"\nbroker = "{0}"\n'.format("a" * 40)


@pytest.fixture
def curve(tmp_path: Path) -> list[str]:
    """Options by which the key of a group is found."""
    directory = tmp_path / "curve"
    directory.mkdir(mode=0o700)
    (directory / "worker.key").write_text(_KEY)
    (directory / "worker.key").chmod(0o600)
    return ["--curve-dir", str(directory)]


def test_a_group_over_two_machines_is_one_worker_of_all_their_gpus(curve: list[str]) -> None:
    spread = ["--machines", "2", "--rank-endpoint", "tcp://10.0.0.1:29400", *curve]
    chosen = settings("--gpus", "cpu:2/2", *spread, "--model", "fake")
    (config,) = agent_configs(chosen, resolve(chosen.gpus, ()), read_models(chosen, {}), 2)
    assert (config.name, config.visible, config.machines) == ("cpu-0-1", ("", ""), 2)
    assert config.rank_key_file == f"{curve[1]}/worker.key"
    assert config.policy.cancel_grace_max_s == 300


@pytest.mark.parametrize(
    ("gpus", "machines", "endpoint", "sentence"),
    [
        ("cpu:2/2", "1", "tcp://10.0.0.1:29400", "rank_endpoint: 'tcp://10.0.0.1:29400' is for a group over several"),
        ("cpu:2/2", "2", "", "rank_endpoint: a group over 2 machines needs it: tcp://ADDRESS:PORT"),
        ("cpu:2", "2", "tcp://10.0.0.1:29400", "gpus: 'cpu:2' makes 2 workers, and a group over 2 machines is one"),
        ("cpu:2/2", "2", "tcp://0.0.0.0:29400", "rank_endpoint: 'tcp://0.0.0.0:29400' is every address of a machine"),
        ("cpu:2/2", "2", "ipc:///a", "rank_endpoint: 'ipc:///a' must be tcp://ADDRESS:PORT"),
        ("cpu:2/2", "2", "tcp://10.0.0.1", "rank_endpoint: 'tcp://10.0.0.1' must be tcp://ADDRESS:PORT"),
        ("cpu:8/8", "9", "tcp://10.0.0.1:29400", "machines: 9 machines of 8 GPUs make a worker of 72, at most 64"),
    ],
)
def test_what_is_no_group_over_several_machines_is_told(
    gpus: str, machines: str, endpoint: str, sentence: str, curve: list[str]
) -> None:
    chosen = settings("--gpus", gpus, "--machines", machines, "--rank-endpoint", endpoint, *curve, "--model", "fake")
    with pytest.raises(SettingsError) as caught:
        agent_configs(chosen, resolve(gpus, ()), read_models(chosen, {}), 2)
    assert str(caught.value).startswith(sentence)


def test_a_group_over_two_machines_needs_a_key(tmp_path: Path) -> None:
    spread = ["--machines", "2", "--rank-endpoint", "tcp://127.0.0.1:29400", "--curve-dir", str(tmp_path)]
    chosen = settings("--gpus", "cpu", *spread, "--model", "fake")
    with pytest.raises(
        SettingsError, match=r"rank_endpoint: 'tcp://127.0.0.1:29400' needs a CURVE key and .*worker.key"
    ):
        agent_configs(chosen, resolve("cpu", ()), read_models(chosen, {}), 2)
