"""The command line: help, completion, and the commands in the documentation."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

from markdown_it import MarkdownIt
from typer.main import get_command

from runtime import cli
from tests.support import commands
from tests.support.pages import ROOT

COMMAND = re.compile(r"(?<!-n )\bvisitor ([a-z][a-z-]*(?: [^|;&<>#`\n]*)?)")
"""What follows `visitor`, but not the namespace in `kubectl -n visitor …`."""


def test_help_groups_all_commands_by_their_readers() -> None:
    command = get_command(cli.app)
    panels = {name: getattr(each, "rich_help_panel", None) for name, each in command.commands.items()}  # type: ignore[attr-defined]
    assert panels
    assert {name: panel for name, panel in panels.items() if panel not in list(cli.Readers)} == {}


def test_bash_completes_the_names_of_commands() -> None:
    asked = {"_VISITOR_COMPLETE": "complete_bash", "COMP_WORDS": "visitor do", "COMP_CWORD": "1"}
    script = "import sys; sys.argv = ['visitor']; from runtime.cli import main; main()"
    completed = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert "doctor" in completed.stdout.split(), completed.stderr


def _commands_in_the_docs() -> Iterator[str]:
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")):
        tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
        spans = [span for token in tokens for span in token.children or () if span.type == "code_inline"]
        fences = [token for token in tokens if token.type == "fence" and token.info in ("console", "sh")]
        for code in (*spans, *fences):
            yield from COMMAND.findall(code.content.replace("\\\n", " "))


def test_the_docs_name_only_commands_and_options_that_exist() -> None:
    in_the_docs = set(_commands_in_the_docs())
    assert len(in_the_docs) > 50
    assert {
        command: unknown for command in in_the_docs if (unknown := commands.unknown(command.replace("[", " ").split()))
    } == {}
