"""The locales that texts may be in: a language and a country, from the Unicode CLDR (by Babel)."""

from collections.abc import Iterator

from babel import Locale
from babel.localedata import locale_identifiers


def _all() -> Iterator[str]:
    parts = (identifier.split("_") for identifier in locale_identifiers())
    return ("-".join(pair) for pair in parts if len(pair) == 2 and len(pair[1]) == 2)


CODES = tuple(sorted(_all()))
_BY_KEY = {code.lower(): code for code in CODES}


def known(code: str) -> str | None:
    """The one way a locale is written here (`fr-FR`), whatever the case and separator; None for no locale."""
    return _BY_KEY.get(code.replace("_", "-").lower())


def label(code: str) -> str:
    """What a locale's language calls itself: `fr-FR` is Français."""
    language = Locale.parse(code.partition("-")[0])
    return (language.get_display_name() or code).capitalize()
