"""Conditional requests (RFC 9110, section 13): entity tags of records, and the headers that compare them.

The tag of a record is `"<revision>-<digest>"`. The digest is that of the response's body: it distinguishes selections
of fields, and replies that contain more than the record. `"<revision>-<digest>-gzip"` is the same body compressed, and
`"<revision>"` is the tag in the response to a write, which has no body. All of them name the same revision, which is
what `If-Match` compares.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from schemas.faults import Invalid, PreconditionFailed

_ENTITY_TAG = re.compile(r'\s*(?:(W/)?"([!#-~\x80-\xff]*)"\s*)?(?:,|$)')
"""No two neighbouring parts of it match blanks: its time would be quadratic."""
LENGTH_LIMIT = 1_000
"""Characters of all `If-Match` or all `If-None-Match` headers of a call. Longer ones count as malformed."""
TAGS_LIMIT = 20
"""ETags in an If-Match header."""
_OURS = re.compile(r"([0-9]{1,18})(-[0-9a-f]{12})?(-gzip)?")
_GZIP_SUFFIX = "-gzip"


class EntityTag(NamedTuple):
    weak: bool
    opaque: str
    """The text between the quotes."""


class EntityTags(NamedTuple):
    """The tags of an `If-Match` or `If-None-Match` header. `any` stands for `*`."""

    any: bool
    tags: Sequence[EntityTag] = ()


def tag_of(revision: int, body: bytes | None) -> str:
    """The ETag of a record with this revision, in a response with this body."""
    return f'"{revision}"' if body is None else f'"{revision}-{_digest(body)}"'


def tag_of_content(content: bytes) -> str:
    """The ETag of a file."""
    return f'"{_digest(content)}"'


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=6).hexdigest()


def tag_of_compressed(tag: str) -> str:
    """The ETag of the compressed response. A strong tag differs by content coding (RFC 9110, section 8.8.3.3)."""
    return f'{tag[:-1]}{_GZIP_SUFFIX}"'


def is_cached(tag: str, if_none_match: Sequence[str]) -> bool:
    """True if the `If-None-Match` headers of a call, which may be none, name the representation with this ETag. They
    compare weakly (RFC 9110, section 13.1.2), so that the compressed representation is the same. A malformed header
    names none."""
    sent = _parse(if_none_match) if if_none_match else None
    if sent is None:
        return False
    return sent.any or any(f'"{entity_tag.opaque.removesuffix(_GZIP_SUFFIX)}"' == tag for entity_tag in sent.tags)


def expected_revisions(if_match: Sequence[str]) -> tuple[int, ...] | None:
    """The revisions that the `If-Match` headers of a write name, None if the record may have any. `*` requires a
    record, without which the write is 404 anyway. A weak tag names no revision, because If-Match compares strongly (RFC
    9110, section 13.1.1). Raises Invalid, and PreconditionFailed if no tag can be that of a record."""
    if not if_match:
        return None
    sent = _required_tags(if_match)
    if sent.any:
        return None
    matches = (_OURS.fullmatch(entity_tag.opaque) for entity_tag in sent.tags if not entity_tag.weak)
    revisions = tuple(int(match[1]) for match in matches if match is not None)
    if not revisions:
        raise _differs()
    return revisions


def require(tag: str, if_match: Sequence[str]) -> None:
    """Check that the `If-Match` headers of a read name the representation with this ETag. Raises Invalid and
    PreconditionFailed."""
    if not if_match:
        return
    sent = _required_tags(if_match)
    strong = (entity_tag.opaque for entity_tag in sent.tags if not entity_tag.weak)
    if not sent.any and not any(f'"{opaque.removesuffix(_GZIP_SUFFIX)}"' == tag for opaque in strong):
        raise _differs()


def _differs() -> PreconditionFailed:
    return PreconditionFailed("revision_differs", "If-Match has no ETag of the record as it is now. Read it again.")


def _required_tags(if_match: Sequence[str]) -> EntityTags:
    sent = _parse(if_match)
    if sent is None or len(sent.tags) > TAGS_LIMIT:
        message = f"Send * or at most {TAGS_LIMIT} ETags of earlier responses, with their quotes."
        raise Invalid("wrong_if_match", message, field="If-Match")
    return sent


def _parse(lines: Sequence[str]) -> EntityTags | None:
    """The tags of all lines of a header; None if they are malformed or too long."""
    text = ",".join(lines)
    if len(text) > LENGTH_LIMIT:
        return None
    if text.strip() == "*":
        return EntityTags(any=True)
    tags, position = [], 0
    while position < len(text):
        match = _ENTITY_TAG.match(text, position)
        if match is None:
            return None
        if match[2] is not None:
            tags.append(EntityTag(match[1] is not None, match[2]))
        position = match.end()
    return EntityTags(any=False, tags=tags)
