"""Move waiting changes to the change topics of their resources, and make their entity's id the key.

Earlier releases have one change topic per family, and keys with the name of the resource: `optin:17`. A worker of an
earlier release that still runs inserts such rows after the migration as well. The trigger rewrites them before they are
stored, so that one publisher publishes all changes of an entity, in order. The release after the next one can drop the
trigger.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

_FUNCTION = """
create function outbox_topic_per_resource() returns trigger language plpgsql as $$
declare
    entity_id text := substr(new.key, position(':' in new.key) + 1);
begin
    new.topic := new.topic || '.' || split_part(new.change_type, '.', 1);
    if new.partition_key = new.key then
        new.partition_key := entity_id;
    end if;
    new.key := entity_id;
    return new;
end $$
"""
_TRIGGER = """
create trigger outbox_topic_per_resource before insert or update on outbox for each row
when (new.topic like 'visitor.%.changes') execute function outbox_topic_per_resource()
"""


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(_FUNCTION)
    # Waits for the transactions that insert rows or publish them.
    connection.exec_driver_sql(_TRIGGER)
    connection.exec_driver_sql("update outbox set topic = topic where topic like 'visitor.%.changes'")
