"""Finds the endpoints of a path in one dictionary of path segments."""

import re
import string
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass
class Resource:
    """A path with its endpoints by method. `params` are the names of its parameters, in their order."""

    params: tuple[str, ...]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)


class Match(NamedTuple):
    """The resource of a path. `path_params` are still percent-encoded."""

    resource: Resource
    path_params: Mapping[str, str]


@dataclass
class _Node:
    """A path segment: the next literal segments by their text, the next segment if it is a parameter, and the resource
    whose path ends here."""

    literals: dict[str, "_Node"] = field(default_factory=dict)
    parameter: "_Node | None" = None
    resource: Resource | None = None


class Routes:
    """All routes. A literal segment goes before a parameter: `/visitors/count` before `/visitors/{visitorId}`."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, method: str, path: str, endpoint: Endpoint) -> None:
        """`path` may have parameters: `/visitors/{visitorId}`."""
        node, params = self._root, []
        for segment in path[1:].split("/"):
            if segment.startswith("{"):
                params.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.resource = node.resource or Resource(tuple(params))
        node.resource.endpoints[method] = endpoint

    def find(self, path: str) -> Match | None:
        """The resource of a path, as `normalize` returns it. A path parameter matches a segment that is not empty."""
        for resource, values in _resources(self._root, path[1:].split("/"), 0, ()):
            return Match(resource, dict(zip(resource.params, values, strict=True)))
        return None


def _resources(
    node: _Node, segments: list[str], position: int, values: tuple[str, ...]
) -> Iterator[tuple[Resource, tuple[str, ...]]]:
    """The resources that match, with the values of their parameters, the most literal one first."""
    if position == len(segments):
        if node.resource is not None:
            yield node.resource, values
        return
    segment = segments[position]
    literal = node.literals.get(segment)
    if literal is not None:
        yield from _resources(literal, segments, position + 1, values)
    if node.parameter is not None and segment:
        yield from _resources(node.parameter, segments, position + 1, (*values, segment))


def allowed_methods(methods: Collection[str]) -> str:
    """The value of the Allow header of a path that has endpoints for these methods."""
    allowed = {*methods, "OPTIONS"}
    if "GET" in allowed:
        allowed.add("HEAD")
    return ", ".join(sorted(allowed))


_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


def normalize(raw_path: bytes) -> str:
    """The equivalent path in which non-ASCII bytes are encoded and unreserved characters are not (RFC 3986, section
    6.2.2.2): `/%63ount` becomes `/count`. Routing uses the encoded path, so that a path parameter may contain an
    encoded slash."""
    if b"%" not in raw_path and raw_path.isascii():
        return raw_path.decode()
    return _ENCODED.sub(_decode_unreserved, quote(raw_path, safe=string.printable))


def _decode_unreserved(encoded: re.Match[str]) -> str:
    if encoded[1] is None:
        return "%25"  # a percent sign without two hex digits stands for itself; encode it, so that it stays one
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else encoded[0]
