"""Spring's ReplyingKafkaTemplate, as it comes, asks the service and waits for the reply on a topic of its own."""

import asyncio
from pathlib import Path

import httpx

from interop.programs import Builds, run
from tests.support import data
from tests.support.stack import Stack
from topics import json

FOLDER = Path(__file__).parent / "spring-reply"
PROGRAMS = [FOLDER]


async def test_springs_reply_template_gets_its_replies(stack: Stack, client: httpx.AsyncClient, builds: Builds) -> None:
    parker = await data.visitor_with_vehicle(client)
    folder = await asyncio.to_thread(builds.wait, FOLDER)
    output = await asyncio.to_thread(
        run, "java", "-cp", "target/lib/*", "SpringReply.java", stack.servers.kafka, "crm.template.replies",
        parker["licensePlate"], parker["pcCode"], cwd=folder,
    )  # fmt: skip
    replies = [json.read(line.encode()) for line in output.splitlines()]
    assert [(reply["status"], reply["body"]["visitorId"]) for reply in replies] == [(201, parker["visitorId"])] * 2
