"""What can be wrong with a request, in one hierarchy; the mapping to statuses stands here and nowhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from schemas.cards import without_digit_runs
from schemas.model import Model

FaultType = Literal[
    "validation", "not_found", "conflict", "unauthorized", "forbidden", "rate_limited", "unavailable", "internal"
]


class ErrorEntry(Model):
    """One fault: `code` is stable and for programs, `message` for people, `field` the JSON path it is about."""

    code: str
    type: FaultType
    field: str | None
    message: str


class Errors(Model):
    """The body of every answer that is not a success."""

    errors: list[ErrorEntry]


class Fault(Exception):
    """An answer other than success that a handler or the engine gives on purpose. Anything else raised is a bug."""

    status: ClassVar[int] = 500
    type: ClassVar[FaultType] = "internal"

    def __init__(self, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(code)
        self.entries: Sequence[ErrorEntry] = (ErrorEntry(code=code, type=self.type, field=field, message=message),)

    @property
    def code(self) -> str:
        return self.entries[0].code

    def body(self) -> dict[str, Any]:
        return Errors(errors=list(self.entries)).model_dump()


class Invalid(Fault):
    """The request cannot be understood as it is; sending it again changes nothing."""

    status = 400
    type = "validation"

    @classmethod
    def because(cls, entries: Sequence[ErrorEntry]) -> "Invalid":
        fault = cls("invalid", "")
        fault.entries = entries
        return fault


def refuse(faults: Iterable[Invalid]) -> None:
    """Raises Invalid with all of them, where there is one."""
    entries = [entry for fault in faults for entry in fault.entries]
    if entries:
        raise Invalid.because(entries)


class Unauthorized(Fault):
    status = 401
    type = "unauthorized"


class Forbidden(Fault):
    status = 403
    type = "forbidden"


class NotFound(Fault):
    status = 404
    type = "not_found"


class MethodNotAllowed(Fault):
    status = 405
    type = "validation"


class Conflict(Fault):
    """Understood, but the present state of the data refuses it."""

    status = 409
    type = "conflict"


class TooLarge(Fault):
    status = 413
    type = "validation"


class UnsupportedMediaType(Fault):
    status = 415
    type = "validation"


class UnsupportedContentCoding(UnsupportedMediaType):
    """A body that is compressed in another way than the one that is taken."""


class KeyReused(Fault):
    """An idempotency key (the request id of a message) that came before with another content."""

    status = 422
    type = "conflict"


class RateLimited(Fault):
    status = 429
    type = "rate_limited"


class Bug(Fault):
    """What a caller sees of an unexpected exception."""

    status = 500


BUG = Bug("internal", "Something is wrong on our side; it was reported. To try again, send a new request.")


class Unavailable(Fault):
    status = 503
    type = "unavailable"


class NoAnswer(Fault):
    """The request was accepted and no answer came in time; it may still be applied."""

    status = 504
    type = "unavailable"


@dataclass(frozen=True)
class _PydanticCode:
    code: str
    message: str | None = None


_PYDANTIC_CODES = {
    "missing": _PydanticCode("required", "This field is required."),
    "extra_forbidden": _PydanticCode("unknown_field", "This field is not known here."),
    "null_refused": _PydanticCode("null_refused"),
    "literal_error": _PydanticCode("not_allowed"),
    "greater_than_equal": _PydanticCode("out_of_range"),
    "less_than_equal": _PydanticCode("out_of_range"),
    "int_parsing_size": _PydanticCode("out_of_range"),
    "string_too_long": _PydanticCode("too_long"),
    "too_long": _PydanticCode("too_long"),
    "string_too_short": _PydanticCode("too_short"),
    "string_pattern_mismatch": _PydanticCode("wrong_format"),
    "string_unicode": _PydanticCode("surrogate_refused", "A text may not hold a lone surrogate."),
    "datetime_type": _PydanticCode("wrong_type", "Input should be a string with a time of RFC 3339."),
    "model_type": _PydanticCode("wrong_type", "Input should be an object."),
    "model_attributes_type": _PydanticCode("wrong_type", "Input should be an object."),
}
_OF_PYDANTIC = frozenset(get_args(ErrorType))


FAULTS_TOLD = 100
"""Faults of one request that are told; a long list of nonsense would make an answer larger than a message may be."""


def from_validation(error: ValidationError) -> Invalid:
    """All faults of a body at once. Messages say what is expected and never what was sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    entries = [_entry(item["type"], item["loc"], item["msg"]) for item in found[:FAULTS_TOLD]]
    if len(found) > FAULTS_TOLD:
        message = f"{len(found) - FAULTS_TOLD} more faults are not told."
        entries.append(ErrorEntry(code="too_many_faults", type="validation", field=None, message=message))
    return Invalid.because(entries)


def _entry(kind: str, location: tuple[int | str, ...], message: str) -> ErrorEntry:
    known = _PYDANTIC_CODES.get(kind) or _PydanticCode("wrong_type" if kind in _OF_PYDANTIC else kind)
    if kind == "is_instance_of":
        message = "Input should be a number." if "Decimal" in message else "Input should be a UUID."
    # The first step is the part of the request, which has no name of its own unless it is one that there is not.
    path = json_path(location if kind == "extra_forbidden" and len(location) == 1 else location[1:])
    return ErrorEntry(code=known.code, type="validation", field=path, message=known.message or message)


def json_path(location: Sequence[int | str]) -> str | None:
    """`("optins", 0, "optinType")` as `optins[0].optinType`; None for the whole."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return without_digit_runs(path.lstrip("."))[:200] or None
