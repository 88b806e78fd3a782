"""Identifies callers by the header `Authorization`."""

from collections.abc import Collection

from edge import scopes
from edge.identity import Identity
from edge.keys import Keys
from edge.settings import HttpSettings
from edge.tokens import Issuer
from schemas.faults import Unauthorized


class Authentication:
    """Accepts API keys, tokens of an issuer, or both. If neither is configured, the edge listens on loopback only, and
    everybody may call everything."""

    def __init__(self, settings: HttpSettings, families: Collection[str]) -> None:
        """Raises WrongKeyFile."""
        self.keys = Keys(settings.keys, families, settings.rate)
        self.issuer = Issuer(settings, families) if settings.oidc_issuer else None
        self._loopback = None if settings.authenticates else Identity("local", "api/local", scopes.every(families))

    def identify(self, authorization: str | None) -> Identity:
        """The caller of an `Authorization: Bearer <key or token>` header. Raises Unauthorized, Unavailable."""
        if self._loopback is not None:
            return self._loopback
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("unauthorized", "Send `Authorization: Bearer <API key or token>`.")
        credentials = credentials.strip()
        # A JSON Web Token has two dots, an API key has none.
        if self.issuer is not None and credentials.count(".") == 2:
            return self.issuer.identify(credentials)
        return self.keys.identify(credentials)
