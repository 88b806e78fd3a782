"""The installation that `visitor doctor` examines."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from runtime.overview import Overview
from runtime.settings import Settings
from topics.acls import Role


@dataclass(frozen=True)
class Installation:
    """`role` is that of the user of Kafka in the settings. `overview` is None for roles that may not read it."""

    settings: Settings
    role: Role
    database: AsyncEngine
    overview: Overview | None
