"""The edge as depot: who may put what, and what a worker makes of an edge that refuses or is away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from broker.depot import tokens
from broker.wire.job_files import CHECKPOINTS, preview_name
from tests.depot.conftest import CLIP, WORKER, FarEdge, Place, http_depot, never
from tests.support.waiting import wait_until
from workers.agent import effects as fx
from workers.agent.dirs import WorkerDirs
from workers.agent.worker_files import WorkerFiles
from workers.depot import transfers
from workers.depot.depot import Depot, NotNow
from workers.depot.input_cache import InputCache
from workers.depot.orders import Delay, Outcome, Put, PutCheckpoints
from workers.depot.transfers import Transfers
from workers.supervisor.agent_policy import AgentPolicy


@pytest.fixture
def there(far: FarEdge, tmp_path: Path) -> Place:
    return Place("edge", far, http_depot(far), tmp_path / "spool")


def test_only_its_own_worker_may_put_an_attempts_files(there: Place) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    with pytest.raises(NotNow, match=r"403: .*not, or no longer, one of worker cpu-1"):
        http_depot(there.far, "cpu-1").put(file, never, again=True)
    assert not (there.far.home / file.key).exists()
    there.put(file)


def test_an_attempt_that_is_over_puts_nothing(there: Place) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    there.far.do(there.far.fake.lose, job_id)
    there.far.do(there.far.fake.run, job_id, WORKER)
    with pytest.raises(NotNow, match="403"):
        there.put(file)
    assert not (there.far.home / file.key).exists()


def test_a_key_of_another_name_or_service_signs_nothing(there: Place) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    foreign = http_depot(there.far, WORKER)
    for key in (tokens.key_of("0" * 64, WORKER), tokens.key_of(tokens.read_secrets(there.far.home)[0], "cpu-1")):
        foreign.key = key
        with pytest.raises(NotNow, match="did not sign this request"):
            foreign.put(file, never, again=False)


def test_a_signature_expires_and_none_lasts_for_ever(there: Place) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    for off_s in (-2 * tokens.VALID_S, 10 * tokens.VALID_S):
        with pytest.raises(NotNow, match="expired"):
            http_depot(there.far, wall_clock=lambda off_s=off_s: time.time() + off_s).put(file, never, again=False)


def test_a_signature_is_good_for_one_file(there: Place) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    path = tokens.PREFIX + file.key
    signed = tokens.Signed(worker=WORKER, expires=int(time.time()) + 60, size=file.size, sha256=file.sha256)
    url = tokens.sign(there.depot.key, "PUT", path, signed)
    assert there.far.http.put(url.replace("video.mp4", "other.mp4"), content=CLIP).status_code == 403
    assert there.far.http.request("DELETE", url, content=b"").status_code in (403, 405)
    assert there.far.http.put(url.replace(file.sha256, "0" * 64), content=CLIP).status_code == 403
    assert there.far.http.put(url, content=CLIP[:-1] + b"!").status_code == 422
    assert there.far.http.put(url, content=CLIP + b"more").status_code in (413, 422)
    assert not (there.far.home / file.key).exists()
    assert there.far.http.put(url, content=CLIP).status_code == 201
    assert there.far.http.put(url, content=CLIP).status_code == 200


def test_another_file_in_its_place_is_refused(there: Place) -> None:
    job_id, fence = there.far.running()
    there.put(there.drawn(job_id, fence))
    with pytest.raises(NotNow, match="409"):
        there.put(there.drawn(job_id, fence, CLIP[::-1]))
    assert (there.far.home / tokens.artefact_key(job_id, fence, "video.mp4")).read_bytes() == CLIP


@pytest.mark.parametrize("name", ["..%2f..%2fkeys", ".hidden", "a%00b"])
def test_a_name_that_leads_elsewhere_is_refused(there: Place, name: str) -> None:
    job_id, fence = there.far.running()
    path = f"{tokens.PREFIX}artefacts/{job_id}/{fence}/{name}"
    signed = tokens.Signed(worker=WORKER, expires=int(time.time()) + 60, size=1, sha256="0" * 64)
    assert there.far.http.put(tokens.sign(there.depot.key, "PUT", path, signed), content=b"x").status_code in (
        403,
        404,
        422,
    )
    assert not list(there.far.home.rglob("keys"))


def test_what_is_published_is_not_removed(there: Place) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    there.put(file)
    there.far.publish(job_id, file)
    there.depot.discard(job_id, fence)
    assert there.far.http.get(f"/v1/jobs/{job_id}/result").content == CLIP


def test_a_worker_that_was_given_no_key_waits_for_it(there: Place) -> None:
    job_id, fence = there.far.running()
    there.depot.key = ""
    with pytest.raises(NotNow, match="has not yet given the key"):
        there.put(there.drawn(job_id, fence))


def test_api_keys_are_not_asked_of_workers(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    keys.chmod(0o600)
    far = FarEdge(tmp_path / "edge", start, keys_file=str(keys))
    try:
        assert far.http.get("/v1/jobs").status_code == 401
        path = tokens.PREFIX + tokens.input_key(f"{'0' * 64}.png")
        signed = tokens.Signed(worker=WORKER, expires=int(time.time()) + 60)
        key = tokens.key_of(tokens.read_secrets(far.home)[0], WORKER)
        assert far.http.get(tokens.sign(key, "GET", path, signed)).status_code == 410
        assert far.http.get(path).status_code == 403
    finally:
        far.close()


def test_a_secret_is_replaced_while_workers_still_sign_with_the_old_one(there: Place) -> None:
    job_id, fence = there.far.running()
    secret = there.far.home / "depot_secret"
    secret.write_text("f" * 64 + "\n" + secret.read_text())
    there.put(there.drawn(job_id, fence))
    secret.write_text("f" * 64 + "\n")
    with pytest.raises(NotNow, match="another depot's secret"):
        there.put(there.drawn(job_id, fence, name="second.mp4"))


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_are_for_the_attempt_that_goes_on(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    file = there.kept(job_id, fence, "0-5.safetensors", b"state")
    key = file.key
    stranger = http_depot(there.far, "cpu-1")
    for ask in (
        lambda: stranger.put(file, never, again=False),
        lambda: stranger.checkpoints(job_id, fence),
        lambda: stranger.fetch_checkpoint(key, tmp_path / "x", never),
    ):
        with pytest.raises(NotNow, match=r"403: .*not, or no longer, one of worker cpu-1"):
            ask()
    assert there.depot.checkpoints(job_id, fence) == []
    with pytest.raises(NotNow, match="410"):
        there.depot.fetch_checkpoint(key, tmp_path / "x", never)
    there.far.do(there.far.fake.stop, job_id)
    with pytest.raises(NotNow, match="403"):
        there.put(file)
    assert not (tmp_path / "x").exists()


def test_a_later_checkpoint_takes_the_place_of_the_others_of_its_output(there: Place) -> None:
    job_id, fence = there.far.running()
    for name, data in (("0-9", b"of an attempt before"), ("1-1", b"b"), ("0-2", b"c"), ("0-2", b"anew")):
        there.put(there.kept(job_id, fence, f"{name}.safetensors", data))
    kept = there.far.home / "artefacts" / CHECKPOINTS / job_id
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        "0-2.safetensors": b"anew",
        "1-1.safetensors": b"b",
    }


def test_a_checkpoint_has_a_checkpoints_name(there: Place) -> None:
    job_id, fence = there.far.running()
    with pytest.raises(NotNow, match=r"422: .*OUTPUT-STEP.safetensors"):
        there.put(there.kept(job_id, fence, "draft.png", b"x"))


class Machine:
    """A worker's side of the depot, in directories of its own."""

    def __init__(self, depot: Depot, place: Path, policy: AgentPolicy | None = None) -> None:
        self.dirs = WorkerDirs(
            artefacts=str(place / "artefacts"), spool=str(place / "spool" / "w"), inputs=str(place / "inputs")
        )
        self.transfers = Transfers(depot, InputCache(place / "inputs", 1000))
        self.files = WorkerFiles(self.dirs, self.transfers)
        self.policy = policy or AgentPolicy()

    def kept(self, job_id: str) -> Path:
        return Path(self.dirs.artefacts) / CHECKPOINTS / job_id

    def leave(self, job_id: str, name: str, data: bytes) -> None:
        self.kept(job_id).mkdir(parents=True, exist_ok=True)
        (self.kept(job_id) / name).write_bytes(data)

    def fetched(self, job_id: str, fence: int) -> str:
        """Fetch what a job may go on from; the fault that its attempt would end with."""
        self.files.carry_out(fx.FetchInputs(fence, (), job_id), self.policy)
        return self.outcome().fault

    def outcome(self) -> Outcome:
        """The end of an order; delays before it are passed over."""

        def over() -> list[Outcome]:
            return [one for one in self.transfers.take() if isinstance(one, Outcome)]

        (outcome,) = wait_until(over, what="the end of an order")
        return outcome


def test_a_job_goes_on_from_another_machines_checkpoint(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    first, second = Machine(there.depot, tmp_path / "a"), Machine(there.of("cpu-1"), tmp_path / "b")
    at_edge = there.far.home / "artefacts" / CHECKPOINTS / job_id
    try:
        first.leave(job_id, "0-4.safetensors", b"four")
        for now in (0.0, 59.0):
            first.files.put_checkpoints(job_id, fence, 60.0, now)
        assert not any(first.transfers._checkpoints._backlog)
        first.leave(job_id, "0-8.safetensors", b"eight")
        first.files.put_checkpoints(job_id, fence, 60.0, 60.0)
        wait_until((at_edge / "0-8.safetensors").exists, what="the newest one at the edge")
        assert [path.name for path in at_edge.iterdir()] == ["0-8.safetensors"]

        there.far.do(there.far.fake.lose, job_id)
        fence = there.far.do(there.far.fake.run, job_id, "cpu-1").fence
        second.leave(job_id, "0-2.safetensors", b"two")
        assert second.fetched(job_id, fence) == ""
        assert (second.kept(job_id) / "0-8.safetensors").read_bytes() == b"eight"
    finally:
        first.transfers.close()
        second.transfers.close()


def test_what_shows_a_parked_draft_is_there_before_its_checkpoints(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    machine = Machine(there.depot, tmp_path / "a")
    try:
        machine.leave(job_id, "0-4.safetensors", b"four")
        machine.leave(job_id, "draft.png", b"the draft")
        machine.files.make_dir(job_id, fence)
        (Path(machine.dirs.out_root) / job_id / str(fence) / preview_name(1)).write_bytes(b"the preview")
        machine.files.carry_out(fx.PutDraft(job_id, fence), machine.policy)
        machine.files.remove_dir(job_id, fence)
        machine.files.carry_out(fx.PutParked(job_id, fence, 60.0), machine.policy)
        outcome = machine.outcome()
        assert isinstance(outcome.order, PutCheckpoints)
        assert not outcome.fault
        at_edge = there.far.home / "artefacts"
        assert (at_edge / job_id / str(fence) / preview_name(1)).read_bytes() == b"the preview"
        assert (at_edge / CHECKPOINTS / job_id / "draft.png").read_bytes() == b"the draft"
    finally:
        machine.transfers.close()


def test_what_only_bears_a_checkpoints_name_is_not_put(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    machine = Machine(there.depot, tmp_path / "a")
    try:
        machine.leave(job_id, "0-4.safetensors", b"four")
        os.mkfifo(machine.kept(job_id) / "0-8.safetensors")
        machine.files.carry_out(fx.PutParked(job_id, fence, 60.0), machine.policy)
        assert machine.outcome().fault == ""
        at_edge = there.far.home / "artefacts" / CHECKPOINTS / job_id
        assert [path.name for path in at_edge.iterdir()] == ["0-4.safetensors"]
    finally:
        machine.transfers.close()


def test_a_job_waits_a_while_for_checkpoints_of_an_edge_that_is_away(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    there.put(there.kept(job_id, fence, "0-8.safetensors", b"eight"))
    machine = Machine(there.depot, tmp_path / "b")
    key, there.depot.key = there.depot.key, ""
    try:
        machine.files.carry_out(fx.FetchInputs(fence, (), job_id), machine.policy)
        (delay,) = wait_until(machine.transfers.take, what="a try that fails")
        assert isinstance(delay, Delay)
        machine.transfers.set_key(key)
        assert machine.outcome().fault == ""
        assert (machine.kept(job_id) / "0-8.safetensors").read_bytes() == b"eight"
    finally:
        machine.transfers.close()


def test_a_job_begins_where_checkpoints_cannot_be_had(
    there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, fence = there.far.running()
    machine = Machine(http_depot(there.far, "cpu-1"), tmp_path / "b")
    try:
        assert machine.fetched(job_id, fence) == "", "refused, and no reason to fail"
        machine.leave(job_id, "0-8.safetensors", b"eight")
        machine.transfers._depot.key = ""
        monkeypatch.setattr(transfers, "_CHECKPOINTS_S", 0.0)
        assert machine.fetched(job_id, fence) == "", "nor is a depot that cannot be asked"
    finally:
        machine.transfers.close()


def test_a_parked_attempts_checkpoints_are_tried_until_they_are_there(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    machine = Machine(there.depot, tmp_path / "a")
    key, there.depot.key = there.depot.key, ""
    try:
        machine.leave(job_id, "0-8.safetensors", b"eight")
        machine.files.carry_out(fx.PutParked(job_id, fence, 60.0), machine.policy)
        (delay,) = wait_until(machine.transfers.take, what="a try that fails")
        assert isinstance(delay, Delay)
        machine.transfers.set_key(key)
        outcome = machine.outcome()
        assert (outcome.order.fence, outcome.fault) == (fence, "")
        at_edge = there.far.home / "artefacts" / CHECKPOINTS / job_id
        assert (at_edge / "0-8.safetensors").read_bytes() == b"eight"

        machine.transfers._depot.key = ""
        machine.files.carry_out(fx.PutParked(job_id, fence, 0.001), machine.policy)
        assert "key" in machine.outcome().fault
    finally:
        machine.transfers.close()


def test_no_checkpoints_are_put_where_that_is_switched_off(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    machine = Machine(there.depot, tmp_path / "a", AgentPolicy(checkpoint_put_s=0.0))
    try:
        machine.leave(job_id, "0-8.safetensors", b"eight")
        for now in (0.0, 1000.0):
            machine.files.put_checkpoints(job_id, fence, machine.policy.checkpoint_put_s, now)
        assert not any(machine.transfers._checkpoints._backlog)
    finally:
        machine.transfers.close()


# ---------------------------------------------------------------- the worker's threads


def test_files_arrive_when_the_edge_is_back(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    file = there.drawn(job_id, fence)
    key, there.depot.key = there.depot.key, ""
    transfers = Transfers(there.depot, InputCache(tmp_path / "inputs", 1000))
    try:
        transfers.order(Put(job_id=job_id, fence=fence, files=(file,), budget_s=600))
        (delay,) = wait_until(transfers.take, what="a try that fails")
        assert isinstance(delay, Delay)
        assert (delay.fence, bool(delay.fault)) == (fence, True)
        transfers.set_key(key)
        outcomes = wait_until(transfers.take, what="the files in the depot")
        assert [(one.order.fence, one.fault) for one in outcomes] == [(fence, "")]
        assert (there.far.home / file.key).read_bytes() == CLIP
    finally:
        transfers.close()


def test_a_put_that_runs_out_of_time_says_why(there: Place, tmp_path: Path) -> None:
    job_id, fence = there.far.running()
    file = replace(there.drawn(job_id, fence), sha256="0" * 64)
    transfers = Transfers(there.depot, InputCache(tmp_path / "inputs", 1000))
    try:
        transfers.order(Put(job_id=job_id, fence=fence, files=(file,), budget_s=0))
        (outcome,) = wait_until(transfers.take, what="the end of its budget")
        assert "must have the SHA-256 that was signed" in outcome.fault
    finally:
        transfers.close()


def test_a_new_agent_removes_what_one_before_it_left(there: Place, tmp_path: Path) -> None:
    dirs = WorkerDirs(artefacts=str(tmp_path / "a"), spool=str(tmp_path / "s" / "cpu-0"), inputs=str(tmp_path / "i"))
    left = [tmp_path / "s/cpu-0/job/7", tmp_path / "s/cpu-1/job/8", *(tmp_path / "a/.checkpoints" / n for n in "xy")]
    for directory in left:
        directory.mkdir(parents=True)
    os.utime(left[2], (time.time() - 2 * 86_400,) * 2)
    transfers = Transfers(there.depot, InputCache(tmp_path / "i", 1000))
    WorkerFiles(dirs, transfers).close()
    assert [directory.exists() for directory in left] == [False, True, False, True]


def test_the_cache_lets_the_oldest_go_and_nothing_in_use(tmp_path: Path) -> None:
    cache = InputCache(tmp_path, 250)
    now = time.time()
    names = [f"{number}" * 64 + ".png" for number in range(4)]
    for age_h, name in zip((9, 8, 7, 0), names, strict=True):
        (tmp_path / name).write_bytes(b"x" * 100)
        assert cache.holds(name, now - 3600 * age_h)
    assert cache.trim(now) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == names[2:]
    (tmp_path / names[2]).unlink()
    assert InputCache(tmp_path, 1).trim(now) == 0
    assert not cache.holds(names[0], now)
