"""The SQL of a batch of visits, as the service sends it, for the peers that have asyncpg only."""

LOOK_UP = """
    select request_id, fingerprint, status, body from inbox
    join unnest($1::text[], $2::text[], $3::text[]) as wanted (topic, source, request_id)
    using (topic, source, request_id)
"""
"""The stored answers to the requests with these topics, sources and ids."""

SELECT_REFERENCES = """
    select 'center' as kind, pc_code as name, null::uuid as visitor_id, null::bigint as vehicle_id
    from centers where pc_code = any ($1::text[])
    union all
    select 'visitor', barcode, visitor_id, null from visitors where barcode = any ($2::text[])
    union all
    select 'vehicle', plate_key, visitor_id, vehicle_id from (
        select distinct on (plate_key) plate_key, visitor_id, vehicle_id
        from vehicles where plate_key = any ($3::text[] collate "C") and deletion_date is null
        order by plate_key, update_date desc, vehicle_id desc
    ) as newest
"""
"""The centers, visitors and vehicles with these pcCodes, barcodes and plate keys."""

INSERT_VISITS = """
    with locked_visitors as (
        select visitor_id from visitors where visitor_id = any ($1::uuid[]) order by visitor_id for no key update
    ), advanced_visitors as (
        update visitors set last_visit_date = new.date
        from locked_visitors, unnest($1::uuid[], $2::timestamptz[]) as new (visitor_id, date)
        where visitors.visitor_id = locked_visitors.visitor_id and visitors.visitor_id = new.visitor_id
        and (last_visit_date is null or last_visit_date < new.date)
    ), locked_vehicles as (
        select vehicle_id from vehicles where vehicle_id = any ($3::bigint[]) order by vehicle_id for no key update
    ), advanced_vehicles as (
        update vehicles set last_parking_session = new.date
        from locked_vehicles, unnest($3::bigint[], $4::timestamptz[]) as new (vehicle_id, date)
        where vehicles.vehicle_id = locked_vehicles.vehicle_id and vehicles.vehicle_id = new.vehicle_id
        and (last_parking_session is null or last_parking_session < new.date)
    )
    insert into visits (visitor_id, pc_code, visit_date, visit_type, license_plate, vehicle_id, revision)
    select visitor_id, pc_code, visit_date, visit_type, license_plate, vehicle_id, 1
    from unnest($5::uuid[], $6::text[], $7::timestamptz[], $8::text[], $9::text[], $10::bigint[]) with ordinality
    as new (visitor_id, pc_code, visit_date, visit_type, license_plate, vehicle_id, position)
    order by position returning visit_id
"""
"""Move the dates of visitors ($1, $2) and vehicles ($3, $4) forward, and insert visits."""

INSERT_ANSWERS = """
    with changes as (
        insert into outbox (topic, key, partition_key, change_id, change_type, value, created_at)
        select $1, key, partition_key, change_id, 'visit.created', value, $2
        from unnest($3::text[], $4::text[], $5::text[], $6::bytea[]) with ordinality
        as new (key, partition_key, change_id, value, position) order by position
    )
    insert into inbox (topic, source, request_id, operation, fingerprint, status, body, visitor_id, received_at)
    select topic, source, request_id, 'visits.create', fingerprint, status, body, visitor_id, $2
    from unnest($7::text[], $8::text[], $9::text[], $10::bytea[], $11::smallint[], $12::bytea[], $13::uuid[])
    as new (topic, source, request_id, fingerprint, status, body, visitor_id)
"""
"""Insert changes of the topic $1 into the outbox, and answers into the inbox."""

CLAIM = """
    with claimed as (
        delete from outbox where topic = $1 and id = any (
            array(select id from outbox where topic = $1 order by id limit 500)
        ) returning id, key, partition_key, value
    )
    select key, partition_key, value from claimed order by id
"""
"""Delete and return the oldest changes of a topic."""
