"""The embedded servers after their first start was interrupted, or files of theirs were removed."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from runtime.dev.servers import Postgres, Processes, ServerFailed
from tests.support.stack import eventually

_START = """
import sys
from pathlib import Path
from runtime.dev.servers import Postgres, Processes
home = Path(sys.argv[1])
Postgres(home, Processes(home), durable=False).start()
"""


async def test_a_database_starts_after_a_kill_in_the_middle_of_its_first_start_and_says_when_its_password_is_lost(
    tmp_path: Path,
) -> None:
    first = await asyncio.create_subprocess_exec(sys.executable, "-c", _START, str(tmp_path), start_new_session=True)

    async def half_made() -> bool:
        return any((tmp_path / "postgres").glob("*/PG_VERSION"))

    await eventually("a database that is half made", half_made)
    os.killpg(first.pid, signal.SIGKILL)
    await first.wait()

    postgres = Postgres(tmp_path, Processes(tmp_path), durable=False)
    assert not postgres.has_data
    postgres.start()
    postgres.stop()
    assert [entry.name for entry in (tmp_path / "postgres").glob("*/PG_VERSION")] == ["PG_VERSION"]
    (tmp_path / "postgres" / "password").unlink()
    with pytest.raises(ServerFailed, match="Put it back, or start with --reset"):
        postgres.start()
