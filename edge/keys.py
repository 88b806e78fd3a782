"""API keys, which identify callers and their scopes. The key file has only hashes, so it reveals no key."""

import hashlib
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.faults import Forbidden, Unauthorized

KEY_BYTES = 32
"""Random bytes of a key. A key of this length cannot be guessed, so a plain SHA-256 is a sufficient hash."""


class KeyEntry(BaseModel):
    """One `[[keys]]` entry. Scopes are `<family>:read`, `<family>:write`, `*:read` or `*:write`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: list[Annotated[str, Field(pattern=r"^(\*|[a-z]+):(read|write)$")]]
    origin_type: str = Field("api", pattern=r"^[a-z0-9._-]{1,63}$")


class KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[KeyEntry]


class WrongKeyFile(Exception):
    """The key file cannot be read or is invalid. The message says why."""


@dataclass(frozen=True)
class Identity:
    """A caller. `source` goes into the message as its ce_source."""

    name: str
    source: str
    scopes: frozenset[str]

    def has_scope(self, family: str, action: str) -> bool:
        return f"{family}:{action}" in self.scopes or f"*:{action}" in self.scopes


LOOPBACK = Identity("local", "api/local", frozenset(("*:read", "*:write")))
"""Every caller, while no API keys are configured and the edge listens on loopback only."""


class Keys:
    def __init__(self, entries: Sequence[KeyEntry] | None) -> None:
        self._identities = None if entries is None else {entry.sha256: _identity(entry) for entry in entries}

    def identify(self, authorization: str | None) -> Identity:
        """The caller of an `Authorization: Bearer <key>` header. Raises Unauthorized."""
        if self._identities is None:
            return LOOPBACK
        scheme, _, key = (authorization or "").partition(" ")
        identity = self._identities.get(digest(key.strip())) if scheme.lower() == "bearer" else None
        if identity is None:
            raise Unauthorized("unauthorized", "Send a valid API key: `Authorization: Bearer <key>`.")
        return identity


def check(identity: Identity, family: str, reads: bool) -> None:
    """Raises Forbidden if the caller may not read, or write, this family."""
    action = "read" if reads else "write"
    if not identity.has_scope(family, action):
        raise Forbidden("forbidden", f"The API key needs the scope {family}:{action}.")


def load(path: Path | None) -> Keys:
    """The API keys of a file. Without a file, every call is accepted. Raises WrongKeyFile."""
    if path is None:
        return Keys(None)
    try:
        return Keys(KeyFile.model_validate(tomllib.loads(path.read_text())).keys)
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise WrongKeyFile(f"VISITOR_HTTP_KEYS: {path} is not a valid key file: {error}") from error


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)


def _identity(entry: KeyEntry) -> Identity:
    return Identity(entry.name, f"{entry.origin_type}/{entry.name}", frozenset(entry.scopes))
