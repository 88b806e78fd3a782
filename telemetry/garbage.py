"""Frees what reference counting does not.

The cyclic garbage collector runs rarely, see `runtime`, and it counts objects, not bytes. An error refers to the frames
that it has passed, and a frame to the messages that it works on. If such a frame also refers to the error, the messages
stay in memory: some dozens of objects, which may have megabytes, so that hundreds of failures fit between two
collections.
"""

import asyncio
import gc
import itertools
from typing import TypeVar

INTERVAL = 10.0
"""Seconds between two collections."""
FULL = 6
"""Each time after so many, all objects are collected, since what has survived a collection is old: connections, for
example, that were lost later."""

Error = TypeVar("Error", bound=BaseException)


def without_frames(error: Error) -> Error:
    """The error, which now refers to no frames. Nor do the errors that led to it."""
    following: BaseException | None = error
    while following is not None:
        following.__traceback__ = None
        following = following.__cause__ or following.__context__
    return error


async def collect_regularly() -> None:
    """Collect what is new, and sometimes all, until cancelled. It takes some milliseconds."""
    for number in itertools.count(1):
        await asyncio.sleep(INTERVAL)
        gc.collect(1 if number % FULL else 2)
