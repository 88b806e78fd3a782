"""API keys, which identify callers and their scopes. The key file has only hashes, so it reveals no key."""

import hashlib
import secrets
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from edge import scopes
from schemas.faults import Forbidden, Unauthorized

KEY_BYTES = 32
"""Random bytes of a key. A key of this length cannot be guessed, so a plain SHA-256 is a sufficient hash."""


class KeyEntry(BaseModel):
    """One `[[keys]]` entry. `edge.scopes` says which scopes exist."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: list[str]
    origin_type: str = Field("api", pattern=r"^[a-z0-9._-]{1,63}$")
    rate: int | None = Field(None, ge=1)
    """Calls per second, over 10 seconds. None for the edge's default."""


class KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[KeyEntry]


class WrongKeyFile(Exception):
    """The key file cannot be read or is invalid. The message says why."""


@dataclass(frozen=True)
class Identity:
    """A caller. `source` goes into the message as its ce_source. `scopes` has no wildcards. `rate` is the limit of
    calls per second, None if there is none."""

    name: str
    source: str
    scopes: frozenset[str]
    rate: int | None = None


class Keys:
    def __init__(self, entries: Sequence[KeyEntry] | None, families: Collection[str], rate: int) -> None:
        """Without `entries`, every call is accepted: the edge listens on loopback only. `rate` is that of keys without
        a rate of their own. Raises ValueError for an unknown scope."""
        self._loopback = Identity("local", "api/local", scopes.every(families))
        self._identities = (
            None if entries is None else {entry.sha256: _identity(entry, families, rate) for entry in entries}
        )

    def identify(self, authorization: str | None) -> Identity:
        """The caller of an `Authorization: Bearer <key>` header. Raises Unauthorized."""
        if self._identities is None:
            return self._loopback
        scheme, _, key = (authorization or "").partition(" ")
        identity = self._identities.get(digest(key.strip())) if scheme.lower() == "bearer" else None
        if identity is None:
            raise Unauthorized("unauthorized", "Send a valid API key: `Authorization: Bearer <key>`.")
        return identity


def require_scopes(identity: Identity, required: frozenset[str]) -> None:
    """Raises Forbidden if the caller lacks one of the scopes."""
    if not required <= identity.scopes:
        missing = " and ".join(sorted(required - identity.scopes))
        raise Forbidden("forbidden", f"The API key needs the scope {missing}.")


def load(path: Path | None, families: Collection[str], rate: int) -> Keys:
    """The API keys of a file. Without a file, every call is accepted. Raises WrongKeyFile."""
    if path is None:
        return Keys(None, families, rate)
    try:
        return Keys(KeyFile.model_validate(tomllib.loads(path.read_text())).keys, families, rate)
    except (OSError, ValueError) as error:
        raise WrongKeyFile(f"VISITOR_HTTP_KEYS: {path} is not a valid key file: {error}") from error


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)


def _identity(entry: KeyEntry, families: Collection[str], rate: int) -> Identity:
    return Identity(
        entry.name, f"{entry.origin_type}/{entry.name}", scopes.expand(entry.scopes, families), entry.rate or rate
    )
