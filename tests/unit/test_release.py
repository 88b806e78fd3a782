"""`make release`."""

from pathlib import Path

import pytest

from tools import release
from topics import releases


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without releases, at the version 1.2.3, which its changelog describes."""
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 - 2026-11-26\n")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(releases, "RELEASES", tmp_path / "schemas" / "releases")
    return tmp_path


def test_a_release_writes_all_schemas_with_their_ids(project: Path) -> None:
    release.main()
    written = list(releases.released())
    assert {(each.version, each.kind) for each in written} == {("1.2.3", kind) for kind in releases.KINDS}
    assert {each.name for each in written if each.kind == "changes"} >= {"visit", "optin", "visitor"}


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("pyproject.toml", '[project]\nversion = "1.2.3.dev0"\n', "Set the version of the release"),
        ("CHANGELOG.md", "# Changelog\n\n## Unreleased\n", "CHANGELOG.md has no entry"),
    ],
)
def test_a_release_without_a_version_or_a_changelog_entry_is_refused(
    project: Path, file: str, text: str, reason: str
) -> None:
    (project / file).write_text(text)
    with pytest.raises(SystemExit, match=reason):
        release.main()
    assert not releases.RELEASES.exists()


def test_a_version_is_released_once(project: Path) -> None:
    release.main()
    with pytest.raises(SystemExit, match="exists already"):
        release.main()
