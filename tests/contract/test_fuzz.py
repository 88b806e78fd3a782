"""Calls that schemathesis makes up from the OpenAPI document: nothing may be answered that it does not speak of, and no
server error. They go to an installation of their own, since they leave junk behind. `make fuzz` takes longer."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from edge import openapi
from tests.support.scene import BODY_NAMES, LOCALES, MADE_BY, Scene
from tests.support.servers import Choice, Servers, own_servers
from tests.support.stack import Stack, eventually, stack_on

SECONDS = int(os.environ.get("VISITOR_FUZZ_SECONDS", "60"))
SHORT = SECONDS < 900
"""Too short for the boundary values of all operations; an eighth of them has to do."""
SEED = "1"
PHASES = ("examples", "coverage", "fuzzing", "stateful")
"""The examples of the document; boundary values one by one; values by chance; chains of calls, each with ids that
another one answered."""

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance", "ensure_resource_availability",
)  # fmt: skip
"""Not negative_data_rejection: a number is taken for a string. Not positive_data_acceptance: rules refuse more than a
schema can say. Not use_after_free: what is deleted softly can still be read."""

SCENES = 2
URL_TEXT = 1_000
"""Characters of a parameter; the server reads no URL beyond 64 KiB, and says so in words of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fuzzed(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A ready worker and a ready edge on servers of their own."""
    home = tmp_path_factory.mktemp("fuzz")
    with own_servers(choice, home) as (kafka, postgres):
        async with stack_on(Servers(kafka.bootstrap, postgres.url), home) as found:
            worker = found.worker()
            edge, found.url = found.edge()
            await eventually("a ready worker", worker.ready)
            await eventually("a ready edge", edge.ready)
            yield found


def _document() -> dict[str, Any]:
    """The document, but for what would keep calls from getting anywhere."""
    document: dict[str, Any] = _without_nul(openapi.describe(CATALOGUE))
    for path in document["paths"].values():
        for operation in path.values():
            # A call with a key is answered as the one before it with that key.
            parameters = [item for item in operation["parameters"] if not item.get("$ref", "").endswith("Key")]
            operation["parameters"] = parameters
            for schema in (item["schema"] for item in parameters if "schema" in item):
                if "maxLength" in schema:
                    schema["maxLength"] = min(schema["maxLength"], URL_TEXT)
    return document


def _without_nul(value: Any) -> Any:
    """Texts by a pattern are made a hundred times slower than texts of a length; an option refuses NUL as well."""
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_nul(item) for name, item in value.items() if (name, item) != ("pattern", r"^[^\x00]*$")}


async def _configuration(url: str) -> str:
    """Names of what there is, to be taken where a call needs one of them."""
    known: dict[str, list[Any]] = defaultdict(list)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for scene in [Scene(client) for _ in range(SCENES)]:
            for name in MADE_BY:
                known[name].append(await scene.need(name))
    known["localeCode"] = list(LOCALES)
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in known.items()]
    lines.append("[parameters]")
    for field in (*known, *BODY_NAMES):
        taken = f'{{ dictionary = "{BODY_NAMES.get(field, field)}", probability = 0.8 }}'
        lines += [f'"{place}.{field}" = {taken}' for place in ("path", "query", "body")]
    return "\n".join(lines)


def _arguments(url: str, phase: str) -> Iterator[str]:
    yield from ("--config-file=schemathesis.toml", "run", "openapi.json", f"--url={url}", f"--phases={phase}")
    # The examples are few and take no share of the time.
    share = SECONDS // (len(PHASES) - 1)
    yield from (f"--checks={','.join(CHECKS)}", f"--seed={SEED}", f"--max-time={share}")
    yield from ("--max-failures=10", "--generation-allow-x00=false", "--generation-database=none")
    yield from ("--suppress-health-check=all", "--warnings=off", "--no-color")
    if phase == "coverage" and SHORT:
        yield from (f"--include-operation-id={name}" for name in list(CATALOGUE.by_name)[::8])


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("phase", PHASES)
async def test_nothing_is_answered_that_the_document_does_not_say(fuzzed: Stack, tmp_path: Path, phase: str) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(_document()))
    (tmp_path / "schemathesis.toml").write_text(await _configuration(fuzzed.url))
    command = [sys.executable, "-m", "schemathesis.cli", *_arguments(fuzzed.url, phase)]
    run = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=PIPE, stderr=STDOUT)
    said, _ = await run.communicate()
    # A call that failed is told with its URL, which may be long.
    assert run.returncode == 0, "\n".join(line[:1_000] for line in said.decode().splitlines())
