"""schemathesis generates calls from the OpenAPI document. Every answer must conform to the document, and none may be a
server error. The calls go to a separate installation, because they leave random records. `make fuzz` runs longer."""

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
from tests.support.scene import BODY_NAMES, CREATED_BY, LOCALES, Scene
from tests.support.servers import Choice, Servers, own_servers
from tests.support.stack import Stack, eventually, stack_on

SECONDS = int(os.environ.get("VISITOR_FUZZ_SECONDS", "25"))
SHORT = SECONDS < 900
"""The time is too short for the boundary values of all operations; every eighth operation is tested."""
SEED = "1"
PHASES = ("examples", "coverage", "fuzzing", "stateful")
"""`examples`: the examples of the document. `coverage`: one boundary value at a time. `fuzzing`: random values.
`stateful`: chains of calls that use the ids of earlier answers."""

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance", "ensure_resource_availability",
)  # fmt: skip
"""Excluded: negative_data_rejection, because numbers are accepted for strings; positive_data_acceptance, because some
rules cannot be expressed in a schema; use_after_free, because softly deleted records can be read."""

OPTS_OUT = CATALOGUE.by_name["optins.disable"]
"""The contract lets this operation answer 404 for an optin that was created as inactive, or that a later one has
replaced. In a chain of calls, schemathesis reports that as a created record that cannot be found, and it cannot switch
a check off for one operation there."""

SCENES = 2
URL_TEXT = 1_000
"""Characters of a parameter. The server refuses a URL of more than 64 KiB, with an answer of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fuzzed(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A ready worker and a ready edge on servers of their own."""
    home = tmp_path_factory.mktemp("fuzz")
    with own_servers(choice, home) as (kafka, postgres):
        async with stack_on(Servers(kafka.bootstrap, postgres.url), home) as stack:
            worker = stack.worker()
            edge, stack.url = stack.edge()
            await eventually("a ready worker", worker.ready)
            await eventually("a ready edge", edge.ready)
            yield stack


def _document() -> dict[str, Any]:
    """The OpenAPI document without the parts that would make most calls fail or repeat."""
    document = openapi.describe(CATALOGUE)
    for path in document["paths"].values():
        for operation in path.values():
            parameters = [parameter for parameter in operation["parameters"] if not _is_left_out(parameter)]
            operation["parameters"] = parameters
            for schema in (item["schema"] for item in parameters if "schema" in item):
                if "maxLength" in schema:
                    schema["maxLength"] = min(schema["maxLength"], URL_TEXT)
    return document


def _is_left_out(parameter: dict[str, Any]) -> bool:
    """A call with a known Idempotency-Key would get the stored answer of the earlier call. A call with `If-Match` would
    change nothing, since a generated ETag is that of no record. A call with `Prefer` or `fields` may get 202 or a part
    of the reply, which the document describes in words only."""
    return parameter.get("$ref", "").endswith(("Key", "Prefer", "IfMatch")) or parameter.get("name") == "fields"


async def _configuration(url: str) -> str:
    """Dictionaries with the ids of existing records, for the parameters and fields that name a record."""
    dictionaries: dict[str, list[Any]] = defaultdict(list)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for scene in [Scene(client) for _ in range(SCENES)]:
            for name in CREATED_BY:
                dictionaries[name].append(await scene.value_of(name))
    dictionaries["localeCode"] = list(LOCALES)
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in dictionaries.items()]
    lines.append("[parameters]")
    for field in (*dictionaries, *BODY_NAMES):
        source = f'{{ dictionary = "{BODY_NAMES.get(field, field)}", probability = 0.8 }}'
        lines += [f'"{part}.{field}" = {source}' for part in ("path", "query", "body")]
    return "\n".join(lines)


def _arguments(url: str, phase: str) -> Iterator[str]:
    yield from ("--config-file=schemathesis.toml", "run", "openapi.json", f"--url={url}", f"--phases={phase}")
    # The phase `examples` has few calls, so the other phases share the time.
    share = SECONDS // (len(PHASES) - 1)
    yield from (f"--checks={','.join(CHECKS)}", f"--seed={SEED}", f"--max-time={share}")
    yield from ("--max-failures=10", "--generation-allow-x00=false", "--generation-database=none")
    yield from ("--suppress-health-check=all", "--warnings=off", "--no-color")
    if phase == "coverage" and SHORT:
        yield from (f"--include-operation-id={operation.name}" for operation in CATALOGUE.operations[::8])
    if phase == "stateful":
        yield f"--exclude-operation-id={OPTS_OUT.name}"


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("phase", PHASES)
async def test_every_answer_conforms_to_the_document(fuzzed: Stack, tmp_path: Path, phase: str) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(_document()))
    (tmp_path / "schemathesis.toml").write_text(await _configuration(fuzzed.url))
    command = [sys.executable, "-m", "schemathesis.cli", *_arguments(fuzzed.url, phase)]
    run = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=PIPE, stderr=STDOUT)
    output, _ = await run.communicate()
    # The output has the seed, and each failed call as an answer and as a command that repeats it. Both may be long.
    lines = output.decode().splitlines()
    assert run.returncode == 0, "\n".join(line if line.lstrip().startswith("curl ") else line[:1_000] for line in lines)
