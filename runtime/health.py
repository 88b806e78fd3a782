"""The HTTP request of `visitor health`. Probes run it every few seconds, so this module imports only httpx."""

import httpx

LOOPBACK = "127.0.0.1"


def ask(url: str, timeout: float) -> tuple[bool, str]:
    """True if a process is healthy, and the text of its answer. `timeout` is in seconds."""
    try:
        response = httpx.get(url, timeout=timeout)
    except httpx.HTTPError as error:
        return False, f"{url} does not answer: {type(error).__name__}"
    return response.is_success, response.text
