"""The Avro schemas of this release and of all earlier ones, as files.

`schemas/releases/<version>/` has the schemas of a release, in the layout that `write` produces: one file per schema in
`requests`, `results` and `changes`, and their ids in `ids.json`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from topics.avro import Schema

RELEASES = Path(__file__).parents[1] / "schemas" / "releases"
KINDS = ("requests", "results", "changes")


class ReleasedSchema(NamedTuple):
    """A schema with the id that values of its release have. `name` is the operation or, for a change, the resource."""

    version: str
    kind: str
    name: str
    id: int
    schema: Schema


def write(folder: Path, schemas: Mapping[str, Mapping[str, Schema]], ids: Mapping[str, Any]) -> None:
    """Write schemas by kind and name, and their ids. Creates the folder."""
    for kind in KINDS:
        directory = folder / kind
        directory.mkdir(parents=True, exist_ok=True)
        for name, schema in schemas[kind].items():
            (directory / f"{name}.avsc").write_text(json.dumps(schema, indent=1) + "\n")
    (folder / "ids.json").write_text(json.dumps(ids, indent=1) + "\n")


def released() -> Iterator[ReleasedSchema]:
    """The schemas of all earlier releases, from the oldest release to the newest."""
    for folder in sorted(filter(Path.is_dir, RELEASES.iterdir()), key=_version_numbers):
        ids = json.loads((folder / "ids.json").read_text())
        for kind in KINDS:
            for file in sorted((folder / kind).glob("*.avsc")):
                schema_id = _id_of(ids, kind, file.stem)
                yield ReleasedSchema(folder.name, kind, file.stem, schema_id, json.loads(file.read_text()))


def _version_numbers(folder: Path) -> list[int]:
    return [int(part) for part in folder.name.split(".")]


def _id_of(ids: Mapping[str, Any], kind: str, name: str) -> int:
    if kind == "changes":
        return int(ids["changes"][name])
    return int(ids[name][kind.removesuffix("s")])
