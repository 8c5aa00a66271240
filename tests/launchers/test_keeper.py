"""A pool kept, with a cluster and a service of the test's own."""

from __future__ import annotations

import msgspec
import pytest

from workers.launchers.child import Report
from workers.launchers.edge_service import Sight, Waiting
from workers.launchers.keeper import Keeper, on_notice
from workers.launchers.plan import Demand
from workers.launchers.run_log import RunLog
from workers.launchers.settings import read
from zoetrope.client.errors import ServiceUnreachable
from zoetrope.client.results import Worker, WorkerJob


class FakeCluster:
    """Machines that have room at once."""

    def __init__(self) -> None:
        self.reports: dict[str, Report | None] = {}
        self.calls: list[str] = []
        self.going: dict[str, float] = {}
        self.boots = 0
        self.machines = 1

    def members(self):
        return dict(self.reports)

    def start(self, name):
        self.boots += 1
        boot = f"b{self.boots}"
        nodes = (f"n-{name}", f"n2-{name}")[: self.machines]
        self.reports[name] = Report(boot=boot, name=name, nodes=nodes, host=f"h-{name}", pid=self.boots)
        self.calls.append(f"start {name}")

    def withdraw(self, name):
        del self.reports[name]
        self.calls.append(f"withdraw {name}")

    def release(self, name, boot):
        if self.reports[name].boot == boot:
            del self.reports[name]
        self.calls.append(f"release {name}")

    def terminate(self, name, boot):
        self.calls.append(f"terminate {name}")

    def notices(self):
        return self.going

    def lacking(self):
        return "none has one free"

    def end(self, name, code, why=""):
        self.reports[name] = msgspec.structs.replace(self.reports[name], code=code, why=why)


class FakeService:
    """Workers as the test sets them."""

    def __init__(self) -> None:
        self.sight = Sight()
        self.calls: list[str] = []
        self.away = False

    def look(self):
        if self.away:
            raise ServiceUnreachable("connection refused")
        return self.sight

    def drain(self, worker, *, hand_back=False):
        self.calls.append(f"drain {worker}{' hand_back' if hand_back else ''}")

    def undrain(self, worker):
        self.calls.append(f"undrain {worker}")

    def show(self, backlog_s=0.0, waiting=0, model="fake", device="gpu-0", **states):
        """Workers by name and state, as pool_w0="idle"."""
        jobs = [WorkerJob(id="j")]
        workers = tuple(
            Worker(name=f"ray.pool.{name}.{device}", state=state, models=["fake"], jobs=jobs if state == "busy" else [])
            for name, state in states.items()
        )
        self.sight = Sight(workers, {model: {"1x-cpu": Waiting(1, "cpu", waiting, backlog_s)}})


class World:
    """A keeper and its clock."""

    def __init__(self, path, *argv) -> None:
        flags = (
            "--launcher",
            "ray",
            "--model",
            "fake",
            "--max-workers",
            "4",
            "--min-workers",
            "0",
            "--target-wait-s",
            "10",
            "--idle-s",
            "20",
        )
        self.cluster, self.service = FakeCluster(), FakeService()
        self.log = path / "pool.jsonl"
        order = read((*flags, *argv), {}).order
        self.keeper = Keeper(order, self.cluster, self.service, RunLog(self.log), 0.0)
        self.now = 0.0

    def step(self, seconds=2.0):
        self.now += seconds
        self.keeper.step(self.now, 1000.0 + self.now)
        calls, self.cluster.calls, self.service.calls = self.cluster.calls + self.service.calls, [], []
        return calls

    def events(self):
        lines = (msgspec.json.decode(line) for line in self.log.read_bytes().splitlines())
        return [f"{line['event']} {line['worker']}" for line in lines if "event" in line]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_up_with_the_backlog_and_down_when_it_has_gone(world):
    world.service.show(25.0, 3)
    assert world.step() == ["start w0", "start w1", "start w2"]
    world.service.show(0, 0, w0="busy", w1="idle", w2="idle")
    for _ in range(9):
        assert world.step() == []
    assert world.step(6.0) == ["drain ray.pool.w2.gpu-0", "drain ray.pool.w1.gpu-0"]
    world.service.show(0, 0, w0="busy", w1="draining", w2="draining")
    assert world.step() == []
    world.cluster.end("w2", 0)
    assert world.step() == ["release w2"]
    world.service.show(5, 1, w0="busy", w1="draining")
    assert world.step() == ["undrain ray.pool.w1.gpu-0"]
    assert world.events() == [
        *("start w0", "start w1", "start w2", "drain w2", "drain w1", "left w2", "undrain w1"),
    ]


def test_a_backlog_of_other_models_is_for_other_pools(world):
    world.service.show(500, 9, model="other")
    assert world.step() == []
    assert world.keeper.status.waiting == 0


def test_names_of_other_pools_and_machines_are_not_taken_for_ours(world):
    world.service.show(5, 1)
    world.step()
    foreign = ("ray.pool2.w0.gpu-0", "gpu-0", "ray.mypool.w0.gpu-0")
    world.service.sight = Sight(tuple(Worker(name=name, state="busy", jobs=[WorkerJob(id="j")]) for name in foreign))
    world.step()
    assert [member.phase for member in world.keeper.status.members] == ["starting"]


@pytest.mark.parametrize("device", ["gpu-0", "gpu-0.1", "cpu-0", "gpu-0-7", "gpu-0_2_4", "cpu-0-1"])
def test_a_worker_is_known_by_its_name_on_whatever_it_runs(world, device):
    world.service.show(5, 1)
    world.step()
    world.service.show(5, 1, device=device, w0="idle")
    world.step()
    assert [member.phase for member in world.keeper.status.members] == ["idle"]


def test_a_wrong_option_starts_nothing_more_until_the_launcher_is_called_again(world):
    world.service.show(5, 1)
    world.step()
    world.cluster.end("w0", 2, "workers: model: '/x' is not there")
    assert world.step() == ["release w0"]
    assert world.step(10_000) == []
    assert "w0 on h-w0 ended with exit code 2: workers: model: '/x' is not there" in world.keeper.status.fault


def test_a_model_that_cannot_be_loaded_is_tried_again_after_longer_and_longer(world):
    world.service.show(5, 1)
    world.step()
    for pause_s in (60, 120):
        world.cluster.end(next(iter(world.cluster.reports)), 4, "no worker can load its model")
        world.step()
        assert world.step(pause_s - 4) == []
        assert world.step(4) == ["start w0"]


def test_a_worker_that_was_drained_by_hand_leaves_its_machine(world):
    world.service.show(5, 1)
    world.step()
    world.cluster.end("w0", 0)
    world.service.show()
    assert world.step() == ["release w0"]
    assert world.keeper.status.fault == ""


def test_a_machine_that_dies_is_told_of_in_the_log(world):
    world.service.show(5, 1)
    world.step()
    world.step()
    world.cluster.reports["w0"] = None
    world.step()
    world.step()
    assert world.events() == ["start w0", "lost w0"]


def test_of_one_without_a_machine_the_status_tells_what_is_lacking(world):
    world.service.show(15.0, 2)
    world.step()
    world.cluster.reports["w1"] = None
    world.step()
    assert [member.lacking for member in world.keeper.status.members] == ["", "none has one free"]


def test_nothing_is_decided_without_the_service(world):
    world.service.show(5, 1)
    world.step()
    world.service.away = True
    assert world.step(1000) == []
    assert "nothing is decided: connection refused" in world.keeper.status.fault
    world.service.away = False
    world.service.show(0, 0, w0="idle")
    assert world.step() == ["drain ray.pool.w0.gpu-0"]


@pytest.mark.parametrize(
    ("left_s", "step"),
    [(1e9, "finish"), (21.5, "finish"), (20, "hand_back"), (8.5, "hand_back"), (8, "end"), (-3, "end")],
)
def test_what_a_notice_leaves_time_for(left_s, step):
    assert on_notice(left_s, 5.0 if left_s == 1e9 else 3.0 if left_s < 20 else 6.0) == step


def test_a_machine_that_goes_away_is_left_in_time_and_replaced_at_once(world):
    world.service.show(5, 1)
    world.step()
    world.service.show(5, 1, w0="busy")
    world.cluster.going = {"n-w0": 1000.0 + world.now + 42}
    assert world.step() == ["start w1", "drain ray.pool.w0.gpu-0"]
    world.service.show(5, 1, w0="draining", w1="starting")
    assert world.step() == []
    # Less than the grace and 15 s are left: its job goes back, with a checkpoint.
    assert world.step(22.0) == ["drain ray.pool.w0.gpu-0 hand_back"]
    assert world.step(10.0) == ["terminate w0"]
    assert world.step() == [], "a second SIGTERM would end its grace"


def test_a_worker_over_two_machines_leaves_when_either_goes_away_by_the_sooner_end(world):
    world.cluster.machines = 2
    world.service.show(5, 1)
    world.step()
    world.service.show(0, 0, w0="busy")
    world.cluster.going = {"n2-w0": 0.0}
    assert world.step() == ["drain ray.pool.w0.gpu-0"], "no end was told"
    world.cluster.going = {"n2-w0": 0.0, "n-w0": 1000.0 + world.now + 14}
    assert world.step() == ["drain ray.pool.w0.gpu-0 hand_back"]


def test_one_whose_processes_are_ending_has_nobody_drained_in_its_place(world):
    world.service.show(15.0, 2)
    assert world.step() == ["start w0", "start w1"]
    world.service.show(5, 1, w1="busy")
    world.cluster.reports["w0"] = msgspec.structs.replace(world.cluster.reports["w0"], leaving=True)
    assert world.step() == ["start w2"]
    world.cluster.end("w0", 0)
    world.service.show(0, 0, w1="busy", w2="idle")
    assert world.step() == ["release w0"]


def test_a_machine_that_goes_away_while_the_service_is_away(world):
    world.service.show(5, 1)
    world.step()
    world.service.away = True
    world.cluster.going = {"n-w0": 1000.0 + world.now + 12}
    assert world.step() == ["terminate w0"]
    assert world.step() == []


def test_a_broken_device_is_replaced_and_keeps_its_place(world):
    """So that nothing else is placed on it."""
    world.service.show(5, 1)
    world.step()
    world.service.show(5, 1, w0="faulty")
    assert world.step() == ["start w1"]
    assert "w0" in world.cluster.reports


def test_a_stop_drains_all_and_ends(world):
    world.service.show(25, 3)
    world.step()
    world.cluster.reports["w2"] = None
    world.service.show(0, 5, w0="busy", w1="idle")
    world.keeper.stop(hand_back=False)
    assert world.step() == ["withdraw w2", "drain ray.pool.w1.gpu-0", "drain ray.pool.w0.gpu-0"]
    assert not world.keeper.finished
    world.service.show(0, 5)
    world.cluster.end("w0", 0)
    world.cluster.end("w1", 0)
    world.step()
    assert world.keeper.finished


def test_a_stop_does_not_wait_for_a_service_that_is_away(world):
    world.service.show(5, 1)
    world.step()
    world.service.away = True
    world.keeper.stop(hand_back=True)
    assert world.step() == []
    assert world.step(10) == ["terminate w0"]


CLASSES = {
    "fake": {
        "1x-h100": Waiting(1, "H100", 2, 20.0),
        "1x-a100": Waiting(1, "A100", 1, 7.0),
        "4x-h100": Waiting(4, "H100", 5, 500.0),
        "1x-unknown": Waiting(1, None, 1, 3.0),
        "8x-unknown": Waiting(8, None, 1, 900.0),
    },
    "other": {"1x-h100": Waiting(1, "H100", 9, 90.0)},
}


@pytest.mark.parametrize(
    ("gpu_class", "gpus", "expected"),
    [
        ("", 1, Demand(30.0, 4)),
        ("1x-h100", 1, Demand(23.0, 3)),
        ("1x-a100", 1, Demand(10.0, 2)),
        ("4x-h100", 4, Demand(503.0, 6)),
        ("", 0, Demand(30.0, 4)),
        ("1x-l40s", 1, Demand(3.0, 1)),
    ],
)
def test_a_pool_counts_what_waits_for_its_class_and_what_nobody_there_could_run(gpu_class, gpus, expected):
    assert Sight((), CLASSES).demand({"fake"}, gpu_class, gpus) == expected


def test_pools_of_two_cards_grow_by_their_own_backlogs(tmp_path):
    world = World(tmp_path, "--gpu-class", "1x-a100")
    world.service.sight = Sight((), CLASSES)
    assert world.step() == ["start w0"]
    world = World(tmp_path, "--gpu-class", "1x-h100")
    world.service.sight = Sight((), CLASSES)
    assert world.step() == ["start w0", "start w1", "start w2"]


def test_a_pool_of_workers_over_two_machines_grows_by_the_jobs_that_take_all_their_gpus(tmp_path):
    world = World(tmp_path, "--gpus-per-worker", "2", "--machines-per-worker", "2", "--gpu-class", "4x-h100")
    world.service.sight = Sight((), CLASSES)
    assert len(world.step()) == 4, "500 s of them, within the bounds of the pool"
