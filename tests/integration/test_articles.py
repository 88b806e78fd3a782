"""Rules of articles and their texts."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support import data
from tests.support.answers import error_codes

DAY = "2019-08-24"
Texts = list[dict[str, Any]]


def _article(**fields: Any) -> dict[str, Any]:
    return {
        "genericName": "Sales", "mainImageUrl": "https://example.com/a.png", "status": "draft",
        "publishDate": f"{DAY}T14:15:22Z", **fields,
    }  # fmt: skip


def _texts(**values: str) -> Texts:
    return [{"localeCode": code, "value": value} for code, value in values.items()]


async def _read(client: httpx.AsyncClient, article: dict[str, Any]) -> dict[str, Any]:
    stored: dict[str, Any] = (await client.get(f"/articles/{article['articleId']}")).json()["data"]
    return stored


async def test_an_article_can_have_texts(client: httpx.AsyncClient) -> None:
    created = await data.create(client, "/articles", _article(title=_texts(en_us="Sales", fr_FR="Soldes")))
    dates = {"creationDate": created["creationDate"], "updateDate": created["creationDate"]}
    assert created == {
        **_article(), **dates, "articleId": created["articleId"], "content": [],
        "title": [
            {"localeCode": "en-US", "value": "Sales", **dates}, {"localeCode": "fr-FR", "value": "Soldes", **dates},
        ],
    }  # fmt: skip
    assert await _read(client, created) == created


async def test_the_texts_of_an_article_are_optional_and_all_other_fields_required(client: httpx.AsyncClient) -> None:
    created = await data.create(client, "/articles", _article())
    assert (created["title"], created["content"]) == ([], [])
    answer = await client.post("/articles", json={"status": "gone", "title": None, "content": [{"localeCode": "xx"}]})
    assert answer.status_code == 400
    assert sorted(error_codes(answer), key=str) == [
        ("content[0].localeCode", "unknown_locale"), ("content[0].value", "required"), ("genericName", "required"),
        ("mainImageUrl", "required"), ("publishDate", "required"), ("status", "not_allowed"), ("title", "null_refused"),
    ]  # fmt: skip


async def test_articles_are_filtered_by_status_and_publish_date(client: httpx.AsyncClient) -> None:
    name, dates = str(uuid4()), ("2019-08-23T23:59:59.999999Z", "2019-08-24T02:00:00+02:00", "2019-08-24T12:00:00Z")
    for date, status in zip(dates, ("draft", "ready", "published"), strict=True):
        await data.create(client, "/articles", _article(genericName=name, status=status, publishDate=date))

    async def list_initials(**query: str) -> str:
        """The initials of the statuses of the articles that this test created."""
        answer = await client.get("/articles", params={"limit": 500, "sort": "-articleId", **query})
        assert answer.status_code == 200, answer.text
        return "".join(row["status"][0] for row in answer.json()["data"][::-1] if row["genericName"] == name)

    assert await list_initials() == "drp"
    assert await list_initials(status="ready") == "r"
    for start in (DAY, f"{DAY}T00:00:00Z", f"{DAY}T01:00:00+01:00"):
        assert await list_initials(publishDateSince=start) == "rp"
        assert await list_initials(publishDateUntil=start) == "d"
    assert await list_initials(publishDateSince=DAY, publishDateUntil=f"{DAY}T12:00:00Z") == "r"
    assert await list_initials(publishDateSince=DAY, publishDateUntil="2019-08-25", status="published") == "p"


@pytest.mark.parametrize("name", ["publishDateSince", "publishDateUntil"])
@pytest.mark.parametrize("date", ["2019-02-30", "2019-8-24", "24/08/2019", "2019-08-24T00:00:00", "today", ""])
async def test_an_invalid_date_is_400(client: httpx.AsyncClient, name: str, date: str) -> None:
    answer = await client.get("/articles", params={name: date})
    assert (answer.status_code, error_codes(answer)) == (400, [(name, "wrong_format")])


async def test_texts_are_replaced_by_locale_and_other_locales_stay(client: httpx.AsyncClient) -> None:
    texts = {"title": _texts(en_us="Sales", fr_FR="Soldes"), "content": _texts(de_DE="Alles")}
    article = await data.create(client, "/articles", _article(**texts))
    patch = {"status": "ready", "title": _texts(fr_fr="Tout", es_ES="Todo")}
    assert (await client.patch(f"/articles/{article['articleId']}", json=patch)).status_code == 204

    updated_article = await _read(client, article)
    created, updated = article["creationDate"], updated_article["updateDate"]
    assert updated > created
    english, french, spanish = updated_article["title"]
    assert english == article["title"][0]
    assert french == {"localeCode": "fr-FR", "value": "Tout", "creationDate": created, "updateDate": updated}
    assert spanish == {"localeCode": "es-ES", "value": "Todo", "creationDate": updated, "updateDate": updated}
    assert updated_article == {**article, "status": "ready", "title": updated_article["title"], "updateDate": updated}


async def test_all_texts_of_one_field_together_have_a_length_limit(client: httpx.AsyncClient) -> None:
    article = await data.create(client, "/articles", _article())
    path, long_text = f"/articles/{article['articleId']}", "x" * 200_000
    accepted_patch = {"content": _texts(fr_FR=long_text, fr_BE=long_text, fr_CH=long_text, fr_CA=long_text)}
    assert (await client.patch(path, json=accepted_patch)).status_code == 204
    patch = {"content": _texts(en_GB=long_text, en_US="x")}
    refused = await client.patch(path, json=patch)
    assert (refused.status_code, error_codes(refused)) == (400, [("content", "too_long")])
    assert len((await _read(client, article))["content"]) == 4


async def test_null_texts_are_refused_and_an_empty_list_changes_nothing(client: httpx.AsyncClient) -> None:
    article = await data.create(client, "/articles", _article(title=_texts(en_US="Sales")))
    for name in ("title", "content", "status"):
        refused = await client.patch(f"/articles/{article['articleId']}", json={name: None})
        assert (refused.status_code, error_codes(refused)) == (400, [(name, "null_refused")])
    assert (await client.patch(f"/articles/{article['articleId']}", json={"title": []})).status_code == 204
    assert (await _read(client, article))["title"] == article["title"]


async def test_an_article_id_that_is_not_a_number_is_400_and_an_unknown_id_is_404(client: httpx.AsyncClient) -> None:
    for method, body in (("GET", None), ("PATCH", {})):
        invalid_id = await client.request(method, "/articles/first", json=body)
        assert (invalid_id.status_code, error_codes(invalid_id)) == (400, [("articleId", "wrong_type")])
        unknown_id = await client.request(method, "/articles/0", json=body)
        assert (unknown_id.status_code, error_codes(unknown_id)) == (404, [(None, "article_not_found")])
