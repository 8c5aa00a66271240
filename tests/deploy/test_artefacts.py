"""The chart that `deploy/` ships, and the names in all of it, checked with the tools of those who will run it."""

from __future__ import annotations

import math
import re
import tomllib
from itertools import product
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart
from helm_python.chart import lint
from helm_python.errors import HelmError
from packaging.version import Version

from bench.harness.process import ROOT
from broker.runtime.environment import unknown
from broker.runtime.settings import CommonSettings, load
from http_edge.base.settings import EdgeSettings
from tests.support.formula import value
from workers.launchers.plan import Demand, Limits, needed
from workers.launchers.settings import read
from workers.rank.settings import RankSettings
from workers.settings import WorkerSettings

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "zoetrope"

#: Groups whose objects Kubernetes itself has no schema for.
_NOT_ITS_OWN = {"keda.sh", "leaderworkerset.x-k8s.io", "monitoring.coreos.com", "ray.io"}

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "config": '[broker]\nqueue_limit = 100\n\n[models.wan]\npath = "/models/wan"\n',
        "service": {"type": "LoadBalancer", "keysSecret": "keys", "publicUrl": "https://video.example.org"},
        "storage": {"size": "1Ti", "storageClass": "fast"},
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
        "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {"from": [{"namespaceSelector": {}}]},
        "image": {"pullSecrets": [{"name": "registry"}]},
    },
    "pools": {
        "curve": {"secret": "keys", "peers": ["workers", "node-2"]},
        "pools": [
            {
                "name": "h100",
                "replicas": 2,
                "gpus": 8,
                "model": "/models/wan",
                "modelsClaim": "models",
                "env": [{"name": "A", "value": "b"}],
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "nodeSelector": {"gpu": "h100"},
            },
            {
                "name": "scaled",
                "gpus": 1,
                "autoscaling": {
                    "enabled": True,
                    "min": 0,
                    "max": 8,
                    "targetWaitSeconds": 90,
                    "cooldownSeconds": 600,
                    "model": "Wan2.2",
                },
            },
        ],
    },
    "machines": {
        "pools": [
            {
                "name": "wide",
                "replicas": 3,
                "gpus": 8,
                "gpusPerWorker": 8,
                "machinesPerWorker": 2,
                "stopGraceSeconds": 90,
                "model": "/models/wan",
                "modelsClaim": "models",
                "autoscaling": {"enabled": False},
            },
            {
                "name": "scaled",
                "gpus": 1,
                "machinesPerWorker": 4,
                "autoscaling": {
                    "enabled": True,
                    "min": 0,
                    "max": 4,
                    "targetWaitSeconds": 90,
                    "cooldownSeconds": 600,
                    "model": "wan",
                    "gpuClass": "4x-nvidia-h100-80gb-hbm3",
                },
            },
        ],
        "ray": {
            "enabled": True,
            "pools": [
                {
                    "name": "ray",
                    "min": 0,
                    "max": 3,
                    "gpusPerNode": 8,
                    "gpusPerWorker": 8,
                    "machinesPerWorker": 2,
                    "targetWaitSeconds": 90,
                    "idleSeconds": 600,
                },
            ],
        },
    },
    "ray": {
        "pools": [],
        "ray": {
            "enabled": True,
            "pools": [
                {
                    "name": "wan",
                    "min": 1,
                    "max": 20,
                    "gpusPerNode": 8,
                    "gpusPerWorker": 2,
                    "targetWaitSeconds": 90.5,
                    "idleSeconds": 600,
                    "model": "/models/wan",
                    "modelsClaim": "models",
                    "nodeSelector": {"gpu": "h100"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                },
            ],
        },
    },
    "s3": {
        "resultsStore": {
            "url": "s3://results/studio",
            "endpoint": "https://store.example.org",
            "region": "eu-1",
            "secret": "bucket",
            "redirect": True,
            "cacheMb": 1_000_000,
        },
        "ray": {"enabled": True},
    },
    "cpu": {"pools": [{"name": "cpu", "replicas": 1, "gpus": 0}], "networkPolicy": {"enabled": False}},
}


def manifests(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What the chart makes of these values, as `helm template` would."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values=values, name="studio", namespace="video")
    return [
        document
        for name, text in rendered.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document is not None
    ]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in found if document["kind"] == kind]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_chart_makes_what_kubernetes_takes(values):
    judged = lint(CHART, values, strict=True)
    assert judged["errors"] == []
    assert [message for message in judged["messages"] if message["severity"] > 1] == []
    for document in manifests(values):
        if document["apiVersion"].split("/")[0] not in _NOT_ITS_OWN:
            kubernetes_validate.validate(document, "1.30", strict=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"pool": []}, "pool"),
        ({"pools": [{"name": "UPPER"}]}, "name"),
        ({"pools": [{"name": "a", "gpus": "one"}]}, "gpus"),
        ({"pools": [{"name": "a", "gpus": 4, "gpusPerWorker": 0}]}, "gpusPerWorker"),
        ({"pools": [{"name": "a", "gpus": 1, "machinesPerWorker": 0}]}, "machinesPerWorker"),
        ({"pools": [{"name": "a", "gpus": 0, "machinesPerWorker": 2}]}, "machinesPerWorker of a needs gpus"),
        (
            {"pools": [{"name": "a", "gpus": 8, "gpusPerWorker": 4, "machinesPerWorker": 2}]},
            "gpusPerWorker of a must be",
        ),
        ({"pools": [{"name": "a", "gpus": 16, "machinesPerWorker": 5}]}, "workers of 80 GPUs"),
        ({"service": {"publicUrl": "video.example.org"}}, "publicUrl"),
        ({"resultsStore": {"url": "results/studio"}}, "url"),
        ({"resultsStore": {"secret": "bucket"}}, "secret"),
        ({"resultsStore": {"bucket": "results"}}, "bucket"),
        ({"curve": {"secret": "", "peers": []}}, "curve"),
    ],
)
def test_values_that_would_do_nothing_are_refused_by_name(values, named):
    with pytest.raises(HelmError, match=named):
        manifests(values)


def test_a_pod_has_the_time_that_its_workers_need_to_hand_jobs_back():
    for deployment in of_kind(manifests(VALUES["pools"]), "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        given = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert pod["terminationGracePeriodSeconds"] >= float(given["ZOETROPE_STOP_GRACE_S"]) + 5


def test_a_pool_that_is_scaled_is_not_given_a_size_and_asks_for_its_own_backlog():
    found = manifests(VALUES["pools"])
    sizes = {one["metadata"]["name"]: one["spec"].get("replicas") for one in of_kind(found, "Deployment")}
    assert sizes == {"studio-zoetrope-h100": 2, "studio-zoetrope-scaled": None}
    (scaled,) = of_kind(found, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"] == {"name": "studio-zoetrope-scaled"}
    busy, trigger, waiting = scaled["spec"]["triggers"]
    assert busy["metadata"]["valueLocation"] == 'data.#(state=="busy")#|#(model=="Wan2.2")#|#'
    assert trigger["metadata"]["valueLocation"] == r"queue.backlog_by_model.Wan2\.2"
    assert waiting["metadata"]["valueLocation"] == r"queue.by_model.Wan2\.2"
    modified = scaled["spec"]["advanced"]["scalingModifiers"]
    assert modified["formula"] == f"{busy['name']} + max({trigger['name']} / 90, min({waiting['name']}, 1))"
    assert busy["metadata"]["url"] == trigger["metadata"]["url"]
    services = {one["metadata"]["name"]: one for one in of_kind(found, "Service")}
    assert trigger["metadata"]["url"] == "http://studio-zoetrope.video.svc:8000/v1/workers"
    assert "studio-zoetrope" in services


def test_keda_wants_as_many_workers_as_the_ray_launcher():
    (scaled,) = of_kind(manifests(VALUES["pools"]), "ScaledObject")
    spec = scaled["spec"]
    modifiers = spec["advanced"]["scalingModifiers"]
    limits = Limits(
        min_workers=spec["minReplicaCount"], max_workers=spec["maxReplicaCount"], target_wait_s=90.0, idle_s=600.0
    )
    for busy, backlog, waiting in product(range(10), (0.0, 0.5, 89.0, 90.0, 91.0, 900.0), (0, 1, 30)):
        metric = value(modifiers["formula"], busy=busy, backlog=backlog, waiting=waiting)
        # An average over the pods that is to be the target: as many of them as the metric has targets, rounded up.
        pods = math.ceil(metric / float(modifiers["target"]))
        clamped = min(max(pods, spec["minReplicaCount"]), spec["maxReplicaCount"])
        assert clamped == needed(limits, Demand(backlog, waiting), busy)


def test_pools_of_one_model_on_two_cards_ask_for_the_backlog_of_their_class():
    scaling = {**VALUES["pools"]["pools"][1]["autoscaling"], "gpuClass": "4x-nvidia-h100-80gb-hbm3"}
    found = manifests({"pools": [{"name": "large", "gpus": 4, "gpusPerWorker": 4, "autoscaling": scaling}]})
    [deployment] = [one for one in of_kind(found, "Deployment") if one["metadata"]["name"].endswith("large")]
    assert environ_of(deployment["spec"]["template"]["spec"]["containers"][0])["ZOETROPE_GPUS"] == "auto/4"
    (scaled,) = of_kind(found, "ScaledObject")
    asked = [trigger["metadata"]["valueLocation"] for trigger in scaled["spec"]["triggers"]]
    own = r"queue.backlog_by_class.Wan2\.2.4x-nvidia-h100-80gb-hbm3"
    assert asked == [f"{own}.busy", f"{own}.backlog_s", f"{own}.waiting"]
    with pytest.raises(HelmError, match="model"):
        manifests({"pools": [{"name": "large", "autoscaling": {**scaling, "model": ""}}]})


@pytest.mark.parametrize(("least", "models"), [(0, ["Wan2.2"]), (1, [])])
def test_a_pool_without_workers_has_jobs_taken_for_its_model(least, models):
    scaling = {**VALUES["pools"]["pools"][1]["autoscaling"], "min": least}
    (service,) = of_kind(manifests({"pools": [{"name": "scaled", "autoscaling": scaling}]}), "StatefulSet")
    broker = service["spec"]["template"]["spec"]["containers"][0]
    assert [entry["value"] for entry in broker["env"] if entry["name"] == "ZOETROPE_ON_DEMAND_MODELS"] == models


def test_a_ray_cluster_has_nodes_for_its_pools_and_its_launchers_take_their_options():
    found = manifests(VALUES["ray"])
    (cluster,) = of_kind(found, "RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["groupName"], group["minReplicas"], group["maxReplicas"]) == ("wan", 0, 5), (
        "20 workers of 2 on nodes of 8"
    )
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    for pod in (cluster["spec"]["headGroupSpec"]["template"], group["template"]):
        # What is asked of the operator's resources is what Kubernetes' own have.
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": pod}}
        kubernetes_validate.validate(job, "1.30", strict=True)
    (job,) = of_kind(found, "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    environ = {
        entry["name"]: entry["value"]
        for entry in group["template"]["spec"]["containers"][0]["env"]
        if entry["name"].startswith("ZOETROPE_") and entry["name"] != "ZOETROPE_CONFIG"
    }
    order = read(words[words.index("workers") + 1 :], environ).order
    assert (order.gpus_per_worker, order.arguments[order.arguments.index("--gpus") + 1]) == (2, "0-1/2")
    assert (order.limits.max_workers, order.limits.target_wait_s, order.labels) == (20, 90.5, group["labels"])
    assert f"{order.pool}" == group["groupName"]
    grace_s = group["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= order.stop_grace_s + 5
    (token,) = [one for one in container["env"] if one["name"] == "RAY_AUTH_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"]["name"] == cluster["metadata"]["name"]
    assert not any(entry["name"] == "RAY_AUTH_TOKEN" and "value" in entry for entry in container["env"])


def pods_of(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leader's template and the others'."""
    template = group["spec"]["leaderWorkerTemplate"]
    return template["leaderTemplate"], template["workerTemplate"]


def test_a_worker_over_several_pods_is_a_group_whose_first_pod_leads():
    found = manifests(VALUES["machines"])
    assert of_kind(found, "Deployment") == []
    wide, scaled = of_kind(found, "LeaderWorkerSet")
    assert wide["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert (wide["spec"]["replicas"], wide["spec"]["leaderWorkerTemplate"]["size"]) == (3, 2)
    # The leader is ready when the others have loaded the model with it: they may not wait for that.
    assert wide["spec"]["startupPolicy"] == "LeaderCreated"
    assert wide["spec"]["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"
    for group, gpus, machines in ((wide, 8, 2), (scaled, 1, 4)):
        for template in pods_of(group):
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": template}}
            kubernetes_validate.validate(job, "1.30", strict=True)
        leader, rank = (template["spec"]["containers"][0] for template in pods_of(group))
        assert leader["command"] == ["python", "-m", "workers"]
        assert rank["command"] == ["python", "-m", "workers.rank"]
        assert {one["resources"]["limits"]["nvidia.com/gpu"] for one in (leader, rank)} == {str(gpus)}
        led, ranks = (_settings(kind, one) for kind, one in ((WorkerSettings, leader), (RankSettings, rank)))
        assert (led.gpus, led.machines) == (f"auto/{gpus}" if gpus > 1 else "auto", machines)
        assert (ranks.gpus, ranks.machines) == ("auto", 1)
        # Kubernetes puts in what the pod and its controller know.
        assert (led.rank_endpoint, ranks.leader) == ("tcp://$(POD_IP):29400", "tcp://$(LWS_LEADER_ADDRESS):29400")
        assert environ_of(leader)["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
        assert list(environ_of(leader)).index("POD_IP") < list(environ_of(leader)).index("ZOETROPE_RANK_ENDPOINT")
        # One that is told to end waits for its leader itself, and must be told at once.
        assert "lifecycle" not in leader
        assert "lifecycle" not in rank
        assert ranks.stop_grace_s == led.stop_grace_s


def _settings(kind: type, container: dict[str, Any]) -> Any:
    environ = {name: value for name, value in environ_of(container).items() if name[:9] == "ZOETROPE_"}
    return load(kind, "x", "workers", [], {name: environ[name] for name in environ if name != "ZOETROPE_CONFIG"})


def test_the_pods_of_a_worker_reach_one_another_and_nobody_else_does():
    found = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests(VALUES["machines"]), "NetworkPolicy")}
    assert found["studio-zoetrope-workers"]["ingress"] == []
    own = found["studio-zoetrope-wide"]
    assert own["ingress"] == [{"from": [{"podSelector": own["podSelector"]}]}]
    [wide, _] = of_kind(manifests(VALUES["machines"]), "LeaderWorkerSet")
    for template in pods_of(wide):
        assert own["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    without = manifests({**VALUES["machines"], "networkPolicy": {"enabled": False}})
    assert of_kind(without, "NetworkPolicy") == []


def test_groups_of_pods_are_scaled_as_a_whole():
    found = manifests(VALUES["machines"])
    [scaled] = of_kind(found, "ScaledObject")
    [_, group] = of_kind(found, "LeaderWorkerSet")
    assert scaled["spec"]["scaleTargetRef"] == {
        "apiVersion": group["apiVersion"],
        "kind": group["kind"],
        "name": group["metadata"]["name"],
    }
    assert "replicas" not in group["spec"]


def test_a_ray_cluster_has_nodes_for_workers_over_several_of_them():
    found = manifests(VALUES["machines"])
    [cluster] = of_kind(found, "RayCluster")
    assert cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 6, "3 workers of 2 whole nodes"
    [job] = of_kind(found, "Job")
    words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    order = read(words[words.index("workers") + 1 :], {}).order
    assert (order.machines_per_worker, order.gpus) == (2, 16)


def environ_of(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_edge_and_workers_use_the_store_that_is_named_and_no_other_process_has_its_keys():
    found = manifests(VALUES["s3"])
    (service,) = of_kind(found, "StatefulSet")
    broker, edge = map(environ_of, service["spec"]["template"]["spec"]["containers"])
    (worker,) = (environ_of(one["spec"]["template"]["spec"]["containers"][0]) for one in of_kind(found, "Deployment"))
    (cluster,) = of_kind(found, "RayCluster")
    ray = environ_of(cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0])
    for environ in (edge, worker, ray):
        assert environ["ZOETROPE_RESULTS_STORE"] == "s3://results/studio"
        assert (environ["AWS_ENDPOINT_URL"], environ["AWS_REGION"]) == ("https://store.example.org", "eu-1")
        assert environ["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "bucket", "key": "AWS_SECRET_ACCESS_KEY"}}
        assert "ZOETROPE_DEPOT" in environ or environ is edge
    settings = load(
        EdgeSettings,
        "x",
        "edge",
        [],
        {k: v for k, v in edge.items() if k[:9] == "ZOETROPE_" and k != "ZOETROPE_CONFIG"},
    )
    assert (settings.results_redirect, settings.result_cache_mb) == (True, 1_000_000)
    assert not [name for name in broker if name.startswith("AWS_")]
    without = of_kind(manifests({}), "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][1]
    assert not [name for name in environ_of(without) if "RESULT" in name or name.startswith("AWS_")]


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, None),
        ({"ingress": {"enabled": True, "host": "a.example"}}, "http://a.example"),
        ({"ingress": {"enabled": True, "host": "a.example", "tlsSecret": "tls"}}, "https://a.example"),
        ({"ingress": {"enabled": True}, "service": {"publicUrl": "https://b.example"}}, "https://b.example"),
    ],
)
def test_the_edge_answers_to_the_name_that_its_ingress_has(values, url):
    (service,) = of_kind(manifests(values), "StatefulSet")
    assert environ_of(service["spec"]["template"]["spec"]["containers"][1]).get("ZOETROPE_PUBLIC_URL") == url


def test_workers_call_services_that_exist_and_the_edge_knows_its_names():
    found = manifests({})
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in of_kind(found, "Service")}
    (worker,) = of_kind(found, "Deployment")
    given = {one["name"]: one.get("value") for one in worker["spec"]["template"]["spec"]["containers"][0]["env"]}
    for address in (given["ZOETROPE_BACK"], given["ZOETROPE_DEPOT"]):
        host, port = address.split("//")[1].split(":")
        assert ports[host] == int(port)
    (service,) = of_kind(found, "StatefulSet")
    edge = {one["name"]: one.get("value") for one in service["spec"]["template"]["spec"]["containers"][1]["env"]}
    assert given["ZOETROPE_DEPOT"].split("//")[1].split(":")[0] in edge["ZOETROPE_ALLOWED_HOSTS"].split(",")


def test_rules_and_dashboard_of_the_chart_are_those_of_the_repository():
    found = manifests(VALUES["everything"])
    (rule,) = of_kind(found, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    (dashboard,) = [one for one in of_kind(found, "ConfigMap") if one["metadata"]["name"].endswith("dashboard")]
    assert dashboard["data"]["zoetrope.json"].strip() == (DEPLOY / "grafana" / "zoetrope.json").read_text().strip()


def test_every_variable_is_one_that_some_process_reads():
    # A process that meets another in its environment does not start.
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            named = re.findall(r"\bZOETROPE_[A-Z0-9_]+", path.read_text())
            assert unknown(dict.fromkeys(named, ""), CommonSettings.__struct_fields__) == "", path.relative_to(ROOT)


def test_the_chart_is_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with Chart.load(CHART) as chart:
        # Helm writes versions as semver does, Python shorter.
        named = {Version(chart.metadata[key]) for key in ("version", "appVersion")}
        assert named == {Version(version)}
