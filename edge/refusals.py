"""Refused calls in the audit log. The workers write the accesses that reach them."""

from collections.abc import Iterable
from uuid import UUID

from edge.identity import Identity
from schemas.faults import Fault, Forbidden, RateLimited, Unauthorized
from topics import audit


def log(
    operation: str, identity: Identity | None, fault: Fault, *, visitors: Iterable[UUID] = (), via: str = "edge"
) -> None:
    """Write a line if the fault refuses access. `identity` is None if the caller is unknown; see `audit.write`."""
    if isinstance(fault, (Unauthorized, Forbidden, RateLimited)) and audit.is_enabled():
        caller = None if identity is None else identity.source
        audit.write(caller=caller, operation=operation, visitors=visitors, status=fault.status, via=via)
