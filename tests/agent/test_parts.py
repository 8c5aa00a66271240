"""The shell's parts, one by one: directories, clock, numbers, the engine's environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec import structs

from broker.wire.device import DeviceHealth
from tests.agent.stage import CARD, Stage
from tests.support.gpu_library import READING, FakeGpu, FakeLibrary
from workers.agent import attempt_dirs, invariants, stats
from workers.agent.clock import AwakeClock
from workers.agent.effects import Stats
from workers.agent.engine_environ import Meeting, engine_environs
from workers.agent.invariants import InvariantBroken
from workers.gpu import watch
from workers.gpu.library import Reading
from workers.supervisor.messages import AgentConfig

# ------------------------------------------------------------------ directories


def test_an_attempt_s_directory_is_made_and_removed(tmp_path: Path) -> None:
    root = tmp_path / "home" / "artefacts"
    old = os.umask(0o022)
    try:
        made = attempt_dirs.make(root, "job-1", 77)
    finally:
        os.umask(old)
    assert made == root / "job-1" / "77"
    assert made.stat().st_mode & 0o777 == 0o755
    (made / "video.mp4").write_bytes(b"x")
    attempt_dirs.remove(root, "job-1", 77)
    assert list(root.iterdir()) == []


def test_another_attempt_s_files_stay(tmp_path: Path) -> None:
    attempt_dirs.make(tmp_path, "job", 1)
    kept = attempt_dirs.make(tmp_path, "job", 2)
    attempt_dirs.remove(tmp_path, "job", 1)
    assert kept.is_dir()


def test_removing_twice_is_no_error(tmp_path: Path) -> None:
    attempt_dirs.remove(tmp_path, "job", 1)


def test_leftovers_of_the_same_attempt_are_cleared(tmp_path: Path) -> None:
    (attempt_dirs.make(tmp_path, "job", 1) / "half.mp4").write_bytes(b"x")
    assert list(attempt_dirs.make(tmp_path, "job", 1).iterdir()) == []


@pytest.mark.parametrize(("job_id", "fence"), [("../etc", 1), ("", 1), ("a/b", 1), (".", 1), ("job", -1)])
def test_ids_that_are_no_path_component_are_refused(tmp_path: Path, job_id: str, fence: int) -> None:
    for touch in (attempt_dirs.make, attempt_dirs.remove):
        with pytest.raises(ValueError, match="refused"):
            touch(tmp_path, job_id, fence)


def test_a_link_in_the_job_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "job").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        attempt_dirs.make(tmp_path, "job", 1)
    (tmp_path / "job2").mkdir()
    (tmp_path / "job2" / "1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "kept").touch()
    with pytest.raises(FileExistsError, match="symbolic link"):
        attempt_dirs.make(tmp_path, "job2", 1)
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_job_s_directory_that_vanishes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_mkdir, failures = Path.mkdir, [FileNotFoundError("gone"), FileNotFoundError("gone")]

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        if self.name == "1" and failures:
            self.parent.rmdir()
            raise failures.pop()
        real_mkdir(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert attempt_dirs.make(tmp_path, "job", 1).is_dir()
    failures.extend([FileNotFoundError("gone")] * 9)
    with pytest.raises(FileNotFoundError):
        attempt_dirs.make(tmp_path, "other", 1)


# ------------------------------------------------------------------ clock


class HandClock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    hand = HandClock()
    clock = AwakeClock(hand)
    clock.waiting()
    hand.now += 1.2
    assert clock.woke(1.0) == 0.0  # a late wake-up is a wait
    assert clock.now() == 51.2
    clock.waiting()
    hand.now += 31.0
    assert clock.woke(1.0) == 30.0
    assert clock.now() == 52.2
    hand.now += 1.0
    assert clock.now() == 53.2


# ------------------------------------------------------------------ numbers


def test_a_cpu_worker_s_memory_is_its_engine_s() -> None:
    sampler = stats.sampler("cpu", ("",), FakeLibrary())
    mine = sampler.sample((os.getpid(),), ((0, 0),))
    assert sampler.device == "cpu"
    assert 1 < mine.memory_used_mb < mine.memory_total_mb
    assert (mine.utilisation, mine.temperature_c) == (-1.0, -1.0)
    assert sampler.sample((), ()).memory_used_mb == 0
    assert sampler.sample((2**22 + 1,), ((12, 99),)).memory_used_mb == 12  # gone meanwhile


@pytest.mark.parametrize("visible", ["0", "GPU-1b2c"])
def test_a_gpu_worker_s_numbers(visible: str) -> None:
    gpu = FakeGpu()
    library = FakeLibrary(gpu)
    sampler = stats.sampler("cuda", (visible,), library)
    assert (sampler.device, library.opened) == ("NVIDIA H100", [visible])
    gpu.taken_in()
    assert sampler.sample((1,), ((0, 0),)) == Stats(
        memory_used_mb=3.0,
        memory_total_mb=80.0,
        utilisation=97.0,
        temperature_c=61.0,
        health=DeviceHealth(
            power_w=412.5,
            power_limit_w=700.0,
            clock_mhz=1755.0,
            clock_max_mhz=1980.0,
            throttled=("power_cap",),
            ecc_uncorrected=0,
        ),
    )


def test_a_group_s_numbers_are_those_of_all_its_gpus() -> None:
    cool, hot = FakeGpu(), FakeGpu(structs.replace(READING, utilisation=41.0, temperature_c=82.0, clock_mhz=900.0))
    library = FakeLibrary(cool, hot)
    sampler = stats.sampler("cuda", ("0", "1"), library)
    assert (sampler.device, library.opened) == ("NVIDIA H100", ["0", "1"])
    cool.taken_in()
    hot.taken_in()
    seen = sampler.sample((1, 2), ((0, 0), (0, 0)))
    assert (seen.memory_used_mb, seen.memory_total_mb) == (6.0, 160.0)
    assert (seen.utilisation, seen.temperature_c) == (69.0, 82.0)
    assert (seen.health.power_w, seen.health.power_limit_w) == (825.0, 1400.0)
    assert (seen.health.clock_mhz, seen.health.throttled, seen.health.fault) == (900.0, ("power_cap",), "")
    hot.xids.put(79)
    hot.taken_in()
    assert sampler.sample((), ()).health.fault == "GPU 1: Xid 79: the GPU has fallen off the bus"


def test_what_a_gpu_does_not_report_is_left_out() -> None:
    gpu = FakeGpu(Reading(utilisation=97.0))
    sampler = stats.sampler("cuda", ("0",), FakeLibrary(gpu))
    gpu.taken_in()
    assert sampler.sample((1,), ((5, 10),)) == Stats(memory_used_mb=5.0, memory_total_mb=10.0, utilisation=97.0)


@pytest.mark.parametrize("library", [FakeLibrary(), FakeLibrary(hangs=True)], ids=["none", "hangs"])
def test_without_the_library_the_engine_s_own_numbers_stand(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_OPEN_S", 0.1)
    sampler = stats.sampler("cuda", ("3",), library)
    assert sampler.device == "cuda:3"
    assert sampler.sample((1,), ((5, 10),)) == Stats(memory_used_mb=5.0, memory_total_mb=10.0)


# ------------------------------------------------------------------ the rest


def test_an_engine_sees_one_device_whatever_the_machine_has() -> None:
    config = AgentConfig(
        name="gpu-3",
        endpoint="",
        artefacts="",
        device="cuda",
        visible=("3",),
        models=(CARD,),
        preload="demo",
        log_level="debug",
        log_format="json",
    )
    environ = engine_environs(config, {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "HF_HUB_OFFLINE": "1", "PATH": "/bin"})[0]
    assert environ == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "3",
        "HF_ENABLE_PARALLEL_LOADING": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": "/bin",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "ZOETROPE_ENGINE_WITHOUT": "bitsandbytes,torchao",
        "ZOETROPE_LOG_FORMAT": "json",
        "ZOETROPE_LOG_LEVEL": "debug",
    }
    # Else index 3 could be another GPU than the one of which the numbers are.
    assert engine_environs(config, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})[0]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_the_ranks_of_a_group_see_a_gpu_each_and_find_each_other() -> None:
    config = AgentConfig(
        name="gpu-0_2", endpoint="", artefacts="", device="cuda", visible=("0", "2"), models=(CARD,), preload="demo"
    )
    meeting = Meeting(of=4, first=2, host="10.0.0.1", port=21_000, network="eth1")
    others = {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "7", "MASTER_ADDR": "far"}
    first, second = engine_environs(config, others, meeting)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in (first, second)] == ["0", "2"]
    assert [one["RANK"] for one in (first, second)] == ["2", "3"]
    assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) for one in (first, second)} == {("4", "2")}
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in (first, second)} == {("10.0.0.1", "21000")}
    assert "LOCAL_RANK" not in first
    assert (first["GLOO_SOCKET_IFNAME"], first["NCCL_SOCKET_IFNAME"]) == ("eth1", "=eth1")
    # The operator's own choice stands.
    assert engine_environs(config, {"GLOO_SOCKET_IFNAME": "ib0"}, meeting)[0]["GLOO_SOCKET_IFNAME"] == "ib0"


def test_an_engine_alone_is_no_rank_of_whoever_started_the_service() -> None:
    config = AgentConfig(name="w", endpoint="", artefacts="", device="cpu", models=(CARD,), preload="demo")
    [environ] = engine_environs(config, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "far", "MASTER_PORT": "1"})
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(environ)


def test_the_engine_s_allocator_and_loader_are_the_service_s_to_set() -> None:
    config = AgentConfig(name="w", endpoint="ipc://x", artefacts="/a", device="cuda", models=(CARD,), preload="demo")

    usual = engine_environs(config, {})[0]
    assert usual["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert usual["HF_ENABLE_PARALLEL_LOADING"] == "1"
    own = engine_environs(config, {"PYTORCH_CUDA_ALLOC_CONF": "x", "HF_ENABLE_PARALLEL_LOADING": "0"})[0]
    assert (own["PYTORCH_CUDA_ALLOC_CONF"], own["HF_ENABLE_PARALLEL_LOADING"]) == ("x", "0")
    assert "PYTORCH_CUDA_ALLOC_CONF" not in engine_environs(config, {"PYTORCH_ALLOC_CONF": "x"})[0]


def test_a_broken_rule_is_named() -> None:
    stage = Stage().busy()
    stage.core.orders.seen = 0
    with pytest.raises(InvariantBroken, match="every fence held has been seen"):
        invariants.check(stage.core)
