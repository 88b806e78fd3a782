"""The locales that texts may be in: a language and a territory, from the Unicode CLDR (by Babel)."""

import re
from collections.abc import Iterator, Mapping

from babel import Locale
from babel.core import get_global
from babel.localedata import locale_identifiers

PATTERN = "^[A-Za-z]{2,3}([-_][A-Za-z]{4})?[-_]([A-Za-z]{2}|[0-9]{3})$"
"""A language, optionally a script, and a territory: a country or an area (419 is Latin America)."""

_LIKELY: Mapping[str, str] = get_global("likely_subtags")
_RENAMED: Mapping[str, str] = get_global("language_aliases")


def _usual_script(language: str, territory: str) -> str:
    """The script that CLDR's likely subtags imply for a language in a territory."""
    likely = _LIKELY.get(f"{language}_{territory}") or _LIKELY.get(language) or ""
    return next((part for part in likely.split("_") if len(part) == 4), "")


def _every() -> Iterator[tuple[str, str]]:
    """All pairs of a language and a territory; a language without one has its likely territory."""
    for identifier in locale_identifiers():
        language, *more = (identifier if "_" in identifier else _LIKELY.get(identifier, identifier)).split("_")
        if more and re.fullmatch("[A-Z]{2}|[0-9]{3}", more[-1]):
            yield language, more[-1]


_SCRIPTS = {f"{language}-{territory}": _usual_script(language, territory) for language, territory in _every()}
CODES = tuple(sorted(_SCRIPTS))
_BY_KEY = {code.lower(): code for code in CODES}


def known(code: str) -> str | None:
    """The stored form (`fr-FR`) of a locale in any case, with either separator, with its usual script or without it
    (`zh-Hans-CN` is `zh-CN`), or with a former language code (`iw-IL` is `he-IL`). None for an unknown locale."""
    if not re.fullmatch(PATTERN, code):
        return None
    language, *script, territory = code.replace("_", "-").lower().split("-")
    found = _BY_KEY.get(f"{_RENAMED.get(language, language)}-{territory}")
    if found is None or (script and script != [_SCRIPTS[found].lower()]):
        return None
    return found


def label(code: str) -> str:
    """The language's name for itself, in the usual script of the locale: `fr-FR` is Français."""
    language, script = code.partition("-")[0], _SCRIPTS[code]
    usual = script == _usual_script(language, "")
    names = (
        Locale.parse(name).get_language_name() for name in (language if usual else f"{language}_{script}", language)
    )
    return (next(filter(None, names), None) or code).capitalize()
