"""A worker of a possible next release: `python -m tests.support.next_release worker`. `upgrade` has its migrations.

Its legalTexts.create has one more field, another order of the fields, a field with a default, and one more type."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine

from agents.catalogue import FAMILIES, INTERNAL
from agents.families.optins import legal_texts
from agents.operation import Catalogue
from agents.wire import Wire
from runtime import logs, settings, worker_process
from schemas.model import Model, NoFields
from schemas.requests import Request
from schemas.types import Flag, Instant, Omittable, Text
from storage import migrate
from storage.table import TABLES
from storage.tx import Tx
from topics import avro

OPERATION = "legalTexts.create"
NEW_TYPE = "parking_terms"


class LegalTextNew(Model):
    note: Omittable[Text] = None
    require_consent: Omittable[Flag] = None
    type: Literal[legal_texts.LegalType, "parking_terms"]
    release_date: Instant


async def create(tx: Tx, request: Request[NoFields, NoFields, LegalTextNew]) -> legal_texts.LegalTextReply:
    stored = {name: value for name, value in vars(request.body).items() if name != "note"}
    body = legal_texts.LegalTextNew.model_construct(**stored)
    handler: Any = legal_texts.create.handler
    reply: legal_texts.LegalTextReply = await handler(tx, Request.model_construct(path=None, query=None, body=body))
    return reply


_CREATE = replace(
    legal_texts.create,
    request=Request[NoFields, NoFields, LegalTextNew],
    handler=create,
)
_OPTINS = tuple(_CREATE if operation.name == OPERATION else operation for operation in FAMILIES["optins"])
CATALOGUE = Catalogue({**FAMILIES, "optins": _OPTINS}, TABLES, INTERNAL)

_request_schema = avro.request_schema


def _with_default(name: str, *arguments: Any) -> avro.Schema:
    schema = _request_schema(name, *arguments)
    if name == "LegalTextsCreate":
        body = next(field for field in schema["fields"] if field["name"] == "body")
        next(field for field in body["type"]["fields"] if field["name"] == "type")["default"] = "terms"
    return schema


def wire() -> Wire:
    """The encoding of the next release."""
    avro.request_schema = _with_default
    try:
        return Wire(CATALOGUE)
    finally:
        avro.request_schema = _request_schema


def _config() -> Config:
    config = migrate._config()
    folders = (Path(migrate.__file__).parent / "migrations" / "versions", Path(__file__).parent / "next_migrations")
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", os.pathsep.join(map(str, folders)))
    return config


def migration(revision: str) -> ModuleType:
    """The module of a revision of `tests/support/next_migrations`."""
    return ScriptDirectory.from_config(_config()).get_revision(revision).module


async def upgrade(engine: AsyncEngine, revision: str) -> None:
    """Migrate a database to a revision of `tests/support/next_migrations`, as the next releases do."""
    config = _config()

    def run(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with engine.begin() as conn:
        await conn.run_sync(run)


def main() -> int:
    avro.request_schema = _with_default
    loaded = settings.load()
    logs.configure(loaded.log)
    return asyncio.run(worker_process.run(loaded, CATALOGUE))


if __name__ == "__main__":
    sys.exit(main())
