"""Programs on a pseudo-terminal, as a user sees them."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from tests.support.stack import WAIT_SECONDS, eventually

_CTRL_C = b"\x03"
_ENTER_SCREEN, _LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ENDS_OF_LINES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]+")


class Terminal:
    """A terminal with a program. `output` is all that the program has written, without colours, but with the other
    escape sequences."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._master = master
        self._output = b""
        self._is_open = True

    @property
    def output(self) -> str:
        # On Linux, a terminal without a program raises OSError.
        with suppress(BlockingIOError, OSError):
            while self._is_open and (block := os.read(self._master, 2**16)):
                self._output += block
        return _COLOUR.sub("", self._output.decode(errors="replace"))

    @property
    def is_clean(self) -> bool:
        """True if the cursor is shown and the alternate screen is left."""
        output = self.output
        shows_cursor = output.rfind(_SHOW_CURSOR) >= output.rfind(_HIDE_CURSOR)
        return shows_cursor and output.rfind(_LEAVE_SCREEN) >= output.rfind(_ENTER_SCREEN)

    def lines(self, position: int) -> list[str]:
        """The lines of the output from this position on, without escape sequences."""
        return _ENDS_OF_LINES.split(self.output[position:])

    def close(self) -> None:
        """`output` stays what it is."""
        _ = self.output
        self._is_open = False
        os.close(self._master)

    def resize(self, width: int, height: int) -> None:
        """The program gets SIGWINCH."""
        _set_size(self._master, width, height)

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        os.write(self._master, _CTRL_C)

    async def await_text(self, text: str, after: int = 0, seconds: float = WAIT_SECONDS) -> int:
        """Wait until the program has written a text after this position of the output, and return the position of its
        end. Fails if the program ends first."""

        async def is_written_or_ended() -> bool:
            return text in self.output[after:] or self.process.returncode is not None

        with suppress(AssertionError):
            await eventually("", is_written_or_ended, seconds)
        assert text in self.output[after:], f"{text!r} is not on the terminal: {self.output[-3000:]!r}"
        return self.output.index(text, after) + len(text)

    async def wait(self) -> int:
        """Wait until the program has ended, and return its exit status."""

        async def has_ended() -> bool:
            _ = self.output  # A program whose terminal is full would not end.
            return self.process.returncode is not None

        await eventually("the end of the program", has_ended)
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def running(
    arguments: Sequence[str], environment: dict[str, str], width: int = 120, height: int = 40
) -> AsyncIterator[Terminal]:
    """Run a `visitor` command on a terminal of its own. It is killed if it has not ended at the end of the block."""
    master, slave = pty.openpty()
    _set_size(slave, width, height)
    # pytest-xdist sets these, and they go before the size of the terminal.
    own = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime.cli", *arguments, stdin=slave, stdout=slave, stderr=slave,
        env={**own, "TERM": "xterm-256color"}, start_new_session=True,
        # The terminal sends Ctrl-C and changes of its size to the processes that it controls.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    os.set_blocking(master, False)
    opened = Terminal(master, process)
    try:
        yield opened
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        opened.close()


def _set_size(terminal: int, width: int, height: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
