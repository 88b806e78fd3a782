"""The choice of servers with a real Docker engine. tests/unit/test_containers.py tests it with a simulated engine."""

import pytest

from tests.support import containers
from tests.support.servers import choose

UNKNOWN = "apache/kafka:no-such-tag"


def test_with_an_unknown_tag_the_tests_use_embedded_servers_and_name_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "images", lambda: (UNKNOWN, UNKNOWN))
    choice = choose()
    assert not choice.containers
    expected = f"embedded, since Docker cannot pull {UNKNOWN}; run `docker pull {UNKNOWN}` for details ("
    assert choice.reason.startswith(expected)


def test_with_docker_and_the_images_the_tests_use_containers() -> None:
    assert choose().containers
