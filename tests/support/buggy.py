"""A worker with faulty operations for tests: `python -m tests.support.buggy worker`."""

import asyncio
import sys
import time
from typing import Literal

import sqlalchemy as sa

from agents.catalogue import FAMILIES
from agents.operation import Catalogue, operation
from runtime import logs, settings, worker_process
from schemas.model import Model, NoFields
from schemas.requests import Request
from schemas.types import Int64
from storage.table import TABLES
from storage.tx import Tx

UNENCODABLE = 77
"""The value for which `fragile` returns a reply that cannot be encoded."""


class Fragile(Model):
    value: Int64


@operation("visits.fragile", "POST /visits/fragile", summary="Fails for zero", body=Fragile, reply=Fragile)
async def fragile(tx: Tx, request: Request[NoFields, NoFields, Fragile]) -> Fragile:
    if request.body.value == UNENCODABLE:
        return Fragile.model_construct(value=2**80)
    return Fragile(value=100 // request.body.value)


@operation("visits.brittle", "POST /visits/brittle", summary="Fails for zero too", body=Fragile, reply=Fragile)
async def brittle(tx: Tx, request: Request[NoFields, NoFields, Fragile]) -> Fragile:
    return Fragile(value=100 // request.body.value)


class Stuck(Model):
    how: Literal["waits", "blocks"]


@operation("visits.stuck", "POST /visits/stuck", summary="Never ends", body=Stuck, reply=Fragile)
async def stuck(tx: Tx, request: Request[NoFields, NoFields, Stuck]) -> Fragile:
    if request.body.how == "blocks":
        time.sleep(600)  # noqa: ASYNC251 - this is the bug that the test needs
    await asyncio.Event().wait()
    return Fragile(value=0)


@operation("visits.slow", "GET /visits/slow", summary="Takes half a minute", reply=Fragile)
async def slow(tx: Tx, request: Request[NoFields, NoFields, NoFields]) -> Fragile:
    await tx.first(sa.select(sa.func.pg_sleep(30)))
    return Fragile(value=0)


CATALOGUE = Catalogue({**FAMILIES, "visits": (*FAMILIES["visits"], fragile, brittle, stuck, slow)}, TABLES)


def main() -> int:
    loaded = settings.load()
    logs.configure(loaded.log)
    return asyncio.run(worker_process.run(loaded, CATALOGUE))


if __name__ == "__main__":
    sys.exit(main())
