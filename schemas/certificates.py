"""What is wrong with the certificate of a server, in one line. Pure: it looks at exceptions only."""

import ssl

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
