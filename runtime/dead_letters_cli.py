"""The command line of `visitor dead-letters`."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

import typer

from runtime.command import WrongRevision, load_settings_and_configure_logs, retry_until_available, run, utc
from schemas.misconfigured import Misconfigured
from topics.envelope import Reason

if TYPE_CHECKING:
    from runtime.dead_letters import Filter
    from topics.dead_letters import Position

app = typer.Typer(
    help="Inspect dead letters, send them again, or discard them. docs/dead-letters.md explains every reason.",
    no_args_is_help=True,
)

Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Dead letters by their ids, <partition>:<offset>. Without any, all that match the options."),
]
WithReason = Annotated[Reason | None, typer.Option(help="Only those with this reason.")]
OfOperation = Annotated[str | None, typer.Option(help="Only requests of this operation, for example visits.create.")]
FromSource = Annotated[str | None, typer.Option(help="Only requests with this ce_source.")]
OnTopic = Annotated[str | None, typer.Option(help="Only messages that were sent to this topic.")]
Since = Annotated[datetime | None, typer.Option(help="Only dead letters written at this time (UTC) or later.")]
Until = Annotated[datetime | None, typer.Option(help="Only dead letters written before this time (UTC).")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class Options(TypedDict):
    """The options that select dead letters."""

    reason: str | None
    operation: str | None
    source: str | None
    topic: str | None
    since: datetime | None
    until: datetime | None


@app.command(name="list")
def list_command(
    reason: WithReason = None,
    operation: OfOperation = None,
    source: FromSource = None,
    topic: OnTopic = None,
    since: Since = None,
    until: Until = None,
    include_marked: Annotated[bool, typer.Option("--all", help="Also those that were replayed or discarded.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many to print: the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the newest dead letters that were neither replayed nor discarded, and count all of them by reason."""
    from runtime import dead_letters

    settings = load_settings_and_configure_logs()
    selection = _filter([], reason=reason, operation=operation, source=source, topic=topic, since=since, until=until)
    with _errors_explained():
        run(
            dead_letters.list_newest(
                settings,
                selection,
                limit,
                include_marked=include_marked,
                as_document=as_json,
                retry=retry_until_available,
            )
        )


@app.command()
def show(dead_letter: Annotated[str, typer.Argument(help="The id, <partition>:<offset>.", metavar="ID")]) -> None:
    """Print a dead letter as JSON, with the headers and the value of the message, which may contain personal data."""
    from runtime import dead_letters

    settings = load_settings_and_configure_logs()
    with _errors_explained():
        try:
            run(dead_letters.show(settings, _position(dead_letter), retry_until_available))
        except dead_letters.NoSuchDeadLetter as error:
            typer.echo(f"visitor: {error}", err=True)
            raise typer.Exit(1) from None


@app.command()
def replay(
    ids: Ids = None,
    reason: WithReason = None,
    operation: OfOperation = None,
    source: FromSource = None,
    topic: OnTopic = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be sent.")] = False,
    yes: Yes = False,
) -> None:
    """Send the original messages to their topics again, with their original ids, and mark the dead letters.

    Asks before it replays more than 100, or all. A dead letter that was replayed or discarded is left alone."""
    from runtime import dead_letters

    settings = load_settings_and_configure_logs()
    selection = _filter(ids, reason=reason, operation=operation, source=source, topic=topic, since=since, until=until)
    confirm = None if yes else _confirm
    with _errors_explained():
        run(dead_letters.replay(settings, selection, confirm, dry_run=dry_run, retry=retry_until_available))


@app.command()
def discard(
    ids: Ids = None,
    reason: WithReason = None,
    operation: OfOperation = None,
    source: FromSource = None,
    topic: OnTopic = None,
    since: Since = None,
    until: Until = None,
    yes: Yes = False,
) -> None:
    """Mark dead letters as discarded: `list` and `replay` leave them out. Kafka keeps them until their retention ends.

    Asks before it discards more than 100, or all."""
    from runtime import dead_letters

    settings = load_settings_and_configure_logs()
    selection = _filter(ids, reason=reason, operation=operation, source=source, topic=topic, since=since, until=until)
    with _errors_explained():
        run(dead_letters.discard(settings, selection, None if yes else _confirm, retry=retry_until_available))


def _filter(ids: list[str] | None, **options: Unpack[Options]) -> "Filter":
    from runtime.dead_letters import Filter

    options["since"], options["until"] = utc(options["since"]), utc(options["until"])
    return Filter(positions=frozenset(map(_position, ids or [])), **options)


def _position(text: str) -> "Position":
    from topics.dead_letters import Position

    try:
        return Position.parse(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is not the id of a dead letter, <partition>:<offset>.") from None


def _confirm(question: str) -> None:
    typer.confirm(question, abort=True)


@contextmanager
def _errors_explained() -> Iterator[None]:
    """Exits with status 1 and one line."""
    from aiokafka.errors import KafkaError

    from topics.kafka import DeliveryError

    try:
        yield
    except WrongRevision as error:
        typer.echo(f"visitor: {error}", err=True)
        raise typer.Exit(1) from None
    except Misconfigured:
        raise
    except (KafkaError, DeliveryError) as error:
        typer.echo(f"visitor: Kafka: {error}. Run the same command again.", err=True)
        raise typer.Exit(1) from None
