"""Articles with their texts in several locales."""

from typing import Literal

import sqlalchemy as sa

from agents import crud
from agents.families.translations import Translation, TranslationNew, translated
from agents.operation import Operations, operation
from schemas.model import Model, NoFields
from schemas.replies import PageQuery
from schemas.requests import Request
from schemas.types import DayOrInstant, Instant, Int64, Omittable, Text, Url
from storage.table import Table
from storage.tx import Tx

ArticleStatus = Literal["draft", "ready", "published", "archived"]


class ArticleFields(Model):
    generic_name: Text
    main_image_url: Url
    """URL of the main image."""
    status: ArticleStatus
    """The state of the article."""
    publish_date: Instant
    """When the article is published."""


class ArticleNew(ArticleFields):
    title: Omittable[list[TranslationNew]] = None
    """The title, in several locales."""
    content: Omittable[list[TranslationNew]] = None
    """The content, in several locales."""


class ArticlePatch(ArticleNew, partial=True):
    pass


class Article(ArticleFields):
    article_id: Int64
    title: list[Translation]
    """The title, in several locales."""
    content: list[Translation]
    """The content, in several locales."""
    creation_date: Instant
    update_date: Instant


class ArticlePath(Model):
    article_id: Int64


class ArticleQuery(PageQuery):
    status: Omittable[ArticleStatus] = None
    """Only articles with this status."""
    publish_date_since: Omittable[DayOrInstant] = None
    """Only articles that are published at or after this time."""
    publish_date_until: Omittable[DayOrInstant] = None
    """Only articles that are published before this time."""


ARTICLES = Table(
    "articles",
    Article,
    family="articles",
    resource="article",
    key="article_id",
    hidden=[sa.Index("articles_publish_date_idx", "publish_date", "article_id")],
)

_TEXTS = ("title", "content")


@operation("articles.create", "POST /articles", summary="Add an article", body=ArticleNew, reply=Article)
async def create(tx: Tx, request: Request[NoFields, NoFields, ArticleNew]) -> Article:
    """Raises Invalid for texts that are too long together."""
    body = request.body
    texts = {name: translated(tx, Translation, [], getattr(body, name) or [], field=name) for name in _TEXTS}
    return await ARTICLES.insert(tx, {name: getattr(body, name) for name in ArticleFields.model_fields} | texts)


@operation(
    "articles.update", "PATCH /articles/{articleId}", summary="Update an article",
    path=ArticlePath, body=ArticlePatch, reply=None,
)  # fmt: skip
async def update(tx: Tx, request: Request[ArticlePath, NoFields, ArticlePatch]) -> None:
    """The texts of the locales in the body are replaced; the texts of other locales stay. Raises NotFound, and Invalid
    for texts that are too long together."""
    where, values = vars(request.path), request.body.sent_fields()
    old = await ARTICLES.lock(tx, **where)
    texts = {
        name: translated(tx, Translation, getattr(old, name), values[name], field=name)
        for name in _TEXTS
        if name in values
    }
    await ARTICLES.update(tx, values | texts, **where)


OPERATIONS: Operations = (
    create,
    crud.lists(ARTICLES, "articles.list", "GET /articles", "List articles", ArticleQuery),
    crud.gets(ARTICLES, "articles.get", "GET /articles/{articleId}", "Read an article"),
    update,
)
