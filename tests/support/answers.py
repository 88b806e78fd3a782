"""The errors in HTTP answers."""

import httpx

_MEMBERS = {"code", "type", "field", "message"}


def error_codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    """The field and the code of each error. Fails if an error has other members than the documented ones."""
    errors = answer.json()["errors"]
    assert all(error.keys() == _MEMBERS for error in errors), answer.text
    return [(error["field"], error["code"]) for error in errors]
