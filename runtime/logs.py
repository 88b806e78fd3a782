"""Structured logs: readable text on a terminal, else JSON lines. Personal data is never logged."""

import logging
import sys
import traceback
from collections.abc import Iterator
from logging.handlers import WatchedFileHandler
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from runtime.settings import LogSettings, WrongSetting
from topics import audit

log = structlog.get_logger(__name__)

_NOISY_LIBRARIES = (
    "agents.engine.faust_patches",  # of Faust, whose services log under the name of their module
    "aiokafka",
    "alembic",
    "asyncio",
    "faust",
    "httpx",
    "mode",
    "opentelemetry",
    "storage.database._MeasuredPool",  # of SQLAlchemy
    "urllib3",
    "uvicorn",
)


def configure(settings: LogSettings, *, is_command: bool = False) -> None:
    """Write all logs to standard error, and the audit log where its setting says; that of a command never to standard
    output, where the data is that the command prints. Of libraries, only warnings and errors are written. Raises
    WrongSetting."""
    configure_audit(settings.audit, sys.stderr if is_command else sys.stdout)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        exception_without_values,
    ]
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    for name in _NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def configure_audit(target: str | None, output: TextIO) -> None:
    """Write the audit log to a file, which log rotation may move away, or to `output` for `stdout`, or not at all.
    Raises WrongSetting."""
    audit.LOGGER.propagate = False
    audit.LOGGER.setLevel(logging.INFO if target else logging.CRITICAL)
    if target is None:
        return
    try:
        handler = _AuditStream(output) if target == "stdout" else _AuditFile(target, encoding="utf-8")
    except OSError as error:
        raise WrongSetting(f"VISITOR_LOG_AUDIT: {target} cannot be written: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    audit.LOGGER.handlers = [handler]


class _AuditStream(logging.StreamHandler[TextIO]):
    """Counts the lines that it cannot write, and never raises: the requests of these lines are done already, so that an
    error would apply and answer them again."""

    _lost = 0
    """The lines that were lost since the last one that was written."""

    def emit(self, record: logging.LogRecord) -> None:
        lost = self._lost
        try:
            super().emit(record)
        except OSError:  # WatchedFileHandler opens its file outside of logging's own `try`.
            self.handleError(record)
        if lost and self._lost == lost:
            self._lost = 0
            log.warning("audit_log_recovered", lost_lines=lost)

    def handleError(self, _: logging.LogRecord) -> None:  # noqa: N802
        from telemetry.metrics import AUDIT_LINES_LOST  # slow, and commands import this module

        AUDIT_LINES_LOST.inc()
        self._lost += 1
        error = sys.exc_info()[1]
        if self._lost == 1:
            text = error.strerror if isinstance(error, OSError) else None
            log.error("audit_log_failed", reason=": ".join(filter(None, (type(error).__name__, text))))


class _AuditFile(_AuditStream, WatchedFileHandler):
    """A file that log rotation may move away."""


def exception_without_values(_: Any, __: str, event: EventDict) -> EventDict:
    """Log the class and the stack of an exception without its message and its variables, which may hold personal data.
    For example, an error message of PostgreSQL quotes the row."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "".join(_frames(error))
    return event


def _frames(error: BaseException) -> Iterator[str]:
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _frames(cause)
        yield "which led to\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}{_schema_names(error)}\n"


def _schema_names(error: BaseException) -> str:
    """What an error of PostgreSQL is about, for example ` (table visitors, constraint visitors_age_check)`."""
    names = {kind: getattr(error, f"{kind}_name", None) for kind in ("table", "column", "constraint")}
    text = ", ".join(f"{kind} {name}" for kind, name in names.items() if name)
    return f" ({text})" if type(error).__module__ == "asyncpg.exceptions" and text else ""
