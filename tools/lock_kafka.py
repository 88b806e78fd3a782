"""Writes the list of Kafka's jars and their SHA-256 sums, for the version in runtime/dev/servers/downloads.py.

This script trusts the current content of Maven Central, so review the changes of the list."""

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
