"""Writes the lists of Kafka's jars with their SHA-256 sums, for the version in runtime/dev/servers/downloads.py.

One list has the jars of the broker, the other one those that the tests need for Kafka's command-line tools.
This script trusts the current content of Maven Central, so review the changes of the lists."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import jgo
from jgo.maven import Artifact, MavenContext

from runtime.dev.servers.downloads import ENDPOINT, SUMS
from tests.support import kafka_tools


def main() -> None:
    _write(SUMS, jgo.resolve(ENDPOINT))
    group, artifact, version = kafka_tools.COORDINATE.split(":")
    _write(kafka_tools.SUMS, [MavenContext().project(group, artifact).at_version(version).artifact()])


def _write(list_file: Path, jars: Iterable[Artifact]) -> None:
    sums = {
        f"{jar.groupId}:{jar.artifactId}:{jar.version}": hashlib.sha256(jar.resolve().read_bytes()).hexdigest()
        for jar in jars
    }
    list_file.write_text("".join(f"{sums[coordinate]}  {coordinate}\n" for coordinate in sorted(sums)))


if __name__ == "__main__":
    main()
