"""PgBouncer in transaction mode between the service and PostgreSQL."""

import asyncio
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from runtime.dev.servers.processes import free_port
from storage.database import connect
from storage.settings import DatabaseSettings
from tests.support import oracle
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.load import activity, populate, send_all, update, visit, with_challenge
from tests.support.oracle import Sent
from tests.support.servers import KafkaAndPostgres
from tests.support.stack import Process, Stack, eventually
from topics import names
from topics.dead_letters import Position
from topics.envelope import JSON, RequestHeaders

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
    # The reads wait behind hundreds of writes, for three connections.
    edge, url = own_stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS="60")
    for process in (*workers, edge):
        await eventually("a ready process", process.ready)
    sent, rng = Sent(), random.Random(5)
    population = await with_challenge(own_stack, sent, await populate(own_stack, sent, 5))

    async def reads() -> set[int]:
        async with httpx.AsyncClient(base_url=url, timeout=90) as client:
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
    visitor_id = str(population.people[0].visitor_id)
    await _use_every_command(own_stack, visitor_id, pooled)
    await _use_the_console(own_stack, visitor_id, pooled)
    for worker in workers:
        assert worker.terminate() == 0
        assert {error for error in _retried(worker) if "deadlock detected" not in error} == set()


async def _use_every_command(stack: Stack, visitor_id: str, pooled: dict[str, str]) -> None:
    """All commands that connect to the database, side by side."""
    replayed, discarded = await _dead_letter(stack), await _dead_letter(stack)
    outputs = {
        ("republish", "center"): "center: 1 rows",
        ("export", "visitors"): visitor_id,
        ("export-visitor", visitor_id): visitor_id,
        ("audit", "--visitor", visitor_id): "visitors.update",
        ("doctor",): "ok      schema",
        ("status", "--json"): '"database"',
        ("dead-letters", "list"): "not_json",
        ("dead-letters", "replay", replayed): "1 replayed.",
        ("dead-letters", "discard", discarded): "1 discarded.",
    }
    commands = (stack.command(*arguments, seconds=180, **pooled) for arguments in outputs)
    for arguments, done in zip(outputs, await asyncio.gather(*commands), strict=True):
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert outputs[arguments] in done.stdout, (arguments, done.stdout)


async def _dead_letter(stack: Stack) -> str:
    """The id of a new dead letter."""
    request_id = str(uuid4())
    headers = RequestHeaders(request_id, "visits.create", "gateway/test", JSON).encode()
    await stack.raw(names.requests("visits"), b"{", headers)
    letter = await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_id") == request_id)
    return str(Position(*letter.position))


async def _use_the_console(stack: Stack, visitor_id: str, pooled: dict[str, str]) -> None:
    edge, url = stack.edge(VISITOR_HTTP_CONSOLE="true", **pooled)
    await eventually("a ready edge", edge.ready)
    letter = await _dead_letter(stack)
    async with httpx.AsyncClient(base_url=f"{url}/console/api/", timeout=60) as console:
        calls = [console.get(path) for path in ("requests?id=1", f"visitors/{visitor_id}", "dead-letters")]
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200] * 3
        replay = await console.post("dead-letters/replay", json={"ids": [letter]})
        assert replay.json() == {"replayed": [letter]}
    edge.kill()


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


@pytest.mark.parametrize(
    ("arguments", "status"), [(("export", "visitors"), 2), (("dead-letters", "list"), 2), (("doctor",), 1)]
)
async def test_a_command_without_the_setting_names_it(
    own_stack: Stack, pooled_url: str, arguments: Sequence[str], status: int
) -> None:
    done = await own_stack.command(*arguments, VISITOR_DATABASE_URL=pooled_url)
    assert done.returncode == status
    assert "Set VISITOR_DATABASE_TRANSACTION_POOLING=true" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


async def test_a_console_without_the_setting_is_unavailable(own_stack: Stack, pooled_url: str) -> None:
    edge, url = own_stack.edge(VISITOR_HTTP_CONSOLE="true", VISITOR_DATABASE_URL=pooled_url)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=f"{url}/console/api/", timeout=60) as console:
        for path in (f"visitors/{ABSENT_VISITOR_ID}", "dead-letters"):
            answer = await console.get(path)
            assert (answer.status_code, error_codes(answer)) == (503, [(None, "database_unavailable")])
    edge.kill()
    assert '"bug"' not in edge.log.read_text()
