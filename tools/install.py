"""Installs locked requirements and this project into the environment of the Python that runs this file.

    .venv/bin/python tools/install.py requirements-embedded.txt

uv takes seconds, pip takes a minute. uv does not read pip's configuration, which may name the index, the certificates
and the proxy that a company's network needs, so this file passes these to uv. If uv fails, pip installs."""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
"""uv's environment variable for each of these settings of pip."""
SECTIONS = ("global", "install", ":env:")
"""Sections of pip's configuration. A later section has precedence over an earlier one."""


def main(requirements: str) -> int:
    """Return the exit status."""
    locked = ["--require-hashes", "--requirement", requirements]
    project = ["--no-deps", "--editable", "."]
    has_uv = _pip("--only-binary=:all:", "--require-hashes", "--requirement", "requirements-uv.txt") == 0
    if not (has_uv and _uv("--compile-bytecode", *locked) == 0):
        sys.stderr.write("uv could not install, for the reason above. pip now installs, which takes a minute or two.\n")
        if _pip(*locked) != 0:
            return 1
    return _uv(*project, "--offline") if has_uv else _pip(*project)


def uv_environment(listed: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv. `listed` is the output of `pip config list`. Variables of `environment` have precedence
    over pip's settings."""
    variables: dict[str, str] = {}
    for section in SECTIONS:
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}.") and name.removeprefix(f"{section}.") in SETTINGS:
                variables[SETTINGS[name.removeprefix(f"{section}.")]] = ast.literal_eval(value)
    for name, separator in {"UV_INDEX": " ", "UV_INSECURE_HOST": " ", "UV_FIND_LINKS": ","}.items():
        if name in variables:
            variables[name] = separator.join(variables[name].split())
    # As pip: trust this machine's certificates, and search all indexes for the locked files.
    variables |= {"UV_SYSTEM_CERTS": "true", "UV_INDEX_STRATEGY": "unsafe-best-match"}
    return variables | dict(environment)


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _pip(*arguments: str) -> int:
    return subprocess.run([*_PIP, "install", "--quiet", *arguments], cwd=ROOT, check=False).returncode


def _uv(*arguments: str) -> int:
    listed = subprocess.run([*_PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--quiet", "--python", sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=uv_environment(listed, os.environ), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
