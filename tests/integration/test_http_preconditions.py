"""ETag, If-Match and If-None-Match: a client can see whether a record has changed, and prevents lost updates."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from agents.catalogue import CATALOGUE
from tests.support import data
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.scene import Scene
from tests.support.stack import Stack
from topics import json, names
from topics.envelope import JSON, RequestHeaders

CREATES = sorted(name for name in CATALOGUE.reader_of if CATALOGUE.by_name[name].method == "POST")
CONDITIONAL = sorted(operation.name for operation in CATALOGUE.operations if CATALOGUE.takes_if_match(operation))


def _revision(tag: str) -> int:
    """The revision in an ETag."""
    return int(tag.strip('"').partition("-")[0])


async def _new_center(client: httpx.AsyncClient) -> str:
    """The path of a new center."""
    return f"/centers/{(await data.create(client, '/centers', data.center()))['pcCode']}"


async def _tag(client: httpx.AsyncClient, path: str) -> str:
    tag: str = (await client.get(path)).headers["ETag"]
    return tag


def test_the_operations_that_create_and_change_single_records_are_known() -> None:
    assert len(CREATES) == 23
    assert len(CONDITIONAL) == 34


@pytest.mark.parametrize("operation", CREATES)
async def test_a_created_record_has_a_location(client: httpx.AsyncClient, operation: str) -> None:
    scene = Scene(client)
    created = await scene.call(operation, await scene.parts(operation))
    assert created.status_code == 201, created.text
    record = await client.get(created.headers["Location"])
    assert (record.status_code, record.json()["data"]) == (200, created.json()["data"])
    if operation != "externalIds.create":
        assert _revision(created.headers["ETag"]) == _revision(record.headers["ETag"])


async def _conditional_call(client: httpx.AsyncClient, operation: str) -> tuple[Scene, Any, str | None, int]:
    """A call of a conditional operation: its scene, its parts, the path of the record if it can be read, and the
    record's revision."""
    scene = Scene(client)
    parts = await scene.parts(operation)
    reader = CATALOGUE.reader_of.get(operation)
    if reader is None:
        return scene, parts, None, 1
    path = reader.path.format(**parts["path"])
    return scene, parts, path, _revision(await _tag(client, path))


@pytest.mark.parametrize("operation", CONDITIONAL)
async def test_a_record_is_changed_only_with_its_etag(client: httpx.AsyncClient, operation: str) -> None:
    scene, parts, path, revision = await _conditional_call(client, operation)
    before = None if path is None else await client.get(path)
    refused = await scene.call(operation, parts, **{"If-Match": f'"{revision + 1}"'})
    assert (refused.status_code, error_codes(refused)) == (412, [(None, "revision_differs")])
    if path is not None and before is not None:
        after = await client.get(path)
        assert (after.headers["ETag"], after.text) == (before.headers["ETag"], before.text)
    changed = await scene.call(operation, parts, **{"If-Match": f'"{revision}"'})
    assert changed.is_success, changed.text
    if CATALOGUE.by_name[operation].method == "DELETE":
        assert "ETag" not in changed.headers
        return
    assert _revision(changed.headers["ETag"]) == revision + 1
    if path is not None:
        assert _revision(await _tag(client, path)) == revision + 1


async def test_of_two_clients_with_the_same_etag_exactly_one_changes_the_record(client: httpx.AsyncClient) -> None:
    path = await _new_center(client)
    for number in range(20):
        headers = {"If-Match": await _tag(client, path)}
        labels = [f"{name} {number}" for name in ("first", "second")]
        answers = await asyncio.gather(*(client.patch(path, json={"label": it}, headers=headers) for it in labels))
        assert sorted(answer.status_code for answer in answers) == [204, 412]
        winner = next(label for label, answer in zip(labels, answers, strict=True) if answer.status_code == 204)
        assert (await client.get(path)).json()["data"]["label"] == winner


async def test_counters_of_many_clients_lose_no_update(client: httpx.AsyncClient) -> None:
    """Read, change, write, and begin again after a 412."""
    path = f"/centers/{(await data.create(client, '/centers', data.center(walletContextId=0)))['pcCode']}"

    async def count() -> None:
        while True:
            center = await client.get(path)
            body = {"walletContextId": center.json()["data"]["walletContextId"] + 1}
            answer = await client.patch(path, json=body, headers={"If-Match": center.headers["ETag"]})
            if answer.status_code == 204:
                return
            assert answer.status_code == 412

    await asyncio.gather(*(count() for _ in range(8)))
    assert (await client.get(path)).json()["data"]["walletContextId"] == 8


async def test_a_write_can_follow_a_write_without_a_read(client: httpx.AsyncClient) -> None:
    created = await client.post("/centers", json=data.center())
    path, tag = created.headers["Location"], created.headers["ETag"]
    for label in ("a", "b", "c"):
        changed = await client.patch(path, json={"label": label}, headers={"If-Match": tag})
        assert changed.status_code == 204
        tag = changed.headers["ETag"]


@pytest.mark.parametrize("form", ["{0}", '"nope", {0}', 'W/"1", {0} ,', "*"])
async def test_if_match_can_list_etags(client: httpx.AsyncClient, form: str) -> None:
    path = await _new_center(client)
    headers = {"If-Match": form.format(await _tag(client, path))}
    assert (await client.patch(path, json={"label": "new"}, headers=headers)).status_code == 204


@pytest.mark.parametrize("form", ['"nope"', "W/{0}", '"999"', '"999-0123456789ab"', '""', '"1x"', '"-1"', ""])
async def test_without_the_right_etag_a_record_does_not_change(client: httpx.AsyncClient, form: str) -> None:
    path = await _new_center(client)
    before = await client.get(path)
    headers = {"If-Match": form.format(before.headers["ETag"])}
    answer = await client.patch(path, json={"label": "new"}, headers=headers)
    assert (answer.status_code, error_codes(answer)) == (412, [(None, "revision_differs")])
    assert (await client.get(path)).json() == before.json()


@pytest.mark.parametrize("value", ["1", "nope", '"1', '"1" "2"', '"1", *', ", ".join(['"1"'] * 21)])
async def test_a_malformed_if_match_is_400(client: httpx.AsyncClient, value: str) -> None:
    path = await _new_center(client)
    answer = await client.patch(path, json={"label": "new"}, headers={"If-Match": value})
    assert (answer.status_code, error_codes(answer)) == (400, [("If-Match", "wrong_if_match")])
    assert _revision(await _tag(client, path)) == 1


async def test_if_match_in_several_lines_is_one_list(client: httpx.AsyncClient) -> None:
    path = await _new_center(client)
    headers = [("If-Match", '"999"'), ("If-Match", await _tag(client, path))]
    assert (await client.patch(path, json={"label": "new"}, headers=headers)).status_code == 204


@pytest.mark.parametrize("query", ["", "?fields=label", "?fields=label,pcCode"])
@pytest.mark.parametrize("accepted", ["identity", "gzip"])
async def test_the_etag_of_every_representation_is_accepted(
    client: httpx.AsyncClient, query: str, accepted: str
) -> None:
    created = await data.create(client, "/centers", data.center(centerId="x" * 1_000, label="y" * 1_000))
    path = f"/centers/{created['pcCode']}"
    representation = await client.get(path + query, headers={"Accept-Encoding": accepted})
    headers = {"If-Match": representation.headers["ETag"]}
    assert (await client.patch(path, json={"label": "new"}, headers=headers)).status_code == 204


async def test_representations_have_different_etags(client: httpx.AsyncClient) -> None:
    created = await data.create(client, "/centers", data.center(centerId="x" * 1_000, label="y" * 1_000))
    path = f"/centers/{created['pcCode']}"
    answers = [
        await client.get(path + query, headers={"Accept-Encoding": accepted})
        for query in ("", "?fields=label", "?fields=centerId")
        for accepted in ("gzip", "identity")
    ]
    assert len({answer.headers["ETag"] for answer in answers}) == 4  # Selections are too small to be compressed.


@pytest.mark.parametrize(
    ("method", "path", "body", "header"),
    [
        ("POST", "/centers", data.center(), "If-Match"),
        ("POST", "/centers", data.center(), "If-None-Match"),
        ("PATCH", "/visitors", [], "If-Match"),
        ("PUT", f"/visitors/{ABSENT_VISITOR_ID}/interests", [], "If-Match"),
        ("PATCH", "/centers/FR-NO-ONE", {}, "If-None-Match"),
        ("GET", "/centers", None, "If-Match"),
    ],
)
async def test_a_precondition_that_cannot_be_checked_is_refused(
    client: httpx.AsyncClient, method: str, path: str, body: Any, header: str
) -> None:
    for value in ("*", '"1"'):
        answer = await client.request(method, path, json=body, headers={header: value})
        assert (answer.status_code, error_codes(answer)) == (412, [(None, "no_precondition")])


async def test_a_missing_record_is_404_with_any_if_match(client: httpx.AsyncClient) -> None:
    for value in ("*", '"1"'):
        answer = await client.patch("/centers/FR-NO-ONE", json={}, headers={"If-Match": value})
        assert (answer.status_code, error_codes(answer)) == (404, [(None, "center_not_found")])


async def test_a_repeated_conditional_write_gets_its_answer(client: httpx.AsyncClient) -> None:
    """Although the record has a new revision by then."""
    path = await _new_center(client)
    headers = {"If-Match": await _tag(client, path), "Idempotency-Key": str(uuid4())}
    for _ in range(2):
        assert (await client.patch(path, json={"label": "new"}, headers=headers)).status_code == 204
    assert _revision(await _tag(client, path)) == 2
    for if_match in ({"If-Match": '"2"'}, {}):
        other = {"Idempotency-Key": headers["Idempotency-Key"], **if_match}
        answer = await client.patch(path, json={"label": "new"}, headers=other)
        assert (answer.status_code, error_codes(answer)) == (422, [(None, "key_reused")])


async def test_an_unchanged_record_is_not_sent_again(client: httpx.AsyncClient) -> None:
    path = await _new_center(client)
    for query in ("", "?fields=label"):
        center = await client.get(path + query)
        tag = center.headers["ETag"]
        for sent in (tag, f"W/{tag}", f'"x" , {tag}', f'{tag[:-1]}-gzip"', "*"):
            again = await client.get(path + query, headers={"If-None-Match": sent})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        for sent in ('"x"', "nope", '"1"'):
            assert (await client.get(path + query, headers={"If-None-Match": sent})).text == center.text
    await client.patch(path, json={"label": "new"})
    changed = await client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["data"]["label"]) == (200, "new")
    head = await client.head(path, headers={"If-None-Match": changed.headers["ETag"]})
    assert head.status_code == 304


async def test_a_reply_that_contains_other_records_has_a_new_etag_if_they_change(client: httpx.AsyncClient) -> None:
    """A visit moves the visitor's lastVisitDate without a change of the revision."""
    visitor = await data.visitor_with_vehicle(client)
    path = f"/visitors/{visitor['visitorId']}"
    before = await client.get(path)
    await client.post("/visits/entry", json={"barcode": visitor["barcode"], "pcCode": visitor["pcCode"]})
    after = await client.get(path, headers={"If-None-Match": before.headers["ETag"]})
    assert after.status_code == 200
    assert _revision(after.headers["ETag"]) == _revision(before.headers["ETag"])
    answer = await client.patch(path, json={"firstName": "New"}, headers={"If-Match": before.headers["ETag"]})
    assert answer.status_code == 204


async def test_a_read_can_require_an_etag(client: httpx.AsyncClient) -> None:
    path = await _new_center(client)
    tag = await _tag(client, path)
    for sent, status in ((tag, 200), ("*", 200), (f"W/{tag}", 412), ('"1"', 412), ("1", 400)):
        assert (await client.get(path, headers={"If-Match": sent})).status_code == status


async def test_a_message_can_require_a_revision(client: httpx.AsyncClient, stack: Stack) -> None:
    path = await _new_center(client)
    pc_code = path.rpartition("/")[2]

    async def update(*revisions: int) -> tuple[int, str | None]:
        """The status of the result, and the revision in its headers."""
        request_id = str(uuid4())
        value = json.write({"path": {"pcCode": pc_code}, "body": {"label": "new"}})
        headers = RequestHeaders(request_id, "centers.update", "gateway/test", JSON, if_match=revisions)
        await stack.raw(names.requests("centers"), value, headers.encode())
        result = await stack.result("centers.update", request_id)
        return result.value["status"], result.headers.get("revision")

    assert await update(7) == (412, None)
    assert await update(7, 1) == (204, "2")
    assert await update(1) == (412, None)
    assert _revision(await _tag(client, path)) == 2


async def test_a_message_that_cannot_require_a_revision_is_refused(stack: Stack) -> None:
    request_id = str(uuid4())
    headers = RequestHeaders(request_id, "centers.create", "gateway/test", JSON, if_match=(1,))
    await stack.raw(names.requests("centers"), json.write({"body": data.center()}), headers.encode())
    assert (await stack.result("centers.create", request_id)).value["status"] == 412
