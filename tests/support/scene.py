"""A valid request of any operation, from its documented example. The records that it refers to are created first."""

import json
from collections.abc import Callable, Sequence
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

CREATED_BY = {
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
"""By field of a path or a body, the operation that creates the record with this field."""

PREREQUISITES = {
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
"""By operation, another one that must come before it, if the path parameters do not lead to that one already."""

ADDED_BY = {
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
"""By list, the operation that adds a row to it, if that is not the `create` of the same resource."""

BODY_NAMES = {"acquisitionPcCode": "pcCode", "preferredCenter": "pcCode"}
"""Fields of bodies, and the name that other operations have for the same value."""

REFERENCES = frozenset(
    (
        *("pcCode", "visitorId", "serviceId", "serviceThemeId", "serviceTargetId", "legalTextId", "centerCompanyId"),
        *("vehicleId", "visitorCenterId", "parkingId", "cardId", "challengeId", "barcode"),
    )
)
"""Fields of bodies that must name an existing record."""

PARTNERS = ("smartparking_us", "smartparking_uk", "ilogs", "designa", "thales", "smartparking_v2")
LOCALES = ("fr-FR", "en-GB", "de-DE", "nl-NL", "es-ES", "it-IT", "pl-PL", "sv-SE")

NEW_VALUES: dict[str, Callable[[int], Any]] = {
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
"""Fields that must be unique. Each function takes the number of the call and returns a new value."""

_CENTER = frozenset(("pcCode", "centerCompanyId", "visitorCenterId"))
UNIQUE_PER_PARENT = {
    "visitorChallenges.create": frozenset(("challengeId", "visitorId")),
    "serviceThemeLinks.add": frozenset(("serviceThemeId",)),
    "serviceTargetLinks.add": frozenset(("serviceTargetId",)),
    "visitorCenters.create": _CENTER,
    "externalIds.create": _CENTER,
    "vehiclePartners.create": _CENTER | {"vehicleId"},
}
"""Fields of bodies that must be unique under the same parent."""

UNEXPIRED: dict[str, Parts] = {
    "services.create": {"endDate": "2101-01-01T00:00:00Z"},
    "challenges.create": {"endDate": "2101-01-01T00:00:00Z", "status": "active"},
    "parkingHistories.create": {"paymentStatus": "succeeded"},
}
"""Fields that replace those of a documented example that ended years ago. Other operations would refuse its record."""


class Scene:
    """Related records: a visitor, a center and so on. `values` has their ids by the contract's names of the fields. A
    record is created when its id is used for the first time."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.values: dict[str, Any] = {}
        self._client = client
        self._calls = 0

    async def parts(self, operation: str, *, example: bool = False) -> Parts:
        """The parts of a request that succeeds. With `example`, the body is exactly the documented one, even if its end
        date is over."""
        fact = FACTS[operation]
        if operation in PREREQUISITES:
            await self.create(PREREQUISITES[operation])
        self._calls += 1
        path = {param["name"]: await self._path_value(operation, param) for param in fact["path_params"]}
        query = {field["name"]: await self._query_value(field) for field in fact["query"] if field["required"]}
        if operation == "visits.list":
            query["visitorId"] = await self.value_of("visitorId")
        parts: Parts = {"path": path, "query": query}
        if fact["body"]:
            parts["body"] = await self._body(operation, fact["request_example"])
            if not example and operation in UNEXPIRED:
                parts["body"] |= UNEXPIRED[operation]
        return {name: value for name, value in parts.items() if value or name == "body"}

    async def value_of(self, name: str) -> Any:
        """The value of a field of the contract in this scene. Creates the record that has it if there is none yet."""
        if name == "analyticsId":
            return await data.analytics_id(self._client, await self.value_of("visitorId"))
        if name not in self.values:
            await self.create(CREATED_BY[name])
        return self.values[name]

    async def create(self, operation: str) -> dict[str, Any]:
        """Call an operation that creates a record, and keep the record's ids. Fails if the answer is not a success."""
        answer = await self.call(operation, await self.parts(operation))
        assert answer.is_success, f"{operation}: {answer.text}"
        body = answer.json() if answer.content else {}
        record: dict[str, Any] = body.get("data", body)
        self.values |= {name: record[name] for name in record.keys() & {*CREATED_BY, "localeCode"}}
        if operation == "legalTexts.create":
            self.values["legalTextId"] = record["id"]
        return record

    async def add_row(self, operation: str, listing: str) -> dict[str, Any]:
        """Add another row to a list, with new values for the fields that must be unique under the list's parent."""
        parents = {param["name"] for param in FACTS[listing]["path_params"]}
        for name in UNIQUE_PER_PARENT.get(operation, frozenset()) - parents:
            self.values.pop(name, None)
        return await self.create(operation)

    async def call(self, operation: str, parts: Parts, **headers: str) -> httpx.Response:
        return await send(self._client, CATALOGUE.by_name[operation], parts, **headers)

    async def _path_value(self, operation: str, param: Fact) -> Any:
        name = param["name"]
        if name == "visitType":
            return "entry"
        if name == "localeCode" and operation.endswith(".create"):
            return NEW_VALUES[name](self._calls)
        if name == "localeCode":
            return self.values[name]
        return await self.value_of(name)

    async def _query_value(self, field: Fact) -> Any:
        constants = {"companyId": "1", "timezone": "Europe/Paris", "optinType": "commercial", "optinChannel": "sms"}
        name = field["name"]
        if name in constants:
            return constants[name]
        return await self.value_of(name)

    async def _body(self, operation: str, example: Any) -> Any:
        if isinstance(example, list):
            return [await self._body(operation, item) for item in example]
        if not isinstance(example, dict):
            return example
        return {name: await self._field(operation, name, value) for name, value in example.items()}

    async def _field(self, operation: str, name: str, value: Any) -> Any:
        reference = BODY_NAMES.get(name, name)
        if operation == "centers.create" and name == "pcCode":
            return data.new_code()
        if name == "analyticsId" or (operation == "visits.create" and name == "licensePlate"):
            return await self.value_of(name)
        if reference in REFERENCES:
            return await self.value_of(reference)
        if name == "parkingPartner" and operation == "parkings.create":
            return PARTNERS[self._calls % len(PARTNERS)]
        if name in NEW_VALUES and not isinstance(value, (list, dict)) and not _has_translations(operation):
            return NEW_VALUES[name](self._calls)
        return await self._body(operation, value)


def _has_translations(operation: str) -> bool:
    """True if the body has lists of translations, in which a localeCode occurs once."""
    return operation.partition(".")[0] in ("challenges", "articles")


def adds_to(listing: str) -> str | None:
    """The operation that adds a row to a list."""
    if listing in ADDED_BY:
        return ADDED_BY[listing]
    create = f"{listing.removesuffix('.list')}.create"
    return create if create in FACTS else None


async def send(client: httpx.AsyncClient, operation: Operation, parts: Parts, **headers: str) -> httpx.Response:
    """Send a request over HTTP."""
    path_params = {name: quote(str(value), safe="") for name, value in parts.get("path", {}).items()}
    url = operation.path.format(**path_params)
    query = {name: _query_text(value) for name, value in parts.get("query", {}).items()}
    body = {"json": parts["body"]} if "body" in parts else {}
    return await client.request(operation.method, url, params=query or None, headers=headers, **body)


def _query_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def listings() -> Sequence[str]:
    """The queries whose reply has many records."""
    queries = (operation for operation in CATALOGUE.operations if operation.is_query)
    return sorted(operation.name for operation in queries if operation.shape in ("page", "array"))
