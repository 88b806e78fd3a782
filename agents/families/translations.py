"""Texts in several locales, kept inside the record that they belong to and replaced by locale."""

from collections.abc import Sequence
from typing import Any, TypeVar

from schemas.faults import Invalid
from schemas.model import Model
from schemas.types import Instant, LocaleCode, LongText
from storage.tx import Tx

TOGETHER = 1_000_000
"""Characters of all texts of one list. A change holds the whole record: three such lists, with up to 4 bytes a
character, stay under what a topic lets in (topics.names.LARGEST_RECORD)."""


class TranslationNew(Model):
    locale_code: LocaleCode
    value: LongText


class Translation(TranslationNew):
    creation_date: Instant
    update_date: Instant


Kept = TypeVar("Kept", bound=Translation)


def translated(
    tx: Tx, kind: type[Kept], old: Sequence[Kept], new: Sequence[TranslationNew], *, field: str, **more: Any
) -> list[Kept]:
    """The texts with the new ones in their locales' places; other locales keep theirs. Raises Invalid, naming the
    field, where they are too much together."""
    texts = {text.locale_code: text for text in old}
    for text in new:
        known = texts.get(text.locale_code)
        created = known.creation_date if known else tx.now
        texts[text.locale_code] = kind.widened(text, creation_date=created, update_date=tx.now, **more)
    if sum(len(text.value) for text in texts.values()) > TOGETHER:
        raise Invalid("too_long", f"All texts together hold at most {TOGETHER} characters.", field=field)
    return list(texts.values())
