"""Email addresses: validation, and the mailbox that an address belongs to."""

import re
import unicodedata

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

_DOTS_ANYWHERE = frozenset(("docomo.ne.jp", "ezweb.ne.jp"))
"""Domains of carriers that assigned addresses like `a..b@`, `.a@` and `a.@` until 2009 and still deliver to them. RFC
5321 allows such a local part only in quotes."""

_DOTTED = re.compile(r"\.*[A-Za-z0-9!#$%&'*+/=?^_`{|}~-][A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*")
"""A local part of characters that need no quotes, with dots anywhere."""


def is_address(text: str) -> bool:
    return _validated(text) is not None


def mailbox(address: str) -> str:
    """The form in which addresses are compared: as email-validator normalises them (NFC, the domain in IDNA A-labels),
    in lower case. Lower case and not casefold: `straße` and `strasse` are two mailboxes."""
    if address.isascii():
        return address.lower()
    validated = _validated(address)
    normal = f"{validated.local_part}@{validated.ascii_domain}" if validated else address
    # NFC again: a lower-case letter can have a composed form (U+01F0) that its capital does not have.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", normal).lower())


def readable(address: str) -> str:
    """The address with its domain in Unicode (`bücher.de`) instead of A-labels (`xn--bcher-kva.de`)."""
    if address.isascii() and "xn--" not in address.lower():
        return address
    validated = _validated(address)
    return f"{validated.local_part}@{validated.domain}" if validated else address


def _validated(text: str) -> ValidatedEmail | None:
    """None if the text is not an address."""
    local, _, domain = text.rpartition("@")
    dotted = domain.lower() in _DOTS_ANYWHERE and _DOTTED.fullmatch(local) is not None
    quoted = f'"{local}"@{domain}' if dotted else text
    try:
        validated = validate_email(quoted, allow_quoted_local=dotted, check_deliverability=False)
    except EmailNotValidError:
        return None
    if dotted:
        validated.local_part = local
    return validated
