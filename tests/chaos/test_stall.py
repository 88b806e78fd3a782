"""A worker that makes no progress ends itself, so that its supervisor can start another one."""

import json
from uuid import uuid4

import pytest

from tests.support.stack import Stack, eventually
from topics import names
from topics.envelope import JSON, RequestHeaders


@pytest.mark.parametrize(
    ("partition", "how", "log_text"), [(0, "waits", "Stalled"), (1, "blocks", "Timeout (0:00:10)!")]
)
async def test_a_worker_that_makes_no_progress_ends_itself(
    own_stack: Stack, partition: int, how: str, log_text: str
) -> None:
    """The handler waits without end, or it blocks the event loop."""
    # A worker that joins its groups more slowly than this ends itself before it gets the request.
    settings = {"VISITOR_WORKER_STALL_SECONDS": "10", "VISITOR_WORKER_GROUP": how}
    worker = own_stack.worker("tests.support.buggy", **settings)
    await eventually("a ready worker", worker.ready)
    headers = RequestHeaders(str(uuid4()), "visits.stuck", "test/bugs", JSON)
    value = json.dumps({"body": {"how": how}}).encode()
    await own_stack.raw(names.requests("visits"), value, headers.encode(), partition=partition)
    await eventually("its end", worker.ended, 90)
    assert worker.child.returncode == 1
    assert log_text in worker.log.read_text()
    # The next worker must not get this request as well.
    await own_stack.delete_records(names.requests("visits"))
