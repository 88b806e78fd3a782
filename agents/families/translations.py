"""Texts in several locales. They are stored inside their record, and are replaced by locale."""

from collections.abc import Sequence
from typing import Any, TypeVar

from schemas.faults import Invalid
from schemas.model import Model
from schemas.types import Instant, LocaleCode, LongText
from storage.tx import Tx

MAX_CHARACTERS = 1_000_000
"""Limit for all texts of one list, in characters. A change holds the complete record: three such lists, with up to 4
bytes a character, are smaller than the largest record of a topic (topics.names.LARGEST_RECORD)."""


class TranslationNew(Model):
    locale_code: LocaleCode
    """The locale of the text."""
    value: LongText
    """The text."""


class Translation(TranslationNew):
    creation_date: Instant
    update_date: Instant


Stored = TypeVar("Stored", bound=Translation)


def translated(
    tx: Tx, model: type[Stored], old: Sequence[Stored], new: Sequence[TranslationNew], *, field: str, **extra: Any
) -> list[Stored]:
    """Replace the old texts by the new ones of the same locale; keep the other locales. `extra` are further fields of
    `model`. Raises Invalid for `field` if all texts together are longer than MAX_CHARACTERS."""
    texts = {text.locale_code: text for text in old}
    for text in new:
        replaced = texts.get(text.locale_code)
        creation_date, update_date = (replaced.creation_date, replaced.update_date) if replaced else (tx.now, tx.now)
        # A transaction that began later may have written first.
        dates = {"creation_date": creation_date, "update_date": max(tx.now, update_date)}
        texts[text.locale_code] = model.widened(text, **dates, **extra)
    if sum(len(text.value) for text in texts.values()) > MAX_CHARACTERS:
        message = f"All texts of this field together may have at most {MAX_CHARACTERS} characters. Shorten them."
        raise Invalid("too_long", message, field=field)
    return list(texts.values())
