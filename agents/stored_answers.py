"""The query with which the HTTP edge reads the answer to an earlier write. The edge has no access to the database."""

from agents.operation import Operations, operation
from schemas.faults import NotFound
from schemas.model import Model, NoFields
from schemas.requests import Request
from schemas.types import Identifier, Int64, LongText
from storage import inbox
from storage.tx import Tx


class RequestPath(Model):
    """The identity of a request, see `storage.inbox.RequestKey`."""

    topic: Identifier
    source: Identifier
    request_id: Identifier


class StoredAnswer(Model):
    """`body` is JSON; None if the answer has no body."""

    status: Int64
    body: LongText | None


@operation(
    "answers.get", "GET /answers/{topic}/{source}/{requestId}", summary="The stored answer to a request",
    path=RequestPath, reply=StoredAnswer, shape="object",
)  # fmt: skip
async def get_answer(tx: Tx, request: Request[RequestPath, NoFields, NoFields]) -> StoredAnswer:
    """Raises NotFound."""
    path = request.path
    entry = await inbox.find(tx.conn, inbox.RequestKey(path.topic, path.source, path.request_id))
    if entry is None:
        raise NotFound(
            "answer_not_found", "There is no answer to this request: not yet, not any more, or it was never sent."
        )
    tx.visitors.extend(entry.visitors)
    return StoredAnswer.from_values({"status": entry.status, "body": entry.body and entry.body.decode()})


OPERATIONS: Operations = (get_answer,)
