"""Checks of `zoetrope doctor`: facts in, a line out."""

import socket

import msgspec
import pytest

from zoetrope.cli import doctor, doctor_facts
from zoetrope.cli.doctor import CHECKS
from zoetrope.cli.doctor_facts import ConfigFault, Facts, Gpu
from zoetrope.client.errors import NotThisService
from zoetrope.client.results import Health

H100 = Gpu("H100", 80_000)
GOOD = Facts(
    python=(3, 11, 7),
    torch="2.13.0",
    torch_cuda="CUDA 12.8",
    has_gpu=True,
    driver="580.1",
    gpus=(H100, H100),
    memory_mb=256_000,
    models={"wan": 60_000.0},
    home="/data",
    disk_free_mb=500_000,
    keys_file="/data/keys.jsonl",
    keys_there=True,
)


def outcome(**changes):
    """The checks that are not ok, with what they found and their cure."""
    checks = [check(msgspec.structs.replace(GOOD, **changes)) for check in CHECKS]
    assert all(bool(check.cure) == (check.level != "ok") for check in checks)
    return [(check.name, check.level, check.found + " " + check.cure) for check in checks if check.level != "ok"]


def test_a_good_machine_has_nothing_to_mend():
    assert outcome() == []
    assert doctor.check_gpus(GOOD).found == "2 x H100, 80.0 GB; driver 580.1"


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"python": (3, 10, 1)}, "Python", "fail", "3.10.1 install Python 3.11"),
        ({"missing": ("zmq", "torch")}, "packages", "fail", "not installed: zmq, torch pip install 'zoetrope[serve]'"),
        ({"torch": "", "torch_cuda": ""}, "torch", "fail", "not installed"),
        ({"torch_cuda": ""}, "torch", "fail", "for the CPU alone this machine has a GPU"),
        ({"gpus": ()}, "GPUs", "fail", "its driver does not answer"),
        ({"gpus": (), "has_gpu": False}, "GPUs", "warn", "the demo model alone"),
        ({"config_fault": "zoetrope.toml: no"}, "configuration", "fail", "zoetrope.toml: no"),
        ({"models": {"wan": None}}, "models", "fail", "not here: wan zoetrope pull"),
        ({"models": {"wan": 300_000.0}}, "models", "fail", "this machine has 256.0 GB of memory"),
        ({"models": {"wan": 120_000.0}}, "models", "warn", "a GPU has 80.0 GB"),
        ({"disk_free_mb": 100.0}, "disk", "fail", "100 MB free below /data"),
        ({"home_fault": "no"}, "home", "fail", "/data: no"),
        ({"port_holder": "other"}, "port", "fail", "8000 is taken by another program"),
        (
            {"port_holder": "zoetrope", "health": Health(status="unhealthy", reasons=["gpu-0 is starting"])},
            "service",
            "warn",
            "is not ready: gpu-0 is starting",
        ),
        ({"keys_there": False}, "keys", "fail", "/data/keys.jsonl is not there"),
        ({"keys_file": ""}, "keys", "warn", "any machine that reaches the port may use the service"),
        ({"can_mark": False}, "marking", "warn", "not marked as generated: c2pa-python is not installed pip install"),
        ({"can_mark": False, "marking": "on"}, "marking", "fail", "not marked as generated"),
        ({"marking_gone": "/own.pem"}, "marking", "fail", "/own.pem is not there"),
        ({"traces": True, "can_trace": False}, "traces", "fail", "pip install 'zoetrope[otel]'"),
        (
            {"depot": "http://a:8000", "depot_fault": "refused"},
            "depot",
            "fail",
            "http://a:8000: refused start the edge",
        ),
        ({"depot": "edge"}, "depot", "fail", "'edge' is neither depot, in [workers], is local or the URL of an edge"),
        ({"results_store": "s3://b"}, "results", "fail", "s3://b: results_store needs a depot"),
        (
            {"depot": "http://a:8000", "results_store": "s3://b", "store_fault": "403", "store_is_wrong": True},
            "results",
            "fail",
            "403 mend results_store",
        ),
        (
            {"depot": "http://a:8000", "results_store": "s3://b", "store_fault": "timed out"},
            "results",
            "fail",
            "s3://b does not answer: timed out see that it runs",
        ),
        (
            {"depot": "http://a:8000", "results_store": "s3://b", "store_lists": False},
            "results",
            "warn",
            "s3://b takes files, and these keys may not list them give the keys of edges ListBucket",
        ),
        (
            {"checkpoints": "/d/c", "checkpoints_fault": "/d/c cannot be written to"},
            "checkpoints",
            "fail",
            "/d/c cannot be written to let the service's user write to /d/c",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(changes, name, level, words):
    found = outcome(**changes)
    assert [(one[0], one[1]) for one in found] == [(name, level)]
    assert words in found[0][2]


def test_a_good_line_says_where_files_go():
    far = msgspec.structs.replace(
        GOOD, depot="http://a:8000", checkpoints="/data/c", checkpointed=2, checkpoints_mb=7.0
    )
    assert doctor.check_depot(far).found == "http://a:8000 answers, the edge for inputs, previews and results"
    stored = msgspec.structs.replace(far, results_store="s3://b/x", checkpoint_s=0.0)
    assert doctor.check_depot(stored).found == "http://a:8000 answers, the edge for inputs and previews"
    assert doctor.check_results(stored).found == "s3://b/x answers and takes files"
    assert doctor.check_depot(msgspec.structs.replace(GOOD, depot="local")).found.startswith("/data/artefacts, which")
    assert doctor.check_checkpoints(far).found == "every 10 s to /data/c, 7 MB of 2 jobs there now"
    assert "checkpoint_s is 0" in doctor.check_checkpoints(stored).found


def test_an_object_store_is_asked_as_a_worker_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = doctor_facts.read_facts(
        {"ZOETROPE_RESULTS_STORE": "ftp://b", "ZOETROPE_DEPOT": "http://127.0.0.1:9"}, None, None
    )
    assert "must be s3://BUCKET" in wrong.store_fault
    assert wrong.store_is_wrong
    monkeypatch.setattr(doctor_facts, "_depot_fault", lambda url: "")
    over_tcp = doctor_facts.read_facts(
        {"ZOETROPE_BACK": "tcp://10.0.0.1:5570", "ZOETROPE_CHECKPOINT_S": "0"}, None, None
    )
    assert (over_tcp.depot, over_tcp.results_store, over_tcp.checkpoint_s) == ("http://10.0.0.1:8000", "", 0.0)


def test_checkpoints_are_counted_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "z/artefacts/.checkpoints"
    for job in ("job-1", "job-2"):
        (directory / job).mkdir(parents=True)
        (directory / job / "4.safetensors").write_bytes(b"x" * 1_000_000)
    facts = doctor_facts.read_facts({"ZOETROPE_HOME": "z"}, None, None)
    assert (facts.checkpointed, facts.checkpoints_mb, facts.checkpoints_fault) == (2, 2.0, "")


def test_without_keys_an_address_of_this_machine_alone_is_good():
    assert outcome(keys_file="", host="127.0.0.1") == []


def test_facts_are_read_as_the_service_reads_its_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wan = tmp_path / "wan"
    (wan / "transformer").mkdir(parents=True)
    (wan / "transformer/a.safetensors").write_bytes(b"x" * 3_000_000)
    (wan / "model_index.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "zoetrope.toml").write_text(
            f'home = "{tmp_path}/z"\n[edge]\nhost = "127.0.0.1"\nport = {port}\nkeys_file = "k"\n'
            f'[models.wan]\npath = "{wan}"\n[models.gone]\npath = "/no/such"\n'
        )
        monkeypatch.setattr(doctor_facts, "opened", nobody)
        facts = doctor_facts.read_facts({}, None, None)
    assert (facts.port, facts.port_holder, facts.host) == (port, "other", "127.0.0.1")
    assert facts.models == {"wan": 3.0, "gone": None}
    assert (facts.home, facts.home_fault, facts.keys_file) == (f"{tmp_path}/z", "", "k")
    (tmp_path / "file").touch()
    facts = doctor_facts.read_facts({"ZOETROPE_HOME": "file/z", "ZOETROPE_PORT": str(port)}, None, None)
    assert (facts.port_holder, facts.home_fault) == ("free", f"{tmp_path}/file is no directory")
    assert (facts.marking, facts.traces, facts.depot) == ("auto", False, "")
    reported = {
        "ZOETROPE_CONTENT_CREDENTIALS": "on",
        "ZOETROPE_SIGNING_KEY": "own.pem",
        "ZOETROPE_TRACES": "true",
        # The listener that was there is gone.
        "ZOETROPE_DEPOT": f"http://127.0.0.1:{port}",
        "ZOETROPE_PORT": str(port),
    }
    facts = doctor_facts.read_facts(reported, None, None)
    assert (facts.marking, facts.marking_gone, facts.traces) == ("on", "own.pem", True)
    assert (facts.depot, facts.depot_fault) == (f"http://127.0.0.1:{port}", "Connection refused")


def nobody(*_):
    raise NotThisService("another program answers")


def test_a_configuration_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctor_facts.read_config({}) == {}
    with pytest.raises(ConfigFault, match=r"ZOETROPE_CONFIG: x.toml is not there"):
        doctor_facts.read_config({"ZOETROPE_CONFIG": "x.toml"})
    (tmp_path / "zoetrope.toml").write_text("a = ")
    with pytest.raises(ConfigFault, match=r"zoetrope.toml: "):
        doctor_facts.read_config({})
