"""The guide's commands, in its order, against real services; and `honcho start`, which `make run` is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import psutil
import pytest

from bench.harness.process import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GUIDE_FILE = ROOT / "output_lightx2v_wan_t2v_t02.mp4"


def environment(home: Path, **more: str) -> dict[str, str]:
    bin_path = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{bin_path}{os.pathsep}{os.environ['PATH']}",
        "ZOETROPE_HOME": str(home / "z"),
        "ZOETROPE_HOST": "127.0.0.1",
        "ZOETROPE_RESERVE_MB": "0",
        **more,
    }


class Foreground:
    """A command that serves until it is told to stop."""

    def __init__(self, command: list[str], home: Path, **more: str) -> None:
        self.log = home / "out.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(home, **more),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self, port: int) -> None:
        with httpx.Client() as http:

            def healthy() -> bool:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                try:
                    return http.get(f"http://127.0.0.1:{port}/health").status_code == 200
                except httpx.HTTPError:
                    return False

            wait_until(healthy, 180, f"port {port} to answer; log: {self.log}")

    def stop(self) -> None:
        """SIGTERM; everything below it must be gone soon."""
        everybody = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(everybody, timeout=60)
        for process in alive:
            process.kill()
        self.process.wait(60)
        assert not alive, f"left behind: {alive}\n{self.log.read_text()[-3000:]}"


@pytest.fixture
def foreground(short_dir: Path) -> Iterator[list[Foreground]]:
    started: list[Foreground] = []
    yield started
    for each in started:
        if each.process.poll() is None:
            each.stop()


def script(name: str, *arguments: str) -> str:
    """Run a client script as the guide does; its output."""
    done = subprocess.run(
        [sys.executable, f"scripts/{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_server_post_check_and_stop(short_dir, foreground):
    port = free_port()
    GUIDE_FILE.unlink(missing_ok=True)
    server = Foreground(["bash", "scripts/start_server.sh", "--port", str(port), "--gpus", "cpu:1"], short_dir)
    foreground.append(server)
    server.answers(port)
    url = f"http://127.0.0.1:{port}"

    posted = script("post.py", "--url", url)
    assert '"task_status": "processing"' in posted
    assert "./output_lightx2v_wan_t2v_t02.mp4" in posted
    base = f"{url}/v1/local/video/generate"
    with httpx.Client() as http:
        wait_until(lambda: http.get(f"{base}/get_all_tasks").json(), 120, "the task to finish")
    assert "idle" in script("check_status.py", "--url", url)
    (record,) = httpx.get(f"{base}/get_all_tasks").json().values()
    assert record["success"] is True, record
    assert record["message"]["negative_prompt"].startswith("色调艳丽")
    with av.open(str(GUIDE_FILE)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 17
    GUIDE_FILE.unlink()

    assert "No running task found." in script("stop_running_task.py", "--url", url)
    message = {**record["message"], "task_id": "long", "task_id_must_unique": False, "infer_steps": 200}
    assert httpx.post(base, json=message).json()["task_status"] == "processing"
    assert "Task stopped successfully." in script("stop_running_task.py", "--url", url)
    assert httpx.get(f"{base}/service_status").json() == {"service_status": "idle"}
    server.stop()


@pytest.fixture
def without_results() -> Iterator[None]:
    """The guide saves below the directory it stands in; what a test leaves there may not be written again."""
    yield
    for made in ROOT.glob("output_one*.mp4"):
        made.unlink()


def test_several_servers_have_one_worker_each_and_share_the_work(short_dir, foreground, without_results):
    first = free_port()
    ports = [first, first + 1]
    command = ["bash", "scripts/start_multi_servers.sh", "--start_port", str(first), "--model", "fake"]
    server = Foreground(command, short_dir, num_gpus="2", CUDA_VISIBLE_DEVICES="")
    foreground.append(server)
    for port in ports:
        server.answers(port)
    base = "http://127.0.0.1:{}/v1/local/video/generate"
    message = {"task_id": "one", "prompt": "x", "save_video_path": "./output_one.mp4", "infer_steps": 200}
    taken = httpx.post(base.format(ports[0]), json=message)
    assert taken.json().get("task_status") == "processing", taken.text
    assert httpx.get(base.format(ports[1]) + "/service_status").json() == {"service_status": "idle"}
    httpx.get(base.format(ports[0]) + "/stop_running_task", timeout=60)
    server.stop()


def test_honcho_start_serves_and_leaves_nothing_behind(short_dir, foreground):
    port = free_port()
    server = Foreground(
        [sys.executable, "-m", "honcho", "start"],
        short_dir,
        ZOETROPE_PORT=str(port),
        ZOETROPE_GPUS="cpu:1",
        ZOETROPE_MODEL="fake",
    )
    foreground.append(server)
    server.answers(port)
    made = httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json={"prompt": "x"}).json()
    wait_until(
        lambda: httpx.get(f"http://127.0.0.1:{port}/v1/jobs/{made['id']}").json()["state"] == "succeeded", 60, "the job"
    )
    server.stop()
