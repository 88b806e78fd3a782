"""The `Prefer` header (RFC 7240)."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

LENGTH_LIMIT = 1_000
"""Characters of all `Prefer` headers of a call. Longer ones are ignored, as a server may ignore any preference."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(rf'((?:[^,"]|{_QUOTED})*)(?:,|$)')
_PREFERENCE = re.compile(rf"\s*({_TOKEN})(?:\s*=\s*({_TOKEN}|{_QUOTED}))?\s*(?:;.*)?", re.DOTALL)
_SECONDS = re.compile(r"[0-9]{1,9}")


class Preferences(NamedTuple):
    """`wait` is the number of seconds that the caller is willing to wait."""

    respond_async: bool = False
    wait: int | None = None


def read(lines: Sequence[str]) -> Preferences:
    """The preferences of a call. `lines` are the values of its `Prefer` headers. Of a preference that is sent several
    times, the first counts (RFC 7240, section 2). Unknown and malformed preferences are ignored."""
    if not lines:
        return Preferences()
    values: dict[str, str] = {}
    text = ",".join(lines)
    for element in _elements(text) if len(text) <= LENGTH_LIMIT else ():
        preference = _PREFERENCE.fullmatch(element)
        if preference is not None:
            values.setdefault(preference[1].lower(), _unquoted(preference[2] or ""))
    wait = values.get("wait", "")
    return Preferences(
        respond_async=values.get("respond-async") == "", wait=int(wait) if _SECONDS.fullmatch(wait) else None
    )


def _elements(text: str) -> Iterator[str]:
    """The elements of a comma-separated list, up to a quoted string that does not end."""
    position = 0
    while position < len(text) and (match := _ELEMENT.match(text, position)):
        yield match[1]
        position = match.end()


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word
