"""The scopes of callers: which ones exist, and which ones an operation needs."""

from collections.abc import Collection, Iterable, Mapping

OWN: Mapping[str, str] = {
    "visitors.eraseByAnalyticsId": "visitors:erase",
    "visitors.eventToken": "visitors:event-token",
}
"""By operation, the scope that it needs instead of that of its family. `*:read` and `*:write` do not include it."""
OPERATOR = "operator"
"""The scope of operators, who may use the console. `*:read` and `*:write` do not include it."""
FURTHER: Mapping[str, str] = {"visitors.details": "parking:read"}
"""By operation, a scope that it needs as well, because its reply has records of another family: here vehicles, and
cards with the tokens of the payment provider."""
_ACTIONS = ("read", "write")
WILDCARDS = frozenset(f"*:{action}" for action in _ACTIONS)


def required(name: str, family: str, *, reads: bool) -> frozenset[str]:
    """All scopes that a caller of this operation needs."""
    scopes = {OWN.get(name) or f"{family}:{'read' if reads else 'write'}"}
    if name in FURTHER:
        scopes.add(FURTHER[name])
    return frozenset(scopes)


def of_writes(family: str) -> frozenset[str]:
    """The scopes of operations that write in this family."""
    return frozenset((f"{family}:write", *(scope for scope in OWN.values() if scope == f"{family}:erase")))


def expand(scopes: Iterable[str], families: Collection[str]) -> frozenset[str]:
    """The scopes, with those of all families instead of `*:read` and `*:write`. Raises ValueError for an unknown
    scope."""
    by_wildcard = {f"*:{action}": {f"{family}:{action}" for family in families} for action in _ACTIONS}
    single_scopes = {OPERATOR, *OWN.values()}.union(*by_wildcard.values())
    expanded: set[str] = set()
    for scope in scopes:
        if scope not in single_scopes and scope not in by_wildcard:
            raise ValueError(f"{scope} is not a scope. The scopes are {', '.join(sorted(WILDCARDS | single_scopes))}.")
        expanded |= by_wildcard.get(scope, {scope})
    return frozenset(expanded)


def every(families: Collection[str]) -> frozenset[str]:
    return expand((*WILDCARDS, *OWN.values(), OPERATOR), families)
