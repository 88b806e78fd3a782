"""Explains a faulty certificate, of a server or of this client, in one line that names the setting."""

import ssl
from pathlib import Path
from typing import NamedTuple

_EXPIRED = 10
_NOT_YET_VALID = 9
_NAME_DIFFERS = (62, 64)
"""Values of `verify_code` (OpenSSL, x509_vfy.h): X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""


def describe(error: ssl.SSLCertVerificationError, *, server: str, address_setting: str, ca_setting: str) -> str:
    """`server` names the server. The settings are those to correct if the certificate is for another name, or signed by
    a CA that is not trusted."""
    if error.verify_code == _EXPIRED:
        return f"{address_setting}: the certificate of {server} has expired; renew it"
    if error.verify_code == _NOT_YET_VALID:
        return f"{address_setting}: the certificate of {server} is not valid yet; compare the clocks"
    if error.verify_code in _NAME_DIFFERS:
        return f"{address_setting}: the certificate of {server} is for another host name"
    return f"{ca_setting}: it has no CA that signed the certificate of {server} ({error.verify_message})"


class WrongTlsFile(ValueError, OSError):
    """A file with certificates or a key cannot be used. The message names the setting and the file.

    It is an OSError, so that a running process tries again: somebody may be renewing the file."""


class ClientSettings(NamedTuple):
    """The settings of the client's certificate, its key and the key's password."""

    certificate: str
    key: str
    password: str


def require_readable(setting: str, file: str) -> None:
    """Raises WrongTlsFile if a file cannot be read."""
    try:
        Path(file).read_bytes()
    except OSError as error:
        raise WrongTlsFile(f"{setting}: {file} cannot be read: {error.strerror}") from error


def load_own(
    context: ssl.SSLContext, certfile: str, keyfile: str | None, password: str | None, settings: ClientSettings
) -> None:
    """Let the client show a certificate. `certfile` also has the key if there is no `keyfile`. Raises WrongTlsFile."""
    try:
        # Without a password, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(certfile, keyfile, password or "")
    except ssl.SSLError as error:
        raise WrongTlsFile(_key_fault(error, keyfile or certfile, settings)) from error


def _key_fault(error: ssl.SSLError, keyfile: str, settings: ClientSettings) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{settings.key}: {keyfile} is not the key of the certificate in {settings.certificate}"
    if b"ENCRYPTED" in Path(keyfile).read_bytes():
        return f"{settings.password}: it does not decrypt {keyfile}"
    return f"{settings.certificate}, {settings.key}: no certificate with a key in PEM ({error.reason})"


def is_refused(error: ssl.SSLError) -> bool:
    """True if the server does not accept the client's certificate."""
    reason = error.reason or str(error)
    return "ALERT" in reason and "PROTOCOL_VERSION" not in reason
