"""The pages of the documentation."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install_visitor(folder: Path) -> None:
    """Write the program `visitor` into a folder."""
    program = folder / "visitor"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m runtime.cli "$@"\n')
    program.chmod(0o755)


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
