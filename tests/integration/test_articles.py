"""Articles and their texts, rule by rule."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support import data

DAY = "2019-08-24"
Texts = list[dict[str, Any]]


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


def _article(**fields: Any) -> dict[str, Any]:
    return {
        "genericName": "Sales", "mainImageUrl": "https://example.com/a.png", "status": "draft",
        "publishDate": f"{DAY}T14:15:22Z", **fields,
    }  # fmt: skip


def _texts(**values: str) -> Texts:
    return [{"localeCode": code, "value": value} for code, value in values.items()]


async def _read(client: httpx.AsyncClient, made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/articles/{made['articleId']}")).json()["data"]
    return found


async def test_an_article_may_have_texts(client: httpx.AsyncClient) -> None:
    made = await data.create(client, "/articles", _article(title=_texts(en_us="Sales", fr_FR="Soldes")))
    dates = {"creationDate": made["creationDate"], "updateDate": made["creationDate"]}
    assert made == {
        **_article(), **dates, "articleId": made["articleId"], "content": [],
        "title": [
            {"localeCode": "en-US", "value": "Sales", **dates}, {"localeCode": "fr-FR", "value": "Soldes", **dates},
        ],
    }  # fmt: skip
    assert await _read(client, made) == made


async def test_an_article_needs_no_texts_but_all_else(client: httpx.AsyncClient) -> None:
    made = await data.create(client, "/articles", _article())
    assert (made["title"], made["content"]) == ([], [])
    answer = await client.post("/articles", json={"status": "gone", "title": None, "content": [{"localeCode": "xx"}]})
    assert answer.status_code == 400
    assert sorted(_codes(answer), key=str) == [
        ("content[0].localeCode", "unknown_locale"), ("content[0].value", "required"), ("genericName", "required"),
        ("mainImageUrl", "required"), ("publishDate", "required"), ("status", "not_allowed"), ("title", "null_refused"),
    ]  # fmt: skip


async def test_articles_are_filtered_by_status_and_publish_date(client: httpx.AsyncClient) -> None:
    name, dates = str(uuid4()), ("2019-08-23T23:59:59.999999Z", "2019-08-24T02:00:00+02:00", "2019-08-24T12:00:00Z")
    for date, status in zip(dates, ("draft", "ready", "published"), strict=True):
        await data.create(client, "/articles", _article(genericName=name, status=status, publishDate=date))

    async def listed(**query: str) -> str:
        """The statuses of the articles of this test, as initials."""
        answer = await client.get("/articles", params={"limit": 500, "sort": "-articleId", **query})
        assert answer.status_code == 200, answer.text
        return "".join(row["status"][0] for row in answer.json()["data"][::-1] if row["genericName"] == name)

    assert await listed() == "drp"
    assert await listed(status="ready") == "r"
    for start in (DAY, f"{DAY}T00:00:00Z", f"{DAY}T01:00:00+01:00"):
        assert await listed(publishDateSince=start) == "rp"
        assert await listed(publishDateUntil=start) == "d"
    assert await listed(publishDateSince=DAY, publishDateUntil=f"{DAY}T12:00:00Z") == "r"
    assert await listed(publishDateSince=DAY, publishDateUntil="2019-08-25", status="published") == "p"


@pytest.mark.parametrize("name", ["publishDateSince", "publishDateUntil"])
@pytest.mark.parametrize("date", ["2019-02-30", "2019-8-24", "24/08/2019", "2019-08-24T00:00:00", "today", ""])
async def test_a_wrong_date_is_400(client: httpx.AsyncClient, name: str, date: str) -> None:
    answer = await client.get("/articles", params={name: date})
    assert (answer.status_code, _codes(answer)) == (400, [(name, "wrong_format")])


async def test_texts_are_replaced_by_locale_and_the_others_stay(client: httpx.AsyncClient) -> None:
    texts = {"title": _texts(en_us="Sales", fr_FR="Soldes"), "content": _texts(de_DE="Alles")}
    made = await data.create(client, "/articles", _article(**texts))
    sent = {"status": "ready", "title": _texts(fr_fr="Tout", es_ES="Todo")}
    assert (await client.patch(f"/articles/{made['articleId']}", json=sent)).status_code == 204

    found = await _read(client, made)
    created, updated = made["creationDate"], found["updateDate"]
    assert updated > created
    english, french, spanish = found["title"]
    assert english == made["title"][0]
    assert french == {"localeCode": "fr-FR", "value": "Tout", "creationDate": created, "updateDate": updated}
    assert spanish == {"localeCode": "es-ES", "value": "Todo", "creationDate": updated, "updateDate": updated}
    assert found == {**made, "status": "ready", "title": found["title"], "updateDate": updated}


async def test_texts_of_one_field_have_a_limit_together(client: httpx.AsyncClient) -> None:
    made = await data.create(client, "/articles", _article())
    path, long = f"/articles/{made['articleId']}", "x" * 200_000
    first = {"content": _texts(fr_FR=long, fr_BE=long, fr_CH=long, fr_CA=long)}
    assert (await client.patch(path, json=first)).status_code == 204
    more = {"content": _texts(en_GB=long, en_US="x")}
    refused = await client.patch(path, json=more)
    assert (refused.status_code, _codes(refused)) == (400, [("content", "too_long")])
    assert len((await _read(client, made))["content"]) == 4


async def test_null_texts_are_refused_and_an_empty_list_changes_none(client: httpx.AsyncClient) -> None:
    made = await data.create(client, "/articles", _article(title=_texts(en_US="Sales")))
    for name in ("title", "content", "status"):
        refused = await client.patch(f"/articles/{made['articleId']}", json={name: None})
        assert (refused.status_code, _codes(refused)) == (400, [(name, "null_refused")])
    assert (await client.patch(f"/articles/{made['articleId']}", json={"title": []})).status_code == 204
    assert (await _read(client, made))["title"] == made["title"]


async def test_an_article_id_that_is_no_number_is_400_and_an_unknown_one_404(client: httpx.AsyncClient) -> None:
    for way, body in (("GET", None), ("PATCH", {})):
        wrong = await client.request(way, "/articles/first", json=body)
        assert (wrong.status_code, _codes(wrong)) == (400, [("articleId", "wrong_type")])
        unknown = await client.request(way, "/articles/0", json=body)
        assert (unknown.status_code, _codes(unknown)) == (404, [(None, "article_not_found")])
