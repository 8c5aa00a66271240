"""Fetching models: which files of a repository, and `python -m workers pull` against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.files import files_below
from tests.support.waiting import wait_until
from workers.models import hub
from workers.models.catalogue import card_for
from workers.models.hub import PullError, chosen_files, pipeline_files
from workers.models.sources import HubId, find, parse_hub_id

ROOT = Path(__file__).parents[2]

INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
}

LEAN = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/spiece.model",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def test_only_what_a_pipeline_is_loaded_from_is_fetched():
    dead_weight = (
        ".gitattributes",
        "README.md",
        "model_whole.safetensors",
        "assets/picture.png",
        "text_encoder/model.fp16-00001-of-00001.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/pytorch_model.bin",
        "text_encoder/pytorch_model.bin.index.json",
        "text_encoder/model.onnx",
        "text_encoder/consolidated.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/diffusion_pytorch_model.bin",
        "transformer/modeling.py",
        "transformer_2/config.json",
        "transformer_2/diffusion_pytorch_model.safetensors",
        "vae/diffusion_flax_model.msgpack",
        "vae/old/diffusion_pytorch_model.safetensors",
    )
    assert pipeline_files((*dead_weight, *LEAN), INDEX) == LEAN


def test_a_variant_is_taken_where_a_part_has_it():
    names = (
        "model_index.json",
        "text_encoder/model.fp16-00001-of-00001.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    )
    assert pipeline_files(names, INDEX, "fp16") == (
        "model_index.json",
        "text_encoder/model.fp16-00001-of-00001.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    )


def test_a_part_that_has_one_variant_alone_comes_in_it():
    names = ("model_index.json", "vae/diffusion_pytorch_model.fp16.safetensors")
    assert pipeline_files(names, INDEX) == names


def test_a_variant_that_nothing_has_is_refused():
    with pytest.raises(PullError, match="variant 'fp8': no part has weights of it"):
        pipeline_files(LEAN, INDEX, "fp8")


def test_pickled_weights_are_refused_where_there_are_no_others():
    names = ("model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.bin")
    with pytest.raises(PullError, match=r"vae has its weights only as diffusion_pytorch_model\.bin, a pickled file"):
        pipeline_files(names, INDEX)


def test_files_by_name_and_by_glob():
    names = ("README.md", "lora/a.safetensors", "lora/b.safetensors", "wan.gguf")
    assert chosen_files(names, ["lora/*", "wan.gguf"]) == ("lora/a.safetensors", "lora/b.safetensors", "wan.gguf")
    with pytest.raises(PullError, match=r"'\*\.ckpt' names no file; there are: lora/a\.safetensors, "):
        chosen_files(names, ["*.ckpt"])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("owner/name", HubId("owner/name")),
        ("gpt2", HubId("gpt2")),
        ("owner/name@v1.0", HubId("owner/name", "v1.0")),
        ("owner/name@refs/pr/3", HubId("owner/name", "refs/pr/3")),
        ("owner/name@", None),
        ("owner/name@../../x", None),
        ("owner/../name", None),
        ("./model", None),
        ("/model", None),
        ("~/model", None),
        ("a/b/c", None),
        ("", None),
    ],
)
def test_hub_ids(source, found):
    assert parse_hub_id(source) == found


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000_000))
    fetch = hub.Fetch(
        model=HubId("org/big"), commit="a" * 40, files={"x.safetensors": 28_000_000_000}, missing=28_000_000_000
    )
    with pytest.raises(
        PullError, match=r"28\.0 GB are to be fetched and 5\.0 GB are free in .*set HF_HOME to a larger disk"
    ):
        hub.pull(fetch)


# ---------------------------------------------------------------- against a hub

COMMIT = "c" * 40
WEIGHTS = bytes(range(256)) * 8000
MODEL = {
    "model_index.json": json.dumps(INDEX).encode(),
    "README.md": b"of no use",
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": WEIGHTS,
    "transformer/diffusion_pytorch_model.bin": b"pickled",
}


class Hub(ThreadingHTTPServer):
    """The hub's routes that its client asks, over one model `org/name`; `gated/name` is closed."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(MODEL)
        #: Of the weights, so many bytes are sent, and no more while `go_on` is not set; None: all.
        self.hang_at = None
        self.go_on = threading.Event()
        #: End of the names of files whose last byte is another.
        self.spoil = ""
        #: Whether the weights end a byte early, in an answer that is whole by its framing.
        self.short = False
        #: Whether it answers with all of a file where a part is asked for.
        self.no_ranges = False
        #: Of the requests for weights, in order.
        self.ranges = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        files = self.server.files
        if self.path.startswith("/api/models/gated/name"):
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if not re.match(r"/(api/models/)?org/name\b", self.path):
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in self.path and not re.search(rf"/revision/(main|v1|{COMMIT})\b", self.path):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/resolve/" in self.path:
            return self._file(self.path.split(f"/resolve/{COMMIT}/")[1])
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        body = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()
        return self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, name):
        data = self.server.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data)  # git's own name of a small file
        digest = hashlib.sha256(data) if name.endswith(".safetensors") else blob
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest.hexdigest()}"', "Accept-Ranges": "bytes"}
        begin = 0
        if self.command == "GET" and name.endswith(".safetensors"):
            self.server.ranges.append(self.headers.get("Range"))
            wanted = "" if self.server.no_ranges else self.headers.get("Range") or ""
            if match := re.match(r"bytes=(\d+)-", wanted):
                begin = int(match[1])
                headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            if self.server.hang_at is not None:
                return self._answer(200, data, headers, self.server.hang_at)
        if self.server.spoil and self.command == "GET" and name.endswith(self.server.spoil):
            data = data[:-1] + b"?"
        if self.server.short and self.command == "GET" and name.endswith(".safetensors"):
            return self._chunked(data[:-1], headers)
        return self._answer(206 if begin else 200, data[begin:], headers)

    def _answer(self, status, body, headers, cut=None):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.server.go_on.wait()
            self.close_connection = True

    def _chunked(self, body, headers):
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def start(server, tmp_path, monkeypatch):
    """Start `python -m workers pull` with arguments, against the hub, into a cache of its own."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HOME": str(tmp_path),
    }

    def start(*arguments, **more):
        command = [sys.executable, "-m", "workers", "pull", *arguments]
        return subprocess.Popen(
            command, env=environ | more, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture
def run(start):
    """The same, to its end."""

    def run(*arguments, **more):
        process = start(*arguments, **more)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


def test_a_model_is_fetched_and_then_found_by_its_id(run, server):
    done = run("org/name")

    assert (done.returncode, done.stderr) == (0, "")
    directory = find("org/name")
    lines = done.stdout.splitlines()
    assert lines[0] == f"org/name at {COMMIT[:12]}: 3 files, 2 MB, 2 MB to fetch"
    assert lines[-2:] == ["2 MB of 2 MB (100 %)", str(directory)]
    found = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    assert found == {name: MODEL[name] for name in MODEL if not name.endswith((".bin", ".md"))}
    assert card_for("org/name").pipeline == "WanPipeline"
    assert "all of it here" in run("org/name").stdout
    assert len(server.ranges) == 1


def test_a_killed_fetch_goes_on_and_is_no_model_before(run, start, server, tmp_path):
    server.hang_at = 1_000_000
    killed = start("org/name")
    wait_until(lambda: [part for part in files_below(tmp_path, "*.part") if part.stat().st_size >= 900_000])
    killed.kill()
    killed.communicate()
    part = max(tmp_path.rglob("*.part"), key=lambda path: path.stat().st_size)
    came = part.stat().st_size
    assert find("org/name") is None

    server.hang_at = None
    server.ranges.clear()
    done = run("org/name")
    assert done.returncode == 0, done.stderr
    assert server.ranges == [f"bytes={came}-"]
    assert (find("org/name") / "transformer/diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
    assert not list(tmp_path.rglob("*.part"))


def test_two_fetches_of_one_file_are_one_too_many(run, start, server, tmp_path):
    server.hang_at = 1_000_000
    first = start("org/name")
    wait_until(lambda: files_below(tmp_path, "*.part"))
    second = run("org/name")
    assert second.returncode == 2
    assert "another process is fetching transformer/diffusion_pytorch_model.safetensors" in second.stderr
    first.kill()
    first.communicate()


@pytest.mark.parametrize("name", ["transformer/diffusion_pytorch_model.safetensors", "transformer/config.json"])
def test_damaged_bytes_are_noticed(run, server, name):
    server.spoil = name
    done = run("org/name")
    assert done.returncode == 2
    assert f"{name} came damaged" in done.stderr
    assert find("org/name") is None
    server.spoil = ""
    assert run("org/name").returncode == 0


def test_a_file_that_ends_early_is_no_file(run, server):
    server.short = True
    done = run("org/name")
    assert done.returncode == 2
    assert f"came short: {len(WEIGHTS) - 1} bytes of {len(WEIGHTS)}" in done.stderr
    assert find("org/name") is None


def test_a_hub_without_ranges_gives_all_of_it_again(run, start, server, tmp_path):
    server.hang_at = 1_000_000
    killed = start("org/name")
    wait_until(lambda: [part for part in files_below(tmp_path, "*.part") if part.stat().st_size >= 900_000])
    killed.kill()
    killed.communicate()
    server.hang_at = None
    server.no_ranges = True
    assert run("org/name").returncode == 0
    assert (find("org/name") / "transformer/diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS


def test_a_tag_is_fetched_under_its_own_name(run):
    assert run("org/name@v1").returncode == 0
    assert find("org/name@v1").name == COMMIT
    assert find("org/name") is None


def test_single_files_are_told_by_their_paths(run, server):
    server.files = {"style.safetensors": b"weights", "README.md": b"text"}
    whole = run("org/name")
    assert whole.returncode == 2
    assert "org/name has no model_index.json" in whole.stderr
    assert "name the files you want of it: style.safetensors" in whole.stderr
    one = run("org/name", "style.safetensors")
    assert one.returncode == 0
    path = one.stdout.splitlines()[-1]
    assert Path(path).read_bytes() == b"weights"


def test_a_dry_run_fetches_no_weights(run, server):
    listed = run("org/name", "--dry-run")
    assert listed.returncode == 0
    assert "2 MB  transformer/diffusion_pytorch_model.safetensors" in listed.stdout
    assert server.ranges == []


def test_what_is_fetched_is_told_as_json_and_progress_apart(run, server):
    planned = json.loads(run("org/name", "--dry-run", "--json").stdout)
    done = run("org/name", "--json")
    reported = json.loads(done.stdout)
    assert reported == {**planned, "directory": str(find("org/name"))}
    assert (planned["model"], planned["commit"], planned["directory"]) == ("org/name", COMMIT, None)
    assert planned["files"] == {name: len(MODEL[name]) for name in planned["files"]}
    assert planned["total_bytes"] == sum(planned["files"].values()) >= planned["missing_bytes"] > 0
    assert "100 %" in done.stderr
    assert json.loads(run("org/name", "--json").stdout)["missing_bytes"] == 0


@pytest.mark.parametrize(
    ("model", "more", "text"),
    [
        ("org/other", {}, "the hub has no public model 'org/other'; for a private one, set HF_TOKEN"),
        ("gated/name", {}, "gated/name is gated: accept its terms at"),
        ("org/name@v7", {}, "org/name has no revision 'v7'"),
        ("/a/path", {}, "'/a/path' is no hub id: OWNER/NAME, or OWNER/NAME@REVISION"),
        ("org/name", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("org/name", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub at http://127.0.0.1:9 did not give it"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(run, model, more, text):
    done = run(model, **more)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
