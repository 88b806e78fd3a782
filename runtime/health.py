"""The HTTP request of `visitor health`. Probes run it every few seconds, and urllib starts faster than httpx."""

from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

LOOPBACK = "127.0.0.1"

_OPENER = build_opener(ProxyHandler({}))
"""Uses no proxy of the environment, since the processes are on this machine."""


def ask(url: str, timeout: float) -> tuple[bool, str]:
    """True if a process is healthy, and the text of its answer. `timeout` is in seconds."""
    try:
        with _OPENER.open(url, timeout=timeout) as response:
            return True, response.read().decode()
    except HTTPError as error:
        return False, error.read().decode()
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        return False, f"{url} does not answer: {type(reason).__name__}"
