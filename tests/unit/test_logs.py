"""Logs tell what failed, without personal data."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from runtime import logs
from telemetry.metrics import WORKER
from topics import audit


@pytest.fixture(autouse=True)
def logger_of_the_audit_log() -> Iterator[None]:
    """Restore the logger, which the tests configure."""
    logger = audit.LOGGER
    before = logger.handlers, logger.level, logger.propagate
    yield
    for handler in logger.handlers:
        with suppress(OSError):
            handler.close()
    logger.handlers, logger.level, logger.propagate = before


def _write(operation: str) -> None:
    audit.write(caller="crm", operation=operation, visitors=(), status=200, via="t:0:1")


def _lost() -> float:
    return WORKER.get_sample_value("visitor_audit_lines_lost_total") or 0


def test_an_audit_log_that_cannot_be_written_loses_lines_that_are_counted_and_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    file = folder / "audit.log"
    logs.configure_audit(str(file), sys.stdout)
    _write("first")
    before, away = _lost(), folder.rename(tmp_path / "away")
    with capture_logs() as events:
        _write("lost")
        _write("lost")
        away.rename(folder)
        file.rename(folder / "audit.log.1")
        _write("second")
    assert _lost() - before == 2
    assert [(event["log_level"], event["event"]) for event in events] == [
        ("error", "audit_log_failed"),
        ("warning", "audit_log_recovered"),
    ]
    assert events[0]["reason"] == "FileNotFoundError: No such file or directory"
    assert events[1]["lost_lines"] == 2
    assert json.loads(file.read_text())["operation"] == "second"


def test_a_full_disk_loses_audit_lines_whose_content_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    before = _lost()
    logs.configure_audit("/dev/full", sys.stdout)
    with capture_logs() as events:
        _write("visitors.get")
    assert _lost() - before == 1
    assert [event["reason"] for event in events] == ["OSError: No space left on device"]
    assert capsys.readouterr().err == ""


def test_an_error_of_the_database_is_logged_with_the_names_of_the_schema_and_without_its_message() -> None:
    name = "Zora"
    error = asyncpg.CheckViolationError(f"new row violates check constraint: ({name})")
    error.table_name, error.constraint_name = "visitors", "visitors_age_check"
    try:
        raise ValueError(name) from error
    except ValueError as caught:
        text = logs.exception_without_values(None, "", {"exc_info": caught})["exception"]
    assert "asyncpg.exceptions.CheckViolationError (table visitors, constraint visitors_age_check)\n" in text
    assert text.endswith("builtins.ValueError\n")
    assert name not in text
