"""The library over a real service: the examples of docs/client.md, and what only real sockets show."""

import hashlib
import re
from pathlib import Path

import pytest
from PIL import Image

import zoetrope

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)


def test_the_examples_of_the_document_run(at_service, capsys):
    Image.new("RGB", (64, 64), "red").save("cat.png")
    names = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/client.md", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("succeeded 7 ")
    assert "\nwidth width: 1 must be" in said
    assert "['succeeded', 'succeeded', 'succeeded']" in said
    assert Path("red.mp4").read_bytes()[4:8] == b"ftyp"
    assert names["receive"](b"{}", {}) == 400
    names["client"].close()


def test_the_file_is_the_one_that_was_made(at_service, tmp_path):
    with zoetrope.Client() as client:
        job = client.generate("a red circle", seed=1, to=tmp_path / "a.mp4")
    assert hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest() == job.artefacts[0].sha256


def test_following_outlives_the_edge(at_service):
    """The edge is killed under an open stream and started again: the job is followed to its end."""
    with zoetrope.Client() as client:
        job = client.submit("a slow one", num_inference_steps=30, extra={"fake": "slow"})
        names = []
        for event in client.events(job):
            if event.job.step >= 3 and "killed" not in names:
                at_service.kill("edge")
                at_service.start("edge")
                names.append("killed")
            names.append(event.job.state)
        assert names[-1] == "succeeded"
        assert "killed" in names
        with pytest.raises(zoetrope.NotFound):
            client.job("job-that-is-not")


def test_a_cancelled_job_says_so(at_service):
    with zoetrope.Client() as client:
        job = client.submit("a slow one", num_inference_steps=50, extra={"fake": "slow"})
        assert client.cancel(job).outcome in ("cancelled", "requested")
        with pytest.raises(zoetrope.JobCancelled):
            client.wait(job).raise_for_state()
