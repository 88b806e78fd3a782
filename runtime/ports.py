"""Checks that a port is free before a server starts."""

import socket

from schemas.misconfigured import Misconfigured


class PortTaken(Misconfigured):
    """The port is in use. The message names the setting that chooses another port."""


def ensure_free(host: str, port: int, setting: str) -> None:
    """Raises PortTaken if the port is in use. Port 0 is always free: the system chooses one."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(
                f"port {port} on {host} is not available ({error.strerror}); choose another port with {setting}"
            ) from None
