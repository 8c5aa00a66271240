"""Images, compose file, units and recipes of `deploy/`, checked with the tools of those who will run them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from bench.harness.process import ROOT
from broker.depot.object_store import store_of
from broker.runtime.settings import load
from workers.settings import WorkerSettings

DEPLOY = ROOT / "deploy"


def test_the_images_have_what_they_copy_and_install():
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    allowed = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists()
            assert f"!{name}" in allowed
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r"'\.\[(.+?)\]'", text):
        assert set(names.split(",")) <= set(extras)
    ran = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DEPLOY / "docker" / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def test_compose_names_what_it_has():
    found = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", (DEPLOY / "docker" / "Dockerfile").read_text(), re.M))
    for name, service in found["services"].items():
        assert "build" not in service or service["build"]["target"] in targets, name
        assert set(service.get("depends_on", [])) <= set(found["services"])
        named = {volume.split(":")[0] for volume in service["volumes"] if volume[0].isalpha()}
        assert named <= set(found["volumes"])
    profiles = {tuple(service.get("profiles", ())) for service in found["services"].values()}
    assert profiles == {(), ("gpu",), ("cpu",), ("s3",)}


def test_compose_has_a_use_for_every_setting_of_the_store_and_processes_take_them():
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    lines = (DEPLOY / "docker" / "s3.env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name in values:
        assert f"${{{name}:" in text or re.search(rf"^ +{name}:$", text, re.M), name
    services = yaml.safe_load(text)["services"]
    assert "AWS_SECRET_ACCESS_KEY" not in services["broker"]["environment"]
    for name in ("edge", "worker-gpu", "worker-cpu"):
        assert "AWS_SECRET_ACCESS_KEY" in services[name]["environment"]
    host = urlsplit(values["AWS_ENDPOINT_URL"]).hostname
    assert services[host]["profiles"] == ["s3"]
    assert f"-bucket={urlsplit(values['RESULTS_STORE']).hostname} " in services[host]["command"]
    depot = urlsplit(values["DEPOT"])
    assert services[depot.hostname]["environment"]["ZOETROPE_ALLOWED_HOSTS"] == depot.hostname
    assert str(depot.port) == services[depot.hostname]["environment"]["ZOETROPE_PORT"]
    # As it is without s3.env: an empty variable is the default.
    for given in (values, dict.fromkeys(values, "")):
        environ = {"ZOETROPE_RESULTS_STORE": given["RESULTS_STORE"], "ZOETROPE_DEPOT": given["DEPOT"]}
        settings = load(WorkerSettings, "x", "workers", [], environ)
        assert (settings.results_store, settings.depot_url()) == (given["RESULTS_STORE"], given["DEPOT"])
        store_of(settings)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to ask")
def test_systemd_takes_the_units(tmp_path):
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/zoetrope/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_slurm_recipe_is_a_shell_script_that_says_what_it_lacks():
    script = DEPLOY / "slurm" / "workers.sbatch"
    ran = subprocess.run(["bash", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "ZOETROPE_BACK" in ran.stderr
    yaml.safe_load((DEPLOY / "skypilot" / "workers.yaml").read_text())


@pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx here to ask")
def test_nginx_takes_its_example(tmp_path):
    text = (DEPLOY / "proxy" / "nginx.conf").read_text()
    text = re.sub(r"listen 443 ssl;|ssl_certificate.*", "", text).replace("server {\n", "server {\n listen 8443;\n", 1)
    (tmp_path / "nginx.conf").write_text(
        f"events {{}}\npid {tmp_path}/pid;\nerror_log stderr;\nhttp {{\naccess_log off;\n{text}\n}}\n"
    )
    ran = subprocess.run(
        ["nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
