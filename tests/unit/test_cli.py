"""The command line: help and completion."""

import os
import subprocess
import sys

from typer.main import get_command

from runtime import cli


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
