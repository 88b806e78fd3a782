"""Reads the bodies of calls."""

from starlette.requests import Request

from edge.callers import Held
from schemas.faults import TooLarge


async def read(request: Request, limit: int, held: Held | None = None) -> bytes:
    """The body, counted in `held` while it arrives. Raises TooLarge as soon as the body exceeds the limit, so that the
    rest is not read into memory, and before the body is read if its announced length does. Raises ClientDisconnect if
    the client leaves before it has sent all, RateLimited and Unavailable."""
    # The server accepts digits only.
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        if held is not None:
            held.add(len(chunk))
        body.extend(chunk)
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> TooLarge:
    return TooLarge("body_too_large", f"A body may have at most {limit} bytes.")
