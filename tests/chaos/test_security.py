"""TLS, SASL and ACLs, on a broker and a database that require them. Each role has exactly the ACLs that `visitor acls`
prints."""

import argparse
import asyncio
import json
import shlex
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
import pytest_asyncio
import sqlalchemy as sa
from aiokafka.errors import KafkaError
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from runtime import settings
from runtime.dev import servers as embedded
from runtime.dev.servers.processes import free_port, kept_port
from runtime.settings import WrongSetting
from storage.connecting import ConnectionFailed
from tests.support import data
from tests.support.certificates import HOST, YESTERDAY, Authority, Certificate
from tests.support.connecting import connect_once
from tests.support.postgres_tls import tls_in_front_of
from tests.support.servers import DOWNLOADS, Servers
from tests.support.stack import Stack, bare_stack_on, eventually
from topics import kafka, names
from topics.acls import Role

PASSWORD = "a password with = and &"
KEY_PASSWORD = "of the key"
PROTOCOLS = "SCRAM:SASL_SSL,MTLS:SSL,EXPIRED:SSL,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True)
class Broker:
    """`plain` is the address of the administrator, the others are those of the listeners. The last one has an expired
    certificate. `pid` is the id of the process."""

    pid: int
    plain: str
    scram: str
    mtls: str
    expired: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "trusted")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    """A CA that the servers do not trust."""
    return Authority(folder, "stranger")


@pytest.fixture(scope="module")
def broker(folder: Path, authority: Authority) -> Iterator[Broker]:
    server, expired = authority.issue("broker"), authority.issue("expired", expires=YESTERDAY)
    (folder / "kafka").mkdir()
    controller = kept_port(folder / "kafka" / "controller-port")
    plain, *ports = (free_port() for _ in range(4))
    listeners = [f"{name}://{HOST}:{port}" for name, port in zip(("SCRAM", "MTLS", "EXPIRED"), ports, strict=True)] + [
        f"PLAINTEXT://127.0.0.1:{plain}"
    ]
    properties = {
        "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join(listeners),
        "listener.security.protocol.map": PROTOCOLS,
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": JAAS,
        "listener.name.mtls.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server.both),
        "listener.name.expired.ssl.keystore.type": "PEM",
        "listener.name.expired.ssl.keystore.location": str(expired.both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "ssl.principal.mapping.rules": "RULE:^CN=(.*?),OU=.*$/$1/",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    processes = embedded.Processes(folder)
    running = embedded.Kafka(folder, DOWNLOADS, processes, port=plain, settings=properties)
    running.start()
    try:
        yield Broker(processes.pid("kafka"), running.bootstrap, *(f"{HOST}:{port}" for port in ports))
    finally:
        running.stop()


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[embedded.Postgres]:
    server = embedded.Postgres(folder, embedded.Processes(folder / "postgres-processes"), durable=False)
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database_url(postgres: embedded.Postgres, authority: Authority) -> AsyncIterator[str]:
    """The URL of PostgreSQL with TLS, as people write it for libpq, without parameters."""
    async with tls_in_front_of(postgres.port, authority.issue("database")) as port:
        yield _url(postgres, port)


def _url(postgres: embedded.Postgres, port: int) -> str:
    url = sa.make_url(postgres.url).set(drivername="postgresql", host=HOST, port=port)
    return url.render_as_string(hide_password=False)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(broker: Broker, postgres: embedded.Postgres, folder: Path) -> AsyncIterator[Stack]:
    """An installation without processes, tables and topics."""
    async with bare_stack_on(Servers(broker.plain, postgres.url), folder) as stack:
        yield stack


def _scram(broker: Broker, authority: Authority, role: Role, **settings: str) -> dict[str, str]:
    """The settings of a role that logs in with a password."""
    return {
        "VISITOR_KAFKA_BOOTSTRAP": broker.scram,
        "VISITOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "VISITOR_KAFKA_SASL_USERNAME": f"visitor-{role}",
        "VISITOR_KAFKA_SASL_PASSWORD": PASSWORD,
        "VISITOR_KAFKA_SSL_CAFILE": str(authority.file),
        **settings,
    }


def _mtls(broker: Broker, authority: Authority, certificate: Certificate, **settings: str) -> dict[str, str]:
    """The settings of a role with a certificate and an encrypted key."""
    return {
        "VISITOR_KAFKA_BOOTSTRAP": broker.mtls,
        "VISITOR_KAFKA_SECURITY_PROTOCOL": "SSL",
        "VISITOR_KAFKA_SSL_CAFILE": str(authority.file),
        "VISITOR_KAFKA_SSL_CERTFILE": str(certificate.cert),
        "VISITOR_KAFKA_SSL_KEYFILE": str(certificate.key),
        "VISITOR_KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
        **settings,
    }


def _client(broker: Broker, authority: Authority, role: Role, **settings: object) -> dict[str, object]:
    """The same, for a stock client."""
    return {
        "bootstrap.servers": broker.scram,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": f"visitor-{role}",
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(authority.file),
        **settings,
    }


_PARSER = argparse.ArgumentParser()
_PARSER.add_argument("--bootstrap-server", required=True)
_PARSER.add_argument("--add", action="store_true", required=True)
_PARSER.add_argument("--allow-principal", required=True)
_PARSER.add_argument("--operation", action="append", required=True)
_PARSER.add_argument("--resource-pattern-type", default="literal")
for _resource in ("topic", "group", "transactional-id"):
    _PARSER.add_argument(f"--{_resource}")
_RESOURCES = {
    "topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional_id": ResourceType.TRANSACTIONAL_ID,
}  # fmt: skip
_OPERATIONS = {
    "Create": AclOperation.CREATE, "Describe": AclOperation.DESCRIBE, "Read": AclOperation.READ,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS, "Write": AclOperation.WRITE,
}  # fmt: skip


def _bindings(command: str) -> Iterator[AclBinding]:
    """What a `kafka-acls.sh` command adds."""
    program, *arguments = shlex.split(command)
    assert program == "kafka-acls.sh"
    options = vars(_PARSER.parse_args(arguments))
    ((resource, name),) = [(resource, options[resource]) for resource in _RESOURCES if options[resource]]
    pattern = ResourcePatternType[options["resource_pattern_type"].upper()]
    for operation in options["operation"]:
        yield AclBinding(
            _RESOURCES[resource], name, pattern, options["allow_principal"], "*", _OPERATIONS[operation],
            AclPermissionType.ALLOW,
        )  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def secured(stack: Stack, broker: Broker, authority: Authority) -> Stack:
    """The installation with users, with exactly the ACLs that `visitor acls` prints, and with topics and tables. The
    operator has created the topics."""
    admin = AdminClient({"bootstrap.servers": broker.plain})
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    users = [UserScramCredentialUpsertion(f"visitor-{role}", scram, PASSWORD.encode()) for role in Role]
    printed = await stack.command("acls", "worker", "edge", "crm", "operator")
    gateway = await stack.command("acls", "gateway", "--family", "visits", "--principal", "User:visitor-gateway")
    lines = (printed.stdout + gateway.stdout).splitlines()
    bindings = [binding for line in lines if not line.startswith("#") for binding in _bindings(line)]
    futures = [*admin.alter_user_scram_credentials(users).values(), *admin.create_acls(bindings).values()]
    for future in futures:
        await asyncio.to_thread(future.result, 20)
    topics = await stack.command("topics", **_scram(broker, authority, Role.operator))
    assert topics.returncode == 0, topics.stderr
    assert topics.stdout.count("created ") > 20
    return stack


async def test_every_role_works_with_exactly_its_acls(
    secured: Stack, broker: Broker, authority: Authority, database_url: str
) -> None:
    """The worker has a certificate with an encrypted key, the others have passwords. All verify the servers."""
    url = f"{database_url}?sslmode=verify-full&sslrootcert={authority.file}"
    migrated = await secured.command("migrate", VISITOR_DATABASE_URL=url)
    assert migrated.returncode == 0, migrated.stderr
    certificate = authority.issue("visitor-worker", password=KEY_PASSWORD)
    worker = secured.worker(**_mtls(broker, authority, certificate, VISITOR_DATABASE_URL=url))
    edge, edge_url = secured.edge(**_scram(broker, authority, Role.edge))
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=edge_url, timeout=30) as client:
        parker = await data.visitor_with_vehicle(client)
        assert (await client.get(f"/visitors/{parker['visitorId']}")).status_code == 200

    request_id, group = str(uuid4()), {"auto.offset.reset": "earliest"}
    producer = Producer(_client(broker, authority, Role.gateway))
    headers = [("ce_id", request_id.encode()), ("ce_type", b"visitor.visits.create"), ("ce_source", b"gateway/a")]
    body = f'{{"licensePlate": "{parker["licensePlate"]}", "pcCode": "{parker["pcCode"]}"}}'
    value = f'{{"path": {{"visitType": "entry"}}, "body": {body}}}'
    producer.produce(names.requests("visits"), value.encode(), headers=headers)
    producer.produce(names.requests("visits"), b"{", headers=headers)
    assert await asyncio.to_thread(producer.flush, 20) == 0
    consumed = [
        (Role.gateway, names.results("visits"), request_id),
        (Role.crm, names.changes("visitors", "visitor"), f"visitor:{parker['visitorId']}:1"),
    ]
    for role, topic, expected in consumed:
        options = _client(broker, authority, role, **{"group.id": f"visitor-{role}.test"}, **group)
        assert expected in await asyncio.to_thread(_ids_up_to, options, topic, expected)
    listed = await secured.command("dead-letters", "list", "--json", **_scram(broker, authority, Role.operator))
    assert '"not_json"' in listed.stdout, listed.stderr
    for role, expected in ((Role.operator, {"dead letters": "warning"}), (Role.worker, {}), (Role.edge, {})):
        checks = await _complete_checks(secured, role, _scram(broker, authority, role, VISITOR_DATABASE_URL=url))
        assert {name: check["state"] for name, check in checks.items() if check["state"] != "ok"} == expected, checks
    assert "uthorization" not in (worker.log.read_text() + edge.log.read_text()).replace("ClusterAuthorization", "")


async def test_processes_end_in_time_while_their_broker_hangs_over_tls(
    secured: Stack, broker: Broker, authority: Authority, database_url: str
) -> None:
    """With TLS, a connection is closed only when the other side answers."""
    url = f"{database_url}?sslmode=verify-full&sslrootcert={authority.file}"
    assert (await secured.command("migrate", VISITOR_DATABASE_URL=url)).returncode == 0
    worker = secured.worker(**_scram(broker, authority, Role.worker, VISITOR_DATABASE_URL=url))
    edge, edge_url = secured.edge(**_scram(broker, authority, Role.edge))
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=edge_url, timeout=30) as client:
        await data.create(client, "/centers", data.center())
    frozen = psutil.Process(broker.pid)
    frozen.suspend()
    try:
        ends = (asyncio.to_thread(worker.terminate, 20), asyncio.to_thread(edge.terminate, 20))
        assert await asyncio.gather(*ends) == [0, -signal.SIGTERM]
    finally:
        frozen.resume()


def _ids_up_to(options: dict[str, object], topic: str, expected: str) -> list[str]:
    """The ids of the events on a topic, up to one."""
    consumer = Consumer(options)
    consumer.subscribe([topic])
    ids: list[str] = []
    try:
        while expected not in ids:
            message = consumer.poll(30)
            assert message is not None, f"no {expected} on {topic}: {ids}"
            assert message.error() is None, message.error()
            ids.append(dict(message.headers() or [])["ce_id"].decode())
    finally:
        consumer.close()
    return ids


@pytest.mark.parametrize(
    ("role", "topic"),
    [
        (Role.edge, names.results("visits")),
        (Role.gateway, names.requests("visitors")),
        (Role.gateway, names.results("visits")),
        (Role.crm, names.changes("visitors", "visitor")),
        (Role.worker, names.requests("visits")),
        (Role.operator, names.requests("visits")),
    ],
)
async def test_a_role_cannot_write_other_topics(
    secured: Stack, broker: Broker, authority: Authority, role: Role, topic: str
) -> None:
    errors = []
    producer = Producer(_client(broker, authority, role))
    producer.produce(topic, b"{}", on_delivery=lambda error, _: errors.append(error.name()))
    await asyncio.to_thread(producer.flush, 20)
    assert errors == ["TOPIC_AUTHORIZATION_FAILED"]


async def test_the_doctor_tells_each_role_which_rights_it_lacks(
    secured: Stack, broker: Broker, authority: Authority
) -> None:
    rights = await _rights(secured, Role.worker, _scram(broker, authority, Role.operator))
    assert rights["state"] == "failed", rights
    assert "Read on the group visitor-worker.queries" in rights["message"]
    assert "visitor acls worker" in rights["advice"]
    rights = await _rights(secured, Role.edge, _scram(broker, authority, Role.worker))
    assert f"Read on the topic {names.REPLIES}" in rights["message"]
    rights = await _rights(secured, Role.operator, _scram(broker, authority, Role.edge))
    assert "Create on the topic " in rights["message"]


async def _rights(secured: Stack, role: Role, variables: dict[str, str]) -> dict[str, str]:
    """What the doctor says about the rights of a role in Kafka."""
    return (await _checks(secured, role, variables))["kafka rights"]


async def _checks(secured: Stack, role: Role, variables: dict[str, str]) -> dict[str, dict[str, str]]:
    """What the doctor says with these settings, by check."""
    done = await secured.command("doctor", role, "--json", **variables)
    return {check["check"]: check for check in json.loads(done.stdout)["checks"]}


async def _complete_checks(secured: Stack, role: Role, variables: dict[str, str]) -> dict[str, dict[str, str]]:
    """The same, once no check asks to be run again, as it does after a slow read."""

    async def complete() -> dict[str, dict[str, str]] | None:
        checks = await _checks(secured, role, variables)
        return None if any("run this again" in check["advice"] for check in checks.values()) else checks

    checks: dict[str, dict[str, str]] = await eventually("a doctor that needs no other run", complete)
    return checks


async def test_a_crm_cannot_read_requests(secured: Stack, broker: Broker, authority: Authority) -> None:
    consumer = Consumer(_client(broker, authority, Role.crm, **{"group.id": "visitor-crm.test"}))
    try:
        consumer.subscribe([names.requests("visits")])
        message = await asyncio.to_thread(consumer.poll, 20)
        assert message is not None
        with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
            raise KafkaException(message.error())
    finally:
        consumer.close()


def _one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


async def _kafka_failure(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    """Why a process with these settings cannot connect."""
    with monkeypatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        try:
            await kafka.connect(settings.load().kafka)
        except (WrongSetting, KafkaError) as error:
            return str(error)
    raise AssertionError(f"connected with {variables}")


async def test_wrong_settings_of_kafka_give_one_line_that_names_them(
    secured: Stack, broker: Broker, authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = authority.issue("visitor-operator", password=KEY_PASSWORD)
    foreign = stranger.issue("visitor-operator", password=KEY_PASSWORD)
    expired = authority.issue("visitor-operator-expired", expires=YESTERDAY, password=KEY_PASSWORD)
    with_password = _scram(broker, authority, Role.operator)
    with_certificate = _mtls(broker, authority, own)
    cases: list[tuple[dict[str, str], Sequence[str]]] = [
        (with_password | {"VISITOR_KAFKA_SASL_PASSWORD": "wrong"}, ["VISITOR_KAFKA_SASL_PASSWORD"]),
        (with_password | {"VISITOR_KAFKA_SASL_MECHANISM": "PLAIN"}, ["VISITOR_KAFKA_SASL_MECHANISM"]),
        (with_password | {"VISITOR_KAFKA_SSL_CAFILE": str(stranger.file)}, ["VISITOR_KAFKA_SSL_CAFILE", broker.scram]),
        (with_password | {"VISITOR_KAFKA_SSL_CAFILE": "/nowhere"}, ["VISITOR_KAFKA_SSL_CAFILE", "/nowhere"]),
        (with_password | {"VISITOR_KAFKA_SSL_CAFILE": str(own.key)}, ["VISITOR_KAFKA_SSL_CAFILE", "PEM"]),
        (
            with_password | {"VISITOR_KAFKA_BOOTSTRAP": broker.scram.replace(HOST, "127.0.0.1")},
            ["VISITOR_KAFKA_BOOTSTRAP", "another host name"],
        ),
        (
            with_certificate | {"VISITOR_KAFKA_BOOTSTRAP": broker.expired},
            ["VISITOR_KAFKA_BOOTSTRAP", broker.expired, "has expired"],
        ),
        (with_certificate | {"VISITOR_KAFKA_SSL_KEY_PASSWORD": "wrong"}, ["VISITOR_KAFKA_SSL_KEY_PASSWORD"]),
        (with_certificate | {"VISITOR_KAFKA_SSL_KEYFILE": str(foreign.key)}, ["VISITOR_KAFKA_SSL_KEYFILE"]),
        (_mtls(broker, authority, foreign), ["VISITOR_KAFKA_SSL_CERTFILE"]),
        (_mtls(broker, authority, expired), ["VISITOR_KAFKA_SSL_CERTFILE"]),
        (with_password | {"VISITOR_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, ["VISITOR_KAFKA_SECURITY_PROTOCOL"]),
    ]
    for variables, texts in cases:
        line = _one_line(await _kafka_failure(monkeypatch, variables))
        assert all(text in line for text in texts), line
    done = await secured.command("topics", **cases[0][0])
    assert (done.returncode, "VISITOR_KAFKA_SASL_PASSWORD" in _one_line(done.stderr)) == (2, True), done.stderr


async def test_a_worker_with_a_wrong_password_says_so_and_waits(
    secured: Stack, broker: Broker, authority: Authority
) -> None:
    worker = secured.worker(**_scram(broker, authority, Role.worker, VISITOR_KAFKA_SASL_PASSWORD="wrong"))

    async def says_so() -> bool:
        return "VISITOR_KAFKA_SASL_PASSWORD" in worker.log.read_text()

    await eventually("a log line that names the setting", says_so)
    assert not await worker.ready()
    worker.kill()


async def test_wrong_settings_of_postgresql_give_one_line_that_names_the_url(
    stack: Stack, postgres: embedded.Postgres, database_url: str, authority: Authority, stranger: Authority
) -> None:
    verified = f"?sslmode=verify-full&sslrootcert={authority.file}"
    for accepted in (database_url + verified, f"{database_url}?sslmode=require", f"{postgres.url}?ssl=prefer"):
        await connect_once(accepted)
    wrong_password = sa.make_url(database_url).set(password="wrong").render_as_string(hide_password=False)
    async with tls_in_front_of(postgres.port, authority.issue("database-expired", expires=YESTERDAY)) as port:
        cases = [
            (wrong_password + verified, "password authentication failed"),
            (f"{database_url}?sslmode=verify-full&sslrootcert={stranger.file}", "(sslrootcert)"),
            (f"{database_url}?sslmode=verify-full&sslrootcert=/nowhere", "/nowhere"),
            (f"{database_url}?sslmode=nonsense", "sslmode"),
            (database_url.replace(HOST, "127.0.0.1") + verified, "another host name"),
            (postgres.url + verified, "offers no TLS"),
            (_url(postgres, port) + verified, "has expired"),
        ]
        for url, text in cases:
            with pytest.raises(ConnectionFailed) as failure:
                await connect_once(url)
            assert "VISITOR_DATABASE_URL" in _one_line(str(failure.value))
            assert text in str(failure.value)
    done = await stack.command("migrate", VISITOR_DATABASE_URL=cases[0][0])
    assert (done.returncode, cases[0][1] in _one_line(done.stderr)) == (2, True), done.stderr
