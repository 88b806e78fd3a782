"""Invisible characters of a text."""

import re

_UNSEEN = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""The characters with Unicode's property Default_Ignorable_Code_Point. Some of them are letters, and some separate a
mark from its letter, so texts are compared without them."""


def without_unseen(text: str) -> str:
    """Remove the invisible characters of a text."""
    return _UNSEEN.sub("", text)
