"""Installs locked requirements, and this project, into the environment whose Python runs this file.

    .venv/bin/python tools/install.py requirements-embedded.txt

uv takes seconds where pip takes a minute. It reads nothing of pip's configuration, which may name the mirror, the
certificates and the proxy that a company's network needs, so this hands it over. Where uv fails, pip installs."""

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
"""pip's settings, and uv's variables for the same."""
SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration; a later one goes before an earlier one."""


def main(requirements: str) -> int:
    """The exit status."""
    locked = ["--require-hashes", "--requirement", requirements]
    project = ["--no-deps", "--editable", "."]
    has_uv = _pip("--only-binary=:all:", "--require-hashes", "--requirement", "requirements-uv.txt") == 0
    if not (has_uv and _uv("--compile-bytecode", *locked) == 0):
        sys.stderr.write("uv could not install; the reason is above. pip tries now, which takes a minute or two.\n")
        if _pip(*locked) != 0:
            return 1
    return _uv(*project, "--offline") if has_uv else _pip(*project)


def uv_environment(listed: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv, by what `pip config list` printed. A variable of uv that is set already stays."""
    found: dict[str, str] = {}
    for section in SECTIONS:
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}.") and name.removeprefix(f"{section}.") in SETTINGS:
                found[SETTINGS[name.removeprefix(f"{section}.")]] = ast.literal_eval(value)
    for name, separator in {"UV_INDEX": " ", "UV_INSECURE_HOST": " ", "UV_FIND_LINKS": ","}.items():
        if name in found:
            found[name] = separator.join(found[name].split())
    # As pip does: certificates of this machine; of several indexes the one that has the locked files.
    found |= {"UV_SYSTEM_CERTS": "true", "UV_INDEX_STRATEGY": "unsafe-best-match"}
    return found | dict(environment)


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _pip(*arguments: str) -> int:
    return subprocess.run([*_PIP, "install", "--quiet", *arguments], cwd=ROOT, check=False).returncode


def _uv(*arguments: str) -> int:
    listed = subprocess.run([*_PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=uv_environment(listed, os.environ), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
