"""How the Makefile installs: uv is told what pip is configured for."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools.install import uv_environment

ROOT = Path(__file__).parents[2]


def _pip_config(monkeypatch: pytest.MonkeyPatch, file: Path, text: str, **variables: str) -> str:
    """What pip itself prints for a configuration."""
    file.write_text(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_uv_gets_the_mirror_certificate_and_proxy_of_pips_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = """
[global]
index-url = https://mirror.example/simple
extra-index-url =
    https://one.example/simple
    https://two.example/simple
trusted-host = mirror.example
proxy = http://proxy.example:3128
cert = /etc/company.pem
"""
    for name in ("PIP_CERT", "PIP_FIND_LINKS", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    expected = {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_INSECURE_HOST": "mirror.example",
        "ALL_PROXY": "http://proxy.example:3128",
        "SSL_CERT_FILE": "/etc/company.pem",
        "UV_SYSTEM_CERTS": "true",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    environment = uv_environment(_pip_config(monkeypatch, tmp_path / "pip.conf", configured), {})
    assert {name: environment.get(name) for name in expected} == expected


def test_a_variable_of_pip_goes_before_its_file_and_one_of_uv_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = "[global]\nindex-url = https://file.example\n[install]\nfind-links = /wheels"
    variables = {"PIP_INDEX_URL": "https://variable.example"}
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    listed = _pip_config(monkeypatch, tmp_path / "pip.conf", configured, **variables)
    environment = uv_environment(listed, {})
    assert (environment["UV_DEFAULT_INDEX"], environment["UV_FIND_LINKS"]) == ("https://variable.example", "/wheels")
    assert (
        uv_environment(listed, {"UV_DEFAULT_INDEX": "https://uv.example"})["UV_DEFAULT_INDEX"] == "https://uv.example"
    )


@pytest.mark.parametrize("name", ["requirements", "requirements-embedded", "requirements-dev", "requirements-uv"])
def test_locked_requirements_have_hashes_and_name_no_index(name: str) -> None:
    text = (ROOT / f"{name}.txt").read_text()
    assert "://" not in text
    assert "--index-url" not in text
    entries = text.replace("\\\n", "").splitlines()
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)


def test_the_locked_uv_may_build_this_project() -> None:
    """So that no other builder is fetched."""
    requirement = Requirement(tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0])
    locked = (ROOT / "requirements-uv.txt").read_text().split()[0]
    assert requirement.specifier.contains(locked.removeprefix("uv=="))


def test_each_list_of_requirements_has_the_versions_of_the_one_before() -> None:
    small, larger, all_of_them = (
        {line.split(" ")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements.txt", "requirements-embedded.txt", "requirements-dev.txt")
    )
    assert small < larger < all_of_them
