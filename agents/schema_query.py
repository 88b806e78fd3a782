"""The query with which the HTTP edge reads the stored Avro schemas. The edge has no access to the database."""

from typing import Annotated

from agents.operation import Operations, operation
from schemas.marks import Whole
from schemas.model import Model, NoFields
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import INT64, Identifier, Int64, LongText
from storage import schema_store
from storage.tx import Tx

PAGE = 500
"""Schemas of one answer. The largest schema has 11 kB, the average one kB."""


class StoredSchemaQuery(Model):
    after: Annotated[int, Whole(ge=0, le=INT64)] = 0


class StoredSchema(Model):
    """`position` increases with each schema that was added. `text` is the schema as JSON."""

    id: Int64
    record_name: Identifier
    text: LongText
    position: Int64


@operation(
    "schemas.list", "GET /schemas", summary="The next schemas after a position",
    query=StoredSchemaQuery, reply=StoredSchema, shape="array",
)  # fmt: skip
async def list_schemas(tx: Tx, request: Request[NoFields, StoredSchemaQuery, NoFields]) -> Page[StoredSchema]:
    entries = await schema_store.after(tx.conn, request.query.after, PAGE)
    schemas = [
        StoredSchema.from_values(
            {"id": entry.id, "record_name": entry.record_name, "text": entry.schema, "position": entry.position}
        )
        for entry in entries
    ]
    return Page(schemas, more=len(schemas) == PAGE)


OPERATIONS: Operations = (list_schemas,)
