"""Commands wait for servers that start, and end where waiting cannot help."""

import json
import re
import unicodedata
from collections.abc import Awaitable, Callable
from io import StringIO

import asyncpg
import pytest
from aiokafka import errors
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from runtime import cli, command
from runtime.command import GaveUp, retry_until_available
from topics.kafka import DeliveryError

CONTROL = "\x1b]52;c;c2VjcmV0\x1b\\\x07\x9b2J\x7f\r\n\u202e"
"""Writes to the clipboard, clears the screen, and reverses what follows."""


def test_texts_of_senders_are_shown_without_control_characters_and_markup() -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, no_color=True, width=200)
    console.print(command.shown(f"[bold]gateway/a{CONTROL}"), end="", soft_wrap=True, highlight=False)
    printed = output.getvalue()
    assert printed.isprintable()
    assert "[bold]gateway/a" in printed
    assert command.shown(None) == ""


def test_printed_documents_have_escapes_instead_of_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    command.print_json({"ce_source": CONTROL})
    printed = capsys.readouterr().out
    assert not [character for character in printed.removesuffix("\n") if unicodedata.category(character) == "Cc"]
    assert json.loads(printed) == {"ce_source": CONTROL}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PAUSE_SECONDS", 0)


def _failing(*failures: Exception) -> Callable[[], Awaitable[str]]:
    """An attempt that raises these, one after the other, and succeeds afterwards."""
    remaining = iter(failures)

    async def attempt() -> str:
        if failure := next(remaining, None):
            raise failure
        return "done"

    return attempt


def _statement_timeout() -> DBAPIError:
    original = Exception()
    original.__cause__ = asyncpg.QueryCanceledError("canceling statement due to statement timeout")
    return DBAPIError("select", {}, original)


def _undelivered(cause: Exception) -> DeliveryError:
    error = DeliveryError("not delivered")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "failure",
    [
        errors.TopicAuthorizationFailedError("create x"),
        errors.ClusterAuthorizationFailedError("create x"),
        errors.InvalidConfigurationError("x"),
        errors.PolicyViolationError("x"),
        _undelivered(errors.TopicAuthorizationFailedError("x")),
        _undelivered(errors.MessageSizeTooLargeError("x")),
    ],
    ids=lambda failure: type(failure.__cause__ or failure).__name__,
)
async def test_a_request_that_kafka_refuses_is_not_repeated(failure: Exception) -> None:
    with pytest.raises(GaveUp, match=re.escape(str(failure))) as gave_up:
        await retry_until_available(_failing(failure))
    assert "\n" not in str(gave_up.value)


async def test_servers_that_start_are_waited_for() -> None:
    failures = [
        errors.KafkaConnectionError("x"),
        errors.InvalidReplicationFactorError("x"),
        OSError(),
        errors.UnknownError(),
    ]
    assert await retry_until_available(_failing(*failures)) == "done"


@pytest.mark.parametrize("error_class", [errors.InvalidReplicationFactorError, errors.UnknownError])
async def test_brokers_that_stay_too_few_are_waited_for_during_their_start_only(
    monkeypatch: pytest.MonkeyPatch, error_class: type[errors.KafkaError]
) -> None:
    monkeypatch.setattr(command, "STARTING_SECONDS", 0.05)
    with pytest.raises(GaveUp, match=error_class.__name__):
        await retry_until_available(_failing(*(error_class("x") for _ in range(1_000_000))))


async def test_a_statement_that_exceeds_its_timeout_is_repeated_a_few_times_only() -> None:
    two = [_statement_timeout(), _statement_timeout()]
    assert await retry_until_available(_failing(*two, OSError(), *two)) == "done"
    with pytest.raises(GaveUp, match="time limit"):
        await retry_until_available(_failing(*two, _statement_timeout()))


def test_a_command_that_gives_up_prints_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def give_up() -> None:
        raise GaveUp("[Error 44] PolicyViolationError: x")

    monkeypatch.setattr(cli, "app", give_up)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "visitor: [Error 44] PolicyViolationError: x\n"
