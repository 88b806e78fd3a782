"""Settings of the connections to Kafka and to the schema registry. The command line loads them at each start, so this
module imports no client."""

import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, HttpUrl, SecretStr

from schemas import certificates
from schemas.certificates import ClientSettings, WrongTlsFile

METADATA_SECONDS = 5.0
"""How soon clients notice new partitions, and topics that were created again."""


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


_CLIENT_CERTIFICATE = ClientSettings(
    "VISITOR_KAFKA_SSL_CERTFILE", "VISITOR_KAFKA_SSL_KEYFILE", "VISITOR_KAFKA_SSL_KEY_PASSWORD"
)


class KafkaSettings(BaseModel):
    """How to reach Kafka; names and values as in Kafka's own client settings."""

    bootstrap: str = Field("localhost:9092", description="Addresses of brokers, comma-separated.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    sasl_username: str | None = Field(None, description="User of the SASL mechanism.")
    sasl_password: SecretStr | None = Field(None, description="Password of the SASL mechanism.")
    ssl_cafile: str | None = Field(None, description="File with the CA certificates to trust; by default the system's.")
    ssl_certfile: str | None = Field(None, description="File with the client's certificate, for mutual TLS.")
    ssl_keyfile: str | None = Field(None, description="File with the client's private key, for mutual TLS.")
    ssl_key_password: SecretStr | None = Field(None, description="Password of the private key, if it is encrypted.")
    partitions: int = Field(6, ge=1, description="Partitions of a topic that `visitor topics` creates.")
    replication: int = Field(3, ge=1, description="Replicas of a topic that `visitor topics` creates.")
    min_insync: int = Field(2, ge=1, description="min.insync.replicas of a topic that `visitor topics` creates.")
    retention_days: float = Field(
        7.0,
        gt=0,
        le=28,
        description="Retention of requests and results, in topics that `visitor topics` creates; 28 at most, so that"
        " personal data is gone 30 days after an erasure.",
    )

    def ssl_context(self) -> ssl.SSLContext | None:
        """None without TLS. Raises WrongTlsFile."""
        if "SSL" not in self.security_protocol.split("_"):
            return None
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            if file := getattr(self, name):
                certificates.require_readable(f"VISITOR_KAFKA_{name.upper()}", file)
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except ssl.SSLError as error:
            raise WrongTlsFile(f"VISITOR_KAFKA_SSL_CAFILE: {self.ssl_cafile} has no PEM certificates") from error
        if self.ssl_certfile:
            password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else None
            certificates.load_own(context, self.ssl_certfile, self.ssl_keyfile, password, _CLIENT_CERTIFICATE)
        return context

    def client(self) -> dict[str, Any]:
        """The arguments that every aiokafka client takes."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "metadata_max_age_ms": milliseconds(METADATA_SECONDS),
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context(),
        }
        if self.security_protocol.startswith("SASL"):
            arguments |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password.get_secret_value() if self.sasl_password else None,
            }
        return arguments


class SchemaRegistrySettings(BaseModel):
    url: HttpUrl | None = Field(
        None, description="URL of the company's schema registry (Confluent's API); without it, schema ids are computed."
    )
    username: str | None = Field(None, description="User at the registry, for Basic authentication.")
    password: SecretStr | None = Field(None, description="Password at the registry.")
    cafile: Path | None = Field(
        None, description="File with the CA certificates to trust; by default those of the certifi package."
    )
