"""A worker that makes no progress ends itself, so that whoever supervises it can start another one."""

import json
from uuid import uuid4

import pytest

from tests.support.stack import Stack, eventually
from topics import names
from topics.envelope import JSON, RequestHeaders


@pytest.mark.parametrize(("partition", "how", "told"), [(0, "waits", "Stalled"), (1, "blocks", "Timeout (0:00:04)!")])
async def test_a_worker_that_makes_no_progress_ends_itself(lonely: Stack, partition: int, how: str, told: str) -> None:
    """Whether its handler waits for ever, or keeps the event loop from turning."""
    settings = {"VISITOR_WORKER_STALL_SECONDS": "4", "VISITOR_WORKER_GROUP": how}
    worker = lonely.worker("tests.support.buggy", **settings)
    await eventually("a ready worker", worker.ready)
    head = RequestHeaders(str(uuid4()), "visits.stuck", "test/bugs", JSON)
    value = json.dumps({"body": {"how": how}}).encode()
    await lonely.raw(names.requests("visits"), value, head.encode(), partition=partition)
    await eventually("its end", worker.ended, 90)
    assert worker.child.returncode == 1
    assert told in worker.log.read_text()
