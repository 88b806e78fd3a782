"""Which servers the tests run on, by a real Docker engine; tests/unit/test_containers.py has a stand-in for one."""

import pytest

from tests.support import containers
from tests.support.servers import choose

UNKNOWN = "apache/kafka:0.0.0"


def test_an_unknown_tag_leaves_the_tests_on_the_embedded_servers_and_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "images", lambda: (UNKNOWN, UNKNOWN))
    found = choose()
    assert not found.containers
    assert found.why.startswith(f"embedded, since Docker cannot pull {UNKNOWN}; `docker pull {UNKNOWN}` tells more (")


def test_with_docker_and_the_images_the_tests_run_in_containers() -> None:
    assert choose().containers
