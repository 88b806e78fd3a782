"""Whether a port is free, said before anything is started."""

import socket


class PortTaken(Exception):
    """Names the port and the setting that chooses another one."""


def ensure_free(host: str, port: int, setting: str) -> None:
    """Raises PortTaken."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(
                f"port {port} on {host} is taken ({error.strerror}); choose another with {setting}"
            ) from None
