"""A process that loses tasks: `python -m tests.support.sabotage worker|edge TASK …`.

At each SIGUSR1 it cancels the next of these, by name or coroutine function, as a library with a bug would end it.
"""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Sequence

from runtime import cli


def _cancel_at_signals(tasks: Sequence[str]) -> None:
    for wanted in tasks:
        signal.sigwait({signal.SIGUSR1})
        for task in [found for found in gc.get_objects() if isinstance(found, asyncio.Task)]:
            # mode names a task after its coroutine.
            names = (task.get_name(), getattr(task.get_coro(), "__qualname__", ""))
            if not task.done() and (wanted in names or f" {wanted} " in names[0]):
                task.get_loop().call_soon_threadsafe(task.cancel)


def main() -> None:
    role, *tasks = sys.argv[1:]
    # For this thread and those that it starts, so that only `sigwait` takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.Thread(target=_cancel_at_signals, args=(tasks,), daemon=True).start()
    sys.argv = ["visitor", role]
    cli.main()


if __name__ == "__main__":
    main()
