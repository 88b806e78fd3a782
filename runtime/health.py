"""The question that `visitor health` asks. It is asked all day, and so loads nothing that it does not need."""

import httpx

LOOPBACK = "127.0.0.1"


def ask(url: str, timeout: float) -> tuple[bool, str]:
    """Whether a process says that it is well, and what it says."""
    try:
        answer = httpx.get(url, timeout=timeout)
    except httpx.HTTPError as error:
        return False, f"{url} does not answer: {type(error).__name__}"
    return answer.is_success, answer.text
