"""Why a client of aiokafka cannot connect, in one line that names the setting to correct."""

import ssl

from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from schemas import certificates
from schemas.misconfigured import Misconfigured


class ConnectionRefused(Misconfigured, KafkaConnectionError):  # type: ignore[misc]
    """No connection to a broker, because of a setting. The message names it."""

    def __str__(self) -> str:
        return str(self.args[0])  # without the name of the class, which KafkaError adds


_PROTOCOL = "VISITOR_KAFKA_SECURITY_PROTOCOL"
_CERTIFICATE = "VISITOR_KAFKA_SSL_CERTFILE"


def explained(error: BaseException, broker: str, security_protocol: str) -> Exception | None:
    """The error to raise instead. ConnectionRefused if a setting is the cause, KafkaConnectionError if it may be, None
    if it is not, for example if nothing listens."""
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        message = certificates.describe(
            cause,
            server=f"the broker {broker}",
            address_setting="VISITOR_KAFKA_BOOTSTRAP",
            ca_setting="VISITOR_KAFKA_SSL_CAFILE",
        )
        return ConnectionRefused(message)
    if isinstance(error, (SaslAuthenticationFailed, AuthenticationFailedError)):
        settings = "VISITOR_KAFKA_SASL_USERNAME or VISITOR_KAFKA_SASL_PASSWORD"
        return ConnectionRefused(f"{settings}: the broker {broker} does not accept them")
    if isinstance(error, (UnsupportedSaslMechanismError, IllegalSaslStateError)):
        return ConnectionRefused(f"VISITOR_KAFKA_SASL_MECHANISM or {_PROTOCOL}: the broker {broker} offers others")
    if isinstance(cause, ssl.SSLError):
        return ConnectionRefused(_explain_tls(cause, broker))
    if isinstance(error, KafkaConnectionError):
        settings = f"{_PROTOCOL} or {_CERTIFICATE}" if security_protocol.endswith("SSL") else _PROTOCOL
        failure: Exception = KafkaConnectionError(
            f"the broker {broker} closes {security_protocol} connections; unless it is starting, correct {settings}"
        )
        return failure
    return None


def _explain_tls(error: ssl.SSLError, broker: str) -> str:
    reason = error.reason or str(error)
    if certificates.is_refused(error):
        return f"{_CERTIFICATE}: the broker {broker} does not accept the client's certificate ({reason})"
    return f"{_PROTOCOL}: TLS with the broker {broker} fails ({reason})"
