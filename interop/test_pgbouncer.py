"""PgBouncer in transaction mode between the service and PostgreSQL."""

import asyncio
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from runtime.dev.servers.processes import free_port
from storage.database import DatabaseSettings, connect
from tests.support import oracle
from tests.support.load import activity, populate, send_all, update, visit, with_challenge
from tests.support.oracle import Sent
from tests.support.servers import KafkaAndPostgres
from tests.support.stack import Process, Stack, eventually

SERVER_CONNECTIONS = 3
"""Fewer than the clients, so that the transactions of a client run in different sessions."""
FAMILIES = ("visits", "visitors", "parking", "centers", "services", "checkins", "optins", "points")
REQUESTS = 300


@pytest.fixture(scope="module")
def pooled_url(kafka_and_postgres: KafkaAndPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the database through PgBouncer, which is configured as Debian configures it."""
    _, postgres = kafka_and_postgres
    url, port, folder = make_url(postgres.url), free_port(), tmp_path_factory.mktemp("pgbouncer")
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{url.database} = host={url.host} port={url.port} user={url.username} password={url.password}\n"
        "[pgbouncer]\nauth_type = any\npool_mode = transaction\nlisten_addr = 127.0.0.1\nunix_socket_dir =\n"
        f"listen_port = {port}\ndefault_pool_size = {SERVER_CONNECTIONS}\n"
    )
    process = subprocess.Popen(_command(config))
    try:
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.kill()
        process.wait()


def _command(config: Path) -> list[str]:
    program = shutil.which("pgbouncer")
    assert program is not None, "install Debian's package pgbouncer"
    if os.geteuid() != 0:
        return [program, str(config)]
    # PgBouncer refuses to run as root.
    for folder in config.parents[:3]:
        folder.chmod(0o755)
    return [program, "-u", "nobody", str(config)]


async def test_the_service_works_through_pgbouncer_in_transaction_mode(own_stack: Stack, pooled_url: str) -> None:
    pooled = {"VISITOR_DATABASE_URL": pooled_url, "VISITOR_DATABASE_TRANSACTION_POOLING": "true"}
    for _ in range(2):
        migrated = await own_stack.command("migrate", **pooled)
        assert migrated.returncode == 0, migrated.stderr
    workers = [own_stack.worker(**pooled), own_stack.worker(**pooled)]
    edge, url = own_stack.edge()
    for process in (*workers, edge):
        await eventually("a ready process", process.ready)
    sent, rng = Sent(), random.Random(5)
    population = await with_challenge(own_stack, sent, await populate(own_stack, sent, 5))

    async def reads() -> set[int]:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            paths = [f"/centers/{population.pc_code}", "/centers", f"/visitors/{population.people[0].visitor_id}"]
            calls = await asyncio.gather(*(client.get(path) for _ in range(30) for path in paths))
        return {call.status_code for call in calls}

    reading = asyncio.create_task(reads())
    messages = [make(rng, population) for _ in range(REQUESTS) for make in (visit, update, activity)]
    await send_all(own_stack, sent, rng, messages)
    assert await reading == {200}
    await eventually("a result for every request", lambda: oracle.all_answered(own_stack, sent, FAMILIES))
    await eventually("all changes published", lambda: oracle.outbox_empty(own_stack))
    await oracle.verify(own_stack, sent, FAMILIES)
    republished = await own_stack.command("republish", "center", **pooled)
    assert republished.returncode == 0, republished.stderr
    for worker in workers:
        assert worker.terminate() == 0
        assert {error for error in _retried(worker) if "deadlock detected" not in error} == set()


def _retried(worker: Process) -> set[str]:
    lines = (json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{"))
    return {line["error"] for line in lines if line["event"] == "retrying"}


async def test_each_transaction_has_the_limits_of_its_pool(pooled_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(pooled_url), transaction_pooling=True)
    parameters = ("statement_timeout", "lock_timeout", "transaction_read_only", "transaction_isolation")
    settings_by_pool = []
    for read_only in (False, True):
        engine = connect(settings, connections=1, read_only=read_only)
        async with engine.begin() as conn:
            query = sa.select(*(sa.func.current_setting(name) for name in parameters))
            settings_by_pool.append(tuple((await conn.execute(query)).one()))
        await engine.dispose()
    assert settings_by_pool == [("15s", "1200ms", "off", "read committed"), ("7s", "7s", "on", "repeatable read")]


async def test_a_worker_without_the_setting_ends_and_names_it(own_stack: Stack, pooled_url: str) -> None:
    worker = own_stack.worker(VISITOR_DATABASE_URL=pooled_url)
    await eventually("the worker's end", worker.ended)
    assert worker.child.returncode == 1
    assert "Set VISITOR_DATABASE_TRANSACTION_POOLING=true" in worker.log.read_text()
