"""Texts in several locales, kept inside the record that they belong to and replaced by locale."""

from collections.abc import Sequence
from typing import Any, TypeVar

from schemas.model import Model
from schemas.types import Instant, LocaleCode, LongText
from storage.tx import Tx


class TranslationNew(Model):
    locale_code: LocaleCode
    value: LongText


class Translation(TranslationNew):
    creation_date: Instant
    update_date: Instant


Kept = TypeVar("Kept", bound=Translation)


def translated(tx: Tx, kind: type[Kept], old: Sequence[Kept], new: Sequence[TranslationNew], **more: Any) -> list[Kept]:
    """The texts with the new ones in their locales' places; other locales keep theirs."""
    texts = {text.locale_code: text for text in old}
    for text in new:
        known = texts.get(text.locale_code)
        created = known.creation_date if known else tx.now
        texts[text.locale_code] = kind.widened(text, creation_date=created, update_date=tx.now, **more)
    return list(texts.values())
