"""Serializers of four languages take the schema of a request from a registry, and read the result and the change."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from edge import keys
from interop.programs import Builds, run
from tests.support import data
from tests.support.stack import Stack, eventually

SERIALIZERS = Path(__file__).parent / "serializers"
PROGRAMS = [SERIALIZERS / language for language in ("java", "javascript", "go")]
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


@pytest.mark.parametrize("language", COMMANDS)
async def test_the_registry_of_the_edge_serves_serializers(
    edge_registry: Registry, client: httpx.AsyncClient, builds: Builds, language: str
) -> None:
    await _assert_visits_travel(edge_registry, client, builds, language)


async def _assert_visits_travel(registry: Registry, client: httpx.AsyncClient, builds: Builds, language: str) -> None:
    """Assert that a program creates a visit, and reads the same time from its result and its change."""
    folder = SERIALIZERS / language
    if folder in PROGRAMS:
        await asyncio.to_thread(builds.wait, folder)
    visitor = await data.visitor_with_vehicle(client)
    output = await asyncio.to_thread(
        run, *COMMANDS[language], visitor["licensePlate"], visitor["pcCode"], str(VISIT_DATE),
        cwd=folder, seconds=120, KAFKA_BOOTSTRAP=registry.stack.servers.kafka, REGISTRY_URL=registry.confluent,
        APICURIO_URL=registry.apicurio, REGISTRY_KEY=registry.password,
    )  # fmt: skip
    assert json.loads(output) == [201, VISIT_DATE, VISIT_DATE]
