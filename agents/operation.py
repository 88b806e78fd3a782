"""An operation as a value: its name, its route, its models and its handler. `agents.catalogue` lists all operations."""

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.alias_generators import to_snake

from schemas.changes import Change
from schemas.faults import Fault
from schemas.model import Model, NoFields
from schemas.replies import Listing, Record
from schemas.requests import Request
from schemas.shapes import shape_of
from storage.table import Table
from storage.tx import Tx
from telemetry.garbage import without_frames
from topics import names
from topics.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Existing:
    """A handler that upserts returns this when the record existed before: the answer is 200 instead of 201."""

    value: Model


ReplyShape = Literal["empty", "record", "page", "object", "array"]
"""`object` and `array` replies have no envelope."""

AnyRequest = Request[Any, Any, Any]
Handler = Callable[[Tx, Any], Awaitable[Any]]
BatchHandler = Callable[[Sequence[tuple[Tx, Any]]], Awaitable[Sequence[Any]]]

_ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S+)")
_PATH_PARAM = re.compile(r"{(\w+)}")
_RAISES = re.compile(r"\s*\bRaises\b[^.]*\.")


def path_params(path: str) -> list[str]:
    """The names of a path's parameters, in their order: `["visitorId"]` for `/visitors/{visitorId}`."""
    return _PATH_PARAM.findall(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation has either a `handler`, which takes one request, or a `batch_handler`, which takes many requests of
    one transaction."""

    name: str
    method: str
    path: str
    summary: str
    description: str
    """The handler's docstring without its "Raises": Markdown for callers, empty if the handler has no docstring."""
    request: type[AnyRequest]
    item: type[Model] | None
    shape: ReplyShape
    status: int
    upserts: bool
    """The operation answers 200 for an existing record, see Existing."""
    sorts: Sequence[str]
    """The reply fields that the `sort` parameter accepts; empty if the operation has no `sort`."""
    faults: Sequence[type[Fault]]
    """Faults in addition to those that the method, the path and the body imply."""
    partition_key: Sequence[str]
    """Fields of the path or the body. The edge uses the value of the first field present as the message key."""
    table: Table[Any] | None
    """The table of the one row that the operation reads or writes, if it is declared. `Catalogue.table_of` also has the
    tables that follow from other operations."""
    to_reply_data: Callable[[Any], Any]
    """Turns a row into the plain data of the reply: the fields of `item`, without other fields of the row."""
    handler: Handler | None = None
    batch_handler: BatchHandler | None = None
    one_statement: bool = False
    """The handler of a query loads its rows with one statement only, so it needs no transaction. Another statement may
    tell their size before."""

    @property
    def is_query(self) -> bool:
        """Queries change nothing. They have a topic of their own, and the inbox does not store them."""
        return self.method == "GET"

    @property
    def key_fields(self) -> Mapping[str, str | None]:
        """By path parameter, the field of the reply with the same value; None if it has none."""
        fields = {} if self.item is None else self.item.model_fields
        names = {param: to_snake(param) for param in path_params(self.path)}
        return {param: fields[name].serialization_alias if name in fields else None for param, name in names.items()}

    @property
    def reply(self) -> Any:
        """The model of the reply with its envelope; None if the reply has no body."""
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

    def record_key(self, parts: Mapping[str, Any]) -> str | None:
        """The value of the first partition-key field that a request with these parts has; None if it has none."""
        path, body = parts.get("path"), parts.get("body")
        fields = (body if isinstance(body, dict) else {}) | (path if isinstance(path, dict) else {})
        return next((str(fields[name]) for name in self.partition_key if fields.get(name)), None)

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
    faults: Sequence[type[Fault]] = (),
    partition_key: Sequence[str] = (),
    table: Table[Any] | None = None,
    handler: Handler | None = None,
    batch_handler: BatchHandler | None = None,
    one_statement: bool = False,
) -> Operation:
    """Make an operation. Defaults: the status follows from the method, `sort` accepts the scalar fields of the reply,
    and the first path parameter is the partition key. Raises ValueError, at import, if the parameters of the route are
    not the fields of `path`."""
    match = _ROUTE.fullmatch(route)
    if match is None:
        raise ValueError(f"{name}: {route!r} does not have the form 'METHOD /path'")
    method, url = match.groups()
    params = path_params(url)
    fields = {str(field.serialization_alias) for field in path.model_fields.values()}
    if set(params) != fields:
        raise ValueError(f"{name}: the route has the parameters {sorted(params)}, the path model {sorted(fields)}")
    return Operation(
        name=name,
        method=method,
        path=url,
        summary=summary,
        description=_for_callers((handler or batch_handler).__doc__),
        request=Request[path, query, body],  # type: ignore[valid-type]
        item=reply,
        shape=shape if reply else "empty",
        to_reply_data=TypeAdapter(reply or NoFields).dump_python,
        status=status or _default_status(method, reply is not None),
        upserts=upserts,
        faults=faults,
        partition_key=partition_key or tuple(params[:1]),
        table=table,
        sorts=tuple(_scalar_fields(sorted_by or reply or NoFields)) if "sort" in query.model_fields else (),
        handler=handler,
        batch_handler=batch_handler,
        one_statement=one_statement,
    )


def _default_status(method: str, has_reply: bool) -> int:
    if not has_reply:
        return HTTPStatus.NO_CONTENT
    if method == "POST":
        return HTTPStatus.CREATED
    return HTTPStatus.OK


def _for_callers(docstring: str | None) -> str:
    """The docstring without its "Raises": callers never see exceptions."""
    return _RAISES.sub("", inspect.cleandoc(docstring or "")).strip()


def _scalar_fields(model: type[Model]) -> Iterator[str]:
    for field in model.model_fields.values():
        base = shape_of(field.annotation).base
        if base not in (list, dict) and not issubclass(base, BaseModel):
            yield str(field.serialization_alias)


def pascal_case(name: str) -> str:
    """`VisitsCreate` for `visits.create`. The names of an operation's models and schemas begin with it."""
    return "".join(part[0].upper() + part[1:] for part in name.split("."))


def operation(name: str, route: str, **arguments: Any) -> Callable[[Handler], Operation]:
    """Turn a handler `(tx, request) -> value` into an operation. `arguments` are the other arguments of `declare`."""

    def decorate(handler: Handler) -> Operation:
        return declare(name, route, handler=handler, **arguments)

    return decorate


def batch_operation(name: str, route: str, **arguments: Any) -> Callable[[BatchHandler], Operation]:
    """Turn a batch handler into an operation. A batch handler applies many requests of one transaction with a bounded
    number of statements. It takes `[(tx, request), …]` and returns a value or a Fault for each request, in the same
    order. `arguments` are the other arguments of `declare`."""

    def decorate(batch_handler: BatchHandler) -> Operation:
        return declare(name, route, batch_handler=batch_handler, **arguments)

    return decorate


Accepted = TypeVar("Accepted")
Stored = TypeVar("Stored")


async def apply_each(
    calls: Sequence[tuple[Tx, Any]],
    check: Callable[[Tx, Any], Accepted],
    store: Callable[[Sequence[tuple[Tx, Accepted]]], Awaitable[Sequence[Stored]]],
) -> list[Stored | Fault]:
    """Check each call by itself, then store all accepted calls together. `store` gets the values that `check` returns.
    A Fault that `check` raises is the outcome of its call. The outcomes have the order of the calls."""
    outcomes: dict[int, Stored | Fault] = {}
    accepted: dict[int, tuple[Tx, Accepted]] = {}
    for index, (tx, request) in enumerate(calls):
        try:
            accepted[index] = (tx, check(tx, request))
        except Fault as fault:
            outcomes[index] = without_frames(fault)
    if accepted:
        stored = await store(list(accepted.values()))
        outcomes.update(zip(accepted, stored, strict=True))
    return [outcomes[index] for index in range(len(calls))]


class Catalogue:
    """Operations by name and by family, and the tables whose changes are published. `internal` operations are queries
    that the edge needs for itself, by the family on whose results topic they are answered without `reply-to`: they are
    in `by_name`, `family_of` and `topic_of`, but not in `operations`, and have no HTTP route. Raises ValueError, at
    start, if two operations have the same name or the same route."""

    def __init__(
        self,
        families: Mapping[str, Operations],
        tables: Iterable[Table[Any]] = (),
        internal: Mapping[str, Operations] | None = None,
    ) -> None:
        self.families = families
        self.tables = tuple(tables)
        self.operations: list[Operation] = [operation for operations in families.values() for operation in operations]
        every = [*_with_family(families), *_with_family(internal or {})]
        self.by_name = {operation.name: operation for _, operation in every}
        self.family_of = {operation.name: family for family, operation in every}
        self.topic_of = {
            operation.name: names.QUERIES if operation.is_query else names.requests(family)
            for family, operation in every
        }
        """By operation, the topic of its requests."""
        self.topic_of_record = dict(self._topics_by_record())
        """By the name of an Avro record (without its namespace), the topic whose values it describes."""
        self.reader_of = {operation.name: reader for operation, reader in self._readers()}
        """By operation that reads, creates or changes one record, the operation that reads it."""
        self.table_of = {
            operation.name: table for operation in self.operations if (table := self._table(operation)) is not None
        }
        """By operation, the table of the one row that it reads or writes."""
        self.change_topics = [
            names.ChangeTopic(names.changes(table.family, table.resource), compacted=not table.are_events)
            for table in self.tables
        ]
        _require_unique("name", [operation.name for _, operation in every])
        _require_unique("route", [f"{operation.method} {operation.path}" for operation in self.operations])

    def topics(self, kafka: KafkaSettings) -> list[names.TopicSpec]:
        """All topics of the service, configured by these settings."""
        return names.specs(self.families, self.change_topics, kafka)

    def resources_of(self, topics: Collection[str]) -> list[str]:
        """The resources whose change topics are among `topics`, sorted."""
        return sorted(table.resource for table in self.tables if names.changes(table.family, table.resource) in topics)

    def takes_if_match(self, operation: Operation) -> bool:
        """True if a request can require that the row has a certain revision."""
        return operation.method in ("PATCH", "PUT", "DELETE") and operation.name in self.table_of

    def _readers(self) -> Iterator[tuple[Operation, Operation]]:
        """Pairs of an operation and the operation that reads its record. It has the same path, or, if the operation
        creates the record, the same reply. Of several, the one below the path of the operation goes first."""
        readers = [operation for operation in self.operations if operation.is_query and operation.shape == "record"]
        for operation in self.operations:
            if operation.method == "POST":
                candidates = [reader for reader in readers if _leads_to(operation, reader)]
                candidates.sort(key=lambda reader: not reader.path.startswith(operation.path))
            else:
                candidates = [reader for reader in readers if reader.path == operation.path]
            if candidates:
                yield operation, candidates[0]

    def _table(self, operation: Operation) -> Table[Any] | None:
        reader = self.reader_of.get(operation.name)
        return operation.table if reader is None else reader.table

    def _topics_by_record(self) -> Iterator[tuple[str, str]]:
        for name in self.by_name:
            yield f"{pascal_case(name)}Request", self.topic_of[name]
            yield f"{pascal_case(name)}Result", names.results(self.family_of[name])
        for table in self.tables:
            yield Change[table.row].__name__, names.changes(table.family, table.resource)  # type: ignore[name-defined]

    @staticmethod
    def rules_of(family: str) -> str:
        """The docstring of the family's package: Markdown for callers."""
        return inspect.cleandoc(import_module(f"agents.families.{family}").__doc__ or "")


def _leads_to(create: Operation, reader: Operation) -> bool:
    """True if the call or the reply of `create` has all path parameters of `reader`, which reads the same record."""
    available_params = {
        *path_params(create.path),
        *(param for param, field in reader.key_fields.items() if field is not None),
    }
    return create.item is reader.item and available_params.issuperset(reader.key_fields)


def _with_family(families: Mapping[str, Operations]) -> Iterator[tuple[str, Operation]]:
    for family, operations in families.items():
        yield from ((family, operation) for operation in operations)


def _require_unique(kind: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"two operations have the {kind} {value}")
        seen.add(value)
