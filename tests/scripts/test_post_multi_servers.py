from tests.scripts.support import FakeServer, closed_port, run_script

ROUTE = "/v1/local/video/generate"


class OneTaskServer(FakeServer):
    """A LightX2V server: one task at a time, done at the second look; `fails` tasks of it fail, `busy_posts` posts come too late."""

    def __init__(self, *, fails=0, busy_posts=0, refuse=None):
        self.running = None
        self.looks = 0
        self.posted = []
        self.fails, self.busy_posts, self.refuse = fails, busy_posts, refuse
        super().__init__(
            {
                ("GET", f"{ROUTE}/service_status"): lambda _: {"service_status": "busy" if self.running else "idle"},
                ("POST", ROUTE): self.take,
                ("POST", f"{ROUTE}/task_status"): self.status,
            }
        )

    def take(self, message):
        if self.refuse:
            return {"error": self.refuse}
        if self.running or self.busy_posts:
            self.busy_posts -= 1
            return {"error": "Service busy"}
        self.running, self.looks = message["task_id"], 0
        self.posted.append(message)
        return {"task_id": message["task_id"], "task_status": "processing"}

    def status(self, message):
        self.looks += 1
        if self.looks < 2:
            return {"task_status": "processing"}
        self.running = None
        self.fails -= 1
        if self.fails >= 0:
            return {"task_status": "completed", "success": False, "error": "it broke"}
        return {"task_status": "completed", "success": True}


def test_tasks_are_spread_over_idle_servers():
    with OneTaskServer() as one, OneTaskServer(busy_posts=1) as two:
        done = run_script("post_multi_servers.py", "--pause", "0.01", "--url", one.url, "--url", two.url)
    assert done.returncode == 0, done.stderr
    tasks = one.posted + two.posted
    assert len(tasks) == 10
    assert one.posted
    assert two.posted
    assert len({task["task_id"] for task in tasks}) == 10
    assert len({task["save_video_path"] for task in tasks}) == 10
    assert "2 of 2 servers answer" in done.stdout
    assert "10 of 10 tasks succeeded" in done.stdout


def test_a_server_that_is_not_there_is_left_out():
    with OneTaskServer() as one, OneTaskServer() as two:
        missing = f"http://127.0.0.1:{closed_port()}"
        done = run_script(
            "post_multi_servers.py", "--pause", "0.01", "--url", one.url, "--url", missing, "--url", two.url
        )
    assert done.returncode == 0
    assert "2 of 3 servers answer" in done.stdout
    assert len(one.posted) + len(two.posted) == 10


def test_a_failed_task_is_told_and_counted():
    with OneTaskServer(fails=1) as one, OneTaskServer() as two:
        done = run_script("post_multi_servers.py", "--pause", "0.01", "--url", one.url, "--url", two.url)
    assert done.returncode == 1
    assert "failed: it broke" in done.stdout
    assert "9 of 10 tasks succeeded" in done.stdout


def test_a_refusal_ends_the_run_with_its_reason():
    with OneTaskServer(refuse="save_video_path: outside") as server:
        done = run_script("post_multi_servers.py", "--pause", "0.01", "--url", server.url)
    assert done.returncode == 1
    assert "save_video_path: outside" in done.stderr
    assert done.stderr.count("\n") == 1
