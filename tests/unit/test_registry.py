"""The schema registry of the edge, without Kafka."""

import pytest

from edge.reply_router import Reply
from tests.support.edges import ImmediateReplyRouter, running_edge
from topics import json

SUBJECT = "visitor.Center"


class _RouterOfSchemas(ImmediateReplyRouter):
    """Answers the first query with the only stored schema."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        rows = [{"id": 1, "position": 1, "recordName": SUBJECT, "text": "{}"}]
        self._pages = [[], rows]

    @property
    def reply(self) -> Reply:
        return Reply(200, json.write(self._pages.pop() if self._pages else []))


@pytest.mark.parametrize("number", ["9" * 5_000, "9" * 11, "x"], ids=["5000-digits", "11-digits", "text"])
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/{}", 404, 40403),
        ("/schemas/ids/{}/subjects", 404, 40403),
        ("/apis/registry/v3/ids/globalIds/{}", 404, 40403),
        (f"/subjects/{SUBJECT}/versions/{{}}", 422, 42202),
    ],
)
async def test_what_is_no_number_has_the_error_code_of_confluents_api(
    monkeypatch: pytest.MonkeyPatch, path: str, status: int, code: int, number: str
) -> None:
    async with running_edge(monkeypatch, _RouterOfSchemas) as client:
        response = await client.get("/registry" + path.format(number))
        assert (response.status_code, response.json()["error_code"]) == (status, code)
