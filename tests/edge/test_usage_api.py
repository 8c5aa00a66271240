"""`GET /v1/usage`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from broker.wire.messages import UsageRow
from broker.wire.usage import day_of
from http_edge.auth.keys import KeyRecord, hash_of, new_key, write_keys
from tests.edge.conftest import World


def test_usage_is_told_by_what_it_is_asked_by(world: World) -> None:
    world.fake.usage_rows = [
        UsageRow(day_of("2026-11-28"), "default", "", "demo", 3, 1, 2, 12.3456, 4.0, 5000),
    ]
    answer = world.http.get("/v1/usage?from=2026-11-01&to=2026-11-28&by=model,day,key")
    assert answer.json() == {
        "object": "usage",
        "first_day": "2026-11-01",
        "last_day": "2026-11-28",
        "data": [
            {
                "day": "2026-11-28",
                "key": None,
                "model": "demo",
                "succeeded": 3,
                "failed": 1,
                "cancelled": 2,
                "gpu_s": 12.346,
                "lost_gpu_s": 4.0,
                "bytes": 5000,
            }
        ],
        "has_more": False,
    }
    asked = world.fake.usage_request
    assert asked is not None
    assert (asked.first_day, asked.last_day, asked.by) == (
        day_of("2026-11-01"),
        day_of("2026-11-28"),
        ("day", "key", "model"),
    )


def test_without_days_it_is_of_the_last_thirty(world: World) -> None:
    body = world.http.get("/v1/usage").json()
    today = datetime.now(UTC).date()
    assert date.fromisoformat(body["last_day"]) in (today, today - timedelta(days=1))
    assert date.fromisoformat(body["last_day"]) - date.fromisoformat(body["first_day"]) == timedelta(days=29)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("from=yesterday", 'from: "yesterday" is no day since 1970-01-01, written as 2026-11-28'),
        ("to=2026-02-30", 'to: "2026-02-30" is no day since 1970-01-01, written as 2026-11-28'),
        ("to=1969-12-31", 'to: "1969-12-31" is no day since 1970-01-01, written as 2026-11-28'),
        ("from=2026-11-02&to=2026-11-01", 'from: "2026-11-02" is after `to`, 2026-11-01'),
        ("by=day,week", 'by: "week" is none of day, tenant, key, model'),
    ],
)
def test_bad_questions_are_refused(world: World, query: str, message: str) -> None:
    answer = world.http.get(f"/v1/usage?{query}")
    assert (answer.status_code, answer.json()["detail"]) == (422, message)
    assert world.fake.usage_request is None


def test_a_key_sees_its_tenants_usage_and_its_jobs_are_counted_under_it(
    open_edge: Callable[..., World], tmp_path: Path
) -> None:
    key = new_key()
    write_keys(tmp_path / "keys", [KeyRecord(name="ci", tenant="red", hash=hash_of(key))])
    world = open_edge(keys_file=str(tmp_path / "keys"))
    headers = {"Authorization": f"Bearer {key}"}
    assert world.http.get("/v1/usage").status_code == 401
    assert world.http.get("/v1/usage", headers=headers).status_code == 200
    asked = world.fake.usage_request
    assert asked is not None
    assert asked.tenant == "red"
    assert world.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers).status_code == 200
    (submit,) = world.fake.submits.values()
    assert (submit.submission.tenant, submit.submission.submitted_by) == ("red", "ci")
