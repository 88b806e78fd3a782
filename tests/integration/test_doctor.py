"""`visitor doctor`: each check finds its fault on real servers."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pydantic import HttpUrl, SecretStr

from agents.engine.schema_lookup import SchemaLookup
from edge import keys
from edge.settings import HttpSettings
from runtime import doctor
from runtime.dev import servers as embedded
from runtime.doctor import configuration, database, kafka, reads, registry
from runtime.doctor.findings import Finding
from runtime.settings import Settings, WorkerSettings
from storage.settings import DatabaseSettings
from tests.support import data
from tests.support.certificates import Authority
from tests.support.outbox import waiting_changes
from tests.support.pages import ROOT
from tests.support.registry import Registry
from tests.support.stack import WIRE, Stack, eventually
from topics import avro, json, names, rights
from topics.acls import Role
from topics.names import TopicSpec
from topics.settings import KafkaSettings, SchemaRegistrySettings


async def _findings(stack: Stack, role: Role = Role.operator, **changed: Any) -> dict[str, Finding]:
    settings = Settings(kafka=stack.kafka, database=stack.database).model_copy(update=changed)
    return {result.check: result.finding for result in await doctor.examine(settings, role)}


async def _fails(
    stack: Stack, check: str, message: str, advice: str, role: Role = Role.operator, **changed: Any
) -> None:
    finding = (await _findings(stack, role, **changed))[check]
    assert (finding.state, message in finding.message, advice in finding.advice) == ("failed", True, True), finding


async def _warns(
    stack: Stack, check: str, message: str, advice: str, role: Role = Role.operator, **changed: Any
) -> None:
    finding = (await _findings(stack, role, **changed))[check]
    assert (finding.state, message in finding.message, advice in finding.advice) == ("warning", True, True), finding


def _checks_of(role: Role) -> list[str]:
    return [check.name for check in doctor.CHECKS if role in check.roles]


@pytest.mark.parametrize("role", [Role.operator, Role.worker, Role.edge])
async def test_a_healthy_installation_passes_all_checks(stack: Stack, role: Role) -> None:
    findings = await _findings(stack, role)
    assert list(findings) == _checks_of(role)
    # Other tests leave dead letters.
    assert {name for name, finding in findings.items() if finding.state != "ok"} <= {"dead letters"}
    assert {finding.advice for finding in findings.values() if finding.state == "ok"} == {""}


async def test_the_command_prints_a_line_for_each_check_and_exits_with_its_status(stack: Stack) -> None:
    done = await stack.command("doctor")
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == len(_checks_of(Role.operator))
    failed = await stack.command("doctor", "--json", VISITOR_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert (failed.returncode, failed.stderr) == (1, "")
    checks = {each["check"]: each for each in json.read(failed.stdout.encode())["checks"]}
    assert checks["kafka"]["state"] == "failed"
    assert "VISITOR_KAFKA_BOOTSTRAP" in checks["kafka"]["message"]
    assert checks["database"]["state"] == "ok"
    assert "topics" not in checks, "it cannot be examined without Kafka"


async def test_a_database_that_does_not_answer(stack: Stack) -> None:
    unreachable = DatabaseSettings(url=SecretStr("postgresql://nobody@127.0.0.1:1/none"))
    await _fails(stack, "database", "VISITOR_DATABASE_URL", "start the server", database=unreachable)


async def test_old_servers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OLDEST_VERSION", 99)
    monkeypatch.setattr(rights, "_FETCH_OF_3_7", 999)
    await _fails(stack, "database", "is too old", "upgrade to PostgreSQL 99")
    await _fails(stack, "kafka", "older than Kafka 3.7", "upgrade the brokers")


async def test_a_standby(stack: Stack, tmp_path: Path) -> None:
    """With embedded servers only: a server that was stopped becomes a standby by a file."""
    standby = embedded.Postgres(tmp_path, embedded.Processes(tmp_path), durable=False)
    standby.start()
    standby.stop()
    data_folder = tmp_path / "postgres" / "data"
    signal = data_folder / "standby.signal"
    signal.touch()
    os.chown(signal, data_folder.stat().st_uid, -1)
    standby.start()
    try:
        settings = DatabaseSettings(url=SecretStr(standby.url))
        await _fails(stack, "database", "is a standby", "let VISITOR_DATABASE_URL name the primary", database=settings)
    finally:
        standby.stop()


async def test_few_free_connections(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CONNECTION_SHARE", 0.0)
    await _warns(stack, "database", "connections are in use", "raise max_connections")


async def test_a_missing_topic_and_a_topic_with_another_configuration(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _warns(
        stack, "topics", "min.insync.replicas is 1 instead of 2", "visitor topics --alter",
        kafka=stack.kafka.model_copy(update={"min_insync": 2}),
    )  # fmt: skip
    await _warns(
        stack, "topics", "partitions is 4 instead of 6", "--alter",
        kafka=stack.kafka.model_copy(update={"partitions": 6}),
    )  # fmt: skip
    assert (await _findings(stack, kafka=stack.kafka.model_copy(update={"partitions": 3})))["topics"].state == "ok"

    def with_another_topic(_: Any, settings: KafkaSettings) -> list[TopicSpec]:
        return [TopicSpec("visitor.nowhere", 1, 1, {})]

    monkeypatch.setattr(type(kafka.CATALOGUE), "topics", with_another_topic)
    await _fails(stack, "topics", "missing, or may not be described: visitor.nowhere", "run `visitor topics`")


async def test_kafka_that_keeps_requests_longer_than_the_inbox_keeps_answers(stack: Stack) -> None:
    short = WorkerSettings(inbox_days=2)
    await _fails(stack, "retention", "(2 days), and could deliver them twice", "visitor topics --alter", worker=short)


async def test_no_worker(stack: Stack) -> None:
    nobody = WorkerSettings(group="nobody")
    await _fails(stack, "workers", "nobody.queries, nobody.requests have no members", "visitor worker", worker=nobody)


class _Waits(ConsumerRebalanceListener):  # type: ignore[misc]
    """Keeps its consumer from joining the group again until the event is set."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if revoked:
            await self._event.wait()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        pass


async def test_a_consumer_group_that_is_rebalancing(stack: Stack) -> None:
    """A consumer that joins waits for one that has not given up its partitions yet."""
    group, may_join = f"group-{uuid4()}", asyncio.Event()
    async with AsyncExitStack() as consumers:

        async def join(name: str) -> None:
            consumer = AIOKafkaConsumer(group_id=names.consumer_group(group, name), **stack.kafka.client())
            consumer.subscribe([names.results("centers")], listener=_Waits(may_join))
            consumers.push_async_callback(consumer.stop)
            await consumer.start()

        await asyncio.gather(join("requests"), join("queries"))
        settings = WorkerSettings(group=group)
        assert (await _findings(stack, worker=settings))["workers"].state == "ok"
        joining = asyncio.create_task(join("requests"))

        async def warns() -> bool:
            finding = (await _findings(stack, worker=settings))["workers"]
            return (finding.state, finding.message) == ("warning", f"{group}.requests are rebalancing")

        try:
            await eventually("a warning about the group", warns)
        finally:
            may_join.set()
            await joining


def _seconds_in(finding: Finding) -> float:
    """By how much a clock differs, as a message says it: +300.0 if it is five minutes ahead."""
    difference = re.search(r" differs by ([+-][\d.]+) s", finding.message)
    assert difference is not None, finding
    return float(difference[1])


async def test_clocks_that_differ(stack: Stack, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await data.create(client, "/centers", data.center())

    def behind() -> datetime:
        return datetime.now(UTC) - timedelta(minutes=5)

    monkeypatch.setattr(database, "now", behind)
    monkeypatch.setattr(kafka, "now", behind)
    for role in (Role.operator, Role.worker):
        findings = await _findings(stack, role)
        assert findings["database clock"].state == "warning"
        assert abs(_seconds_in(findings["database clock"]) - 300) < 1  # It is less exact if the answer is slow.
        assert findings["kafka clock"].state == "warning"
        assert "s in the future" in findings["kafka clock"].message


@pytest.mark.parametrize("minutes", [-5, 5])
async def test_the_clock_of_an_edge_is_compared_with_those_of_the_workers(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    monkeypatch.setattr(reads, "now", lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    finding = (await _findings(stack, Role.edge))["reads"]
    assert (finding.state, "synchronise the clocks" in finding.advice) == ("warning", True), finding
    seconds = _seconds_in(finding)
    assert (seconds > 0) == (minutes < 0)
    # The difference is at least so large. The time that the answer takes is not counted.
    assert 300 - reads.ANSWER_SECONDS <= abs(seconds) <= 300


async def test_reads_that_nobody_answers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "ANSWER_SECONDS", 0.5)
    async with stack.engine.connect() as conn, conn.begin():
        await conn.execute(sa.text("lock table centers in access exclusive mode"))
        unanswered = f"sent to {names.QUERIES}:0, {names.QUERIES}:1, {names.QUERIES}:2 and 1 more"
        await _fails(stack, "reads", unanswered, "visitor health worker", Role.edge)
    monkeypatch.setattr(names, "QUERIES", "visitor.nowhere")
    await _fails(stack, "reads", "topic visitor.nowhere does not exist", "correct", Role.edge)


async def test_requests_that_wait_and_the_session_that_blocks_them(
    stack: Stack,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kafka, "DELAYED_SECONDS", 0.5)
    monkeypatch.setattr(database, "LOCK_SECONDS", 1.0)
    parker = await data.visitor_with_vehicle(client)
    body = {"licensePlate": parker["licensePlate"], "pcCode": parker["pcCode"]}
    async with stack.engine.connect() as conn, conn.begin():
        await conn.execute(sa.text("set local application_name = 'a-script'"))
        blocker = await conn.scalar(sa.text("select pg_backend_pid()"))
        await conn.execute(
            sa.text("select from visitors where visitor_id = :visitor for update"), {"visitor": parker["visitorId"]}
        )
        await stack.send("visits.create", {"path": {"visitType": "entry"}, "body": body})

        async def lags() -> bool:
            finding = (await _findings(stack))["lag"]
            return finding.state == "warning" and names.requests("visits") in finding.message

        async def names_both() -> bool:
            finding = (await _findings(stack))["locks"]
            session = re.escape(f"session {blocker} (a-script, idle in transaction)")
            texts = (rf"{session} for \d+ s on .*visitors", rf"session \d+ \(visitor\) waits for {session}")
            return (
                finding.state == "warning"
                and all(re.search(text, finding.message) for text in texts)
                and f"pg_terminate_backend({blocker})" in finding.advice
            )

        await eventually("a warning about the lag", lags)

        async def names_both_each_time() -> bool:
            # The worker waits for a tenth of the time only.
            return all([await names_both() for _ in range(3)])

        await eventually("warnings about the lock that name who holds it, and who waits", names_both_each_time)
        assert await _run(stack, capsys) == (True, {"lag": "warning", "locks": "warning"})
        monkeypatch.setattr(kafka, "LATE_SECONDS", 1.0)
        assert await _run(stack, capsys) == (False, {"lag": "failed", "locks": "warning"})


async def _run(stack: Stack, capsys: pytest.CaptureFixture[str]) -> tuple[bool, dict[str, str]]:
    """Whether `visitor doctor --json` passes, and what its document says about lag and locks."""
    settings = Settings(kafka=stack.kafka, database=stack.database)
    passed = await doctor.run(settings, Role.operator, as_json=True)
    document = json.read(capsys.readouterr().out.encode())
    states = {each["check"]: each["state"] for each in document["checks"]}
    return passed, {check: states[check] for check in ("lag", "locks")}


async def test_a_session_that_has_waited_long_for_a_reader(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """No write waits for a reader, but the change of a schema does."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.2)
    async with stack.engine.connect() as reader, stack.engine.connect() as changer:
        await reader.execute(sa.text("select from republications"))
        pid = await reader.scalar(sa.text("select pg_backend_pid()"))
        waiting_pid = await changer.scalar(sa.text("select pg_backend_pid()"))
        change = asyncio.create_task(changer.execute(sa.text("lock table republications")))

        async def is_named() -> bool:
            finding = (await _findings(stack))["locks"]
            return (
                finding.state == "warning"
                and f"session {waiting_pid} (unnamed) waits for session {pid} (unnamed, idle in" in finding.message
                and f"pg_terminate_backend({pid})" in finding.advice
            )

        await eventually("a warning about the session that waits", is_named)
        await reader.rollback()
        await change


async def test_a_session_that_holds_locks_of_several_tables_is_named_once_and_a_publisher_is_not(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.0)

    async def message() -> str:
        return (await _findings(stack))["locks"].message

    async with stack.engine.connect() as conn:
        session = f"session {await conn.scalar(sa.text('select pg_backend_pid()'))} ("
        # As a publisher does, which then waits for Kafka.
        await conn.execute(
            sa.text("with claimed as (delete from outbox where false) update publishers set topic = topic where false")
        )
        assert session not in await message()
        for table in ("visitors", "vehicles"):
            await conn.execute(sa.text(f"delete from {table} where false"))
        text = await message()
        held = text.partition(" waits for ")[0]
        assert (held.count(session), held.count("on vehicles, visitors")) == (1, 1)
        await conn.rollback()


async def test_of_sessions_that_wait_for_each_other_the_one_that_waits_for_nobody_is_named(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.5)
    locking, writing = (
        sa.text(f"lock table articles in {mode} mode") for mode in ("access exclusive", "row exclusive")
    )
    async with stack.engine.connect() as first, stack.engine.connect() as second, stack.engine.connect() as third:
        blocker = await first.scalar(sa.text("select pg_backend_pid()"))
        await first.execute(sa.text("set application_name = 'report'"))
        await first.execute(sa.text("select from articles"))
        second_lock = asyncio.create_task(second.execute(locking))
        await stack.await_lock_wait()
        third_lock = asyncio.create_task(third.execute(writing))

        async def warns() -> bool:
            finding = (await _findings(stack))["locks"]
            named = f"session {blocker} (report, idle in transaction)"
            return named in finding.message and f"({blocker})" in finding.advice

        await eventually("a warning about the first session", warns)
        await first.rollback()
        await second_lock
        await second.rollback()
        await third_lock


@asynccontextmanager
async def _row(stack: Stack, statement: str, deletion: str) -> AsyncIterator[None]:
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text(statement))
    try:
        yield
    finally:
        async with stack.engine.begin() as conn:
            await conn.execute(sa.text(deletion))


async def test_changes_that_are_not_published(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = names.changes("visits", "visit")
    async with waiting_changes(stack, topic):  # one minute old
        for late, state in ((database.LATE_SECONDS, "failed"), (600.0, "warning")):
            monkeypatch.setattr(database, "LATE_SECONDS", late)
            finding = (await _findings(stack))["changes"]
            assert (finding.state, "docs/runbook.md" in finding.advice) == (state, True), finding
            age = re.match(r"changes wait for up to (\d+) s, ", finding.message)
            assert age is not None, finding
            assert 60 <= int(age[1]) < 120


async def test_answers_that_nobody_deletes(stack: Stack) -> None:
    insertion = (
        "insert into inbox (topic, source, request_id, operation, fingerprint, status, received_at)"
        " values ('doctor', '', 'doctor', 'visits.create', '', 200, now() - interval '8.5 days')"
    )
    # The worker of the tests deletes answers that are more than 9 days old.
    settings = WorkerSettings(inbox_days=8)
    async with _row(stack, insertion, "delete from inbox where topic = 'doctor'"):
        await _warns(stack, "answers", "8.5 days old", "`prune`", worker=settings)


async def test_a_schema_that_is_not_stored(stack: Stack) -> None:
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text("delete from schemas where position = (select max(position) from schemas)"))
    try:
        await _warns(stack, "schemas", "1 schemas of this release are not in the database", "start a worker")
    finally:
        await SchemaLookup(WIRE, stack.engine, None).store()


async def test_a_schema_of_another_revision(stack: Stack) -> None:
    revision = (await stack.rows("select version_num from alembic_version"))[0][0]
    update = "update alembic_version set version_num = '{}'"
    async with _row(stack, update.format("0001"), update.format(revision)):
        await _fails(stack, "migrations", "is not that of this release", "run `visitor migrate`")


async def test_a_user_of_the_database_without_rights(stack: Stack) -> None:
    user, password = f"doctor_{uuid4().hex}", uuid4().hex
    creation = f"create role {user} login password '{password}'"
    url = sa.make_url(stack.servers.database).set(username=user, password=password)
    limited = DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False)))
    async with _row(stack, creation, f"drop role {user}"):
        await _fails(stack, "table rights", "articles: DELETE, INSERT, SELECT, UPDATE", "owner", database=limited)
        grant = f"grant select, insert, update on all tables in schema public to {user}"
        async with _row(stack, grant, f"drop owned by {user}"):
            await _fails(stack, "table rights", "articles: DELETE, bookmarks: DELETE", "owner", database=limited)


async def test_dead_letters_that_nobody_handled(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"gateway/{uuid4()}"
    headers = [("ce_id", b"a"), ("ce_type", b"visitor.visits.create"), ("ce_source", source.encode())]
    await stack.raw(names.requests("visits"), b"{Zora", headers)

    async def warns() -> bool:
        finding = (await _findings(stack))["dead letters"]
        return finding.state == "warning" and "not_json" in finding.message and "Zora" not in finding.message

    await stack.await_record(names.DEAD_LETTERS, lambda record: record.headers.get("ce_source") == source)
    await eventually("a warning about dead letters", warns)
    unhandled = await _dead_letters(stack)
    discarded = await stack.command("dead-letters", "discard", "--source", source, "--yes")
    assert discarded.returncode == 0, discarded.stderr
    assert await _dead_letters(stack) == unhandled - 1
    monkeypatch.setattr(kafka, "RECENT", timedelta(0))
    assert await _dead_letters(stack) == 0


async def _dead_letters(stack: Stack) -> int:
    """How many the doctor warns of."""
    count = re.match(r"\d+", (await _findings(stack))["dead letters"].message)
    return int(count[0]) if count else 0


async def test_a_registry_that_does_not_answer(stack: Stack) -> None:
    nowhere = SchemaRegistrySettings(url=HttpUrl("http://127.0.0.1:1"))
    await _fails(stack, "registry", "schema registry: POST", "VISITOR_SCHEMA_REGISTRY", schema_registry=nowhere)


@pytest.fixture
def company_registry() -> Iterator[Registry]:
    company_registry = Registry()
    yield company_registry
    company_registry.stop()


async def test_a_registry_without_the_schemas_of_this_release_or_that_a_worker_may_not_write(
    stack: Stack, company_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [subject for subject in registry._subjects() if "optins" in subject.name]
    monkeypatch.setattr(registry, "_subjects", lambda: subjects)  # All of them take seconds on a busy machine.
    settings = {"schema_registry": SchemaRegistrySettings(url=HttpUrl(company_registry.url))}
    count = len(subjects)
    await _warns(stack, "registry", f"{count} of {count} subjects lack", "start a worker", Role.worker, **settings)
    assert company_registry.subjects == {}

    for each in subjects:
        company_registry.register(each.name, avro.schema_text(each.schema))
        if each.is_change:
            company_registry.compatibility[each.name] = "FULL_TRANSITIVE"
    for role in (Role.operator, Role.worker):
        assert (await _findings(stack, role, **settings))["registry"].state == "ok"
    subject = f"{names.changes('optins', 'optin')}-visitor.OptinChange"
    company_registry.compatibility[subject] = "BACKWARD"
    await _warns(stack, "registry", f"1 of {count} subjects lack", "start a worker", Role.worker, **settings)
    assert company_registry.compatibility[subject] == "BACKWARD"

    company_registry.compatibility[subject] = "FULL_TRANSITIVE"
    company_registry.refused = {"versions", "config"}
    assert (await _findings(stack, **settings))["registry"].state == "ok"
    await _fails(stack, "registry", "status 403", "let the user of the worker register", Role.worker, **settings)
    company_registry.refused = {"config"}
    await _fails(stack, "registry", "PUT config", "set the compatibility", Role.worker, **settings)


class _Issuer:
    """An issuer of tokens that answers with `documents`, by their paths."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = json.write(issuer.documents.get(self.path))
                self.send_response(200 if self.path in issuer.documents else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/realm"
        key = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        self.documents: dict[str, Any] = {
            "/realm/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/realm/keys": {"keys": [key | {"kid": "a"}]},
        }
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[_Issuer]:
    issuer = _Issuer()
    yield issuer
    issuer.stop()


async def test_an_issuer_whose_tokens_the_edge_cannot_verify(stack: Stack, issuer: _Issuer) -> None:
    def http(url: str = issuer.url, **settings: Any) -> HttpSettings:
        return HttpSettings(oidc_issuer=url, oidc_audience="visitors", **settings)

    finding = (await _findings(stack, Role.edge, http=http()))["issuer"]
    assert (finding.state, "1 of its keys" in finding.message) == ("ok", True), finding
    await _fails(stack, "issuer", f"calls itself {issuer.url}", "OIDC_ISSUER", Role.edge, http=http(f"{issuer.url}/"))
    issuer.documents["/realm/keys"] = {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}
    await _fails(stack, "issuer", "has no keys for RS256 or ES256", "correct", Role.edge, http=http())
    issuer.documents["/realm/keys"] = []
    await _fails(stack, "issuer", "cannot be read", "correct the VISITOR_HTTP_OIDC_", Role.edge, http=http())
    for broken in (http(f"{issuer.url}/nowhere"), http(oidc_jwks_url=f"{issuer.url}/nowhere"), http("http://[")):
        await _fails(stack, "issuer", "cannot be read", "make the issuer reachable", Role.edge, http=broken)


def _key_file(path: Path, *expiries: timedelta) -> HttpSettings:
    """A file with one key of the caller `gateway` for each expiry."""
    now = datetime.now(UTC)
    entries = [
        f'[[keys]]\nname = "gateway"\nsha256 = "{keys.digest(keys.new_key())}"\nscopes = ["visits:write"]\n'
        f"expires = {(now + expiry).isoformat()}\n"
        for expiry in expiries
    ]
    path.write_text("\n".join(entries))
    return HttpSettings(keys=path)


async def test_keys_that_expire_soon_or_cannot_be_read(stack: Stack, tmp_path: Path) -> None:
    file, day = tmp_path / "keys.toml", timedelta(days=1)
    await _warns(stack, "keys", "gateway (", "visitor key", http=_key_file(file, 3 * day))
    await _warns(stack, "keys", "gateway (", "visitor key", http=_key_file(file, -day))
    assert (await _findings(stack, http=_key_file(file, 3 * day, 90 * day)))["keys"].state == "ok"
    file.write_text("[[keys]]")
    await _fails(stack, "keys", "is not a valid key file", "correct the file", http=HttpSettings(keys=file))


async def test_a_certificate_that_expires_soon(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = Authority(tmp_path, "doctor").issue("doctor")
    # The broker listens without TLS, so it does not see the certificate.
    client = stack.kafka.model_copy(update={"ssl_certfile": str(certificate.cert)})
    monkeypatch.setattr(configuration, "EXPIRES_SOON", timedelta(days=400_000))
    await _warns(stack, "certificate", "expires on", "renew", kafka=client)
    monkeypatch.setattr(configuration, "now", lambda: datetime.max.replace(tzinfo=UTC))
    monkeypatch.setattr(configuration, "EXPIRES_SOON", timedelta(0))
    await _fails(stack, "certificate", "has expired", "renew", kafka=client)


def test_each_role_has_its_checks() -> None:
    assert {role for check in doctor.CHECKS for role in check.roles} == {Role.operator, Role.worker, Role.edge}
    assert "database" not in _checks_of(Role.edge)


def _checks_in(table: str, column: int) -> list[list[str]]:
    """The names in each cell of a column of a table in the runbook. `table` is its first row."""
    _, _, rest = (ROOT / "docs" / "runbook.md").read_text().partition(f"{table}\n")
    cells = [row.split("|")[column].partition(". ")[0] for row in rest.partition("\n\n")[0].splitlines()[1:]]
    return [re.findall("`([a-z ]+)`", cell) for cell in cells]


def test_the_runbook_explains_each_check_and_lists_those_of_each_role() -> None:
    explained = list(chain.from_iterable(_checks_in("| check | warning | failed |", 1)))
    assert sorted(explained) == sorted(check.name for check in doctor.CHECKS)
    without_reads, of_worker, of_edge = _checks_in("| command | checks |", 2)
    assert (without_reads, set(_checks_of(Role.operator))) == (["reads"], set(explained) - {"reads"})
    assert (of_worker, of_edge) == (_checks_of(Role.worker), _checks_of(Role.edge))
