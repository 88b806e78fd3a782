"""A worker or edge that cancels its own tasks: `python -m tests.support.sabotage worker|edge TASK …`.

Each SIGUSR1 cancels the next of these tasks, like a bug in a library would. TASK is the name of an asyncio task, of a
mode service or of a coroutine function.
"""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Sequence

from runtime import cli


def _cancel_at_signals(names: Sequence[str]) -> None:
    for name in names:
        signal.sigwait({signal.SIGUSR1})
        for task in [instance for instance in gc.get_objects() if isinstance(instance, asyncio.Task)]:
            if not task.done() and _is_called(task, name):
                task.get_loop().call_soon_threadsafe(task.cancel)


def _is_called(task: "asyncio.Task[object]", name: str) -> bool:
    task_name = task.get_name()
    coroutine_name = getattr(task.get_coro(), "__qualname__", "")
    # mode puts the name of the coroutine into the name of the task.
    return name in (task_name, coroutine_name) or f" {name} " in task_name


def main() -> None:
    role, *names = sys.argv[1:]
    # This thread, and those that it starts, do not receive the signal: only `sigwait` does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.Thread(target=_cancel_at_signals, args=(names,), daemon=True).start()
    sys.argv = ["visitor", role]
    cli.main()


if __name__ == "__main__":
    main()
