"""Licence plates: what two spellings of one plate share."""

import re
import unicodedata

from schemas.unseen import without_unseen

_ASCII_SEPARATORS = re.compile(r"[^A-Z0-9]+")

_TATWEEL = "\N{ARABIC TATWEEL}"
"""Makes the letter before it longer; to Unicode, it is a letter."""


def plate_key(plate: str) -> str:
    """Upper-case letters with their marks, and ASCII digits; empty where a plate has neither: no vehicle has that one.
    Letters that look alike in two scripts are two."""
    if plate.isascii():
        return _ASCII_SEPARATORS.sub("", plate.upper())
    plain = unicodedata.normalize("NFKC", without_unseen(plate))
    # By way of small letters: ẞ is a capital of its own, but ß is SS.
    return unicodedata.normalize("NFKC", _letters_and_digits(plain).lower().upper())


def _letters_and_digits(text: str) -> str:
    kept = []
    marks_belong = False
    for character in text:
        if character == _TATWEEL:
            continue
        kind = unicodedata.category(character)[0]
        if kind == "L" or (kind == "M" and marks_belong):
            kept.append(character)
        elif kind == "N":
            kept.append(_digit(character))
        marks_belong = kind == "L" or (kind == "M" and marks_belong)
    return "".join(kept)


def _digit(number: str) -> str:
    """In ASCII. Numbers that are no digits stay as they are, or two plates might become one."""
    value = unicodedata.digit(number, None)
    return number if value is None else str(value)
