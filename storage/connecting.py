"""Connects to PostgreSQL: reads the URL as people write it for libpq, and explains why a connection fails."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
from sqlalchemy import URL, make_url

from schemas import certificates

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


class ConnectionFailed(ConnectionError):
    """PostgreSQL or its certificate refuses the connection. The message names the setting."""


def arguments(text: str) -> tuple[URL, dict[str, Any]]:
    """The URL and the `connect_args` for an engine of SQLAlchemy. Raises ConnectionFailed if a file that the URL names
    cannot be read."""
    url = make_url(text)
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername=_DRIVER)
    parameters = {name: value for name, value in url.query.items() if name in _LIBPQ}
    for name in _FILES & parameters.keys():
        _require_readable(name, str(parameters[name]))
    connect_args: dict[str, Any] = {"async_creator_fn": _connect}
    if parameters:
        # asyncpg takes these from its own URL only. Its other arguments win over what that URL lacks.
        connect_args["dsn"] = f"postgresql:///?{urlencode(parameters, doseq=True)}"
    return url.difference_update_query(parameters), connect_args


def _require_readable(name: str, file: str) -> None:
    try:
        Path(file).read_bytes()
    except OSError as error:
        raise ConnectionFailed(f"{SETTING}: {name}={file} cannot be read: {error.strerror}") from error


async def _connect(*args: Any, host: str = "localhost", **options: Any) -> Any:
    """Raises ConnectionFailed where the settings are the cause."""
    try:
        return await asyncpg.connect(*args, host=host, **options)
    except ssl.SSLCertVerificationError as error:
        raise ConnectionFailed(_certificate_fault(error, host)) from error
    except ssl.SSLError as error:
        raise ConnectionFailed(f"{SETTING}: TLS with PostgreSQL at {host} fails ({error.reason})") from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        # Its subclass InvalidPasswordError is the usual case. The message has the user, never the password.
        raise ConnectionFailed(f"{SETTING}: {error}") from error
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise ConnectionFailed(f"{SETTING}: {' '.join(str(error).split())}") from error
    except ConnectionError as error:
        if "rejected SSL upgrade" in str(error):
            raise ConnectionFailed(f"{SETTING}: PostgreSQL at {host} offers no TLS, sslmode requires it") from error
        raise


def _certificate_fault(error: ssl.SSLCertVerificationError, host: str) -> str:
    return certificates.describe(
        error, server=f"PostgreSQL at {host}", address_setting=SETTING, ca_setting=f"{SETTING} (sslrootcert)"
    )
