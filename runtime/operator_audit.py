"""The audit log of the commands with which operators read or send data of visitors."""

import os
import pwd
import socket
from collections.abc import Iterable
from uuid import UUID

from runtime.settings import Settings
from topics import audit


def log(settings: Settings, command: str, *, visitors: Iterable[UUID] = (), status: int = 200) -> None:
    """Write a line that says who ran a command. `visitors` are those whom the command names, `status` is that of an
    HTTP call with the same outcome."""
    if audit.is_enabled():
        caller, kafka_user = f"operator/{_user()}@{socket.gethostname()}", settings.kafka.sasl_username
        via = "command" if kafka_user is None else f"command:{kafka_user}"
        audit.write(caller=caller, operation=f"command.{command}", visitors=visitors, status=status, via=via)


def _user() -> str:
    """The name of the user of the operating system, or its number: in a container, it may have no name. The environment
    is not asked, since anybody can change it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
