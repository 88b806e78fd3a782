"""Compute the normal forms of plates, mailboxes and searched texts again, because their definition changed.

Visitors whose emails differ only in their code points can now have the same mailbox. One of them keeps it: the first
full visitor, or the first visitor if none is full. The others get a key with a blank, which no email has. Their emails
and all other fields stay the same.
"""

import sqlalchemy as sa
import structlog
from alembic import op

from schemas.emails import mailbox
from schemas.plates import plate_key
from storage.folding import fill, fold, fold_beyond_mailbox, pages, plain_beyond_key

revision = "0012"
down_revision = "0010"

_VISITORS = sa.table("visitors", *map(sa.column, ("visitor_id", "email", "email_key")))
_BEYOND_ASCII = sa.func.octet_length(_VISITORS.c.email) != sa.func.char_length(_VISITORS.c.email)
"""The key of an ASCII email did not change."""

_MOVED = sa.table("moved", sa.column("visitor_id", sa.Uuid), sa.column("email_key", sa.Text))


def upgrade() -> None:
    connection = op.get_bind()
    plates = {"plate_key": ("license_plate", plate_key), "plain_plate": ("license_plate", plain_beyond_key)}
    fill(connection, "vehicles", "vehicle_id", plates)
    fill(connection, "external_ids", "external_id_key", {"folded_id": ("external_id", fold)})
    texts = {
        "first_name_key": ("first_name", fold),
        "last_name_key": ("last_name", fold),
        "folded_email": ("email", fold_beyond_mailbox),
    }
    fill(connection, "visitors", "visitor_id", texts)
    _move_mailboxes(connection)


def _move_mailboxes(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        'create temporary table moved (visitor_id uuid primary key, email_key text collate "C" not null) on commit drop'
    )
    for page in pages(connection, sa.select(_VISITORS).where(_BEYOND_ASCII), _VISITORS.c.visitor_id):
        keys = [{"visitor_id": row["visitor_id"], "email_key": mailbox(row["email"])} for row in page]
        other = [key for key, row in zip(keys, page, strict=True) if key["email_key"] != row["email_key"]]
        if other:
            connection.execute(sa.insert(_MOVED), other)
    connection.exec_driver_sql("create index on moved (email_key)")
    connection.exec_driver_sql("analyze moved")
    # Also those who have such a mailbox already.
    connection.exec_driver_sql(
        "insert into moved select visitor_id, email_key from visitors"
        " where email_key in (select email_key from moved) on conflict do nothing"
    )
    # First a key that no other row has, or a row could meet the old key of one that comes after it.
    moved = connection.exec_driver_sql(
        "update visitors set email_key = moved.email_key || ' ' || moved.visitor_id::text"
        " from moved where visitors.visitor_id = moved.visitor_id"
    )
    kept = connection.exec_driver_sql(
        "update visitors set email_key = kept.email_key from ("
        " select distinct on (moved.email_key) moved.email_key, visitor_id from moved join visitors using (visitor_id)"
        " order by moved.email_key, account_type <> 'full', creation_date, visitor_id"
        ") as kept where visitors.visitor_id = kept.visitor_id"
    )
    without = moved.rowcount - kept.rowcount
    if without:
        structlog.get_logger("storage.migrations").warning("visitors_without_their_mailbox", visitors=without)
