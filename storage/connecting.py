"""Connects to PostgreSQL: reads the URL as people write it for libpq, and explains why a connection fails."""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import asyncpg
from sqlalchemy import URL, make_url

from schemas import certificates
from schemas.certificates import ClientSettings, WrongTlsFile
from schemas.misconfigured import Misconfigured

SETTING = "VISITOR_DATABASE_URL"
_DRIVER = "postgresql+asyncpg"
_LIBPQ = frozenset(
    (
        "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "passfile",
    )
)  # fmt: skip
"""Parameters of libpq that asyncpg understands in a URL, but SQLAlchemy does not."""


_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
_CLIENT_CERTIFICATE = ClientSettings(f"{SETTING} (sslcert)", f"{SETTING} (sslkey)", f"{SETTING} (sslpassword)")


class ConnectionFailed(Misconfigured, ConnectionError):
    """PostgreSQL or its certificate refuses the connection. The message names the setting."""


class WrongPooling(Misconfigured):
    """A pooler in transaction mode is in front of the database, and the setting does not say so. The message names the
    setting."""


def arguments(text: str) -> tuple[URL, dict[str, Any]]:
    """The URL and the `connect_args` for an engine of SQLAlchemy. Raises ConnectionFailed if a file that the URL names
    cannot be used."""
    url = make_url(text)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername=_DRIVER)
    parameters = {name: str(value) for name, value in url.query.items() if name in _LIBPQ}
    connect_args: dict[str, Any] = {"async_creator_fn": _connect}
    if parameters:
        url = url.difference_update_query(parameters)
        if parameters.get("sslrootcert") == "system":
            parameters["sslrootcert"] = _roots_of_system()
        try:
            _require_usable(parameters)
        except WrongTlsFile as error:
            raise ConnectionFailed(str(error)) from error
        # asyncpg takes these from its own URL only. Its other arguments win over what that URL lacks.
        connect_args["dsn"] = f"postgresql:///?{urlencode(parameters)}"
    return url, connect_args


def _roots_of_system() -> str:
    """The file with the CAs that this machine trusts, which libpq calls `system`. asyncpg 0.32 has no name for it."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.openssl_cafile


def _require_usable(parameters: Mapping[str, str]) -> None:
    """Raises WrongTlsFile. asyncpg would raise an error that names no file."""
    for name in _FILES & parameters.keys():
        certificates.require_readable(f"{SETTING} ({name})", parameters[name])
    if "sslcert" in parameters:
        certificates.load_own(
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), parameters["sslcert"], parameters.get("sslkey"),
            parameters.get("sslpassword"), _CLIENT_CERTIFICATE,
        )  # fmt: skip


async def _connect(*args: Any, host: str = "localhost", **options: Any) -> Any:
    """Raises ConnectionFailed where the settings are the cause."""
    try:
        return await asyncpg.connect(*args, host=host, **options)
    except ssl.SSLCertVerificationError as error:
        raise ConnectionFailed(_certificate_fault(error, host)) from error
    except ssl.SSLError as error:
        raise ConnectionFailed(_tls_fault(error, host)) from error
    except asyncpg.ConnectionDoesNotExistError as error:
        # With TLS 1.3, the server refuses the client's certificate after the handshake.
        if isinstance(error.__cause__, ssl.SSLError):
            raise ConnectionFailed(_tls_fault(error.__cause__, host)) from error
        raise
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        # Its subclass InvalidPasswordError is the usual case. The message has the user, never the password.
        raise ConnectionFailed(f"{SETTING}: {error}") from error
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise ConnectionFailed(f"{SETTING}: {' '.join(str(error).split())}") from error
    except ConnectionError as error:
        if "rejected SSL upgrade" in str(error):
            raise ConnectionFailed(f"{SETTING}: PostgreSQL at {host} offers no TLS, sslmode requires it") from error
        raise


def _tls_fault(error: ssl.SSLError, host: str) -> str:
    reason = error.reason or error
    if certificates.is_refused(error):
        return f"{SETTING} (sslcert): PostgreSQL at {host} does not accept the client's certificate ({reason})"
    return f"{SETTING}: TLS with PostgreSQL at {host} fails ({reason})"


def _certificate_fault(error: ssl.SSLCertVerificationError, host: str) -> str:
    return certificates.describe(
        error, server=f"PostgreSQL at {host}", address_setting=SETTING, ca_setting=f"{SETTING} (sslrootcert)"
    )
