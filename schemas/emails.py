"""Email addresses: validation, and the normal form by which they are compared."""

import re
import unicodedata
from functools import lru_cache

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

_LENIENT_DOMAINS = frozenset(("docomo.ne.jp", "ezweb.ne.jp"))
"""Domains of carriers that assigned addresses such as `a..b@`, `.a@` and `a.@` until 2009 and still deliver to them.
RFC 5321 allows such a local part in quotes only."""

_LENIENT_LOCAL_PART = re.compile(r"\.*[A-Za-z0-9!#$%&'*+/=?^_`{|}~-][A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*")
"""A local part whose characters need no quotes, with dots anywhere."""

_PLAIN_LOCAL_PART = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*")
_LENGTH_LIMIT = 254
"""In octets (RFC 3696, erratum 1690)."""
_KNOWN_DOMAINS = 10_000


def is_address(text: str) -> bool:
    local_part, _, domain = text.rpartition("@")
    if _PLAIN_LOCAL_PART.fullmatch(local_part) and domain.isascii() and len(text) <= _LENGTH_LIMIT:
        # email-validator needs 35 us for an address, and most people share a few domains.
        return _is_domain(domain)
    return _validate(text) is not None


@lru_cache(_KNOWN_DOMAINS)
def _is_domain(domain: str) -> bool:
    return _validate(f"a@{domain}") is not None


def mailbox(address: str) -> str:
    """The normal form of an address: two addresses with the same one name the same mailbox. It is the address as
    email-validator normalises it (NFC, the domain as IDNA A-labels), in lower case. Letters are not folded: `straße`
    and `strasse` are different mailboxes."""
    if address.isascii():
        return address.lower()
    validated = _validate(address)
    normal = address if validated is None else f"{validated.local_part}@{validated.ascii_domain}"
    # Normalise again after lower(): a small letter with its mark may be one code point where the capital has two.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", normal).lower())


def readable(address: str) -> str:
    """The address with its domain in Unicode (`bücher.de`) instead of A-labels (`xn--bcher-kva.de`)."""
    if address.isascii() and "xn--" not in address.lower():
        return address
    validated = _validate(address)
    return address if validated is None else f"{validated.local_part}@{validated.domain}"


def _validate(text: str) -> ValidatedEmail | None:
    """The parts of an address; None if `text` is not a valid address. A local part that is valid at a lenient domain
    only is put into quotes for the validation."""
    local_part, _, domain = text.rpartition("@")
    lenient = domain.lower() in _LENIENT_DOMAINS and _LENIENT_LOCAL_PART.fullmatch(local_part) is not None
    address = f'"{local_part}"@{domain}' if lenient else text
    try:
        validated = validate_email(address, allow_quoted_local=lenient, check_deliverability=False)
    except EmailNotValidError:
        return None
    if lenient:
        validated.local_part = local_part
    return validated
