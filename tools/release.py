"""Prepares a release: writes the Avro schemas of the version in pyproject.toml to `schemas/releases/<version>`.

Refuses a version that is not final, that exists already, or that CHANGELOG.md does not describe.
"""

import re
import sys
import tomllib
from pathlib import Path

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from topics import releases

ROOT = Path(__file__).parents[1]


def main() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    folder = releases.RELEASES / version
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"pyproject.toml has the version {version}. Set the version of the release, for example 1.2.3.")
    if folder.exists():
        sys.exit(f"{folder.relative_to(ROOT)} exists already: {version} was released. Set the next version.")
    if not re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d{{2}}-\d{{2}}$", (ROOT / "CHANGELOG.md").read_text(), re.M
    ):
        sys.exit(f"CHANGELOG.md has no entry `## {version} - <date>`. Rename `## Unreleased`.")
    Wire(CATALOGUE).write_schemas(folder)
    written = folder.relative_to(ROOT)
    sys.stdout.write(f"Wrote {written}. Run `make test` and `make faults`, commit, and tag the commit v{version}.\n")


if __name__ == "__main__":
    main()
