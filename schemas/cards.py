"""Payment card numbers in a text: where digits are the number of a card and where they only look like one.

A card number is a run of digits, with no letter or digit beside it, of a prefix and a length that an issuer uses
(ISO/IEC 7812-1) and with the right check digit. Luhn alone takes one in ten of all runs, phone numbers and tokens
among them.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from unicodedata import decimal

# Prefixes and lengths as in github.com/braintree/credit-card-type (without its catch-all 6 for Maestro), and what it
# leaves out because it is no longer issued, from Wikipedia's "Payment card number": Visa of 13 digits, JCB of 15, and
# the lengths of Discover and Diners Club in between.
_ISSUED = {
    "Visa": (["4"], [13, 16, 18, 19]),
    "Mastercard": (["51-55", "2221-2720"], [16]),
    "American Express": (["34", "37"], [15]),
    "Discover": (["6011", "644-649", "65"], range(16, 20)),
    "JCB": (["3528-3589", "2131", "1800"], range(15, 20)),
    "Maestro": (["493698", "50", "56-59", "63", "67"], range(12, 20)),
    "Diners Club": (["300-305", "309", "36", "38-39"], range(14, 20)),
    "UnionPay": (["62", "810-817"], range(14, 20)),
}


def _lengths() -> Mapping[str, Collection[int]]:
    """The lengths of the numbers with each prefix."""
    found: dict[str, set[int]] = {}
    for ranges, lengths in _ISSUED.values():
        for each in ranges:
            first, _, last = each.partition("-")
            for prefix in range(int(first), int(last or first) + 1):
                found.setdefault(str(prefix), set()).update(lengths)
    return found


_LENGTHS = _lengths()
_PREFIXES = sorted({len(prefix) for prefix in _LENGTHS})
_SHORTEST, _LONGEST = 12, 19
_GROUP = 3
"""The fewest digits of a group that belongs to a card number with other numbers beside it."""

# Blanks and dashes of all kinds, and invisible characters.
_BLANK = r"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_RUN = re.compile(rf"\d(?:[{_BLANK}]*\d){{{_SHORTEST - 1},}}")
_DIGITS = re.compile(rf"\d(?:[{_BLANK}./_·•]*\d){{{_SHORTEST - 1},}}")
_GROUPS = re.compile(r"\d+")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])")


def holds_card_number(text: str) -> bool:
    """True if a run of digits of any script, with blanks and dashes between them and no letter beside it, is a card
    number or contains one as groups of its own. The digits of a UUID never count."""
    if len(text) < _SHORTEST:
        return False
    text = _UUID.sub("|", text)
    runs = (run for run in _RUN.finditer(text) if not _letter_beside(text, run.start(), run.end()))
    return any(_is_card(number) for run in runs for number in _candidates(_GROUPS.findall(run[0])))


def without_digit_runs(text: str) -> str:
    """The text without anything that could be a card number, in whatever notation. For texts that are shown but were
    not checked, such as the names of unknown fields."""
    return _DIGITS.sub("…", text)


def passes_luhn(digits: str) -> bool:
    """Whether the check digit of a payment card number is right (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _candidates(groups: Sequence[str]) -> Iterator[str]:
    """The whole run, and neighbouring groups in it: a date or another number may stand beside a card number."""
    yield "".join(groups)
    for first in range(len(groups)):
        number = ""
        for group in groups[first : first + _LONGEST // _GROUP + 1]:
            number += group
            if len(group) < _GROUP or len(number) > _LONGEST:
                break
            yield number


def _letter_beside(text: str, start: int, end: int) -> bool:
    return text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()


def _is_card(digits: str) -> bool:
    if not _SHORTEST <= len(digits) <= _LONGEST:
        return False
    if not digits.isascii():
        digits = "".join(str(decimal(digit)) for digit in digits)
    issued = any(len(digits) in _LENGTHS.get(digits[:length], ()) for length in _PREFIXES)
    return issued and passes_luhn(digits)
