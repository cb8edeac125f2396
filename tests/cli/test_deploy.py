"""What lies in deploy/: command lines and settings that are read, probes and ports that exist, time enough to drain."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tenfold.server.app import paths
from tests.cli.conftest import Cli

DEPLOY = Path(__file__).parents[2] / "deploy"


def settings_of(cli: Cli, arguments: list[str], file: Path) -> dict[str, Any]:
    """What `tenfold serve` would run with; ``file`` takes the place of the installed one."""
    assert arguments[0] == "serve"
    at = arguments.index("--config") + 1
    assert Path(arguments[at]).name == file.name
    result = cli("config", "--json", *arguments[1:at], str(file), *arguments[at + 1 :])
    assert result.exit_code == 0, result.stderr
    return {row["option"]: row["value"] for row in json.loads(result.stdout)}


def test_the_systemd_unit(cli: Cli) -> None:
    unit = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "systemd" / "tenfold.service").read_text(), re.MULTILINE))
    program, *arguments = unit["ExecStart"].split()
    assert program.endswith("/tenfold")
    settings = settings_of(cli, arguments, DEPLOY / "systemd" / "serve.toml")
    assert settings["--host"] == "127.0.0.1"
    assert int(unit["TimeoutStopSec"]) >= settings["--grace"] + 10


def test_the_kubernetes_manifests(cli: Cli) -> None:
    folder = DEPLOY / "kubernetes"
    kinds = yaml.safe_load((folder / "kustomization.yaml").read_text())
    manifests = {path: yaml.safe_load((folder / path).read_text()) for path in kinds["resources"]}
    assert {path.name for path in folder.glob("*.yaml")} == {*manifests, "kustomization.yaml"}
    pod = manifests["deployment.yaml"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    settings = settings_of(cli, container["args"], folder / "serve.toml")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings["--port"], "admin": settings["--admin-port"]}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= settings["--grace"] + pause + 10
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths()
        assert asked["port"] in ports
    [port] = manifests["service.yaml"]["spec"]["ports"]
    assert port["targetPort"] in ports
    annotations = manifests["deployment.yaml"]["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == ports["admin"]
    assert annotations["prometheus.io/path"] in paths()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert Path(settings["--api-keys"]).parent == Path(mounts["keys"])
    chosen = {"app.kubernetes.io/name": "tenfold"}
    assert manifests["network.yaml"]["spec"]["podSelector"]["matchLabels"] == chosen
    assert manifests["disruption.yaml"]["spec"]["selector"]["matchLabels"] == chosen
    assert kinds["labels"][0]["pairs"] == chosen


def test_the_image(cli: Cli) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == kept
    assert all((DEPLOY.parent / name).exists() for name in kept)
    [command] = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    program, *arguments = json.loads(command)
    assert program == "serve"
    assert cli("config", *arguments).exit_code == 0
    assert re.findall(r"127.0.0.1:8000(/[a-z/]+)", text)[0] in paths()
