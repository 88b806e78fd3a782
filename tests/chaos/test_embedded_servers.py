"""The embedded PostgreSQL after an interrupted first start, and after its password file was deleted."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from runtime.dev.servers import Postgres, Processes, ServerFailed
from tests.support.stack import eventually

_START = """
import signal
import sys
from pathlib import Path
from runtime.dev.servers import Postgres, Processes
Path.rename = lambda *_: signal.pause()
home = Path(sys.argv[1])
Postgres(home, Processes(home), durable=False).start()
"""
"""The folder of initdb never gets its final name, so that the test cannot miss the unfinished start."""


async def test_a_database_starts_after_its_first_start_was_killed_and_names_the_remedy_for_a_lost_password(
    tmp_path: Path,
) -> None:
    starter = await asyncio.create_subprocess_exec(sys.executable, "-c", _START, str(tmp_path), start_new_session=True)

    async def initdb_has_begun() -> bool:
        return any((tmp_path / "postgres").glob("*/PG_VERSION"))

    await eventually("the first file of the data directory", initdb_has_begun)
    os.killpg(starter.pid, signal.SIGKILL)
    await starter.wait()

    postgres = Postgres(tmp_path, Processes(tmp_path), durable=False)
    assert not postgres.has_data
    postgres.start()
    postgres.stop()
    assert [entry.name for entry in (tmp_path / "postgres").glob("*/PG_VERSION")] == ["PG_VERSION"]
    (tmp_path / "postgres" / "password").unlink()
    with pytest.raises(ServerFailed, match="Put it back, or start with --reset"):
        postgres.start()
