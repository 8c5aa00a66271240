"""The dashboard and the alert rules in deploy/: each metric in them, and each label, is one that a service tells of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker.wire.device import DeviceHealth
from tests.edge.conftest import World

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"

#: Labels that Prometheus puts on every metric that it reads.
_SCRAPED = {"job", "instance"}


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "zoetrope.json").read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return group["rules"]


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for rule in rules():
        yield rule["expr"]


@pytest.fixture
def reported(world: World) -> dict[str, set[str]]:
    """Label names by metric, of the /metrics of an edge whose workers tell all that they can."""
    busy = world.fake.workers["cpu-0"]
    health = DeviceHealth(
        power_w=400.0,
        power_limit_w=700.0,
        clock_mhz=1700.0,
        clock_max_mhz=1980.0,
        throttled=("power_cap",),
        ecc_uncorrected=1,
        xids={31: 1},
    )
    world.fake.workers["cpu-0"] = msgspec.structs.replace(
        busy, memory_used_mb=1.0, memory_total_mb=2.0, utilisation=50.0, temperature_c=60.0, failed=1, health=health
    )
    world.finished()
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(world.http.get("/metrics").text):
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


def test_every_metric_and_label_is_one_of_the_service(reported: dict[str, set[str]]) -> None:
    seen = 0
    for expression in expressions():
        for name, selector in re.findall(r"(zoetrope_\w+)(?:\{([^}]*)\})?", expression):
            seen += 1
            assert name in reported, f"{name} in {expression}"
            named = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector))
            assert named <= reported[name] | _SCRAPED, expression
        known = set().union(*(reported[name] for name in re.findall(r"zoetrope_\w+", expression)), _SCRAPED)
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in labels.split(",")} <= known, expression
    assert seen > 30


def test_labels_in_legends_and_texts_are_those_that_the_expressions_keep() -> None:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]
    for rule in rules():
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= kept, rule["alert"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@needs_promtool
@pytest.mark.parametrize("line", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")], ids=" ".join)
def test_prometheus_takes_the_rules_and_they_alert_when_they_should(line: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *line], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_metrics_of_an_edge(reported: dict[str, set[str]], world: World) -> None:
    text = world.http.get("/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
