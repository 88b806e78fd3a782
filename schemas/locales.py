"""The locales that texts may be in: a language and a country, from the Unicode CLDR (by Babel)."""

from collections.abc import Iterator

from babel.localedata import locale_identifiers


def _all() -> Iterator[str]:
    parts = (identifier.split("_") for identifier in locale_identifiers())
    return ("-".join(pair) for pair in parts if len(pair) == 2 and len(pair[1]) == 2)


_BY_KEY = {code.lower(): code for code in _all()}


def known(code: str) -> str | None:
    """The one way a locale is written here (`fr-FR`), whatever the case and separator; None for no locale."""
    return _BY_KEY.get(code.replace("_", "-").lower())
