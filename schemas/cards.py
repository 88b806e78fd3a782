"""Finds payment card numbers in texts.

A card number is a run of digits with no letter or digit beside it. It has a prefix and a length that an issuer uses
(ISO/IEC 7812-1) and a valid check digit. The check digit alone is not enough: one in ten runs of digits has a valid
one, for example phone numbers and tokens.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from unicodedata import decimal

# Prefixes and lengths are those of github.com/braintree/credit-card-type, without its catch-all 6 for Maestro. Numbers
# that are no longer issued are added from Wikipedia's "Payment card number": Visa with 13 digits, JCB with 15, and the
# lengths of Discover and Diners Club in between.
_ISSUERS = {
    "Visa": (["4"], [13, 16, 18, 19]),
    "Mastercard": (["51-55", "2221-2720"], [16]),
    "American Express": (["34", "37"], [15]),
    "Discover": (["6011", "644-649", "65"], range(16, 20)),
    "JCB": (["3528-3589", "2131", "1800"], range(15, 20)),
    "Maestro": (["493698", "50", "56-59", "63", "67"], range(12, 20)),
    "Diners Club": (["300-305", "309", "36", "38-39"], range(14, 20)),
    "UnionPay": (["62", "810-817"], range(14, 20)),
}


def _lengths_by_prefix() -> Mapping[str, Collection[int]]:
    """How many digits a card number with a prefix can have."""
    lengths_by_prefix: dict[str, set[int]] = {}
    for prefix_ranges, lengths in _ISSUERS.values():
        for prefix_range in prefix_ranges:
            first, _, last = prefix_range.partition("-")
            for prefix in range(int(first), int(last or first) + 1):
                lengths_by_prefix.setdefault(str(prefix), set()).update(lengths)
    return lengths_by_prefix


_LENGTHS_BY_PREFIX = _lengths_by_prefix()
_PREFIX_LENGTHS = sorted({len(prefix) for prefix in _LENGTHS_BY_PREFIX})
_SHORTEST, _LONGEST = 12, 19
_SHORTEST_GROUP = 3
"""Digits. Shorter groups are not taken as a part of a card number if the run contains other groups."""

# All characters of Unicode's category Pd, listed because a search among all of Unicode would take 0.2 s at each start.
# Garay's hyphen (10D6E) is in Unicode 16, which later versions of Python have.
_DASHES = (
    r"\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u2e5d\u301c\u3030\u30a0\ufe31\ufe32\ufe58"
    r"\ufe63\uff0d\U00010d6e\U00010ead"
)
# Blanks and dashes of all kinds, and invisible characters. The hyphen bullet and the minus sign look like dashes.
_SEPARATOR = r"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u2043\u2212" + _DASHES
_DIGIT_RUN = re.compile(rf"\d(?:[{_SEPARATOR}]*\d){{{_SHORTEST - 1},}}")
_MASKED = re.compile(rf"\d(?:[{_SEPARATOR}./_·•]*\d){{{_SHORTEST - 1},}}")
_DIGIT_GROUP = re.compile(r"\d+")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])")


def holds_card_number(text: str) -> bool:
    """True if a run of digits is a card number, or if neighbouring groups of the run are one. The digits may be of any
    script and may be separated by blanks and dashes. A run with a letter beside it and the digits of a UUID do not
    count."""
    if len(text) < _SHORTEST:
        return False
    text = _UUID.sub("|", text)
    runs = (run for run in _DIGIT_RUN.finditer(text) if not _has_letter_beside(text, run.start(), run.end()))
    return any(_is_card_number(number) for run in runs for number in _candidates(_DIGIT_GROUP.findall(run[0])))


def without_digit_runs(text: str) -> str:
    """Replace everything that could be a card number in any notation, so that an unchecked text, such as the name of an
    unknown field, is safe to show."""
    return _MASKED.sub("…", text)


def passes_luhn(digits: str) -> bool:
    """True if the check digit of a payment card number is valid (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _candidates(groups: Sequence[str]) -> Iterator[str]:
    """Numbers in a run of digits that could be a card number: all groups together, and some neighbouring groups, since
    a date or another number may be next to a card number."""
    yield "".join(groups)
    for first in range(len(groups)):
        number = ""
        for group in groups[first : first + _LONGEST // _SHORTEST_GROUP + 1]:
            number += group
            if len(group) < _SHORTEST_GROUP or len(number) > _LONGEST:
                break
            yield number


def _has_letter_beside(text: str, start: int, end: int) -> bool:
    return text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()


def _is_card_number(digits: str) -> bool:
    if not _SHORTEST <= len(digits) <= _LONGEST:
        return False
    if not digits.isascii():
        digits = "".join(str(decimal(digit)) for digit in digits)
    issued = any(len(digits) in _LENGTHS_BY_PREFIX.get(digits[:length], ()) for length in _PREFIX_LENGTHS)
    return issued and passes_luhn(digits)
