import datetime
import io
import os
import shutil
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from honcho.environ import parse_procfile
from honcho.printer import Message

from tests.scripts.support import ROOT, SCRIPTS, FakeServer, clean_environ
from tests.support.waiting import wait_until
from zoetrope.serving import service

GPU_LIST = "#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n"


@pytest.fixture
def checkout(tmp_path):
    """A repository whose make does nothing and whose interpreter prints its arguments, one a line."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    put(tmp_path / ".venv/bin/python", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    put(tmp_path / "bin/make", '#!/bin/sh\necho "make $*"\n')
    return tmp_path


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(checkout, script, *arguments, **environ):
    path = f"{checkout / 'bin'}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", f"scripts/{script}", *arguments],
        cwd=checkout,
        env=clean_environ(PATH=path, **environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def option(done, name):
    lines = done.stdout.splitlines()
    return lines[lines.index(name) + 1]


@pytest.mark.parametrize("script", ["start_server.sh", "start_multi_servers.sh"])
def test_scripts_are_sound_bash(script):
    assert subprocess.run(["bash", "-n", SCRIPTS / script], check=False).returncode == 0


def test_start_server_makes_the_environment_and_binds_port_8000(checkout):
    done = start(checkout, "start_server.sh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("make --no-print-directory setup\n")
    assert option(done, "--port") == "8000"
    assert "--port 8000" in (SCRIPTS / "start_server.sh").read_text()


def test_a_port_on_the_command_line_comes_last_and_wins(checkout):
    lines = start(checkout, "start_server.sh", "--port", "9000").stdout.splitlines()
    assert lines[-2:] == ["--port", "9000"]


def test_services_use_cpu_workers_without_gpus(checkout):
    put(checkout / "bin/nvidia-smi", "#!/bin/sh\necho no devices; exit 9\n")
    done = start(checkout, "start_multi_servers.sh", num_gpus="3")
    assert (option(done, "--services"), option(done, "--gpus"), option(done, "--start_port")) == ("3", "cpu:3", "8000")


def test_services_use_the_first_gpus(checkout):
    put(checkout / "bin/nvidia-smi", GPU_LIST)
    done = start(checkout, "start_multi_servers.sh", "--start_port", "9000", num_gpus="2")
    assert option(done, "--gpus") == "0,1"
    assert done.stdout.splitlines()[-2:] == ["--start_port", "9000"]


def test_more_services_than_gpus_are_refused(checkout):
    put(checkout / "bin/nvidia-smi", GPU_LIST)
    done = start(checkout, "start_multi_servers.sh", num_gpus="8")
    assert done.returncode == 2
    assert done.stderr == "num_gpus: 8 services were asked for and this machine has 4 GPUs\n"


@pytest.mark.parametrize("number", ["0", "-1", "eight", "1000", "2 3"])
def test_a_bad_number_is_one_sentence(checkout, number):
    done = start(checkout, "start_multi_servers.sh", num_gpus=number)
    assert done.returncode == 2
    assert done.stderr == f"num_gpus: '{number}' must be a number from 1 to 999\n"


def serve(*arguments):
    command = [sys.executable, "-m", "zoetrope", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)


@pytest.mark.parametrize(
    "arguments", [("--port", "0"), ("--port", "x"), ("--services", "0"), ("--port", "65535", "--services", "2")]
)
def test_impossible_ports_are_refused(arguments):
    done = serve(*arguments)
    assert done.returncode == 2
    assert "65535" in done.stderr


def test_output_roots_are_passed_on_with_the_start_directory(checkout):
    lines = start(checkout, "start_server.sh", "--output-root", "/data/videos").stdout.splitlines()
    assert lines[-2:] == ["--output-root", "/data/videos"]
    for services in (1, 2):
        for name, line in commands(services, 8000, "cpu:2", "", ["/data/videos", "/more"]).items():
            assert ("--output-roots" in line) is name.startswith("edge")
            assert not name.startswith("edge") or line[line.index("--output-roots") + 1] == ".,/data/videos,/more"


def commands(*arguments):
    return {name: line[1:] for name, line in service.commands(*arguments).items()}


def test_one_service_shows_the_whole_pool():
    lines = commands(1, 8000, "auto", "demo")
    assert lines["broker"] == ["-m", "broker"]
    assert lines["workers"] == ["-m", "workers", "--gpus", "auto", "--model", "demo"]
    assert lines["edge"] == ["-m", "http_edge", "--port", "8000"]
    # The edge says by itself when it is ready.
    assert list(lines) == ["broker", "workers", "edge"]


def test_without_options_it_is_the_procfile():
    processes = parse_procfile((ROOT / "Procfile").read_text()).processes
    assert {name: ["python", *line] for name, line in commands(1, None, "", "").items()} == {
        name: line.removeprefix("exec ").split() for name, line in processes.items()
    }


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        (
            {"ZOETROPE_MODEL": "/no/such/model"},
            "stopped: workers ended with code 2: workers: model: '/no/such/model' is not there",
        ),
        ({"ZOETROPE_PORT": "99999"}, "stopped: edge ended with code 2: http_edge: ZOETROPE_PORT: '99999'"),
    ],
)
def test_the_last_line_says_why_it_ended(tmp_path, environ, reason):
    done = subprocess.run(
        [sys.executable, "-m", "zoetrope", "serve"],
        cwd=tmp_path,
        env=clean_environ(PYTHONPATH=str(ROOT), ZOETROPE_HOME=str(tmp_path / "home"), ZOETROPE_GPUS="cpu", **environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(reason)


def test_the_last_line_says_what_killed_a_process():
    now, printer = datetime.datetime.now(), service.EndingPrinter(io.StringIO())
    for name, text in (("broker", "ready"), ("system", "broker stopped (rc=-9)"), ("system", "edge stopped (rc=-15)")):
        printer.write(Message("line", text, now, name, None))
    reason = "stopped: broker was killed by SIGKILL, as by kill -9 or for want of memory; its last line: ready"
    assert printer.reason == reason


def served(on_hangup=signal.SIG_DFL):
    """`zoetrope serve` of two processes that print much and would never end; it, and their numbers.

    `on_hangup` is what it inherits: the tests themselves may have been started to live on.
    """
    program = (
        "import os, threading\nprint(os.getpid(), flush=True)\npause = threading.Event().wait\n"
        "while not pause(0.05): print('x' * 9000, flush=True)"
    )
    lines = {name: [sys.executable, "-c", program] for name in ("one", "two")}
    before = signal.signal(signal.SIGHUP, on_hangup)
    try:
        parent = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; from zoetrope.serving import service; sys.exit(service.run({lines!r}))",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    pids = []
    while len(pids) < 2:
        text = parent.stdout.readline().split("| ")[-1].strip()
        pids += [int(text)] if text.isdecimal() else []
    return parent, pids


def read_all(stream):
    with stream:
        stream.read()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells nobody of a parent's end")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("reader_stays", [True, False], ids=["watched", "alone"])
def test_no_process_outlives_the_service_however_that_ends(number, reader_stays):
    parent, pids = served()
    try:
        if reader_stays:
            threading.Thread(target=read_all, args=[parent.stdout], daemon=True).start()
        else:
            parent.stdout.close()
        if number == signal.SIGHUP:  # a terminal that is closed tells its whole group
            os.killpg(parent.pid, number)
        else:
            parent.send_signal(number)
        assert parent.wait(60) == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), what="the end of both")
    finally:
        parent.kill()
        for pid in filter(psutil.pid_exists, pids):
            os.kill(pid, signal.SIGKILL)


def test_a_service_that_was_started_to_live_on_survives_its_terminal():
    parent, pids = served(on_hangup=signal.SIG_IGN)
    with parent.stdout:
        os.killpg(parent.pid, signal.SIGHUP)
        lines = [parent.stdout.readline() for _ in range(20)]
        assert "SIGTERM" not in "".join(lines)
        assert parent.poll() is None
        assert all(psutil.pid_exists(pid) for pid in pids)
        parent.terminate()
        parent.stdout.read()
    assert parent.wait(60) == 128 + signal.SIGTERM


def test_a_stop_while_processes_are_started_stops_them_all():
    program = """
import os, signal, sys
from multiprocessing.process import BaseProcess
from zoetrope.serving import service

start = BaseProcess.start

def start_and_stop(process):
    start(process)
    os.kill(os.getpid(), signal.SIGINT)

BaseProcess.start = start_and_stop
sys.exit(service.run({"one": ["sleep", "1000"], "two": ["sleep", "1000"]}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.count("SIGINT received") == 1
    assert done.stdout.count("stopped") == 2


def test_several_services_show_one_worker_each():
    lines = commands(2, 9000, "cpu:2", "")
    assert lines["workers"] == ["-m", "workers", "--gpus", "cpu:2"]
    assert lines["edge-9000"] == ["-m", "http_edge", "--port", "9000", "--worker", "cpu-0"]
    assert lines["edge-9001"] == ["-m", "http_edge", "--port", "9001", "--worker", "cpu-1"]
    assert commands(2, 9000, "0,1", "")["edge-9001"][-1] == "gpu-1"
    assert lines["ready"][2:] == ["2", "9000", "9001"]
    assert sum(name.startswith("edge") for name in lines) == 2


def test_ready_tells_how_far_the_services_are_and_then_waits():
    answers = iter([(200, b"not yet"), (503, {}), (200, {"workers_ready": 1}), (200, {"workers_ready": 2})])
    with (
        FakeServer({("GET", "/readyz"): (200, {"workers_ready": 2})}) as one,
        FakeServer({("GET", "/readyz"): lambda _: next(answers)}) as two,
        subprocess.Popen(
            [sys.executable, "-m", "zoetrope.serving.ready", "2", str(one.port), str(two.port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        lines = [process.stdout.readline() for _ in range(3)]
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert lines[0].startswith("1 of 2 services answer, 2 of 2 workers are ready after")
    assert lines[1].startswith("2 of 2 services answer, 2 of 2 workers are ready after")
    assert lines[2] == f"all ready: {one.url} {two.url}\n"
