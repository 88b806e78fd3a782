"""API keys, which identify callers and their scopes. The key file has only hashes, so it reveals no key."""

import asyncio
import hashlib
import secrets
import time
import tomllib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from edge import scopes
from edge.identity import Identity, Territory
from schemas.faults import Unauthorized
from schemas.misconfigured import Misconfigured

log = structlog.get_logger(__name__)

KEY_BYTES = 32
"""Random bytes of a key. A key of this length cannot be guessed, so a plain SHA-256 is a sufficient hash."""
KEYS_OF_A_CALLER = 2
"""Keys that a caller may have at once: the old one and its successor, until all its programs use the new one."""
WATCH_SECONDS = 0.5
"""Interval of the checks whether the file has changed. It is loaded at the second check that sees the change."""


OTHER_ORIGIN_TYPES = frozenset(("oidc", "operator", "import"))
"""The first parts of the sources of tokens, commands and imports. A key with the same source could read the answers of
a token's subject."""
_Stamp = tuple[int, int, int] | None


class KeyEntry(BaseModel):
    """One `[[keys]]` entry. `edge.scopes` says which scopes exist. With `centers` or `countries`, the caller sees and
    changes only what belongs to these. An empty list is refused: the caller would have no restriction. `rate` is in
    calls per second; None for the edge's default."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: list[str] = Field(min_length=1)
    origin_type: str = Field("api", pattern=r"^[a-z0-9._-]{1,63}$")
    expires: AwareDatetime | None = None
    centers: list[Annotated[str, Field(pattern=r"^[A-Z]{2}-[A-Z0-9]+-[A-Z0-9]+$")]] = Field([], min_length=1)
    countries: list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] = Field([], min_length=1)
    rate: int | None = Field(None, ge=1)

    @field_validator("origin_type")
    @classmethod
    def _is_not_that_of_others(cls, value: str) -> str:
        if value in OTHER_ORIGIN_TYPES:
            raise ValueError(f"{value} is the origin type of other callers")
        return value


class KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[KeyEntry]


class WrongKeyFile(Misconfigured):
    """The key file cannot be read or is invalid. The message says why."""


class Keys:
    """The keys of a file. Without a file there are none. `rate` is that of keys without a rate of their own. Raises
    WrongKeyFile."""

    def __init__(self, path: Path | None, families: Collection[str], rate: int) -> None:
        self._path = path
        self._families = families
        self._rate = rate
        self._identities: Mapping[str, Identity] = {}
        """By the hash of the key."""
        self._stamp: _Stamp = None
        if path is not None:
            self._stamp = _stamp(path)
            self._identities = load(path, families, rate)

    def identify(self, key: str) -> Identity:
        """The caller with this key. Raises Unauthorized."""
        identity = self._identities.get(digest(key))
        if identity is None:
            raise Unauthorized("unauthorized", "Send a valid API key: `Authorization: Bearer <key>`.")
        if identity.expires is not None and time.time() >= identity.expires:
            raise Unauthorized("key_expired", "This API key has expired. Ask the operators for a new one.")
        return identity

    async def watch(self) -> None:
        """Load the file again when it has changed and is complete: a part of an entry, which may be valid, may lack its
        restrictions. If it is invalid then, the keys stay as they are."""
        latest = self._stamp
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._path is None:
                continue
            previous, latest = latest, _stamp(self._path)
            if latest == previous and latest != self._stamp:
                self._load_again(self._path, latest)

    def _load_again(self, path: Path, stamp: _Stamp) -> None:
        try:
            identities = load(path, self._families, self._rate)
        except WrongKeyFile as error:
            log.error("keys_not_reloaded", reason=str(error), hint="the edge still uses the previous keys")
        else:
            if _stamp(path) != stamp:
                return
            self._identities = identities
            log.info("keys_reloaded", keys=len(identities))
        self._stamp = stamp


def load(path: Path, families: Collection[str], rate: int) -> Mapping[str, Identity]:
    """The callers by the hashes of their keys. Raises WrongKeyFile."""
    try:
        entries = KeyFile.model_validate(tomllib.loads(path.read_text())).keys
        _check(entries)
        return {entry.sha256: identity_of(entry, families, rate) for entry in entries}
    except (OSError, ValueError, RecursionError) as error:
        raise WrongKeyFile(f"VISITOR_HTTP_KEYS: {path} is not a valid key file: {error}") from error


def identity_of(entry: KeyEntry, families: Collection[str], rate: int) -> Identity:
    """Raises ValueError for an unknown scope."""
    is_restricted = bool(entry.centers or entry.countries)
    return Identity(
        name=entry.name,
        source=f"{entry.origin_type}/{entry.name}",
        scopes=scopes.expand(entry.scopes, families),
        rate=entry.rate or rate,
        territory=Territory(frozenset(entry.centers), frozenset(entry.countries)) if is_restricted else None,
        expires=None if entry.expires is None else entry.expires.timestamp(),
    )


def _check(entries: Sequence[KeyEntry]) -> None:
    """Raises ValueError. All keys of a name are one caller: it finds the answers to its calls with either key."""
    if repeated := [
        name for name, count in Counter(entry.name for entry in entries).items() if count > KEYS_OF_A_CALLER
    ]:
        raise ValueError(f"{repeated[0]} has more than {KEYS_OF_A_CALLER} keys. Remove the oldest one.")
    if len({entry.sha256 for entry in entries}) < len(entries):
        raise ValueError("two entries have the same sha256.")
    if len({(entry.name, entry.origin_type) for entry in entries}) > len({entry.name for entry in entries}):
        raise ValueError("the keys of one name must have the same origin_type.")


def _stamp(path: Path) -> _Stamp:
    """Differs if the file was written or replaced; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)
