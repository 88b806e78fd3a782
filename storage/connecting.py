"""Connects to PostgreSQL: reads the URL as people write it for libpq, and explains why a connection fails."""

import inspect
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import asyncpg
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

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
_OF_DRIVER = frozenset((*inspect.signature(asyncpg.connect).parameters, "prepared_statement_cache_size"))
"""Parameters that SQLAlchemy passes to asyncpg as arguments, or understands itself."""


_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
_CLIENT_CERTIFICATE = ClientSettings(f"{SETTING} (sslcert)", f"{SETTING} (sslkey)", f"{SETTING} (sslpassword)")


class ConnectionFailed(Misconfigured, ConnectionError):
    """PostgreSQL or its certificate refuses the connection. The message names the setting."""


class WrongPooling(Misconfigured):
    """A pooler in transaction mode is in front of the database, and the setting does not say so. The message names the
    setting."""


class WrongUrl(Misconfigured):
    """The URL is none of PostgreSQL. The message names the setting, and has no part of the URL: a password that is not
    escaped may be in any part."""


def arguments(text: str) -> tuple[URL, dict[str, Any]]:
    """The URL and the `connect_args` for an engine of SQLAlchemy. Raises WrongUrl, and ConnectionFailed if a file that
    the URL names cannot be used."""
    url = _url(text)
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


def _url(text: str) -> URL:
    """The URL with the driver. Raises WrongUrl."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in ("postgres", "postgresql", _DRIVER):
        raise WrongUrl(f"{SETTING}: it has to look like postgresql://user:password@host:5432/database")
    if url.query.keys() - _LIBPQ - _OF_DRIVER:
        raise WrongUrl(f"{SETTING}: it has an unknown parameter; it may have {', '.join(sorted(_LIBPQ))}")
    return url.set(drivername=_DRIVER)


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
