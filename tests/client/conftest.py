"""A real service with the fake engine, for all tests of a file; both clients over a scripted one."""

import pytest

from tests.client.scripted import Awaiting, Blocking, Script, without_time
from tests.testing.service import Service
from zoetrope import Client
from zoetrope.client.results import ACTIVE_STATES


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Two workers of the fake engine behind an edge."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    try:
        service.ready(2)
        yield service
    finally:
        service.close()


@pytest.fixture
def at_service(service, monkeypatch, tmp_path):
    """The service as ZOETROPE_URL says, in a directory of its own; no job is left for the next test."""
    monkeypatch.setenv("ZOETROPE_URL", f"http://127.0.0.1:{service.port}")
    monkeypatch.chdir(tmp_path)
    yield service
    with Client() as client:
        for job in client.jobs(state=",".join(ACTIVE_STATES)):
            client.cancel(job)
            client.wait(job, timeout_s=60)


@pytest.fixture(params=[Blocking, Awaiting], ids=["Client", "AsyncClient"])
def asking(request, monkeypatch):
    """Each client in turn, over a service that answers from a script, and the script."""

    def start(*answers, **options):
        script = Script(*answers)
        without_time(monkeypatch, script)
        return request.param(script, **options), script

    return start
