"""AsyncAPI's official parser accepts the document of the topics. Most tools for AsyncAPI use this parser."""

import asyncio
import json
from pathlib import Path

import httpx

from interop.programs import Builds, run

FOLDER = Path(__file__).parent / "asyncapi"
PROGRAMS = [FOLDER]


async def test_the_official_parser_accepts_the_document(
    client: httpx.AsyncClient, builds: Builds, tmp_path: Path
) -> None:
    answer = await client.get("/asyncapi.json")
    file, document = tmp_path / "asyncapi.json", answer.json()
    file.write_bytes(answer.content)
    folder = await asyncio.to_thread(builds.wait, FOLDER)
    output = await asyncio.to_thread(run, "node", "validate.js", file, cwd=folder)
    assert json.loads(output) == {
        "channels": len(document["channels"]),
        "operations": len(document["operations"]),
        "messages": len(document["components"]["messages"]),
        "errors": [],
    }
