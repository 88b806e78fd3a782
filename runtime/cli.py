"""The command line: `visitor …`.

A command imports slow modules itself: drivers, the operations and their libraries. Probes run `visitor health` every
few seconds, and a shell with completion runs `visitor` at each Tab; both take half the time.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

import typer

from runtime import dead_letters_cli, health, operator_audit, ports
from runtime.bulk import Format, Importable
from runtime.command import (
    WHOLE_LINES,
    GaveUp,
    WrongRevision,
    load_settings_and_configure_logs,
    load_settings_and_disable_logs,
    retry_until_available,
    run,
    utc,
)
from runtime.settings import Settings, WrongSetting
from runtime.settings import known as known_settings
from runtime.settings import load as load_settings
from schemas.misconfigured import Misconfigured
from topics import acls as acl_table

app = typer.Typer(
    help="The service that owns the data about the visitors of a group of shopping centers. It applies requests from"
    " Kafka and HTTP to PostgreSQL, and publishes results and changes.",
    epilog="Settings are environment variables. `visitor settings` lists them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Readers(StrEnum):
    """The groups of `visitor --help`."""

    DEVELOPERS = "Developers"
    PROCESSES = "Operators: processes"
    SETUP = "Operators: set up and upgrade"
    DIAGNOSIS = "Operators: watch and repair"
    BULK = "Operators: many records"
    PRIVACY = "Data protection"


class Role(StrEnum):
    worker = "worker"
    edge = "edge"


Output = Annotated[
    Path | None,
    typer.Option(
        help="The file to write. By default, standard output.", show_default=False, dir_okay=False, writable=True
    ),
]

app.add_typer(dead_letters_cli.app, name="dead-letters", rich_help_panel=Readers.DIAGNOSIS)


def _print_version(is_set: bool) -> None:
    if is_set:
        typer.echo(version("visitor-service"))
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point. A wrong setting or a port in use prints what to correct and exits with status 2; a server that
    refuses what a command asks for, with status 1."""
    try:
        app()
    except (Misconfigured, GaveUp) as error:
        sys.stderr.write(f"visitor: {error}\n")
        sys.exit(2 if isinstance(error, Misconfigured) else 1)


@app.command(rich_help_panel=Readers.DEVELOPERS)
def dev(
    reset: Annotated[bool, typer.Option("--reset", help="Delete all data of earlier runs first.")] = False,
    simulation: Annotated[bool, typer.Option(help="Simulate parking gateways that send visits.")] = True,
) -> None:
    """Run everything on this machine: Kafka, PostgreSQL, a worker, an edge, sample data and simulated gateways."""
    from runtime.dev import run as development  # production does not install the embedded servers

    sys.exit(development.run(load_settings(), reset=reset, simulation=simulation))


@app.command(rich_help_panel=Readers.PROCESSES)
def worker() -> None:
    """Run a worker, which consumes requests from Kafka, applies them to PostgreSQL, and publishes results and changes.

    The worker waits until `visitor migrate` and `visitor topics` have run. It exits with status 1 if it fails."""
    from agents.catalogue import CATALOGUE
    from runtime import worker_process

    settings = load_settings_and_configure_logs(is_command=False)
    ports.ensure_free(settings.worker.health_host, settings.worker.health_port, "VISITOR_WORKER_HEALTH_PORT")
    sys.exit(run(worker_process.run(settings, CATALOGUE)))


@app.command(rich_help_panel=Readers.PROCESSES)
def edge() -> None:
    """Run an HTTP edge, which sends calls as request messages and answers with their replies. /docs describes the API.

    The edge exits with status 1 if it fails."""
    from agents.catalogue import CATALOGUE
    from runtime import edge_process

    settings = load_settings_and_configure_logs(is_command=False)
    http = settings.http
    if not http.authenticates and http.host not in ("127.0.0.1", "::1", "localhost"):
        raise WrongSetting(
            "Set VISITOR_HTTP_KEYS or VISITOR_HTTP_OIDC_ISSUER to listen on an address other than loopback."
        )
    ports.ensure_free(http.host, http.port, "VISITOR_HTTP_PORT")
    ports.ensure_free(http.metrics_host, http.metrics_port, "VISITOR_HTTP_METRICS_PORT")
    sys.exit(edge_process.run(settings, CATALOGUE))


@app.command(rich_help_panel=Readers.SETUP)
def migrate() -> None:
    """Migrate the database schema to this version. Several processes may run this at the same time."""
    from storage import migrate as storage_migrate

    settings = load_settings_and_configure_logs()
    try:
        before, after = run(retry_until_available(lambda: storage_migrate.upgrade(settings.database)))
    except storage_migrate.UnusableSchema as error:
        typer.echo(f"visitor: {error}", err=True)
        raise typer.Exit(1) from None
    if after != storage_migrate.newest():
        typer.echo(f"The database is at revision {after} of a later release, which this release can use.")
    elif before == after:
        typer.echo(f"The database is at revision {after} already.")
    elif before is None:
        typer.echo(f"The database is at revision {after}; it was empty.")
    else:
        typer.echo(f"The database is at revision {after}; it was at {before}.")


@app.command(rich_help_panel=Readers.SETUP)
def topics(
    alter: Annotated[
        bool, typer.Option("--alter", help="Change the configuration of existing topics to the required one.")
    ] = False,
) -> None:
    """Create missing topics, and print where existing topics differ from the required configuration.

    Exits with status 1 if a topic differs."""
    from agents.catalogue import CATALOGUE
    from topics import admin, patches

    patches.apply()
    settings = load_settings_and_configure_logs()
    specs = CATALOGUE.topics(settings.kafka)
    report = run(retry_until_available(lambda: admin.ensure(settings.kafka, specs, alter=alter)))
    for name in report.created:
        typer.echo(f"created {name}")
    if len(report.created) < len(specs) and (resources := CATALOGUE.resources_of(report.created)):
        typer.echo(
            f"If a created topic was lost, then fill it again: visitor republish --restart {' '.join(resources)}"
        )
    for name in report.altered:
        typer.echo(f"altered {name}")
    for difference in report.differences:
        typer.echo(
            f"differs {difference.topic}: {difference.setting} is {difference.actual},"
            f" the service needs {difference.required}"
        )
    if not (report.created or report.altered or report.differences):
        typer.echo("All topics exist and have the required configuration.")
    for difference in report.differences:
        if difference.setting == "partitions":
            command = f"kafka-topics.sh --alter --topic {difference.topic} --partitions {difference.required}"
            typer.echo(f"To add partitions: {command}")
    if report.differences:
        typer.echo("Change the topics with --alter or Kafka's own tools, or change the VISITOR_KAFKA_… settings.")
        raise typer.Exit(1)


@app.command(rich_help_panel=Readers.DIAGNOSIS)
def status(
    once: Annotated[
        bool, typer.Option("--once", help="Print the status once. The default if the output is no terminal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status once, as a JSON document.")] = False,
) -> None:
    """Show what the installation does: rates, lag, latencies, workers, the outbox and the newest dead letters.

    Reads Kafka and PostgreSQL only, and works while no worker runs. Exits with status 1 if a server is unavailable."""
    from rich.console import Console

    from runtime import status as runtime_status
    from topics import patches

    patches.apply()
    settings = load_settings_and_disable_logs()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WHOLE_LINES
    if once or as_json or not console.is_terminal:
        is_available = run(runtime_status.print_once(settings, console, as_json=as_json))
        raise typer.Exit(0 if is_available else 1)
    try:
        run(runtime_status.show(settings, console))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


class ExaminedRole(StrEnum):
    operator = "operator"
    worker = "worker"
    edge = "edge"


@app.command(rich_help_panel=Readers.DIAGNOSIS)
def doctor(
    role: Annotated[
        ExaminedRole, typer.Argument(help="Whose settings these are: what the user of Kafka must be allowed to do.")
    ] = ExaminedRole.operator,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Examine servers, rights, topics, schema, clocks, lag, dead letters and keys, and say what to do.

    Prints one line for each check: ok, warning or failed. Changes nothing. Exits with status 1 if a check has failed;
    warnings leave it at 0."""
    from runtime import doctor as runtime_doctor
    from topics import patches

    patches.apply()
    settings = load_settings_and_disable_logs()
    passed = run(runtime_doctor.run(settings, acl_table.Role(role), as_json=as_json))
    raise typer.Exit(0 if passed else 1)


@app.command(rich_help_panel=Readers.DIAGNOSIS)
def republish(
    resources: Annotated[
        list[str] | None,
        typer.Argument(
            help="The resources, for example optin. Without any, all entities. Name visit and checkin to republish the"
            " events of the last 28 days.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[int, typer.Option(min=1, help="Rows per second at most.")] = 1_000,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again instead of resuming.")] = False,
) -> None:
    """Write the current state of all entities, and recent deletions, to their change topics again.

    Needs the database only: running workers publish what this command writes. A run that was interrupted is resumed."""
    from runtime import republish as runtime_republish

    settings = load_settings_and_configure_logs()
    try:
        tables = runtime_republish.tables(resources or [])
    except KeyError as error:
        raise WrongSetting(f"{error.args[0]} is not a resource. {runtime_republish.RESOURCES_HINT}") from None
    operator_audit.log(settings, "republish")
    try:
        run(runtime_republish.run(settings, tables, rate, restart=restart, retry=retry_until_available))
    except WrongRevision as error:
        typer.echo(f"visitor: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted. Run the command again, without --restart, to resume.")
        raise typer.Exit(130) from None


@app.command(rich_help_panel=Readers.SETUP)
def acls(
    roles: Annotated[
        list[acl_table.Role] | None, typer.Argument(help="The roles. Without any, all.", show_default=False)
    ] = None,
    principal: Annotated[
        str | None, typer.Option(help="The principal of one role. By default, User:visitor-<role>.", show_default=False)
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="The families of a gateway or a CRM, for example visits. By default, all.", show_default=False
        ),
    ] = None,
) -> None:
    """Print the least Kafka ACLs that each role needs, as commands of Kafka's tools. Changes nothing."""
    from agents.catalogue import CATALOGUE

    settings = load_settings_and_configure_logs()
    selected = roles or list(acl_table.Role)
    if principal is not None and len(selected) > 1:
        raise typer.BadParameter("A principal has one role: name the role.", param_hint="--principal")
    if unknown := set(family or ()) - CATALOGUE.families.keys():
        raise typer.BadParameter(f"The families are: {', '.join(sorted(CATALOGUE.families))}.", param_hint=min(unknown))
    for role in selected:
        limited = role in (acl_table.Role.gateway, acl_table.Role.crm)
        families = sorted((limited and family) or CATALOGUE.families)
        user = principal or f"User:visitor-{role}"
        of_workers = role in (acl_table.Role.worker, acl_table.Role.operator)
        group = settings.worker.group if of_workers else user.removeprefix("User:")
        typer.echo(f"# {role}")
        for acl in acl_table.of_role(role, families, group):
            typer.echo(acl.command(user, settings.kafka.bootstrap))


@app.command(name="import", rich_help_panel=Readers.BULK)
def import_command(
    resource: Annotated[Importable, typer.Argument(help="What the rows of the file are.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="CSV (.csv) or JSON lines (.jsonl, .ndjson).", exists=True, dir_okay=False)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the rows; needs no server.")] = False,
) -> None:
    """Create visitors, vehicles or optins from the rows of a file, by request messages. Repeat it to resume.

    Prints a JSON line for each row that is refused, and exits with status 1 if there is any."""
    from aiokafka.errors import KafkaError

    from runtime.bulk import importing
    from runtime.bulk.rows import UnusableFile

    settings = load_settings_and_configure_logs()
    try:
        if dry_run:
            summary = importing.check(resource, file)
        else:
            summary = run(importing.run(settings.kafka, resource, file, retry_until_available))
    except UnusableFile as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    except KeyboardInterrupt:
        typer.echo("Interrupted. Run the same command to resume.", err=True)
        raise typer.Exit(130) from None
    except Misconfigured:
        raise
    except KafkaError as error:
        typer.echo(f"visitor: Kafka failed: {error}. Run the same command to resume.", err=True)
        raise typer.Exit(1) from None
    typer.echo(summary.text(dry_run=dry_run), err=True)
    raise typer.Exit(1 if summary.refused else 0)


@app.command(rich_help_panel=Readers.BULK)
def export(
    resource: Annotated[
        str, typer.Argument(help="The table, for example visitors; or the id of a visitor.", show_default=False)
    ],
    file_format: Annotated[Format, typer.Option("--format", help="JSON lines or CSV.")] = Format.jsonl,
    output: Output = None,
) -> None:
    """Write all rows of a resource, as of one moment, in the order of their keys. Needs the database only.

    With the id of a visitor, do the same as export-visitor."""
    from sqlalchemy.exc import DBAPIError

    from runtime.bulk import exporting
    from schemas.types import uuid_of

    table = exporting.TABLES.get(resource)
    if table is None and (visitor_id := uuid_of(resource)) is not None:
        if file_format is not Format.jsonl:
            raise typer.BadParameter("The data of one visitor is exported as JSON.", param_hint="--format")
        _export_visitor(visitor_id, output)
        return
    if table is None:
        resources = ", ".join(sorted(exporting.TABLES))
        raise typer.BadParameter(f"The resources are: {resources}; or send the id of a visitor.", param_hint="RESOURCE")
    settings = load_settings_and_configure_logs()
    operator_audit.log(settings, f"export.{resource}")
    try:
        rows = run(exporting.run(settings.database, table, file_format, output, retry_until_available))
    except WrongRevision as error:
        typer.echo(f"visitor: {error}", err=True)
        raise typer.Exit(1) from None
    except DBAPIError as error:
        typer.echo(f"visitor: The export is incomplete: {error.orig}. Run it again.", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        _exit_incomplete(error)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Run the same command to begin again.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"Exported {rows:,} rows of {resource}.", err=True)


@app.command(rich_help_panel=Readers.PRIVACY)
def export_visitor(
    visitor_id: Annotated[UUID, typer.Argument(help="The id of the visitor.")],
    output: Output = None,
) -> None:
    """Write all data that the database has about a visitor as JSON, for a request for access (GDPR, article 15).

    Exits with status 1 if there is none."""
    _export_visitor(visitor_id, output)


def _export_visitor(visitor_id: UUID, output: Path | None) -> None:
    from runtime import export_visitor as runtime_export_visitor
    from runtime.bulk.exporting import written

    settings = load_settings_and_configure_logs()
    try:
        exported = run(runtime_export_visitor.export(settings.database, visitor_id, retry_until_available))
    except runtime_export_visitor.NoSuchVisitor as error:
        operator_audit.log(settings, "export-visitor", visitors=[visitor_id], status=404)
        typer.echo(f"visitor: {error}", err=True)
        raise typer.Exit(1) from None
    except WrongRevision as error:
        typer.echo(f"visitor: {error}", err=True)
        raise typer.Exit(1) from None
    operator_audit.log(settings, "export-visitor", visitors=[visitor_id])
    try:
        with written(output) as stream:
            stream.write(exported + b"\n")
    except OSError as error:
        _exit_incomplete(error)


def _exit_incomplete(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):  # `visitor export … | head` needs no message.
        raise error
    typer.echo(f"visitor: The export is incomplete: {error}. Run it again.", err=True)
    raise typer.Exit(1)


@app.command(name="health", rich_help_panel=Readers.PROCESSES)
def health_command(
    role: Annotated[Role, typer.Argument(help="The process to check.")] = Role.worker,
    live: Annotated[
        bool, typer.Option("--live", help="Check whether the process is live, not whether it is ready.")
    ] = False,
) -> None:
    """Check the health of a process on this machine. Exits with status 0 if it is healthy, else with 1."""
    healthy, answer = health.ask(_health_url(load_settings(), role, live), timeout=5)
    typer.echo(answer)
    raise typer.Exit(0 if healthy else 1)


def _health_url(settings: Settings, role: Role, live: bool) -> str:
    if role is Role.worker:
        authority = _local_authority(settings.worker.health_host, settings.worker.health_port)
        return f"http://{authority}/health/{'live' if live else 'ready'}"
    authority = _local_authority(settings.http.host, settings.http.port)
    return f"http://{authority}/health{'/live' if live else ''}"


def _local_authority(host: str, port: int) -> str:
    """How a client on this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):
        host = health.LOOPBACK
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@app.command(rich_help_panel=Readers.DEVELOPERS)
def schemas(
    folder: Annotated[Path, typer.Argument(help="The folder to write to. It is created if it is missing.")],
) -> None:
    """Write the Avro schemas of all requests, results and changes, one file per schema, and a file with their ids.

    The schemas of earlier releases, which topics still contain, are written to releases/<version>."""
    import shutil

    from agents.catalogue import CATALOGUE
    from agents.wire import Wire
    from topics import releases

    Wire(CATALOGUE).write_schemas(folder)
    shutil.copytree(releases.RELEASES, folder / "releases", dirs_exist_ok=True)
    typer.echo(f"Wrote the schemas to {folder}.")


@app.command(rich_help_panel=Readers.DEVELOPERS)
def simulate(
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same plan.", show_default="random")] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=100_000, help="Simulated seconds per second.")] = 60,
    rate: Annotated[
        float,
        typer.Option(min=0.01, max=10_000, help="Passages of gateways per second, on average over a day."),
    ] = 5,
    minutes: Annotated[
        float | None, typer.Option(min=1, help="Simulated minutes. By default, until Ctrl-C.", show_default=False)
    ] = None,
    url: Annotated[str | None, typer.Option(help="The URL of an edge, by default on this machine.")] = None,
    key: Annotated[str | None, typer.Option(envvar="API_KEY", help="The API key, if the edge needs one.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before another machine is used.")] = False,
) -> None:
    """Simulate the gateways, app users and CRM of a group of centers. Creates visitors, and visits of them.

    Days have rush hours; gateways send messages late, twice, or in bulk after they were offline. Prints counts and
    latencies at the end. Exits with status 1 if a request has no result."""
    import random

    import httpx
    from aiokafka.errors import KafkaError
    from rich.console import Console

    from runtime.simulation import run as simulation
    from runtime.simulation.report import Report
    from topics.kafka import DeliveryError

    settings = load_settings_and_configure_logs()
    url = url or f"http://{health.LOOPBACK}:{settings.http.port}"
    if (hosts := simulation.remote_hosts(settings.kafka, url)) and not yes:
        typer.confirm(f"Create simulated visitors and visits in the installation at {', '.join(hosts)}?", abort=True)
    seed = random.randrange(10**6) if seed is None else seed
    options, report, console = simulation.Options(seed, speed, rate, minutes), Report(), Console(stderr=True)
    console.print(f"Seed {seed}, {options.people} people. Ctrl-C ends the simulation.")
    try:
        run(simulation.run_with_progress(settings.kafka, url, key, options, report, console))
    except KeyboardInterrupt:
        pass
    except (httpx.HTTPError, DeliveryError, KafkaError) as error:
        typer.echo(f"visitor: The installation cannot be used: {error!r}", err=True)
        raise typer.Exit(1) from None
    for table in report.tables():
        Console().print(table)
    raise typer.Exit(1 if minutes is not None and report.unanswered else 0)


@app.command(name="consume", rich_help_panel=Readers.DIAGNOSIS)
def consume_command(
    topic: Annotated[str, typer.Argument(help="The topic, for example visitor.visits.changes.visit.")],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start at the oldest message.")] = False,
    since: Annotated[
        datetime | None, typer.Option(help="Start at this time (UTC), without reading what is older.")
    ] = None,
    to_end: Annotated[
        bool,
        typer.Option(
            "--to-end", help="Print the messages that the topic has now, from the oldest one or --since, and end."
        ),
    ] = False,
) -> None:
    """Print the messages of a topic as JSON lines, until Ctrl-C or up to the end. Avro is decoded."""
    from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError

    from runtime import consume

    settings = load_settings_and_configure_logs()
    source, start = (settings.kafka, settings.schema_registry, topic), utc(since)
    operator_audit.log(settings, f"consume.{topic}")
    try:
        if to_end:
            run(consume.print_all(*source, since=start))
        else:
            run(consume.follow(*source, from_beginning=from_beginning, since=start))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except Misconfigured:
        raise
    except (UnknownTopicOrPartitionError, TopicAuthorizationFailedError):
        raise typer.BadParameter(f"{topic} does not exist, or this user may not read it. See `visitor acls`.") from None
    except KafkaError as error:
        raise WrongSetting(f"VISITOR_KAFKA_BOOTSTRAP: {settings.kafka.bootstrap} does not answer ({error})") from error


@app.command(rich_help_panel=Readers.SETUP)
def key(
    name: Annotated[str, typer.Argument(help="The name of the caller, for example parking-paris.")],
    scope: Annotated[
        list[str],
        typer.Option(help="A scope, for example visits:write. Repeat the option for several scopes."),
    ],
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The first day on which the key is not valid, in UTC.")
    ] = None,
    center: Annotated[list[str] | None, typer.Option(help="Restrict the caller to a center. Repeatable.")] = None,
    country: Annotated[list[str] | None, typer.Option(help="Restrict the caller to a country. Repeatable.")] = None,
) -> None:
    """Generate an API key. Prints the key, and its entry with the hash for the file of VISITOR_HTTP_KEYS.

    A caller may have two keys: add the new entry, let its programs use the new key, and remove the old entry."""
    from agents.catalogue import CATALOGUE
    from edge import keys as edge_keys

    secret = edge_keys.new_key()
    entry: dict[str, Any] = {"name": name, "sha256": edge_keys.digest(secret)}
    if expires is not None:
        entry["expires"] = expires.replace(tzinfo=UTC)
    entry |= {"centers": center} if center else {}
    entry |= {"countries": country} if country else {}
    entry["scopes"] = scope  # They are required, so that no part of the entry is valid without its restrictions.
    try:
        edge_keys.identity_of(edge_keys.KeyEntry.model_validate(entry), CATALOGUE.families, rate=1)
    except ValueError as error:
        raise WrongSetting(f"This is not a valid key: {error}") from None
    typer.echo(f"key (store it safely; it is not shown again): {secret}\n", err=True)
    lines = (f"{field} = {_toml(value)}" for field, value in entry.items())
    typer.echo("\n".join(["[[keys]]", *lines]))


def _toml(value: Any) -> str:
    """A text, a list of texts or a time as TOML."""
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value)


@app.command(rich_help_panel=Readers.PRIVACY)
def audit(
    visitor: Annotated[UUID, typer.Option(help="The visitorId.", show_default=False)],
) -> None:
    """Print the writes that changed data of a visitor: time, caller, operation and status, as JSON lines.

    The oldest is the first. They are known as long as the inbox keeps answers, and until the visitor is erased. Reads
    are in the audit log only, see VISITOR_LOG_AUDIT."""
    from storage import database, inbox

    async def read() -> Sequence[inbox.Access]:
        engine = database.connect(settings.database, connections=1, read_only=True)
        try:
            async with engine.connect() as conn:
                return await inbox.accesses(conn, visitor)
        finally:
            await engine.dispose()

    settings = load_settings_and_configure_logs()
    accesses = run(retry_until_available(read))
    operator_audit.log(settings, "audit", visitors=[visitor])
    for access in accesses:
        line = {"time": access.time.isoformat(), "caller": access.source or None}
        typer.echo(json.dumps(line | {"operation": access.operation, "status": access.status}))


@app.command(name="settings", rich_help_panel=Readers.SETUP)
def settings_command() -> None:
    """List all settings with their defaults and meanings."""
    for name, setting in known_settings().items():
        default = f" [{setting.default}]" if setting.default else ""
        typer.echo(f"{name:36} {setting.meaning}{default}")


if __name__ == "__main__":
    main()
