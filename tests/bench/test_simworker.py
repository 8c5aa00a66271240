import zmq

from bench.harness import crowd
from bench.harness.simworker import RESEND_S, SimWorker
from broker.wire import codec
from broker.wire import messages as m


class FakeSocket:
    """A DEALER whose peer is the test."""

    def __init__(self):
        self.inbox = []
        self.sent = []
        self.full = False

    def recv(self, flags):
        if not self.inbox:
            raise zmq.Again
        return self.inbox.pop(0)

    def send(self, frame, flags):
        if self.full:
            raise zmq.Again
        self.sent += codec.from_agent(frame)

    def take(self):
        taken, self.sent = self.sent, []
        return taken


class Pair:
    """A simulated worker and what it reports."""

    def __init__(self, credit=1):
        self.socket = FakeSocket()
        self.started, self.ended = [], []
        self.worker = SimWorker(
            self.socket, "sim-0", credit, self.started.append, lambda job, accepted: self.ended.append((job, accepted))
        )

    def say(self, *messages):
        self.socket.inbox += map(codec.encode, messages)
        self.worker.handle()
        return self.socket.take()

    def welcomed(self):
        self.say(m.Welcome(epoch=1))
        return self


def run(job_id, fence):
    return m.Run(job_id=job_id, fence=fence, lease_s=6.0, body=b"")


def test_a_probe_and_who_are_answered_with_hello():
    pair = Pair(credit=2)
    pair.socket.inbox.append(b"")
    pair.worker.handle()
    (hello,) = pair.socket.take()
    assert isinstance(hello, m.Hello)
    assert (hello.name, hello.free) == ("sim-0", 2)
    assert [type(message) for message in pair.say(m.Identify())] == [m.Hello]


def test_a_job_is_started_and_finished_at_once():
    pair = Pair().welcomed()
    (finished,) = pair.say(run("a", 5))
    assert (finished.job_id, finished.fence, finished.free) == ("a", 5, 1)
    assert pair.started == ["a"]
    assert pair.ended == []


def test_a_job_ends_with_its_acknowledgement_once():
    pair = Pair().welcomed()
    pair.say(run("a", 5))
    ack = m.ResultAck(job_id="a", fence=5, accepted=True)
    pair.say(ack, ack)
    assert pair.ended == [("a", True)]


def test_results_are_held_and_resent_until_acknowledged():
    pair = Pair().welcomed()
    pair.say(run("a", 5))
    pair.worker.beat(now=0.0)
    (beat,) = pair.socket.take()
    assert beat.seen == 5
    assert [(held.job_id, held.phase) for held in beat.held] == [("a", "finished")]
    pair.worker.beat(now=0.5)
    assert pair.socket.take() == []
    late = max(sent for _, sent in pair.worker._unacked.values()) + RESEND_S + 1
    pair.worker.beat(now=late)
    assert [type(message) for message in pair.socket.take()] == [m.Heartbeat, m.Finished]


def test_no_heartbeat_before_the_welcome_and_none_lost_to_a_full_socket():
    pair = Pair()
    pair.worker.beat(now=0.0)
    assert pair.socket.take() == []
    pair.welcomed()
    pair.socket.full = True
    pair.worker.beat(now=0.0)
    pair.socket.full = False
    pair.worker.beat(now=1.0)
    assert [type(message) for message in pair.socket.take()] == [m.Heartbeat]


class Clock:
    """Time that passes only while the crowd waits for its sockets."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def poll(self, timeout):
        self.now += timeout
        return []

    def close(self):
        pass


def test_a_crowd_beats_once_a_second_and_worker(monkeypatch, tmp_path):
    clock, beats = Clock(), []
    monkeypatch.setattr(crowd, "time", clock)
    made = crowd.WorkerCrowd(f"ipc://{tmp_path}/nobody", 3, 5.0, 0, lambda: None)
    made._epoll.close()
    made._epoll = clock
    for worker in made._by_fd.values():
        worker.welcome = True
        worker._send = beats.append
    made.serve(10.0)
    made.close()
    assert 27 <= len(beats) <= 33
    assert all(isinstance(beat, m.Heartbeat) for beat in beats)


def test_a_worker_that_is_served_late_beats_as_often_all_the_same():
    pair = Pair().welcomed()
    late = [100.0 + second + 0.3 * (second % 3) for second in range(30)]
    for now in late:
        pair.worker.beat(now)
    assert len(pair.socket.take()) == 30


def test_heartbeats_that_a_driver_was_too_late_for_are_not_made_up_for():
    pair = Pair().welcomed()
    for now in (100.0, 110.0, 110.1, 110.2):
        pair.worker.beat(now)
    assert len(pair.socket.take()) == 2


def test_answered_heartbeats_are_counted():
    pair = Pair().welcomed()
    pair.worker.beat(100.0)
    assert pair.worker.answered_beats == 0
    pair.say(m.HeartbeatAck(epoch=1))
    assert pair.worker.answered_beats == 1
