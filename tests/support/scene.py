"""A request of any operation, from its documented example, with whatever that refers to created before."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from agents.catalogue import CATALOGUE
from agents.operation import Operation
from tests.support import data

Fact = dict[str, Any]
Parts = dict[str, Any]

FACTS: dict[str, Fact] = {
    fact["operation"]: fact for fact in json.loads((Path(__file__).parents[1] / "contract" / "facts.json").read_text())
}
"""The documented contract, by operation."""

MADE_BY = {
    "pcCode": "centers.create",
    "visitorId": "visitors.create",
    "barcode": "visitors.create",
    "licensePlate": "vehicles.create",
    "vehicleId": "vehicles.create",
    "vehiclePartnerId": "vehiclePartners.create",
    "serviceId": "services.create",
    "storeId": "serviceStores.add",
    "segmentId": "serviceSegments.add",
    "serviceThemeId": "serviceThemes.create",
    "serviceTargetId": "serviceTargets.create",
    "bookmarkId": "bookmarks.create",
    "externalId": "externalIds.create",
    "externalType": "externalIds.create",
    "visitorCenterId": "visitorCenters.create",
    "centerCompanyId": "centerCompanies.create",
    "deviceId": "devices.register",
    "guid": "operationSessions.create",
    "cardId": "creditCards.create",
    "parkingId": "parkings.create",
    "parkingHistoryId": "parkingHistories.create",
    "rewardId": "rewards.create",
    "interestId": "interests.create",
    "checkinId": "checkins.create",
    "legalTextId": "legalTexts.create",
    "optinId": "optins.create",
    "challengeId": "challenges.create",
    "visitorChallengeId": "visitorChallenges.create",
    "articleId": "articles.create",
}
"""Which operation makes what a path or a body names."""

BEFORE = {
    "serviceThemeLinks.remove": "serviceThemeLinks.add",
    "serviceTargetLinks.remove": "serviceTargetLinks.add",
    "visitorCenters.get": "visitorCenters.create",
    "visitorCenters.update": "visitorCenters.create",
    "visitorLocales.get": "visitorLocales.create",
    "visitorLocales.delete": "visitorLocales.create",
    "legalTextLocales.get": "legalTextLocales.create",
    "legalTextLocales.update": "legalTextLocales.create",
    "optins.deleteByType": "optins.create",
    "externalIds.resolve": "externalIds.create",
    "externalIds.get": "externalIds.create",
    "externalIds.delete": "externalIds.create",
}
"""What has to be done before, where the places of the path do not bring it about."""

FILLED_BY = {
    "serviceStores.list": "serviceStores.add",
    "serviceSegments.list": "serviceSegments.add",
    "serviceThemeLinks.list": "serviceThemeLinks.add",
    "serviceTargetLinks.list": "serviceTargetLinks.add",
    "devices.list": "devices.register",
    "visitors.details": "visitors.create",
    "checkins.listForVisitor": "checkins.create",
    "challenges.participants": "visitorChallenges.create",
    "rankings.list": "visitorChallenges.create",
    "parkingHistories.summary": "parkingHistories.create",
    "challengeHistories.list": "visitorChallenges.addPoints",
    "visits.list": "visits.create",
    "externalIds.batch": "externalIds.create",
}
"""What adds a row to a list, where that is not the `create` of the same resource."""

BODY_NAMES = {"acquisitionPcCode": "pcCode", "preferredCenter": "pcCode"}
"""Fields of bodies that name what another name is for elsewhere."""

REFERENCES = frozenset(
    (
        *("pcCode", "visitorId", "serviceId", "serviceThemeId", "serviceTargetId", "legalTextId", "centerCompanyId"),
        *("vehicleId", "visitorCenterId", "parkingId", "cardId", "challengeId", "barcode"),
    )
)
"""Fields of bodies that name something that has to be there."""

PARTNERS = ("smartparking_us", "smartparking_uk", "ilogs", "designa", "thales", "smartparking_v2")
LOCALES = ("fr-FR", "en-GB", "de-DE", "nl-NL", "es-ES", "it-IT", "pl-PL", "sv-SE")

NEW: dict[str, Callable[[int], Any]] = {
    "email": lambda _: data.new_email(),
    "token": lambda n: f"token {n} of {uuid4()}",
    "guid": lambda _: str(uuid4()),
    "externalId": lambda _: str(uuid4()),
    "partnerId": lambda _: f"partner {uuid4()}",
    "companyName": lambda n: f"Company {n} {uuid4()}",
    "storeId": lambda n: n,
    "segmentId": lambda n: n,
    "contextId": lambda n: n,
    "licensePlate": lambda _: data.new_plate(),
    "localeCode": lambda n: LOCALES[n % len(LOCALES)],
}
"""Fields that differ from one call to the next, since two may not be the same."""

_CENTER = frozenset(("pcCode", "centerCompanyId", "visitorCenterId"))
ONCE = {
    "visitorChallenges.create": frozenset(("challengeId", "visitorId")),
    "serviceThemeLinks.add": frozenset(("serviceThemeId",)),
    "serviceTargetLinks.add": frozenset(("serviceTargetId",)),
    "visitorCenters.create": _CENTER,
    "externalIds.create": _CENTER,
    "vehiclePartners.create": _CENTER | {"vehicleId"},
}
"""What a body may name once only under the same parent."""

LIVELY: dict[str, Parts] = {
    "services.create": {"endDate": "2101-01-01T00:00:00Z"},
    "challenges.create": {"endDate": "2101-01-01T00:00:00Z", "status": "active"},
    "parkingHistories.create": {"paymentStatus": "succeeded"},
}
"""Where the documented example is over since years, and nothing could be done with it."""


class Scene:
    """What belongs together: `known` has a visitor, a center and so on by the contract's names of their ids, each made
    when it is needed first."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.known: dict[str, Any] = {}
        self._client = client
        self._calls = 0

    async def parts(self, operation: str, *, example: bool = False) -> Parts:
        """A request that succeeds; the `example` is as documented also where nothing can be done with it later."""
        fact = FACTS[operation]
        if operation in BEFORE:
            await self.make(BEFORE[operation])
        self._calls += 1
        path = {place["name"]: await self._place(operation, place) for place in fact["path_params"]}
        query = {field["name"]: await self._asked(field) for field in fact["query"] if field["required"]}
        if operation == "visits.list":
            query["visitorId"] = await self.need("visitorId")
        parts: Parts = {"path": path, "query": query}
        if fact["body"]:
            parts["body"] = await self._body(operation, fact["request_example"])
            if not example and operation in LIVELY:
                parts["body"] |= LIVELY[operation]
        return {name: value for name, value in parts.items() if value or name == "body"}

    async def need(self, name: str) -> Any:
        """What this name of the contract is for in this scene."""
        if name == "analyticsId":
            visitor_id = await self.need("visitorId")
            answer = await self._client.get(f"/visitors/{visitor_id}/externalIds/analytics")
            return answer.json()["data"]["externalId"]
        if name not in self.known:
            await self.make(MADE_BY[name])
        return self.known[name]

    async def make(self, operation: str) -> dict[str, Any]:
        """Do a writing operation and remember what it made. Fails where it does not succeed."""
        answer = await self.call(operation, await self.parts(operation))
        assert answer.is_success, f"{operation}: {answer.text}"
        body = answer.json() if answer.content else {}
        found: dict[str, Any] = body.get("data", body)
        self.known |= {name: found[name] for name in found.keys() & {*MADE_BY, "localeCode"}}
        if operation == "legalTexts.create":
            self.known["legalTextId"] = found["id"]
        return found

    async def again(self, operation: str, listing: str) -> dict[str, Any]:
        """One more for a list, with another center, challenge and so on, since some may be named once only."""
        kept = {place["name"] for place in FACTS[listing]["path_params"]}
        for name in ONCE.get(operation, frozenset()) - kept:
            self.known.pop(name, None)
        return await self.make(operation)

    async def call(self, operation: str, parts: Parts, **headers: str) -> httpx.Response:
        return await send(self._client, CATALOGUE.by_name[operation], parts, **headers)

    async def _place(self, operation: str, place: Fact) -> Any:
        name = place["name"]
        if name == "visitType":
            return "entry"
        if name == "localeCode":
            creates = operation.endswith(".create")
            return NEW[name](self._calls) if creates else self.known[name]
        return await self.need(name)

    async def _asked(self, field: Fact) -> Any:
        fixed = {"companyId": "1", "timezone": "Europe/Paris", "optinType": "commercial", "optinChannel": "sms"}
        return fixed[field["name"]] if field["name"] in fixed else await self.need(field["name"])

    async def _body(self, operation: str, example: Any) -> Any:
        if isinstance(example, list):
            return [await self._body(operation, item) for item in example]
        if not isinstance(example, dict):
            return example
        return {name: await self._field(operation, name, value) for name, value in example.items()}

    async def _field(self, operation: str, name: str, value: Any) -> Any:
        named = BODY_NAMES.get(name, name)
        if operation == "centers.create" and name == "pcCode":
            return data.new_code()
        if operation == "visits.create" and name == "licensePlate":
            return await self.need(name)
        if name == "analyticsId":
            return await self.need(name)
        if named in REFERENCES:
            return await self.need(named)
        if name == "parkingPartner" and operation == "parkings.create":
            return PARTNERS[self._calls % len(PARTNERS)]
        if name in NEW and not isinstance(value, (list, dict)) and not _translates(operation):
            return NEW[name](self._calls)
        return await self._body(operation, value)


def _translates(operation: str) -> bool:
    """Whether localeCode stands in a list of translations, each locale once."""
    return operation.partition(".")[0] in ("challenges", "articles")


@cache
def adds_to(listing: str) -> str | None:
    """The operation that adds a row to a list."""
    create = f"{listing.removesuffix('.list')}.create"
    return FILLED_BY.get(listing) or (create if create in FACTS else None)


async def send(
    client: httpx.AsyncClient, operation: Operation, parts: Parts, *, raw_query: str | None = None, **headers: str
) -> httpx.Response:
    """A request over HTTP."""
    places = {name: quote(str(value), safe="") for name, value in parts.get("path", {}).items()}
    url = operation.path.format(**places)
    query = {name: _text(value) for name, value in parts.get("query", {}).items()}
    body = {"json": parts["body"]} if "body" in parts else {}
    return await client.request(
        operation.method, url if raw_query is None else f"{url}?{raw_query}", params=query or None,
        headers=headers, **body,
    )  # fmt: skip


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def listings() -> Sequence[str]:
    """The operations that answer many records."""
    return [name for name, fact in FACTS.items() if CATALOGUE.by_name[name].shape in ("page", "array")
            and CATALOGUE.by_name[name].is_query]  # fmt: skip
