"""Clients that five generators make of the OpenAPI document compile and make a tour; two linters report nothing.

The programs take the document from a file, which exists before their builds start."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from agents.catalogue import CATALOGUE
from edge import openapi
from interop.programs import Builds, run
from tests.support import data
from tests.support.stack import Stack

CLIENTS = Path(__file__).parent / "clients"
DOCUMENT = CLIENTS / "openapi.json"
DOCUMENT.write_text(json.dumps(openapi.describe(CATALOGUE)))
PROGRAMS = [CLIENTS / folder for folder in ("python", "java", "typescript", "go", "lint")]
TOURS = {
    "openapi-python-client": ("python", sys.executable, "tour.py"),
    "openapi-generator-java": ("java", "java", "-cp", "target/client-1.jar:target/lib/*", "Tour"),
    "openapi-generator-typescript": ("typescript", "node", "target/js/openapi-generator.js"),
    "openapi-typescript": ("typescript", "node", "target/js/openapi-typescript.js"),
    "oapi-codegen": ("go", "target/client"),
}
"""By generator, the folder of its tour and the command."""


@pytest.mark.parametrize("generator", TOURS)
async def test_a_generated_client_makes_a_tour(stack: Stack, builds: Builds, generator: str) -> None:
    name, *command = TOURS[generator]
    folder = await asyncio.to_thread(builds.wait, CLIENTS / name)
    if name == "python":
        await asyncio.to_thread(_generate_python_client, folder)
    arguments = (stack.url, data.new_code(), data.new_email(), data.new_plate())
    output = await asyncio.to_thread(
        run, *command, *arguments, cwd=folder, seconds=120, PYTHONPATH="target/client:target/packages"
    )
    position, points, total_amount, erased = json.loads(output)
    assert (position, points, total_amount, erased) == (1, "10", 12, True)


def _generate_python_client(folder: Path) -> None:
    """With the generator's default configuration. It formats the code with the ruff of this environment."""
    command = (sys.executable, "-m", "openapi_python_client", "generate", "--overwrite", "--output-path=target/client")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    output = run(*command, "--path", DOCUMENT, cwd=folder, PYTHONPATH="target/packages", PATH=path)
    assert "Warning" not in output


@pytest.mark.parametrize(
    "command",
    [
        ("spectral", "lint", "--fail-severity=hint", "--ruleset=spectral.yaml"),
        ("redocly", "lint", "--config=redocly.yaml"),
    ],
    ids=lambda command: command[0],
)
async def test_linters_report_nothing(builds: Builds, command: tuple[str, ...]) -> None:
    folder = await asyncio.to_thread(builds.wait, CLIENTS / "lint")
    program, *arguments = command
    output = await asyncio.to_thread(
        run, f"node_modules/.bin/{program}", *arguments, DOCUMENT, cwd=folder, REDOCLY_TELEMETRY="off"
    )
    assert "warning" not in output.lower()
