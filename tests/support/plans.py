"""The query plans that PostgreSQL uses for statements of the service."""

import json
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The root node and all nodes below it."""
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes_of(child))]


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"'{{{','.join(map(str, value))}}}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


async def plan_of(conn: AsyncConnection, statement: Any, parameters: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    """Execute a statement as a prepared one, like the service does, and return the nodes of its plan. `mode` is
    PostgreSQL's `plan_cache_mode`."""
    compiled = statement.compile(dialect=conn.dialect)
    values = compiled.params | parameters
    literals = ", ".join(_literal(values[name]) for name in compiled.positiontup)
    await conn.exec_driver_sql(f"set local plan_cache_mode = {mode}")
    await conn.exec_driver_sql(f"prepare explained as {compiled}")
    result = await conn.exec_driver_sql(f"explain (analyze, format json) execute explained({literals})")
    explanation = result.scalar_one()
    await conn.exec_driver_sql("deallocate explained")
    if isinstance(explanation, str):
        explanation = json.loads(explanation)
    return nodes_of(explanation[0]["Plan"])
