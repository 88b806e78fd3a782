"""Licence plates: the form in which they are compared."""

import re
import unicodedata

from schemas.invisible import without_invisible

_ASCII_SEPARATORS = re.compile(r"[^A-Z0-9]+")

_TATWEEL = "\N{ARABIC TATWEEL}"
"""Unicode calls it a letter, but it only stretches the letter before it."""


def plate_key(plate: str) -> str:
    """The letters in upper case with their marks, and the digits in ASCII. Empty if the plate has neither; callers must
    not match an empty key. Letters of different scripts stay different even if they look alike."""
    if plate.isascii():
        return _ASCII_SEPARATORS.sub("", plate.upper())
    plain = unicodedata.normalize("NFKC", without_invisible(plate))
    # Lower case first, because the capital ẞ stays itself in upper case while ß becomes SS.
    return unicodedata.normalize("NFKC", _letters_and_digits(plain).lower().upper())


def _letters_and_digits(text: str) -> str:
    kept = []
    after_letter = False
    for character in text:
        if character == _TATWEEL:
            continue
        category = unicodedata.category(character)[0]
        if category == "L" or (category == "M" and after_letter):
            kept.append(character)
            after_letter = True
            continue
        after_letter = False
        if category == "N":
            kept.append(_digit(character))
    return "".join(kept)


def _digit(number: str) -> str:
    """The digit in ASCII. Other numeric characters stay as they are; dropping one would merge two plates."""
    value = unicodedata.digit(number, None)
    return number if value is None else str(value)
