"""docker-compose.yml and Dockerfile agree with the program that they start. These tests only read the two files;
tests/compose runs them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from runtime import settings
from runtime.dev.servers.downloads import KAFKA_VERSION
from runtime.dev.servers.kafka import ONE_BROKER
from runtime.dev.servers.postgres import BIN
from tests.support import commands, queries

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CADDYFILE = (ROOT / COMPOSE["configs"]["Caddyfile"]["file"]).read_text()
ONE_SHOT = {"migrate", "topics"}
WORKERS, EDGES = ("worker-1", "worker-2"), ("edge-1", "edge-2")
COMMANDS = {
    "migrate": ["migrate"], "topics": ["topics"], "worker-1": ["worker"], "worker-2": ["worker"],
    "edge-1": ["edge"], "edge-2": ["edge"], "console": ["edge"],
}  # fmt: skip
KAFKA_LOGS = "/opt/kafka/logs"
STOPPING_SECONDS = 4
"""What an edge needs beside the calls: the last answers get 2 seconds more, and so does the export of traces."""


def _tmpfs(name: str) -> list[str]:
    tmpfs: list[str] = SERVICES[name].get("tmpfs", [])
    return tmpfs


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_exact_versions(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", SERVICES[name]["image"])


def test_the_image_is_built_on_an_exact_version() -> None:
    assert re.search(r"^FROM python:3\.\d+\.\d+-", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting_with_a_valid_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if variable.startswith(settings.PREFIX):
            with_secret = re.sub(r"\$\{\w+:\?[^}]+\}", "secret", value)
            monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", with_secret))
    loaded = settings.load()
    assert loaded.kafka.min_insync <= loaded.kafka.replication or name in ("kafka", "postgres", "proxy")


@pytest.mark.parametrize("name", [*WORKERS, *EDGES, "console"])
def test_accesses_are_logged(name: str) -> None:
    assert SERVICES[name]["environment"]["VISITOR_LOG_AUDIT"] == "stdout"


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT))
def test_long_running_services_have_a_health_check_and_restart(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}


@pytest.mark.parametrize("name", SERVICES)
def test_the_log_of_every_container_is_limited(name: str) -> None:
    """The audit log is part of it, and Docker's default driver keeps everything."""
    logging = SERVICES[name]["logging"]
    assert logging["driver"] == "local"
    assert re.fullmatch(r"\d+m", logging["options"]["max-size"])
    assert int(logging["options"]["max-file"]) > 1


@pytest.mark.parametrize("name", [name for name in SERVICES if any(KAFKA_LOGS in path for path in _tmpfs(name))])
def test_logs_of_kafka_do_not_fill_the_memory_of_its_container(name: str) -> None:
    """A tmpfs counts as memory of the container. By default, Kafka fills it: with up to 1 GB of Java's log of garbage
    collections, and with its own log, of which it begins a file each hour and deletes none."""
    (size,) = re.findall(rf"{KAFKA_LOGS}:\S*\bsize=(\d+)m\b", " ".join(_tmpfs(name)))
    assert int(size) <= 64
    java = SERVICES[name]["environment"]["KAFKA_GC_LOG_OPTS"]
    assert "file=" not in java
    # Without a value, the script of the image names a file.
    assert java == "-Xlog:disable -Xlog:all=warning:stderr"


def test_only_the_images_of_others_have_capabilities() -> None:
    assert {name for name, service in SERVICES.items() if "cap_add" in service} == {"postgres", "proxy"}


def test_no_password_has_a_default() -> None:
    used = re.findall(r"\$\{(\w+)(:?[-?])", (ROOT / "docker-compose.yml").read_text())
    assert {(name, kind) for name, kind in used if "PASSWORD" in name} == {("POSTGRES_PASSWORD", ":?")}


def test_callers_reach_the_edges_through_the_tls_proxy_only() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {
        "proxy": ["${HTTPS_PORT:-8443}:8443"],
        "console": ["127.0.0.1:${CONSOLE_PORT:-8090}:8080"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
    }
    assert SERVICES["proxy"]["networks"] == ["front"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "front" in service["networks"]} == {*EDGES, *ports}
    assert "https://localhost:8443 {" in CADDYFILE
    assert "reverse_proxy edge-1:8080 edge-2:8080" in CADDYFILE


def test_the_proxy_notices_in_time_that_an_edge_stops() -> None:
    http = settings.load().http
    assert "health_uri /health\n" in CADDYFILE
    (interval,) = re.findall(r"health_interval (\d+)s", CADDYFILE)
    assert 2 * int(interval) < http.drain_seconds
    stop_seconds = http.drain_seconds + http.timeout_seconds + STOPPING_SECONDS
    for name in (*EDGES, "console"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > stop_seconds


@pytest.mark.parametrize("names", [WORKERS, EDGES])
def test_workers_and_edges_differ_in_their_names_only(names: tuple[str, ...]) -> None:
    first, *others = (SERVICES[name] for name in names)
    assert others == [first]


def test_only_the_console_has_what_an_operator_needs() -> None:
    assert {name for name in (*EDGES, "console") if "VISITOR_DATABASE_URL" in SERVICES[name]["environment"]} == {
        "console"
    }
    assert SERVICES["console"]["environment"]["VISITOR_HTTP_CONSOLE"] == "true"


def test_each_container_of_the_service_runs_its_command() -> None:
    ours = {name: service for name, service in SERVICES.items() if service["image"].startswith("visitor-service:")}
    assert {name: service["command"] for name, service in ours.items()} == COMMANDS
    assert [word for command in COMMANDS.values() for word in commands.unknown(command)] == []


def test_prometheus_scrapes_the_ports_of_the_processes_by_the_jobs_of_the_alerts() -> None:
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in queries.config("compose.yml")["scrape_configs"]}
    assert {name: (job["names"], job["port"]) for name, job in jobs.items()} == {
        "visitor-worker": (list(WORKERS), 8081),
        "visitor-edge": (list(EDGES), 8082),
        "visitor-console": (["console"], 8082),
    }
    assert queries.unmatched_jobs(jobs) == set()
    files = {
        config["source"]: COMPOSE["configs"][config["source"]]["file"] for config in SERVICES["prometheus"]["configs"]
    }
    assert files == {"prometheus.yml": "./ops/prometheus/compose.yml", "rules.yml": "./ops/prometheus/rules.yml"}
    assert SERVICES["worker-1"]["environment"]["VISITOR_WORKER_HEALTH_HOST"] == "0.0.0.0"
    for name in (*EDGES, "console"):
        assert SERVICES[name]["environment"]["VISITOR_HTTP_METRICS_HOST"] == "0.0.0.0"


def test_without_its_profile_a_registry_is_not_used() -> None:
    url = SERVICES["worker-1"]["environment"]["VISITOR_SCHEMA_REGISTRY_URL"]
    assert url == "${SCHEMA_REGISTRY_URL:-}"
    assert SERVICES["registry"]["profiles"] == ["registry"]


def test_workers_start_after_their_dependencies() -> None:
    conditions = {name: item["condition"] for name, item in SERVICES["worker-1"]["depends_on"].items()}
    assert conditions == {
        "kafka": "service_healthy",
        "postgres": "service_healthy",
        "migrate": "service_completed_successfully",
        "topics": "service_completed_successfully",
        "registry": "service_healthy",
    }
    optional = [name for name, item in SERVICES["worker-1"]["depends_on"].items() if not item.get("required", True)]
    assert optional == ["registry"]
    assert SERVICES["worker-1"]["stop_grace_period"] == "25s"


def test_an_edge_that_is_reachable_from_outside_requires_api_keys() -> None:
    for edge in (SERVICES[name] for name in (*EDGES, "console")):
        assert edge["environment"]["VISITOR_HTTP_HOST"] == "0.0.0.0"
        (keys,) = (volume for volume in edge["volumes"] if volume["source"] == "${KEYS_DIR:-./keys}")
        assert edge["environment"]["VISITOR_HTTP_KEYS"] == f"{keys['target']}/keys.toml"
        assert (keys["type"], keys["read_only"]) == ("bind", True)
        # Docker would create a missing folder as root.
        assert keys["bind"] == {"create_host_path": False}


def test_no_service_mounts_the_key_file_itself() -> None:
    """A container goes on with the old file if another one takes its place, as with `mv`, `sed -i` and most editors: a
    revoked key would stay valid."""
    assert "secrets" not in COMPOSE
    assert [name for name, service in SERVICES.items() if "secrets" in service] == []
    mounts = [
        mount for service in SERVICES.values() for mount in (*service.get("volumes", ()), *service.get("configs", ()))
    ]
    assert [mount for mount in mounts if "keys.toml" in str(mount)] == []


def test_servers_have_the_versions_of_the_embedded_ones() -> None:
    """The tests' containers are made from these images as well."""
    embedded = subprocess.run([str(BIN / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert SERVICES["postgres"]["image"] == f"postgres:{embedded.split()[-1]}"


def test_a_single_broker_uses_replication_factor_one() -> None:
    kafka = SERVICES["kafka"]["environment"]
    assert {name: kafka.get(f"KAFKA_{name.upper().replace('.', '_')}") for name in ONE_BROKER} == ONE_BROKER
    assert SERVICES["topics"]["environment"]["VISITOR_KAFKA_REPLICATION"] == "1"
    assert SERVICES["topics"]["environment"]["VISITOR_KAFKA_BOOTSTRAP"] == "kafka:9092"


_IMPORTED = """
import sys, runtime.cli
from importlib.metadata import packages_distributions
distributions = packages_distributions()
packages = {name.partition(".")[0] for name in sys.modules} & distributions.keys()
print(*sorted({distributions[package][0] for package in packages}))
"""


def test_the_image_contains_every_distribution_that_the_program_imports() -> None:
    """Except the embedded servers, which only `visitor dev` imports."""
    output = subprocess.run(
        [sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    imported = {canonicalize_name(name) for name in output.split()} - {"visitor-service", "setuptools", "pip"}
    assert imported - {canonicalize_name(name) for name in locked} == set()


def test_the_image_copies_all_packages_and_installs_locked_requirements() -> None:
    sources = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    for source in (path for paths in sources for path in paths):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()
    assert "--require-hashes" in DOCKERFILE
    assert 'ENTRYPOINT ["visitor"]' in DOCKERFILE
    assert re.search(r"^USER visitor$", DOCKERFILE, re.MULTILINE)
    tools = {"tests", "benchmarks", "chaos", "interop"}
    packages = {folder.parent.name for folder in ROOT.glob("*/__init__.py")} - tools
    assert packages <= {path for paths in sources for path in paths}
