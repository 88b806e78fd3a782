"""The faults: one exception class for each way in which a request can fail, with its HTTP status.

No other module maps faults to statuses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from schemas.cards import without_digit_runs
from schemas.model import Model

FaultType = Literal[
    "validation", "not_found", "conflict", "unauthorized", "forbidden", "rate_limited", "unavailable", "internal"
]


class ErrorEntry(Model):
    """One error. Programs use `code`, which is stable. People read `message`. `field` is the JSON path of the field
    that caused the error."""

    code: str
    """A stable word for programs, for example `email_taken`."""
    type: FaultType
    """The kind of error."""
    field: str | None
    """The JSON path of the field that caused the error, for example `optins[0].optinType`; null if no field did."""
    message: str
    """What is wrong, for people."""


class Errors(Model):
    """The body of every error answer."""

    errors: list[ErrorEntry]
    """All errors of the request."""


class Fault(Exception):
    """An error answer that a handler or the engine gives on purpose. Every other exception is a bug."""

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
    """The request breaks a rule of the contract. Repeating it unchanged gives the same answer."""

    status = 400
    type = "validation"

    @classmethod
    def because(cls, entries: Sequence[ErrorEntry]) -> "Invalid":
        """One fault that reports several errors."""
        fault = cls("invalid", "")
        fault.entries = entries
        return fault


def refuse(faults: Iterable[Invalid]) -> None:
    """Raise one Invalid with the entries of all `faults`; do nothing if there are none."""
    entries = [entry for fault in faults for entry in fault.entries]
    if entries:
        raise Invalid.because(entries)


def unknown_fields(code: str, parameter: str, names: Iterable[str], hint: str) -> list[Invalid]:
    """One fault for each of the unknown names that a parameter lists. `hint` says which names it may list."""
    return [
        Invalid(code, f"There is no field '{shown_name(name)}'. {hint}", field=parameter)
        for name in dict.fromkeys(names)
    ]


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


class RequestTimeout(Fault):
    """The request did not arrive completely in time."""

    status = 408
    type = "validation"


class Conflict(Fault):
    """The request is valid but conflicts with the stored data."""

    status = 409
    type = "conflict"


class PreconditionFailed(Fault):
    """The record does not have the revision that the request expects."""

    status = 412
    type = "conflict"


class TooLarge(Fault):
    status = 413
    type = "validation"


class TargetTooLong(Fault):
    status = 414
    type = "validation"


class UnsupportedMediaType(Fault):
    status = 415
    type = "validation"


class UnsupportedContentCoding(UnsupportedMediaType):
    """The body has a content coding other than the supported one."""


class KeyReused(Fault):
    """The idempotency key (the request id of a message) was used before with other content."""

    status = 422
    type = "conflict"


class RateLimited(Fault):
    status = 429
    type = "rate_limited"


class HeadersTooLarge(Fault):
    status = 431
    type = "validation"


class Bug(Fault):
    """The answer to a request whose handler raised an unexpected exception."""

    status = 500


BUG = Bug("internal", "The service failed unexpectedly and reported the error. To try again, send a new request.")


class Unavailable(Fault):
    status = 503
    type = "unavailable"


class NoAnswer(Fault):
    """The request was sent to Kafka, but no answer arrived in time. It may still be applied."""

    status = 504
    type = "unavailable"


@dataclass(frozen=True)
class _CodeAndMessage:
    code: str
    message: str | None = None
    """None for pydantic's own message."""


_BY_PYDANTIC_TYPE = {
    "missing": _CodeAndMessage("required", "This field is required."),
    "extra_forbidden": _CodeAndMessage("unknown_field", "This field does not exist. Remove it."),
    "null_refused": _CodeAndMessage("null_refused"),
    "literal_error": _CodeAndMessage("not_allowed"),
    "greater_than_equal": _CodeAndMessage("out_of_range"),
    "less_than_equal": _CodeAndMessage("out_of_range"),
    "int_parsing_size": _CodeAndMessage("out_of_range"),
    "string_too_long": _CodeAndMessage("too_long"),
    "too_long": _CodeAndMessage("too_long"),
    "string_too_short": _CodeAndMessage("too_short"),
    "string_pattern_mismatch": _CodeAndMessage("wrong_format"),
    "string_unicode": _CodeAndMessage("surrogate_refused", "Input should not contain a lone surrogate."),
    "datetime_type": _CodeAndMessage("wrong_type", "Input should be a string with an RFC 3339 time."),
    "model_type": _CodeAndMessage("wrong_type", "Input should be an object."),
    "model_attributes_type": _CodeAndMessage("wrong_type", "Input should be an object."),
}
_PYDANTIC_TYPES = frozenset(get_args(ErrorType))


ENTRY_LIMIT = 100
"""Errors that are listed for one request. Without a limit, a long invalid list would make the answer larger than a
message may be."""


LISTING_LIMIT = 20_000
"""Errors of a request from which some are listed. pydantic makes all of its errors before it shows the first one: those
of a body with 90,000 unknown fields would hold up all other requests longer than the rest of their work."""


def from_validation(error: ValidationError) -> Invalid:
    """One fault with all errors of a request. Messages say what is expected and never repeat the input."""
    if error.error_count() > LISTING_LIMIT:
        return Invalid("too_many_faults", f"The request has {error.error_count()} errors, too many to list any.")
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    entries = [_entry(details["type"], details["loc"], details["msg"]) for details in errors[:ENTRY_LIMIT]]
    if len(errors) > ENTRY_LIMIT:
        message = f"{len(errors) - ENTRY_LIMIT} more errors are not listed. Correct the listed ones first."
        entries.append(ErrorEntry(code="too_many_faults", type="validation", field=None, message=message))
    return Invalid.because(entries)


def with_error(error: ValidationError, added: PydanticCustomError) -> ValidationError:
    """Add an error about the whole record to the errors of `error`. If `error` has more errors than an answer lists,
    `error` is returned unchanged: the answer would not list the added one, and copying thousands of errors is slow."""
    if error.error_count() > ENTRY_LIMIT:
        return error
    errors = [_as_raised(details) for details in error.errors(include_url=False)]
    return ValidationError.from_exception_data(
        error.title, [*errors, InitErrorDetails(type=added, input=None)], hide_input=True
    )


def _as_raised(details: ErrorDetails) -> InitErrorDetails:
    """An error in the form in which a ValidationError is made. pydantic knows its own types by name; an error of one of
    our validators is an object."""
    error_type = details["type"]
    return InitErrorDetails(
        type=error_type if error_type in _PYDANTIC_TYPES else PydanticCustomError(error_type, details["msg"]),
        loc=details["loc"],
        input=details["input"],
        ctx=details.get("ctx", {}),
    )


def _entry(error_type: str, location: tuple[int | str, ...], message: str) -> ErrorEntry:
    if error_type == "is_instance_of":
        message = "Input should be a number." if "Decimal" in message else "Input should be a UUID."
    mapped = _BY_PYDANTIC_TYPE.get(error_type)
    if mapped is None:
        # A type that pydantic does not define is the code of one of our validators.
        mapped = _CodeAndMessage("wrong_type" if error_type in _PYDANTIC_TYPES else error_type)
    return ErrorEntry(
        code=mapped.code, type="validation", field=_field(error_type, location), message=mapped.message or message
    )


def _field(error_type: str, location: tuple[int | str, ...]) -> str | None:
    """The JSON path inside the section (path, query or body), which is the first step of `location`. The path names the
    section only if the request has a section that does not exist."""
    if error_type == "extra_forbidden" and len(location) == 1:
        return json_path(location)
    return json_path(location[1:])


def json_path(location: Sequence[int | str]) -> str | None:
    """`("optins", 0, "optinType")` as `optins[0].optinType`; None for an empty location."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return shown_name(path.lstrip(".")) or None


def shown_name(name: str) -> str:
    """A name from a request as an answer may show it: shortened, and without runs of digits, which could be card
    numbers."""
    return without_digit_runs(name)[:200]
