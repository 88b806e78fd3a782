"""The command line: `visitor …`.

What takes long to load is imported by the command that needs it: probes run `visitor health` all day.
"""

import asyncio
import json
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvloop
from aiokafka.errors import KafkaError

from agents.engine.retry import is_retryable
from edge import keys as edge_keys
from edge.keys import WrongKeyFile
from runtime import health, logs, ports, settings
from runtime.settings import Settings, WrongSetting
from topics.supervision import interruptions_raised

log = structlog.get_logger(__name__)

app = typer.Typer(
    help="All data about the visitors of a group of shopping centers: Kafka messages in, results and changes out.",
    epilog="Settings come from the environment; `visitor settings` lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Role(StrEnum):
    worker = "worker"
    edge = "edge"


def main() -> None:
    """The entry point. A wrong setting ends with status 2 and says what it should be."""
    try:
        app()
    except (WrongSetting, WrongKeyFile, ports.PortTaken) as error:
        sys.stderr.write(f"visitor: {error}\n")
        sys.exit(2)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)


def _start() -> Settings:
    found = settings.load()
    logs.configure(found.log)
    return found


@app.command()
def dev(
    reset: Annotated[bool, typer.Option("--reset", help="Forget all data of earlier runs first.")] = False,
    simulation: Annotated[bool, typer.Option(help="Simulate gateways that report visits.")] = True,
) -> None:
    """Run everything on this machine: Kafka, PostgreSQL, worker, edge, sample data and a simulated gateway stream."""
    from runtime.dev import run as development  # the embedded servers are an extra that production does not install

    sys.exit(development.run(settings.load(), reset=reset, simulation=simulation))


@app.command()
def worker() -> None:
    """Run a worker: takes requests from Kafka, applies them to PostgreSQL, publishes results and changes.

    Waits for `visitor migrate` and `visitor topics`. Ends with status 1 where it cannot go on."""
    from agents.catalogue import CATALOGUE
    from runtime import worker_process

    found = _start()
    ports.ensure_free(health.LOOPBACK, found.worker.health_port, "VISITOR_WORKER_HEALTH_PORT")
    sys.exit(_run(worker_process.run(found, CATALOGUE)))


@app.command()
def edge() -> None:
    """Run an HTTP edge: translates calls to messages and waits for their results. Docs are under /docs.

    Ends with status 1 where it cannot go on."""
    from agents.catalogue import CATALOGUE
    from runtime import edge_process

    found = _start()
    http = found.http
    if http.keys is None and http.host not in ("127.0.0.1", "::1", "localhost"):
        raise WrongSetting("VISITOR_HTTP_KEYS is needed to listen on another address than loopback.")
    ports.ensure_free(http.host, http.port, "VISITOR_HTTP_PORT")
    sys.exit(edge_process.run(found, CATALOGUE))


@app.command()
def migrate() -> None:
    """Bring the database's schema to what this version needs. Safe to run twice at once."""
    from storage import migrate as storage_migrate

    found = _start()
    before, after = _run(_patiently(lambda: storage_migrate.upgrade(found.database)))
    typer.echo(f"The database is at {after}" + ("." if before == after else f"; it was at {before or 'nothing'}."))


@app.command()
def topics(
    alter: Annotated[
        bool, typer.Option("--alter", help="Give existing topics the configuration that the service needs.")
    ] = False,
) -> None:
    """Create missing topics, and show where an existing one differs; status 1 where one does."""
    from agents.catalogue import CATALOGUE
    from topics import admin, names

    found = _start()
    specs = names.specs(CATALOGUE.families, found.kafka)
    report = _run(_patiently(lambda: admin.ensure(found.kafka, specs, alter=alter)))
    for name in report.created:
        typer.echo(f"created {name}")
    for name in report.altered:
        typer.echo(f"altered {name}")
    for item in report.differences:
        typer.echo(f"differs {item.topic}: {item.setting} is {item.found}, the service needs {item.wanted}")
    if not (report.created or report.altered or report.differences):
        typer.echo("All topics are there and as they should be.")
    if report.differences:
        typer.echo("Change the topics with --alter or with Kafka's own tools, or change the VISITOR_KAFKA_… settings.")
        raise typer.Exit(1)


@app.command(name="health")
def health_command(
    role: Annotated[Role, typer.Argument(help="Which process to ask.")] = Role.worker,
    live: Annotated[bool, typer.Option("--live", help="Only whether it runs, not whether it is ready.")] = False,
) -> None:
    """Ask a process on this machine whether it is well: status 0 if it is, 1 if not."""
    found = settings.load()
    if role is Role.edge:
        host = health.LOOPBACK if found.http.host in ("0.0.0.0", "::") else found.http.host
        url = f"http://{f'[{host}]' if ':' in host else host}:{found.http.port}/health{'/live' if live else ''}"
    else:
        url = f"http://{health.LOOPBACK}:{found.worker.health_port}/health/{'live' if live else 'ready'}"
    well, said = health.ask(url, timeout=5)
    typer.echo(said)
    raise typer.Exit(0 if well else 1)


@app.command()
def schemas(folder: Annotated[Path, typer.Argument(help="Where to write; made if missing.")]) -> None:
    """Write the Avro schemas of all requests, results and changes, one file each, with their ids."""
    from agents.catalogue import CATALOGUE
    from agents.wire import Wire

    wire = Wire(CATALOGUE)
    for kind, group in (("requests", wire.requests), ("results", wire.results), ("changes", wire.changes)):
        place = folder / kind
        place.mkdir(parents=True, exist_ok=True)
        for name, schema in group.items():
            (place / f"{name}.avsc").write_text(json.dumps(schema, indent=2) + "\n")
    ids = {name: wire.ids(name) for name in CATALOGUE.by_name}
    (folder / "ids.json").write_text(json.dumps(ids | {"changes": wire.change_ids}, indent=2) + "\n")
    typer.echo(f"wrote the schemas to {folder}")


@app.command(name="consume")
def consume_command(
    topic: Annotated[str, typer.Argument(help="For example visitor.visits.changes.")],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest message.")] = False,
) -> None:
    """Print the messages of a topic as JSON lines, Avro decoded, until Ctrl-C."""
    from runtime import consume

    found = _start()
    try:
        _run(consume.follow(found.kafka, topic, from_beginning=from_beginning))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except KafkaError as error:
        raise WrongSetting(f"VISITOR_KAFKA_BOOTSTRAP: {found.kafka.bootstrap} does not answer ({error})") from error


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Who will use it, for example parking-paris.")],
    scope: Annotated[list[str], typer.Option(help="<family>:read, <family>:write, *:read or *:write; repeatable.")],
) -> None:
    """Make an API key: prints it once, and the entry with its hash for the file VISITOR_HTTP_KEYS."""
    secret = edge_keys.new_key()
    typer.echo(f"key (keep it; it is stored nowhere): {secret}\n", err=True)
    typer.echo(f'[[keys]]\nname = "{name}"\nsha256 = "{edge_keys.digest(secret)}"\nscopes = {json.dumps(scope)}')


@app.command(name="settings")
def settings_command() -> None:
    """List all settings with their defaults and meanings."""
    for name, setting in settings.known().items():
        default = f" [{setting.default}]" if setting.default else ""
        typer.echo(f"{name:36} {setting.meaning}{default}")


async def _patiently(attempt: Any) -> Any:
    """Try for as long as the server is not there; others may be starting it."""
    while True:
        try:
            with interruptions_raised():
                return await attempt()
        except Exception as error:
            if not (is_retryable(error) or isinstance(error, KafkaError)):
                raise
            log.warning("waiting", error=f"{type(error).__name__}: {error}".partition("\n")[0][:200])
            await asyncio.sleep(1)


if __name__ == "__main__":
    main()
