"""The command over a real service: what its users type, what they read, and the exit code that their scripts see."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from broker.runtime.content_credentials import Signer
from broker.runtime.credential_files import credential_files
from broker.runtime.settings import CommonSettings
from tests.support.waiting import wait_until
from zoetrope import Client
from zoetrope.cli import app, pool
from zoetrope.cli.terminal import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def typed(capfd):
    """Runs `zoetrope …` in this process; its exit code, and the lines of stdout and stderr."""

    def run(*arguments):
        code = app.main(arguments)
        said = capfd.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


def test_from_a_prompt_to_a_file(at_service, typed):
    code, out, err = typed(
        "generate", "a red circle", "--seed", "7", "--steps", "4", "--set", "extra.fake_step_s=0.01", "-o", "red.mp4"
    )
    assert (code, out) == (0, ["red.mp4"]), err
    assert re.fullmatch(r"job cli-\w+: fake, seed 7", err[0])
    assert Path("red.mp4").read_bytes()[4:8] == b"ftyp"
    job_id = err[0].split()[1].rstrip(":")

    code, out, _ = typed("show", job_id)
    assert code == 0
    shown = dict(line.split(maxsplit=1) for line in out)
    assert (shown["state"], shown["prompt"], shown["seed"]) == ("succeeded", "a red circle", "7")
    assert json.loads("\n".join(typed("show", job_id, "--json")[1]))["spec"]["seed"] == 7

    code, out, _ = typed("logs", job_id)
    assert [line.split()[1] for line in out] == ["queued", "assigned", "running", "succeeded"]

    code, out, _ = typed("download", job_id, "--out", "again.mp4")
    assert (code, out) == (0, ["again.mp4"])
    assert Path("again.mp4").read_bytes() == Path("red.mp4").read_bytes()

    assert typed("ps")[2] == ["no jobs wait or run; --all shows finished ones"]
    code, out, _ = typed("ps", "--all")
    assert out[0].split() == ["JOB", "STATE", "MODEL", "WORKER", "SUBMITTED", "PROMPT"]
    assert any(line.startswith(f"{job_id}  succeeded") and line.endswith("a red circle") for line in out)

    assert typed("ps", "--all", "--prompt", "a prompt that nobody wrote")[2] == ["no jobs"]
    assert len(typed("ps", "--all", "--prompt", "RED")[1]) > 1

    assert typed("rm", job_id) == (0, [f"deleted {job_id}"], [])
    assert typed("show", job_id)[0] == 4


def test_several_files_and_json(at_service, typed):
    code, out, _ = typed("generate", "two", "-n", "2", "-o", "two.mp4", "--json")
    assert code == 0
    reported = json.loads("\n".join(out))
    assert (reported["state"], reported["files"]) == ("succeeded", ["two.mp4", "two-2.mp4"])
    assert Path("two-2.mp4").stat().st_size == reported["artefacts"][1]["size"]


def test_a_file_is_drawn_again_with_changes(at_service, typed):
    assert typed("generate", "a cat in the rain", "--seed", "5", "-o", "a.mp4")[0] == 0
    code, out, _ = typed("generate", "--like", "a.mp4", "--steps", "3", "-o", "b.mp4", "--json")
    assert code == 0
    spec = json.loads("\n".join(out))["spec"]
    assert (spec["prompt"], spec["seed"], spec["num_inference_steps"]) == ("a cat in the rain", 5, 3)
    Path("c.png").write_bytes(b"no picture of ours")
    code, _, err = typed("generate", "--like", "c.png")
    assert code == 2
    assert len(err) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["generate"], 2, "PROMPT is missing"),
        (["generate", "x", "--set", "width=1"], 2, "zoetrope: width: 1 "),
        (["generate", "x", "--set", "colour=red"], 2, "zoetrope: colour: "),
        (["generate", "x", "--set", "seed"], 2, "--set: 'seed' must be NAME=VALUE"),
        (["generate", "x", "--seed", "1", "--set", "seed=2"], 2, "'seed' is given twice"),
        (["generate", "x", "--lora", "ink:much"], 2, "--lora: 'ink:much' must be NAME or NAME:SCALE"),
        (["generate", "x", "--image", "gone.png"], 2, "--image: 'gone.png' is no file here"),
        (["generate", "x", "--model", "nope"], 2, "zoetrope: model: "),
        (["generate", "x", "--set", "extra.fake=fail"], 1, "failed (engine_error)"),
        (["generate", "x", "--set", "extra.fake=slow", "--steps", "50", "--timeout", "0.2"], 7, "zoetrope logs -f"),
        (["show", "job-that-is-not"], 4, "job-that-is-not"),
        (["download", "job-that-is-not"], 4, "job-that-is-not"),
        (["cancel", "job-that-is-not"], 4, "job-that-is-not"),
        (["drain", "gpu-77"], 4, "gpu-77"),
        (["ps", "--state", "sleeping"], 2, "state: "),
        (["ps", "--limit", "0"], 2, "--limit"),
        (["ps", "--url", "http://127.0.0.1:9"], 3, "`zoetrope serve` starts one here"),
        (["ps", "--url", "here"], 2, "url: 'here' must be an address"),
        (["ps", "--key-file", "gone"], 2, "--key-file: 'gone' cannot be read"),
        (["prance"], 2, "No such command 'prance'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_sentence_and_a_code(at_service, typed, arguments, code, sentence):
    got, _, err = typed(*arguments)
    assert got == code, err
    assert err[-1].startswith("zoetrope: ")
    assert sentence in err[-1]
    assert sum(line.startswith("zoetrope: ") for line in err) == 1


def test_a_picture_goes_along(at_service, typed):
    Image.new("RGB", (64, 64), "red").save("cat.png")
    code, out, _ = typed("generate", "a cat", "--image", "cat.png", "-o", "cat.mp4", "--json")
    assert code == 0
    assert json.loads("\n".join(out))["spec"]["image"] == "cat.png"


def test_ctrl_c_cancels_the_job(at_service):
    command = [sys.executable, "-m", "zoetrope", "generate", "slow", "--steps", "50", "--set", "extra.fake=slow"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        job_id = process.stderr.readline().split()[1].rstrip(":")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == f"cancelled job {job_id}"
    with Client() as client:
        assert client.wait(job_id, timeout_s=60).state == "cancelled"


def test_following_shows_the_way_to_the_end(at_service, typed):
    code, (job_id,), _ = typed("generate", "slow", "--steps", "5", "--set", "extra.fake=slow", "--detach")
    code, out, _ = typed("logs", "-f", job_id)
    assert code == 0
    assert out[-1] == "succeeded"
    assert any(line.startswith("denoise ") for line in out)
    code, out, _ = typed("logs", "-f", job_id, "--json")
    assert json.loads(out[-1])["state"] == "succeeded"


def test_waiting_jobs_are_listed_and_cancelled(at_service, typed):
    ids = [typed("generate", "slow", "--steps", "50", "--set", "extra.fake=slow", "-d")[1][0] for _ in range(3)]
    _, out, _ = typed("ps")
    assert {line.split()[0] for line in out[1:]} == set(ids)
    assert json.loads("\n".join(typed("ps", "--json")[1]))[0]["id"] == ids[-1]
    code, out, _ = typed("cancel", *ids)
    assert code == 0
    assert len(out) == 3
    with Client() as client:
        assert {client.wait(one).state for one in ids} == {"cancelled"}


def test_ctrl_c_ends_a_long_search_and_shows_what_was_found(at_service, typed, monkeypatch):
    assert typed("generate", "found early", "-o", "found.mp4")[0] == 0
    whole = Client.jobs

    def slow(client, on_search, **query):
        yield from whole(client, **query)
        on_search(1_767_225_600.0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Client, "jobs", slow)
        code, out, err = typed("ps", "--all", "--prompt", "found early")
    assert code == 130
    assert out[1].endswith("found early")
    assert re.fullmatch(r"searched back to 20(25-12-31|26-01-01) \d\d:\d\d, no further", err[-1])


def test_a_job_that_waits_is_paused_and_goes_on(at_service, typed):
    busy = [typed("generate", "slow", "--steps", "50", "--set", "extra.fake=slow", "-d")[1][0] for _ in range(2)]
    job_id = typed("generate", "waits", "-d")[1][0]
    assert typed("pause", job_id) == (0, [f"paused {job_id}"], [])
    assert "parked (paused)" in "\n".join(typed("ps")[1])
    assert typed("resume", job_id) == (0, [f"{job_id} goes on"], [])
    assert typed("cancel", *busy)[0] == 0
    with Client() as client:
        assert client.wait(job_id, timeout_s=60).state == "succeeded"
    code, _, err = typed("pause", job_id)
    assert code == 2
    assert len(err) == 1


def test_models_and_workers(at_service, typed):
    _, out, _ = typed("models")
    assert out[0].split() == ["MODEL", "MAKES", "FROM", "USUALLY", "WORKERS"]
    assert out[1].split()[:4] == ["fake", "video,", "image", "text,"]
    _, out, err = typed("workers")
    assert [line.split()[:3] for line in out[1:]] == [["cpu-0", "idle", "cpu"], ["cpu-1", "idle", "cpu"]]
    assert err == ["0 jobs wait, 0.0 s of work; a new one waits about 0.0 s"]
    assert {one["name"] for one in json.loads("\n".join(typed("workers", "--json")[1]))["data"]} == {"cpu-0", "cpu-1"}


def test_results_that_wait_for_the_depot_stand_behind_a_workers_counts(typed, monkeypatch):
    wait = {"results": 16, "size_mb": 2.5, "seconds": 61.0, "fault": "the edge cannot be reached", "full": True}
    found = [
        {"name": "cpu-0", "state": "busy", "succeeded": 3, "depot": wait},
        {"name": "cpu-1", "state": "busy", "succeeded": 4, "depot": {"results": 1, "fault": None, "full": False}},
        {"name": "cpu-2", "state": "busy", "succeeded": 5, "depot": {"inputs": 1, "fault": "no answer", "full": False}},
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": found, "queue": {}}))
    monkeypatch.setattr(pool, "opened", lambda url, key_file: Client("http://edge", transport=transport))
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = typed("workers")
    full, sends, fetches = (line.rstrip() for line in out[1:])
    assert full.endswith("3; 16 results wait for the depot, so it takes no job: the edge cannot be reached")
    assert sends.endswith(" 4")
    assert fetches.endswith("5; inputs have not come from the depot: no answer")


def test_what_a_worker_does_before_it_takes_jobs_is_told(typed, monkeypatch):
    waits = {"phase": "", "step": 0, "total": 0, "seconds": 0.0, "error": "waiting for 1 of 2 machines"}
    found = [
        {"name": "gpu-0", "state": "starting", "loading": waits},
        {"name": "gpu-1", "state": "starting", "loading": {**waits, "phase": "load", "error": None}},
        {
            "name": "gpu-2",
            "state": "starting",
            "loading": {**waits, "phase": "warm_up", "step": 1, "total": 3, "error": None},
        },
        {"name": "gpu-3", "state": "starting", "loading": {**waits, "phase": "load", "error": "model 'm' has no file"}},
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": found, "queue": {}}))
    monkeypatch.setattr(pool, "opened", lambda url, key_file: Client("http://edge", transport=transport))
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = typed("workers")
    assert [" ".join(line.split()) for line in out[1:]] == [
        "gpu-0 starting 0; waiting for 1 of 2 machines",
        "gpu-1 loading 0",
        "gpu-2 warming up 1/3 0",
        "gpu-3 loading 0; model 'm' has no file",
    ]


def test_when_it_would_be_done_is_said_without_submitting(at_service, typed):
    assert typed("generate", "a first one", "-o", "first.mp4")[0] == 0
    before = len(typed("ps", "--all")[1])
    code, out, _ = typed("generate", "--estimate", "--steps", "4")
    assert code == 0
    assert out[:2] == ["model      fake", "before it  0 jobs, 2 workers"]
    assert json.loads("\n".join(typed("generate", "--estimate", "--json")[1]))["object"] == "estimate"
    assert len(typed("ps", "--all")[1]) == before
    code, _, err = typed("generate", "too soon", "--within", "0.001")
    assert code == 2
    assert err[-1].startswith("zoetrope: ready_within_s: ")


def test_usage_is_summed_up(at_service, typed):
    assert typed("generate", "used", "-o", "used.mp4")[0] == 0
    code, out, _ = typed("usage", "--by", "model")
    assert code == 0
    assert out[0].split()[:4] == ["MODEL", "SUCCEEDED", "FAILED", "CANCELLED"]
    assert out[1].startswith("fake ")
    assert json.loads("\n".join(typed("usage", "--json")[1]))["data"][0]["succeeded"] >= 1
    assert typed("usage", "--from", "yesterday")[0] == 2


def test_a_drain_is_taken_back_before_the_worker_has_left(at_service, typed):
    job = at_service.post(extra={"fake": "slow", "fake_step_s": 0.1}, num_inference_steps=2000)["id"]
    wait_until(lambda: at_service.job(job)["state"] == "running", 60, "a job that runs")
    name = at_service.job(job)["worker"]

    def state():
        return {one["name"]: one["state"] for one in json.loads("\n".join(typed("workers", "--json")[1]))["data"]}[name]

    assert typed("drain", name, "--no-wait")[1][0].startswith(f"{name} takes no more jobs; it holds {job}")
    assert state() == "draining"
    code, out, _ = typed("undrain", name)
    assert code == 0
    assert out[0].startswith(f"{name} goes back to work; it holds {job}")

    wait_until(lambda: state() == "busy", 60, "the worker to say that it takes jobs again")
    typed("cancel", job)
    wait_until(lambda: state() == "idle", 60, "it to be free")
    assert typed("undrain", "gpu-77")[0] == 4


def test_a_worker_drains(at_service, typed):
    code, out, _ = typed("drain", "cpu-1")
    assert code == 0
    assert out[0] == "cpu-1 takes no more jobs; it holds none"
    assert out[-1] == "cpu-1 has left"
    wait_until(lambda: len(typed("workers")[1]) == 2, 60, "one worker to be left")


def test_doctor_finds_the_service(at_service, typed, monkeypatch):
    monkeypatch.setenv("ZOETROPE_PORT", str(at_service.port))
    monkeypatch.setenv("ZOETROPE_HOST", "127.0.0.1")
    code, out, _ = typed("doctor")
    assert code == 0, out
    assert any(line.startswith("ok") and f"runs on port {at_service.port} and is ready" in line for line in out)


DOCUMENT = (ROOT / "docs/command.md").read_text()


def plain(text):
    """What two runs have in common: no ids, numbers, names of models or columns' widths."""
    text = re.sub(r"cli-[0-9a-f]+", "JOB", text).replace("demo", "MODEL").replace("fake", "MODEL")
    return re.sub(r"\s+", " ", re.sub(r"\d+([.:]\d+)*", "N", re.sub(r"cpu-\d", "WORKER", text))).strip()


def test_the_transcript_of_the_document_is_true(at_service, capfd):
    (transcript,) = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    with Client() as client:
        for job in client.jobs():
            client.delete(job)
    job_id = ""
    for part in transcript.split("$ zoetrope ")[1:]:
        line, _, expected = part.partition("\n")
        app.main([re.sub(r"cli-[0-9a-f]+", job_id, word) for word in shlex.split(line)])
        said = capfd.readouterr()
        lines = [*said.err.splitlines(), *said.out.splitlines()]
        if line.startswith("generate"):
            job_id = said.err.split()[1].rstrip(":")
            # The phases that a terminal shows as a bar.
            lines = [one for one in lines if one.startswith("job ") or one.endswith(".mp4")]
        assert [plain(one) for one in lines] == [plain(one) for one in expected.splitlines()]


def test_every_command_is_in_the_document():
    names = {one.name or one.callback.__name__ for one in app.app.registered_commands}
    table = DOCUMENT[DOCUMENT.index("| command |") : DOCUMENT.index("`--json` writes")]
    assert set(re.findall(r"`([a-z]+)[ `]", table)) >= names


def test_help_has_every_exit_code_on_a_line_of_its_own_without_gaps(typed):
    code, out, _ = typed("--help")
    assert code == 0
    at = next(number for number, line in enumerate(out) if "Exit codes:" in line)
    lines = [line.strip(" •") for line in out[at:] if line.strip()][1:]
    assert [int(line.partition(":")[0]) for line in lines] == list(EXIT_CODES)
    assert len("\n".join(out[at + 2 :]).strip().splitlines()) == len(EXIT_CODES)


@pytest.mark.parametrize(
    ("command", "program"),
    [("serve", "zoetrope serve"), ("keys", "python -m http_edge keys")],
)
def test_programs_of_the_service_have_their_own_options(command, program):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "zoetrope", command, "--help"]
    done = subprocess.run(line, env=environ, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith(f"usage: {program} ")


@pytest.mark.parametrize(
    ("typing", "offered"),
    [
        ("serve --por", {"--port"}),
        ("pull OWNER/NAME --d", {"--dry-run"}),
        ("keys ", {"add", "list", "remove", "--help"}),
        ("keys add --max-", {"--max-queued", "--max-running", "--max-priority"}),
        ("bench load --see", {"--seed"}),
    ],
)
def test_shells_complete_the_options_of_the_services_programs(typing, offered):
    words = f"zoetrope {typing}"
    asked = {"_ZOETROPE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **asked}
    code = "from zoetrope.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert set(done.stdout.split()) == offered, done.stderr


def test_verify_says_whether_a_file_is_what_was_signed(at_service, typed, tmp_path):
    files = credential_files(CommonSettings(home=str(tmp_path / "home"), content_credentials="on"))
    plain, good, bad = (tmp_path / f"{name}.jpg" for name in ("plain", "good", "bad"))
    Image.effect_noise((64, 48), 60).save(plain)
    with open(plain, "rb") as source, open(good, "w+b") as out:
        Signer(files, "9").sign(source, out, "image/jpeg")
    changed = bytearray(good.read_bytes())
    changed[-30] ^= 1
    bad.write_bytes(changed)

    code, out, _ = typed("verify", str(good))
    shown = dict(line.split(maxsplit=1) for line in out)
    assert (code, shown["state"].split(":")[0], shown["program"]) == (0, "untrusted", "Zoetrope 9")
    code, out, _ = typed("verify", "--json", str(good), str(bad))
    assert (code, [json.loads(line)["state"] for line in out]) == (1, ["untrusted", "invalid"])
    code, _, err = typed("verify", str(plain))
    assert (code, len(err)) == (2, 1)
    assert "holds no content credentials" in err[0]
