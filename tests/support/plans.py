"""How PostgreSQL works off a statement of the code."""

import json
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes_of(child))]


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"'{{{','.join(map(str, value))}}}'"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


async def plan_of(conn: AsyncConnection, statement: Any, parameters: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    """The nodes of the plan by which a statement of the code was run, prepared as the code's are."""
    compiled = statement.compile(dialect=conn.dialect)
    values = compiled.params | parameters
    literals = ", ".join(_literal(values[name]) for name in compiled.positiontup)
    await conn.exec_driver_sql(f"set local plan_cache_mode = {mode}")
    await conn.exec_driver_sql(f"prepare looked_at as {compiled}")
    found = await conn.exec_driver_sql(f"explain (analyze, format json) execute looked_at({literals})")
    plan = found.scalar_one()
    await conn.exec_driver_sql("deallocate looked_at")
    return nodes_of((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
