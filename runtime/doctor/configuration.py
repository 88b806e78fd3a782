"""The checks of files and of other services that the settings name."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from agents.catalogue import CATALOGUE
from edge import keys as edge_keys
from edge.keys import WrongKeyFile
from runtime.doctor.findings import Finding, failed, listed, ok, warning
from runtime.doctor.installation import Installation
from topics.schema_registry import RegistryUnavailable, SchemaRegistry

EXPIRES_SOON = timedelta(days=14)
ANY_SCHEMA_ID = 1


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


async def registry(installation: Installation) -> Finding:
    settings = installation.settings.schema_registry
    if settings.url is None:
        return ok("VISITOR_SCHEMA_REGISTRY_URL is not set")
    client = SchemaRegistry(settings)
    try:
        await client.schema(ANY_SCHEMA_ID)
    except RegistryUnavailable as error:
        return failed(" ".join(str(error).split()), "correct the VISITOR_SCHEMA_REGISTRY_… settings, or wait for it")
    finally:
        await client.close()
    return ok(f"{settings.url} answers")


def _expiry(certificate: Path) -> datetime:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def now() -> datetime:
    return datetime.now(UTC)
