"""Writes the list of Kafka's jars with their SHA-256 sums, for the version that runtime/dev/servers/downloads.py names.

It believes what Maven Central has at this moment, so look at what changed."""

import hashlib

import jgo

from runtime.dev.servers.downloads import ENDPOINT, SUMS


def main() -> None:
    sums = {
        f"{jar.groupId}:{jar.artifactId}:{jar.version}": hashlib.sha256(jar.resolve().read_bytes()).hexdigest()
        for jar in jgo.resolve(ENDPOINT)
    }
    SUMS.write_text("".join(f"{sums[coordinate]}  {coordinate}\n" for coordinate in sorted(sums)))


if __name__ == "__main__":
    main()
