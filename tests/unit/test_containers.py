"""Which servers the tests run on, by what the Docker engine says; the engine is a small stand-in here."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support import containers
from tests.support.servers import choose

KAFKA, POSTGRES = containers.images()


class _Engine(BaseHTTPRequestHandler):
    """Has no images. Answers a pull as a registry would have it that refuses, or is gone while layers come."""

    pull = (500, {"message": "toomanyrequests: You have reached your pull rate limit."})

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self._answer(200, {"ApiVersion": "1.44"})
        else:
            self._answer(404, {"message": f"No such image: {KAFKA}"})

    def do_POST(self) -> None:
        self._answer(*self.pull)

    def _answer(self, status: int, body: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Engine]]:
    class Engine(_Engine):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        yield Engine
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_Engine.pull, "toomanyrequests"),
        ((200, {"error": "unexpected EOF"}), "No such image"),
    ],
)
def test_an_image_that_cannot_be_pulled_leaves_the_tests_on_the_embedded_servers_and_says_so_in_a_line(
    engine: type[_Engine], answer: tuple[int, dict[str, str]], reason: str
) -> None:
    engine.pull = answer
    choice = choose()
    assert not choice.containers
    expected = f"embedded, since Docker cannot pull {KAFKA}; run `docker pull {KAFKA}` for details ("
    assert choice.reason.startswith(expected)
    assert reason in choice.reason
    assert "\n" not in choice.reason


def test_without_a_docker_engine_the_tests_run_on_the_embedded_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    choice = choose()
    assert (choice.containers, choice.reason) == (False, "embedded, since no Docker engine answers")


def test_with_the_images_of_compose_the_tests_run_in_containers(
    engine: type[_Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "do_GET", lambda self: self._answer(200, {"ApiVersion": "1.44", "Id": "sha256:0"}))
    choice = choose()
    assert (choice.containers, choice.reason) == (True, f"containers of {KAFKA} and {POSTGRES}")
