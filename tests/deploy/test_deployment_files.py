"""What ships under deploy/: manifests that Kubernetes would take, flags that exist, metrics that are exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from peerinfer.config import SETTINGS
from peerinfer_node.cli.parser import build_parser
from peerinfer_node.cli.service import unit_text
from peerinfer_node.gateway import metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEMAS = Path(__file__).with_name("kubernetes_schemas.json")
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

METRICS = {
    "peerinfer_tasks_total",
    "peerinfer_task_seconds",
    "peerinfer_peers",
    "peerinfer_leases_held",
    "peerinfer_elections_total",
    "peerinfer_device_temperature_celsius",
    "peerinfer_device_busy_ratio",
    "peerinfer_stream_bytes_total",
    "peerinfer_queue_depth",
    "peerinfer_breaker_state",
}
"""Those that other people's dashboards rely on."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


def pods() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        for found in documents(path):
            if "template" in found.get("spec", {}):
                yield found["spec"]["template"]["spec"]


def is_accepted(words: list[str]) -> bool:
    """Whether the command line takes these words; nothing is run."""
    try:
        build_parser().parse_args(words)
    except (Exception, SystemExit):
        return False
    return True


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def problems(document: dict[str, Any]) -> list[str]:
    schemas = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    group = document["apiVersion"].replace("/", ".") if "/" in document["apiVersion"] else "core.v1"
    (name,) = [name for name in schemas["$defs"] if name.endswith(f"{group}.{document['kind']}")]
    validator = jsonschema.Draft202012Validator({**schemas, "$ref": f"#/$defs/{name}"})
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_would_take_every_manifest(path: Path) -> None:
    assert [problem for found in documents(path) for problem in problems(found)] == []


def test_the_check_of_manifests_sees_a_wrong_word() -> None:
    (daemon,) = documents(DEPLOY / "kubernetes" / "gpu-workers.yaml")
    daemon["spec"]["template"]["spec"]["containers"][0]["imagee"] = "peerinfer"
    assert any("imagee" in problem for problem in problems(daemon))
    (daemon,) = documents(DEPLOY / "kubernetes" / "gpu-workers.yaml")
    daemon["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "60"
    assert problems(daemon)


def test_a_set_selects_the_pods_that_it_makes() -> None:
    for path in MANIFESTS:
        for found in documents(path):
            if "template" in found.get("spec", {}):
                labels = found["spec"]["template"]["metadata"]["labels"]
                assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
            if found["kind"] == "StatefulSet":
                services = [each["metadata"]["name"] for each in documents(path) if each["kind"] == "Service"]
                assert found["spec"]["serviceName"] in services


def test_every_volume_that_is_mounted_exists() -> None:
    for pod in pods():
        named = {volume["name"] for volume in pod["volumes"]} | {"home"}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= named


def test_pods_run_without_privileges() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


# --- commands and settings -------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    found = [[str(word) for word in container["args"]] for pod in pods() for container in pod["containers"]]
    for pod in pods():
        for container in pod["containers"]:
            found += [probe["exec"]["command"][1:] for name, probe in container.items() if name.endswith("Probe")]
    (compose,) = documents(DEPLOY / "container" / "compose.yaml")
    found += [service["command"] for service in compose["services"].values()]
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    found += [json.loads(line) for line in re.findall(r"^CMD (\[.*\])", text, flags=re.MULTILINE)]
    found += [json.loads(line)[1:] for line in re.findall(r"HEALTHCHECK .* CMD (\[.*\])", text)]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_one_that_there_is(words: list[str]) -> None:
    assert is_accepted(words)


def test_the_check_of_commands_sees_a_wrong_flag() -> None:
    assert not is_accepted(["join", "--no-such-flag"])


def test_every_variable_is_a_setting() -> None:
    known = {f"PEERINFER_{key.upper()}" for key in SETTINGS} | {"PEERINFER_HOME"}
    names = {each["name"] for pod in pods() for container in pod["containers"] for each in container["env"]}
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    names |= set(re.findall(r"PEERINFER_[A-Z_]+", text))
    assert names <= known


def test_the_compose_file_is_a_swarm_of_three() -> None:
    (compose,) = documents(DEPLOY / "container" / "compose.yaml")
    assert len(compose["services"]) == 3
    for name, service in compose["services"].items():
        assert f"{name}:/var/lib/peerinfer" in service["volumes"]
        assert service["cap_drop"] == ["ALL"]
        assert set(service["networks"]) <= set(compose["networks"])
    root = DEPLOY / "container" / compose["services"]["alder"]["build"]["context"]
    assert (root / compose["services"]["alder"]["build"]["dockerfile"]).is_file()


def test_the_container_copies_what_there_is() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists(), source


# --- systemd ---------------------------------------------------------------------------------------------------------


def test_the_unit_for_packages_is_what_install_writes() -> None:
    kept = (DEPLOY / "systemd" / "peerinfer.service").read_text(encoding="utf-8")
    assert kept == unit_text(["/usr/bin/peerinfer", "join"], {})


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "peerinfer.service"
    unit.write_text(unit_text([shutil.which("true") or "/bin/true", "a b", "50%", "$HOME"], {"PEERINFER_HOME": "/x y"}))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)], check=False, capture_output=True, text=True,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, timeout=60,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "peerinfer.service" in line]
    assert said == []
    assert done.returncode == 0, done.stderr


# --- Prometheus and Grafana ------------------------------------------------------------------------------------------


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "peerinfer.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def names_in(expression: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"peerinfer_[a-z_]+", expression)}


def test_the_dashboard_shows_every_promised_metric_and_no_other() -> None:
    assert set().union(*map(names_in, expressions())) == METRICS


def test_a_node_exports_what_the_dashboard_shows() -> None:
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    for name in METRICS:
        assert f'"{name.removesuffix("_total")}"' in source, name


def test_the_dashboard_has_panels_that_do_not_overlap_and_know_their_node() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "peerinfer.json").read_text(encoding="utf-8"))
    places = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
        assert all('instance=~"$node"' in target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_asks_with_a_token_on_the_loopback_address() -> None:
    (config,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    (job,) = config["scrape_configs"]
    assert (job["metrics_path"], job["authorization"]["type"]) == ("/metrics", "Bearer")
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:7741"]
