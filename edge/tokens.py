"""JSON Web Tokens of an OpenID Connect issuer, which identify callers and their scopes (RFC 9068)."""

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import structlog
from jwt import PyJWK, PyJWKSet

from edge import scopes
from edge.identity import Identity
from edge.settings import HttpSettings
from schemas.faults import Unauthorized, Unavailable
from topics import http_answers

log = structlog.get_logger(__name__)

ALGORITHMS = ["RS256", "ES256"]
LEEWAY_SECONDS = 30
"""How much the clocks of the edge and the issuer may differ."""
REFRESH_SECONDS = 300.0
"""Interval in which the edge reads the keys of the issuer. A key that the issuer has revoked counts for so long."""
RETRY_SECONDS = 5.0
"""Interval after a failure, and shortest interval of readings because of tokens with unknown keys."""
FETCH_SECONDS = 10.0
"""The time limit for one answer of the issuer."""
CACHED_TOKENS = 10_000
"""Tokens whose signatures are known to be valid. Checking one takes longer than all other work of a call."""
SUBJECT_LIMIT = 120
"""Characters of a percent-encoded subject. Request ids begin with it and have at most 255 characters."""


class Issuer:
    """Tokens of one issuer. `watch` reads the keys of the issuer."""

    def __init__(self, settings: HttpSettings, families: Collection[str]) -> None:
        self._settings = settings
        self._issuer = settings.oidc_issuer or ""
        self._families = families
        self._keys: Mapping[str | None, PyJWK] = {}
        self._identities: OrderedDict[bytes, Identity] = OrderedDict()
        """By the hash of the token; those that were added last are at the end."""
        self._key_is_missing = asyncio.Event()

    def identify(self, token: str) -> Identity:
        """The caller with this token. Raises Unauthorized, and Unavailable before the issuer's keys are known."""
        token_hash = hashlib.sha256(token.encode()).digest()
        identity = self._identities.get(token_hash)
        if identity is None:
            identity = self._verify(token)
            self._identities[token_hash] = identity
            if len(self._identities) > CACHED_TOKENS:
                self._identities.popitem(last=False)
        if identity.expires is not None and time.time() >= identity.expires:
            raise _invalid("it has expired")
        return identity

    def _verify(self, token: str) -> Identity:
        if not self._keys:
            raise Unavailable("no_issuer", "The issuer of tokens does not answer. Try again in a moment.")
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid"))
            if key is None:
                self._key_is_missing.set()
                raise _invalid("its key is unknown; if the issuer has a new key, try again in some seconds")
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.oidc_audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise _invalid(type(error).__name__) from None
        return self._identity(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = quote(str(claims["sub"]), safe="|@")
        if not 0 < len(subject) <= SUBJECT_LIMIT:
            raise _invalid(f"its subject is empty or has more than {SUBJECT_LIMIT} characters")
        return Identity(
            name=subject,
            source=f"oidc/{subject}",
            scopes=scopes.expand(
                _granted(claims.get(self._settings.oidc_scopes_claim), self._families), self._families
            ),
            rate=self._settings.rate,
            expires=float(claims["exp"]) + LEEWAY_SECONDS,
        )

    async def watch(self) -> None:
        """Read the keys of the issuer, at intervals and when a token names a key that is unknown."""
        async with httpx.AsyncClient(timeout=FETCH_SECONDS) as client:
            while True:
                succeeded = await self._refresh(client)
                await asyncio.sleep(RETRY_SECONDS)
                self._key_is_missing.clear()
                if succeeded:
                    try:
                        async with asyncio.timeout(REFRESH_SECONDS):
                            await self._key_is_missing.wait()
                    except TimeoutError:
                        pass

    async def _refresh(self, client: httpx.AsyncClient) -> bool:
        """Read the keys of the issuer. Returns False, and keeps those that are known, if the answer has no usable keys,
        whatever it is."""
        try:
            usable = await usable_keys(client, self._settings)
        except Exception as error:  # Depending on the answer, httpx and PyJWT raise InvalidURL, AttributeError …
            log.warning("issuer_unreachable", issuer=self._issuer, error=f"{type(error).__name__}: {error}"[:200])
            return False
        if not usable:
            log.warning("issuer_without_keys", issuer=self._issuer, algorithms=ALGORITHMS)
            return False
        self._keys = usable
        # The signatures of cached tokens may be those of keys that the issuer has revoked.
        self._identities.clear()
        return True


async def usable_keys(client: httpx.AsyncClient, settings: HttpSettings) -> Mapping[str | None, PyJWK]:
    """The keys of the issuer, by their ids, with which the edge can verify tokens. Raises any Exception if the issuer
    does not answer, or answers something else than an issuer does."""
    url = settings.oidc_jwks_url or await _keys_url(client, settings.oidc_issuer or "")
    return {
        key.key_id: key
        for key in PyJWKSet.from_dict(await _get(client, url)).keys
        if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
    }


async def _keys_url(client: httpx.AsyncClient, issuer: str) -> str:
    """Where the keys are, according to the discovery document. Raises ValueError if the document is that of another
    issuer, or gives up the protection that HTTPS gave it."""
    document = await discover(client, issuer)
    url: str = document["jwks_uri"]
    if document["issuer"] != issuer:
        raise ValueError(f"the issuer gives itself the name {document['issuer']!r}")
    if issuer.startswith("https:") and not url.startswith("https:"):
        raise ValueError(f"jwks_uri is {url!r}, which is not HTTPS")
    return url


async def discover(client: httpx.AsyncClient, issuer: str) -> Any:
    """The discovery document of an issuer (OpenID Connect Discovery 1.0). Raises any Exception, as `usable_keys`."""
    return await _get(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration")


def _granted(claim: Any, families: Collection[str]) -> list[str]:
    """The scopes of a claim: a list, or a text with blanks between the scopes. Tokens also have scopes for other
    services, such as `openid`."""
    claimed = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    own_scopes = scopes.every(families) | scopes.WILDCARDS
    return [scope for scope in claimed if scope in own_scopes]


async def _get(client: httpx.AsyncClient, url: str) -> Any:
    answer = await http_answers.request(client, "GET", url, FETCH_SECONDS)
    if answer.status != HTTPStatus.OK:
        raise ValueError(f"{url} answers {answer.status}")
    return json.loads(answer.content)


def _invalid(reason: str) -> Unauthorized:
    return Unauthorized("invalid_token", f"The token is not valid: {reason}.")
