"""Certificates for tests, in PEM files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption

HOST = "localhost"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class Authority:
    """A CA. It writes its files to a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._authority = trustme.CA(organization_name=name)
        self._folder = folder
        self._name = name
        self.file = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *, expires: datetime | None = None, password: str | None = None) -> "Certificate":
        """A certificate for `HOST` with the common name `name`."""
        issued = self._authority.issue_cert(
            HOST, common_name=name, not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=expires
        )
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        return Certificate.write(
            self._folder / f"{self._name}-{name}", key_pem, b"".join(each.bytes() for each in issued.cert_chain_pems)
        )


class Certificate:
    """The PEM files of a certificate: the certificate, its key, and both in one file."""

    def __init__(self, path: Path) -> None:
        self.cert = path.with_suffix(".crt")
        self.key = path.with_suffix(".key")
        self.both = path.with_suffix(".both.pem")

    @classmethod
    def write(cls, path: Path, key: bytes, chain: bytes) -> "Certificate":
        certificate = cls(path)
        certificate.cert.write_bytes(chain)
        certificate.key.write_bytes(key)
        certificate.key.chmod(0o600)  # libpq refuses others.
        certificate.both.write_bytes(key + chain)
        return certificate
