"""A worker with operations that only tests have: `python -m tests.support.buggy worker`."""

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

BEYOND = 77
"""Asks for an answer that cannot be encoded."""


class Fragile(Model):
    value: Int64


@operation("visits.fragile", "POST /visits/fragile", summary="Breaks at zero", body=Fragile, reply=Fragile)
async def fragile(tx: Tx, request: Request[NoFields, NoFields, Fragile]) -> Fragile:
    if request.body.value == BEYOND:
        return Fragile.model_construct(value=2**80)
    return Fragile(value=100 // request.body.value)


class Stuck(Model):
    how: Literal["waits", "blocks"]


@operation("visits.stuck", "POST /visits/stuck", summary="Never ends", body=Stuck, reply=Fragile)
async def stuck(tx: Tx, request: Request[NoFields, NoFields, Stuck]) -> Fragile:
    if request.body.how == "blocks":
        time.sleep(600)  # noqa: ASYNC251 - the mistake that the test is about
    await asyncio.Event().wait()
    return Fragile(value=0)


@operation("visits.slow", "GET /visits/slow", summary="Takes half a minute", reply=Fragile)
async def slow(tx: Tx, request: Request[NoFields, NoFields, NoFields]) -> Fragile:
    await tx.first(sa.select(sa.func.pg_sleep(30)))
    return Fragile(value=0)


CATALOGUE = Catalogue({**FAMILIES, "visits": (*FAMILIES["visits"], fragile, stuck, slow)}, TABLES)


def main() -> int:
    found = settings.load()
    logs.configure(found.log)
    return asyncio.run(worker_process.run(found, CATALOGUE))


if __name__ == "__main__":
    sys.exit(main())
