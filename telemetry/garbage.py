"""Frees what reference counting does not.

The cyclic garbage collector runs rarely, see `runtime`, and it counts objects, not bytes. An error refers to the frames
that it has passed, and a frame to the messages that it works on. If such a frame also refers to the error, the messages
stay in memory: some dozens of objects, which may have megabytes, so that hundreds of failures fit between two
collections.
"""

import asyncio
import gc
from typing import TypeVar

INTERVAL = 10.0
"""Seconds between two collections."""

Error = TypeVar("Error", bound=BaseException)


def without_frames(error: Error) -> Error:
    """The error, which now refers to no frames. Nor do the errors that led to it."""
    following: BaseException | None = error
    while following is not None:
        following.__traceback__ = None
        following = following.__cause__ or following.__context__
    return error


async def collect_regularly() -> None:
    """Collect what is new, until cancelled. It takes about a millisecond."""
    while True:
        await asyncio.sleep(INTERVAL)
        gc.collect(1)
