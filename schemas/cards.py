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
"""The fewest digits of a group in a number with something else beside it."""

# Blanks and dashes of all kinds, and characters that nobody sees.
_BLANK = r"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_MARK = r"./_·•"
_RUN = re.compile(rf"\d(?:[{_BLANK}{_MARK}]*\d){{{_SHORTEST - 1},}}")
_GROUPS = re.compile(r"\d+")
_BLANKS = re.compile(rf"[{_BLANK}]+")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])")

_Span = tuple[int, int]
"""Where in a text something begins and ends."""


def holds_card_number(text: str) -> bool:
    """Whether some digits in the text, of whatever script, are the number of a card. UUIDs are none, whatever their
    digits."""
    if len(text) < _SHORTEST:
        return False
    text = _UUID.sub("|", text)
    return any(
        _is_card(_digits(text[start:end]))
        for run in _RUN.finditer(text)
        for start, end in _candidates(text, [group.span() for group in _GROUPS.finditer(text, *run.span())])
        if not _letter_beside(text, start, end)
    )


def without_digit_runs(text: str) -> str:
    """A text that may be shown though nobody looked for card numbers in it."""
    return _RUN.sub("…", text)


def passes_luhn(digits: str) -> bool:
    """Whether the check digit of a payment card number is right (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _candidates(text: str, groups: Sequence[_Span]) -> Iterator[_Span]:
    """All groups that only blanks and dashes part; and some of the groups, since a date or another number may stand
    beside a card number, or other marks in it."""
    first = 0
    for place in range(1, len(groups) + 1):
        if place == len(groups) or not _BLANKS.fullmatch(text, groups[place - 1][1], groups[place][0]):
            yield from _joined(groups[first:place])
            first = place
    for first in range(len(groups)):
        total = 0
        for start, end in groups[first : first + _LONGEST // _GROUP + 1]:
            total += end - start
            if end - start < _GROUP or total > _LONGEST:
                break
            if total >= _SHORTEST:
                yield groups[first][0], end


def _joined(groups: Sequence[_Span]) -> Iterator[_Span]:
    if _SHORTEST <= sum(end - start for start, end in groups) <= _LONGEST:
        yield groups[0][0], groups[-1][1]


def _letter_beside(text: str, start: int, end: int) -> bool:
    return text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()


def _digits(text: str) -> str:
    digits = "".join(_GROUPS.findall(text))
    return digits if digits.isascii() else "".join(str(decimal(digit)) for digit in digits)


def _is_card(digits: str) -> bool:
    issued = any(len(digits) in _LENGTHS.get(digits[:length], ()) for length in _PREFIXES)
    return issued and passes_luhn(digits)
