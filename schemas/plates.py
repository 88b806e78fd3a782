"""Licence plates: the normal form by which they are compared."""

import re
import unicodedata

from schemas.invisible import without_invisible

_ASCII_SEPARATORS = re.compile(r"[^A-Z0-9]+")

_TATWEEL = "\N{ARABIC TATWEEL}"
"""A sign that stretches the letter before it. Unicode calls it a letter, but it is not part of a plate's text."""


def plate_key(plate: str) -> str:
    """The normal form of a plate: upper-case letters with their marks, and ASCII digits.

    Two spellings with the same key are the same plate. Letters of two scripts stay different even if they look the
    same. The key is empty if the plate has neither letters nor digits; such plates are refused.
    """
    if plate.isascii():
        return _ASCII_SEPARATORS.sub("", plate.upper())
    compatible = unicodedata.normalize("NFKC", without_invisible(plate))
    # Lower case first: upper() leaves the capital ẞ as it is, but makes SS of ß.
    return unicodedata.normalize("NFKC", _letters_and_digits(compatible).lower().upper())


def _letters_and_digits(text: str) -> str:
    """Drop everything but letters, marks on letters, and numbers."""
    characters = []
    follows_letter = False
    for character in text:
        if character == _TATWEEL:
            continue
        category = unicodedata.category(character)[0]
        is_letter_or_its_mark = category == "L" or (category == "M" and follows_letter)
        if is_letter_or_its_mark:
            characters.append(character)
        elif category == "N":
            characters.append(_ascii_digit(character))
        follows_letter = is_letter_or_its_mark
    return "".join(characters)


def _ascii_digit(number: str) -> str:
    """The ASCII digit for a digit of any script. Other numbers stay as they are, so that two plates which differ in
    them keep different keys."""
    value = unicodedata.digit(number, None)
    return number if value is None else str(value)
