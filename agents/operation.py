"""An operation as a value: its name, its route, its models and its one handler. `agents.catalogue` lists them all."""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, RootModel, TypeAdapter

from schemas.faults import Fault
from schemas.model import Model, NoFields
from schemas.replies import Listing, Record
from schemas.requests import Request
from schemas.shapes import shape_of
from storage.table import Table
from storage.tx import Tx
from topics import names


@dataclass(frozen=True, slots=True)
class Existing:
    """What an operation that creates or finds answers, with 200 instead of 201, where it found."""

    value: Model


ReplyShape = Literal["empty", "record", "page", "object", "array"]
"""`object` and `array` are the replies without an envelope."""

AnyRequest = Request[Any, Any, Any]
Handler = Callable[[Tx, Any], Awaitable[Any]]
BatchHandler = Callable[[Sequence[tuple[Tx, Any]]], Awaitable[Sequence[Any]]]

_ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S+)")
_PLACE = re.compile(r"{(\w+)}")
_RAISES = re.compile(r"\s*\bRaises\b[^.]*\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`handler` takes one request, `batch` many at once in the same transaction; an operation has one of them."""

    name: str
    method: str
    path: str
    summary: str
    description: str
    """What its handler's docstring says, for callers: Markdown, empty where the summary says all."""
    request: type[AnyRequest]
    item: type[Model] | None
    shape: ReplyShape
    status: int
    upserts: bool
    """Also answers 200, see Existing."""
    sorts: Sequence[str]
    """The reply fields by which `sort` can sort; empty where there is no `sort`."""
    at_least_one: Sequence[str]
    """Body fields of which at least one is needed."""
    faults: Sequence[type[Fault]]
    """Faults beyond those that its method, path and body imply."""
    partition_key: Sequence[str]
    """Fields of the path or body; the first one that is present decides the partition of a request over HTTP."""
    dump: Callable[[Any], Any]
    """A row as the plain data of its reply: exactly the fields of `item`, whatever else the row has."""
    handler: Handler | None = None
    batch: BatchHandler | None = None

    @property
    def is_query(self) -> bool:
        """Reads travel on their own topic, are never stored in the inbox and change nothing."""
        return self.method == "GET"

    @property
    def reply(self) -> Any:
        """The model of the whole reply; None where the reply has no body."""
        match self.shape, self.item:
            case "record", item:
                return Record[item]  # type: ignore[valid-type]
            case "page", item:
                return Listing[item]  # type: ignore[valid-type]
            case "object", item:
                return item
            case "array", item:
                return RootModel[list[item]]  # type: ignore[valid-type]
        return None

    def __repr__(self) -> str:
        return f"<{self.name}: {self.method} {self.path}>"


Operations = tuple[Operation, ...]


def declare(
    name: str,
    route: str,
    *,
    summary: str,
    path: type[Model] = NoFields,
    query: type[Model] = NoFields,
    body: type[BaseModel] = NoFields,
    reply: type[Model] | None,
    shape: ReplyShape = "record",
    status: int | None = None,
    upserts: bool = False,
    sorted_by: type[Model] | None = None,
    at_least_one: Sequence[str] = (),
    faults: Sequence[type[Fault]] = (),
    partition_key: Sequence[str] = (),
    handler: Handler | None = None,
    batch: BatchHandler | None = None,
) -> Operation:
    """Make an operation. By default its status is that of its method, it sorts by the scalar fields of its reply, and
    its requests are partitioned by the first parameter of its path. Raises ValueError, at import, if the route and the
    path model differ."""
    found = _ROUTE.fullmatch(route)
    if found is None:
        raise ValueError(f"{name}: {route!r} is not METHOD /path")
    places = set(_PLACE.findall(found[2]))
    fields = {field.serialization_alias for field in path.model_fields.values()}
    if places != fields:
        raise ValueError(f"{name}: the route names {sorted(places)}, its path model {sorted(map(str, fields))}")
    return Operation(
        name=name,
        method=found[1],
        path=found[2],
        summary=summary,
        description=_for_callers((handler or batch).__doc__),
        request=Request[path, query, body],  # type: ignore[valid-type]
        item=reply,
        shape=shape if reply else "empty",
        dump=TypeAdapter(reply or NoFields).dump_python,
        status=status or _status(found[1], reply is not None),
        upserts=upserts,
        at_least_one=at_least_one,
        faults=faults,
        partition_key=partition_key or tuple(_PLACE.findall(found[2])[:1]),
        sorts=tuple(_single_values(sorted_by or reply or NoFields)) if "sort" in query.model_fields else (),
        handler=handler,
        batch=batch,
    )


def _status(method: str, has_reply: bool) -> int:
    if not has_reply:
        return HTTPStatus.NO_CONTENT
    return HTTPStatus.CREATED if method == "POST" else HTTPStatus.OK


def _for_callers(docstring: str | None) -> str:
    """Without what it says of exceptions, which callers never see."""
    return _RAISES.sub("", inspect.cleandoc(docstring or "")).strip()


def _single_values(model: type[Model]) -> Iterator[str]:
    for field in model.model_fields.values():
        base = shape_of(field.annotation).base
        if base not in (list, dict) and not issubclass(base, BaseModel):
            yield str(field.serialization_alias)


def pascal_case(name: str) -> str:
    """`visits.create` as `VisitsCreate`, the beginning of the names of its models and schemas."""
    return "".join(part[0].upper() + part[1:] for part in name.split("."))


def operation(name: str, route: str, **parts: Any) -> Callable[[Handler], Operation]:
    """Turn a handler `(tx, request) -> value` into an operation; the parts are those of `declare`."""

    def decorate(handler: Handler) -> Operation:
        return declare(name, route, handler=handler, **parts)

    return decorate


def batch_operation(name: str, route: str, **parts: Any) -> Callable[[BatchHandler], Operation]:
    """The same for a handler that applies many requests with a bounded number of statements. It gets
    `[(tx, request), …]`, all in one transaction, and answers a value or a Fault for each, in their order."""

    def decorate(batch: BatchHandler) -> Operation:
        return declare(name, route, batch=batch, **parts)

    return decorate


Accepted = TypeVar("Accepted")
Stored = TypeVar("Stored")


async def apply_each(
    calls: Sequence[tuple[Tx, Any]],
    check: Callable[[Tx, Any], Accepted],
    store: Callable[[Sequence[tuple[Tx, Accepted]]], Awaitable[Sequence[Stored]]],
) -> list[Stored | Fault]:
    """The outcomes of a set-based handler: what `check` makes of each call goes to `store`, all together; what it
    raises as a Fault is that call's outcome."""
    outcomes: dict[int, Stored | Fault] = {}
    accepted: list[tuple[int, tuple[Tx, Accepted]]] = []
    for place, (tx, request) in enumerate(calls):
        try:
            accepted.append((place, (tx, check(tx, request))))
        except Fault as fault:
            outcomes[place] = fault
    if accepted:
        stored = await store([item for _, item in accepted])
        outcomes.update(zip((place for place, _ in accepted), stored, strict=True))
    return [outcomes[place] for place in range(len(calls))]


class Catalogue:
    """Operations by name and by family, and the tables whose changes are published. Raises ValueError, at start, where
    two operations share a name or a route."""

    def __init__(self, families: Mapping[str, Operations], tables: Iterable[Table[Any]] = ()) -> None:
        self.families = families
        self.tables = tuple(tables)
        self.operations: list[Operation] = [operation for group in families.values() for operation in group]
        self.by_name = {operation.name: operation for operation in self.operations}
        self.family_of = {operation.name: family for family, group in families.items() for operation in group}
        self.topic_of = {
            operation.name: names.QUERIES if operation.is_query else names.requests(self.family_of[operation.name])
            for operation in self.operations
        }
        """The topic that takes the requests of an operation."""
        _unique("name", [operation.name for operation in self.operations])
        _unique("route", [f"{operation.method} {operation.path}" for operation in self.operations])

    @staticmethod
    def rules_of(family: str) -> str:
        """What the family's package says of it, for those who use it: Markdown."""
        return inspect.cleandoc(import_module(f"agents.families.{family}").__doc__ or "")


def _unique(kind: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"two operations have the {kind} {value}")
        seen.add(value)
