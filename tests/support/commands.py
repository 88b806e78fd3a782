"""Which commands and options `visitor` has."""

from collections.abc import Sequence
from typing import Any

from typer.main import get_command

from runtime import cli


def unknown(words: Sequence[str]) -> Sequence[str]:
    """Those of the words after `visitor` that are neither commands nor options, although they should be."""
    command: Any = get_command(cli.app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[:1]
        command, words = command.commands[words[0]], words[1:]
    options = {"--help", *(name for parameter in command.params for name in parameter.opts)}
    return [word for word in words if word.startswith("--") and word.partition("=")[0].rstrip("]") not in options]
