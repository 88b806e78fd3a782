"""Clients, serializers and sinks that other people wrote, against the service. They share one installation: the
fixtures `stack` and `client` are those of the tests.

A test module lists the folders of the programs that it runs as `PROGRAMS`. All of them are built side by side as soon
as the tests are collected; the fixture `builds` waits for one."""

from pathlib import Path

import pytest

from interop.programs import Builds, missing_tools

pytest_plugins = ["tests.conftest", "interop.browser"]

_BUILDS = pytest.StashKey[Builds]()


def pytest_sessionstart() -> None:
    """End the run if a toolchain is missing, because skipped tests would hide that."""
    if missing := missing_tools():
        pytest.exit(f"make interop needs {', '.join(missing)}. See docs/testing.md.", returncode=1)


def pytest_collection_finish(session: pytest.Session) -> None:
    folders: dict[Path, None] = {}
    for item in session.items:
        module = getattr(item, "module", None)
        folders |= dict.fromkeys(getattr(module, "PROGRAMS", ()))
    session.config.stash[_BUILDS] = Builds(folders)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _BUILDS in config.stash:
        config.stash[_BUILDS].close()


@pytest.fixture(scope="session")
def builds(pytestconfig: pytest.Config) -> Builds:
    return pytestconfig.stash[_BUILDS]
