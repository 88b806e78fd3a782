"""The locales of texts. A locale is a language and a territory of the Unicode CLDR, which Babel provides."""

import re
from collections.abc import Iterator, Mapping

from babel.core import get_global
from babel.localedata import locale_identifiers

from schemas.locale_labels import LABELS

PATTERN = "^[A-Za-z]{2,3}([-_][A-Za-z]{4})?[-_]([A-Za-z]{2}|[0-9]{3})$"
"""A language, an optional script, and a territory: a country, or an area such as 419 for Latin America."""

_LIKELY: Mapping[str, str] = get_global("likely_subtags")
_ALIASES: Mapping[str, str] = get_global("language_aliases")


def _usual_script(language: str, territory: str) -> str:
    """The script in which a language is usually written in a territory (CLDR's likely subtags)."""
    likely = _LIKELY.get(f"{language}_{territory}") or _LIKELY.get(language) or ""
    return next((subtag for subtag in likely.split("_") if len(subtag) == 4), "")


def _languages_and_territories() -> Iterator[tuple[str, str]]:
    """All pairs that CLDR has, without scripts. A language without a territory gets its likely territory."""
    for identifier in locale_identifiers():
        subtags = identifier.split("_")
        if len(subtags) == 1:
            subtags = _LIKELY.get(identifier, identifier).split("_")
        if re.fullmatch("[A-Z]{2}|[0-9]{3}", subtags[-1]):
            yield subtags[0], subtags[-1]


_SCRIPTS = {
    f"{language}-{territory}": _usual_script(language, territory)
    for language, territory in _languages_and_territories()
}
CODES = tuple(sorted(_SCRIPTS))
_BY_LOWER_CASE = {code.lower(): code for code in CODES}


def canonical(code: str) -> str | None:
    """The canonical form of a locale's code (`fr-FR`); None if there is no such locale.

    Case and separator make no difference. The code may name the locale's usual script (`zh-Hans-CN` is `zh-CN`) and use
    a former code of its language (`iw-IL` is `he-IL`).
    """
    if not re.fullmatch(PATTERN, code):
        return None
    language, *script, territory = code.replace("_", "-").lower().split("-")
    locale = _BY_LOWER_CASE.get(f"{_ALIASES.get(language, language)}-{territory}")
    if locale is None or (script and script != [_SCRIPTS[locale].lower()]):
        return None
    return locale


def label(code: str) -> str:
    """The name of a locale's language in that language and in the locale's usual script: Français for `fr-FR`."""
    return LABELS[label_key(code)]


def label_key(code: str) -> str:
    """The locale's language, and its usual script if the language is usually written in another one."""
    language, script = code.partition("-")[0], _SCRIPTS[code]
    return language if script == _usual_script(language, "") else f"{language}_{script}"
