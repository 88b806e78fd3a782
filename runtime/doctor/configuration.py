"""The checks of files and of other services that the settings name."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509

from agents.catalogue import CATALOGUE
from edge import keys as edge_keys
from edge import tokens
from edge.keys import WrongKeyFile
from runtime.doctor.findings import Finding, failed, listed, ok, warning
from runtime.doctor.installation import Installation

EXPIRES_SOON = timedelta(days=14)
ISSUER_SECONDS = 4.0
"""Limit for each of the two answers of an issuer."""


async def keys(installation: Installation) -> Finding:
    http = installation.settings.http
    if http.keys is None:
        return ok("VISITOR_HTTP_KEYS is not set")
    try:
        identities = edge_keys.load(http.keys, CATALOGUE.families, http.rate).values()
    except WrongKeyFile as error:
        return failed(" ".join(str(error).split()), "correct the file; `visitor key` prints entries")
    last: dict[str, datetime] = {}
    """When the last key of each caller expires."""
    for identity in identities:
        expires = datetime.max.replace(tzinfo=UTC) if identity.expires is None else _time(identity.expires)
        last[identity.name] = max(expires, last.get(identity.name, expires))
    soon = [f"{name} ({expires:%Y-%m-%d})" for name, expires in last.items() if expires < now() + EXPIRES_SOON]
    if soon:
        return warning(
            f"the last keys of these callers have expired or will within {EXPIRES_SOON.days} days: {listed(soon)}",
            "generate successors with `visitor key`, and remove the old entries when nobody uses them",
        )
    callers = "1 caller" if len(last) == 1 else f"{len(last)} callers"
    return ok(f"{callers}; no key expires within {EXPIRES_SOON.days} days")


async def certificate(installation: Installation) -> Finding:
    file = installation.settings.kafka.ssl_certfile
    if file is None:
        return ok("VISITOR_KAFKA_SSL_CERTFILE is not set")
    expires = _expiry(Path(file))
    if expires < now():
        return failed(f"{file} has expired on {expires:%Y-%m-%d}", "renew the certificate")
    if expires < now() + EXPIRES_SOON:
        return warning(f"{file} expires on {expires:%Y-%m-%d}", "renew the certificate")
    return ok(f"{file} is valid until {expires:%Y-%m-%d}")


async def issuer(installation: Installation) -> Finding:
    settings = installation.settings.http
    name = settings.oidc_issuer
    if name is None:
        return ok("VISITOR_HTTP_OIDC_ISSUER is not set")
    advice = "make the issuer reachable, or correct the VISITOR_HTTP_OIDC_… settings"
    try:
        async with httpx.AsyncClient(timeout=ISSUER_SECONDS) as client:
            own_name = name if settings.oidc_jwks_url else (await tokens.discover(client, name)).get("issuer", name)
            if own_name != name:
                return failed(
                    f"{name} calls itself {own_name}, so the edge refuses its tokens",
                    "correct VISITOR_HTTP_OIDC_ISSUER",
                )
            usable = await tokens.usable_keys(client, settings)
    except Exception as error:  # as in edge.tokens
        return failed(" ".join(f"the keys of {name} cannot be read: {type(error).__name__}: {error}".split()), advice)
    if not usable:
        return failed(f"{name} has no keys for {' or '.join(tokens.ALGORITHMS)}", advice)
    return ok(f"{name} answers; {len(usable)} of its keys are for {' or '.join(tokens.ALGORITHMS)}")


def _expiry(certificate: Path) -> datetime:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def now() -> datetime:
    return datetime.now(UTC)
