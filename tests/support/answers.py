"""The errors and the times in answers."""

from datetime import datetime

import httpx

_MEMBERS = {"code", "type", "field", "message"}


def error_codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    """The field and the code of each error. Fails if an error has other members than the documented ones."""
    errors = answer.json()["errors"]
    assert all(error.keys() == _MEMBERS for error in errors), answer.text
    return [(error["field"], error["code"]) for error in errors]


def parse_time(text: str) -> datetime:
    """Times are not compared as texts, because only some of them have a fraction."""
    return datetime.fromisoformat(text)
