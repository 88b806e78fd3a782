"""The same work without Kafka: FastAPI and SQLAlchemy write a visit in one transaction, and answer reads."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agents.families.centers.centers import CENTERS
from agents.families.optins.optins import OPTINS
from agents.families.parking.cards import CARDS
from agents.families.parking.vehicles import VEHICLES
from agents.families.points.rewards import REWARDS
from agents.families.profile.visitor_centers import VISITOR_CENTERS
from agents.families.visitors.details import VisitorDetails
from agents.families.visitors.external_ids import EXTERNAL_IDS
from agents.families.visitors.visitor_table import VISITORS, Visitor
from agents.families.visits.visits import VISITS, Visit
from schemas.plates import plate_key

app = FastAPI()
engine = create_async_engine(os.environ["VISITOR_DATABASE_URL"], pool_size=10)


async def connection() -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as conn:
        yield conn


Connection = Annotated[AsyncConnection, Depends(connection)]


class VisitBody(BaseModel):
    barcode: str | None = None
    licensePlate: str | None = None  # noqa: N815 - the wire's name
    pcCode: str  # noqa: N815


@app.post("/visits/{visit_type}", status_code=201)
async def create(visit_type: str, body: VisitBody) -> Visit:
    now = datetime.now(UTC)
    async with engine.begin() as conn:
        await _require_center(conn, body.pcCode)
        visitor, vehicle = await _identify(conn, body)
        if visitor is None:
            raise HTTPException(404)
        row = {"visitor_id": visitor, "pc_code": body.pcCode, "visit_date": now, "visit_type": visit_type}
        details = {"license_plate": body.licensePlate, "vehicle_id": vehicle, "revision": 1}
        await conn.execute(sa.insert(VISITS.sql).values(row | details))
        if visit_type == "entry":
            await conn.execute(
                sa.update(VISITORS.sql).where(VISITORS.columns.visitor_id == visitor).values(last_visit_date=now)
            )
            if vehicle is not None:
                await conn.execute(
                    sa.update(VEHICLES.sql)
                    .where(VEHICLES.columns.vehicle_id == vehicle)
                    .values(last_parking_session=now)
                )
    return Visit.from_values(row | {"license_plate": body.licensePlate})


@app.get("/visits")
async def list_visits(conn: Connection, barcode: str, pcCode: str, limit: int = 25, offset: int = 0) -> list[Visit]:  # noqa: N803
    await _require_center(conn, pcCode)
    visitor = await _visitor_id(conn, barcode)
    if visitor is None:
        raise HTTPException(404)
    columns = VISITS.columns
    statement = (
        sa.select(*(columns[name] for name in Visit.model_fields))
        .where(columns.visitor_id == visitor, columns.pc_code == pcCode)
        .order_by(columns.visit_date, columns.visit_id)
        .offset(offset)
        .limit(limit)
    )
    return [Visit.from_values(dict(row)) for row in (await conn.execute(statement)).mappings()]


# Before /visitors/{visitor_id}, which would match as well.
@app.get("/visitors/details")
async def read_details(conn: Connection, visitorId: UUID) -> list[VisitorDetails]:  # noqa: N803
    visitor = await read_visitor(conn, visitorId)
    records = {
        "external_ids": await _records(conn, EXTERNAL_IDS, visitorId),
        "optins": await _records(conn, OPTINS, visitorId),
        "rewards": await _records(conn, REWARDS, visitorId),
        "visitor_centers": await _records(conn, VISITOR_CENTERS, visitorId),
        "vehicles": await _records(conn, VEHICLES, visitorId, VEHICLES.columns.deletion_date.is_(None)),
        "credit_cards": await _records(conn, CARDS, visitorId, CARDS.columns.deletion_date.is_(None)),
    }
    return [VisitorDetails.widened(visitor, **records)]


@app.get("/visitors/{visitor_id}")
async def read_visitor(conn: Connection, visitor_id: UUID) -> Visitor:
    statement = sa.select(VISITORS.sql).where(VISITORS.columns.visitor_id == visitor_id)
    row = (await conn.execute(statement)).first()
    if row is None:
        raise HTTPException(404)
    return VISITORS.to_row(row)


async def _records(conn: AsyncConnection, table: Any, visitor_id: UUID, *where: Any) -> list[Any]:
    statement = sa.select(table.sql).where(table.columns.visitor_id == visitor_id, *where)
    return [table.to_row(row) for row in await conn.execute(statement.order_by(table.columns[table.key]))]


async def _require_center(conn: AsyncConnection, pc_code: str) -> None:
    if await conn.scalar(sa.select(CENTERS.columns.pc_code).where(CENTERS.columns.pc_code == pc_code)) is None:
        raise HTTPException(400)


async def _identify(conn: AsyncConnection, body: VisitBody) -> tuple[UUID | None, int | None]:
    if body.licensePlate is not None:
        statement = sa.select(VEHICLES.columns.visitor_id, VEHICLES.columns.vehicle_id).where(
            VEHICLES.columns.plate_key == plate_key(body.licensePlate), VEHICLES.columns.deletion_date.is_(None)
        )
        vehicle = (await conn.execute(statement.order_by(VEHICLES.columns.update_date.desc()).limit(1))).first()
        return (vehicle.visitor_id, vehicle.vehicle_id) if vehicle else (None, None)
    return await _visitor_id(conn, body.barcode), None


async def _visitor_id(conn: AsyncConnection, barcode: str | None) -> UUID | None:
    visitor_id: UUID | None = await conn.scalar(
        sa.select(VISITORS.columns.visitor_id).where(VISITORS.columns.barcode == barcode)
    )
    return visitor_id
