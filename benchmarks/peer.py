"""The same work without Kafka: FastAPI and SQLAlchemy write a visit in one transaction."""

import os
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine

from agents.families.centers.centers import CENTERS
from agents.families.parking.vehicles import VEHICLES
from agents.families.visitors.visitor_table import VISITORS
from agents.families.visits.visits import VISITS
from schemas.plates import plate_key

app = FastAPI()
engine = create_async_engine(os.environ["VISITOR_DATABASE_URL"], pool_size=10)


class Visit(BaseModel):
    barcode: str | None = None
    licensePlate: str | None = None  # noqa: N815 - the wire's name
    pcCode: str  # noqa: N815


class Reply(BaseModel):
    visitorId: UUID  # noqa: N815
    pcCode: str  # noqa: N815
    visitDate: datetime  # noqa: N815
    visitType: str  # noqa: N815
    licensePlate: str | None  # noqa: N815


@app.post("/visits/{visit_type}", status_code=201)
async def create(visit_type: str, body: Visit) -> Reply:
    now = datetime.now(UTC)
    async with engine.begin() as conn:
        if await conn.scalar(sa.select(CENTERS.columns.pc_code).where(CENTERS.columns.pc_code == body.pcCode)) is None:
            raise HTTPException(400)
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
    return Reply(
        visitorId=visitor, pcCode=body.pcCode, visitDate=now, visitType=visit_type, licensePlate=body.licensePlate
    )


async def _identify(conn: Any, body: Visit) -> tuple[UUID | None, int | None]:
    if body.licensePlate is not None:
        statement = sa.select(VEHICLES.columns.visitor_id, VEHICLES.columns.vehicle_id).where(
            VEHICLES.columns.plate_key == plate_key(body.licensePlate), VEHICLES.columns.deletion_date.is_(None)
        )
        vehicle = (await conn.execute(statement.order_by(VEHICLES.columns.update_date.desc()).limit(1))).first()
        return (vehicle.visitor_id, vehicle.vehicle_id) if vehicle else (None, None)
    statement = sa.select(VISITORS.columns.visitor_id).where(VISITORS.columns.barcode == body.barcode)
    return await conn.scalar(statement), None
