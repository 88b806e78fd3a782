"""The HTTP request of `visitor health`. Probes run it every few seconds, and urllib starts faster than httpx."""

from urllib.error import HTTPError, URLError
from urllib.request import urlopen

LOOPBACK = "127.0.0.1"


def ask(url: str, timeout: float) -> tuple[bool, str]:
    """True if a process is healthy, and the text of its answer. `timeout` is in seconds."""
    try:
        with urlopen(url, timeout=timeout) as response:
            return True, response.read().decode()
    except HTTPError as error:
        return False, error.read().decode()
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        return False, f"{url} does not answer: {type(reason).__name__}"
