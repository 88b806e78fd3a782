"""Email addresses: which are accepted, and which mailbox each one is of."""

import re
import unicodedata

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

_DOTS_ANYWHERE = frozenset(("docomo.ne.jp", "ezweb.ne.jp"))
"""Domains of carriers that gave out addresses like `a..b@`, `.a@` and `a.@` until 2009 and still deliver to them. RFC
5321 takes such a local part in quotes only."""

_DOTTED = re.compile(r"\.*[A-Za-z0-9!#$%&'*+/=?^_`{|}~-][A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*")
"""A local part of characters that need no quotes, and of dots anywhere."""


def is_address(text: str) -> bool:
    return _validated(text) is not None


def mailbox(address: str) -> str:
    """What two spellings of one mailbox share: the address as email-validator normalises it (NFC, the domain as
    IDNA's A-labels), in lower case. Not folded: `straße` and `strasse` are two."""
    if address.isascii():
        return address.lower()
    found = _validated(address)
    normal = address if found is None else f"{found.local_part}@{found.ascii_domain}"
    # Once more, since small letters may have a code point together with their mark where capitals have none.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", normal).lower())


def readable(address: str) -> str:
    """The address with its domain as people write it (`bücher.de`), whichever form it was given in."""
    found = None if address.isascii() and "xn--" not in address.lower() else _validated(address)
    return address if found is None else f"{found.local_part}@{found.domain}"


def _validated(text: str) -> ValidatedEmail | None:
    """Without the quotes that some local parts need. None for what is no address."""
    local, _, domain = text.rpartition("@")
    dotted = domain.lower() in _DOTS_ANYWHERE and _DOTTED.fullmatch(local) is not None
    try:
        found = validate_email(
            f'"{local}"@{domain}' if dotted else text, allow_quoted_local=dotted, check_deliverability=False
        )
    except EmailNotValidError:
        return None
    if dotted:
        found.local_part = local
    return found
