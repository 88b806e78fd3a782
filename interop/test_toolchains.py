"""The toolchains of this machine."""

from interop import programs


async def test_each_toolchain_says_its_version(tmp_path):
    assert programs.run("java", "-version", cwd=tmp_path) == ""
    for tool, argument in {"mvn": "--version", "node": "--version", "npm": "--version", "go": "version"}.items():
        assert programs.run(tool, argument, cwd=tmp_path)


async def test_the_stack_is_ready(client):
    assert (await client.get("/health")).status_code == 200
