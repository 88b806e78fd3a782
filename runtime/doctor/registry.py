"""The check of the company's schema registry. A worker does not start before it has registered all schemas there, also
those that are registered already."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from runtime.doctor.findings import Finding, failed, listed, ok, warning
from runtime.doctor.installation import Installation
from topics.acls import Role
from topics.avro import Schema
from topics.schema_registry import FULL_TRANSITIVE, RegistryUnavailable, SchemaRegistry, subject_of

LOOKUPS = 8
"""How many subjects are looked up at once."""


class _Subject(NamedTuple):
    name: str
    schema: Schema
    is_change: bool


async def registered(installation: Installation) -> Finding:
    settings = installation.settings.schema_registry
    if settings.url is None:
        return ok("VISITOR_SCHEMA_REGISTRY_URL is not set")
    subjects = _subjects()
    registry = SchemaRegistry(settings)
    try:
        pending = await _pending(registry, subjects)
        changes = [each for each in subjects if each.is_change and each not in pending]
        if installation.role is Role.worker and changes and (refusal := await _refusal(registry, changes[0])):
            return failed(refusal, "let the user of the worker register schemas and set the compatibility of subjects")
    except RegistryUnavailable as error:
        return failed(_line(error), "correct the VISITOR_SCHEMA_REGISTRY_… settings, or wait for it")
    finally:
        await registry.close()
    if pending:
        return warning(
            f"{len(pending)} of {len(subjects)} subjects lack the schema of this release or the compatibility"
            f" {FULL_TRANSITIVE}: {listed([each.name for each in pending])}",
            "start a worker of this release, whose user may register schemas and set the compatibility of subjects",
        )
    return ok(f"{settings.url} has all {len(subjects)} schemas of this release")


def _subjects() -> Sequence[_Subject]:
    change_topics = {topic.name for topic in CATALOGUE.change_topics}
    schemas = Wire(CATALOGUE).topics_and_schemas()
    return [_Subject(subject_of(topic, schema), schema, topic in change_topics) for topic, schema in schemas]


async def _pending(registry: SchemaRegistry, subjects: Sequence[_Subject]) -> list[_Subject]:
    """The subjects that the start of a worker would change. Raises RegistryUnavailable."""
    slots = asyncio.Semaphore(LOOKUPS)

    async def is_pending(subject: _Subject) -> bool:
        async with slots:
            if not await registry.is_registered(subject.name, subject.schema):
                return True
            return subject.is_change and await registry.compatibility(subject.name) != FULL_TRANSITIVE

    outcomes = await asyncio.gather(*map(is_pending, subjects))
    return [subject for subject, pending in zip(subjects, outcomes, strict=True) if pending]


async def _refusal(registry: SchemaRegistry, subject: _Subject) -> str | None:
    """Why the user may not do what a worker does at its start. To find out, this does it for a subject that it does not
    change."""
    try:
        await registry.register(subject.name, subject.schema)
        await registry.require_compatibility(subject.name, FULL_TRANSITIVE)
    except RegistryUnavailable as error:
        return _line(error)
    return None


def _line(error: RegistryUnavailable) -> str:
    return " ".join(str(error).split())
