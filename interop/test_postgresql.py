"""PostgreSQL with TLS, as Debian packages it and as its manual says to configure it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from runtime.dev.servers.processes import free_port
from storage.connecting import ConnectionFailed
from tests.support import data
from tests.support.certificates import HOST, YESTERDAY, Authority, Certificate
from tests.support.connecting import connect_once
from tests.support.stack import Stack, eventually

KEY_PASSWORD = "a password of a key"
PASSWORD = "a/password: with @ signs"
RULES = """
hostnossl all all all reject
hostssl all visitor all scram-sha-256
hostssl all careful all scram-sha-256 clientcert=verify-ca
hostssl all certified all cert
local all all trust
"""
"""pg_hba.conf. `visitor` has a password, `certified` a certificate, and `careful` both."""


@dataclass
class Server:
    """Debian's PostgreSQL with a folder of its own."""

    programs: Path
    folder: Path
    port: int = field(default_factory=free_port)

    def run(self, program: str, *arguments: str, user: str | None = None) -> str:
        """Run one of PostgreSQL's programs until it ends, and return its output."""
        process = subprocess.run(
            [self.programs / program, *arguments], cwd="/", user=user, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    def control(self, command: str, *arguments: str) -> None:
        log = self.folder / "log"
        options = ("--silent", "--wait", "--pgdata", str(self.folder), "--log", str(log))
        self.run("pg_ctl", *options, command, *arguments, user=self._user)

    def administer(self, statement: str) -> str:
        """Execute a statement as the superuser, and return its rows."""
        options = ("--host", str(self.folder), "--port", str(self.port), "--username", "postgres", "--no-align")
        return self.run("psql", *options, "--tuples-only", "--command", statement)

    def initialize(self, authority: Authority) -> None:
        self._give_away(self.folder)
        self.run("initdb", "--no-sync", "--pgdata", str(self.folder), "--username", "postgres", user=self._user)
        (self.folder / "pg_hba.conf").write_text(RULES)
        self._write("root.crt", authority.file)
        with (self.folder / "postgresql.conf").open("a") as config:
            config.write(
                f"port = {self.port}\nlisten_addresses = '{HOST}'\nunix_socket_directories = '{self.folder}'\n"
                "fsync = off\nssl = on\nssl_ca_file = 'root.crt'\n"
            )

    def present(self, certificate: Certificate) -> None:
        """Use another certificate from the next start or reload on."""
        self._write("server.crt", certificate.cert)
        self._write("server.key", certificate.key)

    def url(self, user: str, **parameters: str) -> str:
        """A URL as people write it for libpq."""
        password = None if user == "certified" else PASSWORD
        url = sa.URL.create("postgresql", user, password, HOST, self.port, "visitor", parameters)
        return url.render_as_string(hide_password=False)

    def _write(self, name: str, source: Path) -> None:
        target = self.folder / name
        shutil.copyfile(source, target)
        target.chmod(0o600)
        self._give_away(target)

    @property
    def _user(self) -> str | None:
        """Who runs the server, which refuses to run as root."""
        return "postgres" if os.geteuid() == 0 else None

    def _give_away(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, self._user)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("postgresql")
    for parent in folder.parents[:2]:
        parent.chmod(0o755)
    (*_, programs) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    postgres = Server(programs, folder)
    postgres.initialize(authority)
    postgres.present(authority.issue("server"))
    postgres.control("start")
    try:
        for user in ("visitor", "careful", "certified"):
            postgres.administer(f"create role {user} login password '{PASSWORD}'")
        postgres.administer("create database visitor owner certified")
        yield postgres
    finally:
        postgres.control("stop", "--mode", "immediate")


@pytest.fixture(scope="module")
def verified(authority: Authority) -> dict[str, str]:
    """The parameters of a URL that verify the server."""
    return {"sslmode": "verify-full", "sslrootcert": str(authority.file)}


def _with(certificate: Certificate, **parameters: str) -> dict[str, str]:
    return {"sslcert": str(certificate.cert), "sslkey": str(certificate.key), **parameters}


async def test_the_service_works_with_a_certificate_whose_key_has_a_password(
    own_stack: Stack, server: Server, authority: Authority, verified: dict[str, str]
) -> None:
    certificate = _with(authority.issue("certified", password=KEY_PASSWORD), sslpassword=KEY_PASSWORD)
    settings = {"VISITOR_DATABASE_URL": server.url("certified", **verified, **certificate)}
    migrated = await own_stack.command("migrate", **settings)
    assert migrated.returncode == 0, migrated.stderr
    worker = own_stack.worker(**settings)
    edge, url = own_stack.edge()
    for process in (worker, edge):
        await eventually("a ready process", process.ready)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        center = data.center()
        assert (await client.post("/centers", json=center)).status_code == 201
        assert (await client.get(f"/centers/{center['pcCode']}")).status_code == 200
    sessions = server.administer(
        "select count(*) >= 3, bool_and(ssl and version = 'TLSv1.3' and client_serial is not null)"
        " from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'certified'"
    )
    assert sessions == "t|t\n"
    doctor = await own_stack.command("doctor", "worker", "--json", **settings)
    assert '"check": "database"' in doctor.stdout
    assert worker.terminate() == 0


async def test_urls_work_as_people_write_them_for_libpq(
    server: Server, authority: Authority, verified: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    certificate = authority.issue("careful")
    urls = [
        server.url("visitor", **verified),
        server.url("visitor", sslmode="verify-ca", sslrootcert=str(authority.file)),
        server.url("visitor", sslmode="require").replace("postgresql:", "postgres:"),
        server.url("visitor", sslmode="prefer"),
        server.url("visitor"),
        server.url("visitor", ssl_min_protocol_version="TLSv1.3", **verified),
        server.url("careful", **_with(certificate), **verified),
    ]
    for url in urls:
        await connect_once(url)
        server.run("psql", url, "--command", "select 1")
    await connect_once(server.url("visitor", sslmode="verify-full", sslrootcert="system"))  # psql 15 does not know it.


async def test_wrong_settings_give_one_line_that_names_the_url(
    server: Server, authority: Authority, verified: dict[str, str], tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    encrypted = authority.issue("certified", password=KEY_PASSWORD)
    expired = authority.issue("certified-expired", expires=YESTERDAY)
    cases = [
        (server.url("visitor", sslmode="disable"), "pg_hba.conf rejects connection .* no encryption"),
        (server.url("careful", **verified), "requires a valid client certificate"),
        (server.url("certified", **verified), "requires a valid client certificate"),
        (server.url("visitor", sslmode="verify-full", sslrootcert=str(stranger.file)), r"\(sslrootcert\)"),
        (
            server.url("certified", **_with(authority.issue("somebody")), **verified),
            "certificate authentication failed",
        ),
        (server.url("certified", **_with(stranger.issue("certified")), **verified), "(?i)unknown.ca"),
        (server.url("certified", **_with(expired), **verified), "(?i)expired"),
        (server.url("certified", **_with(encrypted), **verified), "sslpassword"),
        (server.url("certified", **_with(encrypted, sslpassword="wrong"), **verified), "sslpassword"),
        (server.url("certified", **_with(encrypted, sslkey=str(stranger.file)), **verified), "sslkey"),
        (server.url("visitor", **verified).replace(HOST, "127.0.0.1"), "another host name"),
    ]
    for url, pattern in cases:
        with pytest.raises(ConnectionFailed) as failure:
            await connect_once(url)
        (line,) = str(failure.value).splitlines()
        assert line.startswith("VISITOR_DATABASE_URL"), line
        assert re.search(pattern, line), line
        assert "@ signs" not in line
        assert KEY_PASSWORD not in line
