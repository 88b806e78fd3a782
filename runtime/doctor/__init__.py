"""`visitor doctor`: examines an installation, and says what to do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from aiokafka.errors import TopicAuthorizationFailedError
from rich.console import Console
from rich.text import Text

from runtime import overview
from runtime.command import print_json
from runtime.doctor import configuration, database, kafka, reads, registry
from runtime.doctor.findings import Finding, State, failed
from runtime.doctor.installation import Installation
from runtime.settings import Settings
from storage.database import connect
from topics.acls import Role
from topics.supervision import interruptions_raised

CHECK_SECONDS = 10.0
"""Limit of one check."""
_ADVICE = "start the server, or correct the setting"
_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Check:
    """`after` are the checks that must not have failed before; otherwise this one is left out."""

    name: str
    examine: Callable[[Installation], Awaitable[Finding]]
    roles: tuple[Role, ...]
    after: tuple[str, ...] = ()


_ALL = (Role.operator, Role.worker, Role.edge)
_OPERATOR_AND_WORKER = (Role.operator, Role.worker)
_OPERATOR = (Role.operator,)
_EDGE = (Role.edge,)
CHECKS = (
    Check("kafka", kafka.reachable, _ALL),
    Check("kafka rights", kafka.rights, _ALL, after=("kafka",)),
    Check("topics", kafka.topics, _OPERATOR, after=("kafka",)),
    Check("retention", kafka.retention, _OPERATOR, after=("topics",)),
    Check("kafka clock", kafka.clock, _OPERATOR_AND_WORKER, after=("kafka",)),
    Check("reads", reads.answered, _EDGE, after=("kafka", "kafka rights")),
    Check("workers", kafka.groups, _OPERATOR, after=("kafka",)),
    Check("lag", kafka.lag, _OPERATOR, after=("kafka",)),
    Check("database", database.reachable, _OPERATOR_AND_WORKER),
    Check("migrations", database.migrations, _OPERATOR_AND_WORKER, after=("database",)),
    Check("table rights", database.rights, _OPERATOR_AND_WORKER, after=("database",)),
    Check("database clock", database.clock, _OPERATOR_AND_WORKER, after=("database",)),
    Check("changes", database.changes, _OPERATOR, after=("migrations",)),
    Check("locks", database.locks, _OPERATOR, after=("database",)),
    Check("answers", database.answers, _OPERATOR, after=("migrations",)),
    Check("schemas", database.schemas, _OPERATOR_AND_WORKER, after=("migrations",)),
    Check("dead letters", kafka.recent_dead_letters, _OPERATOR, after=("kafka", "migrations")),
    Check("registry", registry.registered, _OPERATOR_AND_WORKER),
    Check("keys", configuration.keys, _ALL),
    Check("issuer", configuration.issuer, _ALL),
    Check("certificate", configuration.certificate, _ALL),
)


@dataclass(frozen=True)
class Result:
    """A check with its finding."""

    check: str
    finding: Finding


async def examine(settings: Settings, role: Role) -> list[Result]:
    """The results of the checks of a role, in their order. A check is left out if one that it needs has failed."""
    results: dict[str, Result] = {}
    async with _opened(settings, role) as installation:
        for check in CHECKS:
            needs = [results[name].finding.state != "failed" for name in check.after if name in results]
            if role in check.roles and len(needs) == len(check.after) and all(needs):
                results[check.name] = Result(check.name, await _finding(check, installation))
    return list(results.values())


@asynccontextmanager
async def _opened(settings: Settings, role: Role) -> AsyncIterator[Installation]:
    engine = connect(settings.database, connections=1, read_only=True)
    try:
        read = None
        if role is Role.operator:
            async with overview.source(settings) as source:
                read = await source.read()
        yield Installation(settings, role, engine, read)
    finally:
        await engine.dispose()


async def _finding(check: Check, installation: Installation) -> Finding:
    try:
        with interruptions_raised():
            async with asyncio.timeout(CHECK_SECONDS):
                return await check.examine(installation)
    except TimeoutError:
        return failed(f"no answer within {CHECK_SECONDS:.0f} s", _ADVICE)
    except TopicAuthorizationFailedError as error:
        return failed(overview.explain(error), "add the ACL")
    except Exception as error:
        return failed(overview.explain(error), _ADVICE)


async def run(settings: Settings, role: Role, *, as_json: bool) -> bool:
    """Examine the installation and print the results. Returns False if a check has failed."""
    results = await examine(settings, role)
    if as_json:
        print_json({"checks": [{"check": result.check, **asdict(result.finding)} for result in results]}, indent=True)
    else:
        console = Console(soft_wrap=True, highlight=False)
        for result in results:
            console.print(_line(result))
    return all(result.finding.state != "failed" for result in results)


def _line(result: Result) -> Text:
    finding = result.finding
    advice = f": {finding.advice}" if finding.advice else ""
    return Text.assemble(
        (f"{finding.state:8}", _STYLES[finding.state]), f"{result.check:15}", finding.message, (advice, "bold")
    )
