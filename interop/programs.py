"""Build and run the programs of other languages. Each has a folder of its own with the manifest of its build tool."""

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from tests.support.stack import Process

TOOLS = {
    "java": "a Java 17 runtime or newer (java)",
    "mvn": "Maven 3.8 or newer (mvn)",
    "node": "Node.js 20 or newer (node)",
    "npm": "npm 10 or newer (npm)",
    "go": "Go 1.26 or newer (go)",
    "pgbouncer": "PgBouncer (pgbouncer)",
    "pg_ctlcluster": "PostgreSQL (Debian's package postgresql)",
    "prometheus": "Prometheus (prometheus; Debian: apt-get install prometheus)",
    "promtool": "promtool (promtool; it comes with Prometheus)",
    "kubectl": "kubectl (kubectl; Debian's package is kubernetes-client)",
    "chromium": "Chromium (chromium)",
    "chromedriver": "ChromeDriver (chromedriver; Debian's package is chromium-driver)",
}
_COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_UV = str(Path(sys.executable).with_name("uv"))
BUILDS: Mapping[str, Sequence[Sequence[str]]] = {
    "pom.xml": [("mvn", "--quiet", "--batch-mode", "package", _COPY_DEPENDENCIES, "-DoutputDirectory=target/lib")],
    "package.json": [("npm", "ci", "--no-progress")],
    "go.mod": [("go", "generate", "./..."), ("go", "build", "-o", "target/", "./...")],
    "requirements.txt": [
        (_UV, "pip", "install", "--quiet", "--target", "target/packages", "--requirement", "requirements.txt")
    ],
}
"""The commands that download and build a folder with this manifest. Their output stays in the folder, ignored by Git.
A Java program without a package of its own is compiled when it starts: `java -cp 'target/lib/*' Program.java`."""

_MOST_BUILDS = 32
_TOOL_IN_USE: dict[str, Lock] = defaultdict(Lock)
"""Builds of one tool run one after another, because Maven's local repository is not made for several processes."""


def missing_tools() -> list[str]:
    """The toolchains that this machine lacks, as texts for the developer."""
    return [description for tool, description in TOOLS.items() if shutil.which(tool) is None]


class Builds:
    """Builds of folders, side by side. The same folder is built once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._pool = ThreadPoolExecutor(_MOST_BUILDS)
        self._builds: dict[Path, Future[None]] = {folder: self._pool.submit(_build, folder) for folder in folders}

    def wait(self, folder: Path) -> Path:
        """Wait for the build of a folder and return the folder. Fails with the output of a failed build."""
        self._builds[folder].result()
        return folder

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _build(folder: Path) -> None:
    for manifest, commands in BUILDS.items():
        if (folder / manifest).exists():
            for command in commands:
                with _TOOL_IN_USE[command[0]]:
                    # The servers that start at the same time are waited for with a time limit, builds are not.
                    run("nice", *command, cwd=folder)


def run(*argv: str | Path, cwd: Path, seconds: float = 600, **environment: str) -> str:
    """Run a program until it ends and return its standard output. Fails with its output if its status is not 0."""
    process = subprocess.run(
        [str(argument) for argument in argv], cwd=cwd, env=os.environ | environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=seconds,
    )  # fmt: skip
    command = " ".join(map(str, argv))
    assert process.returncode == 0, f"{command} in {cwd}:\n{process.stdout[-5000:]}\n{process.stderr[-5000:]}"
    return process.stdout


@contextmanager
def running(
    name: str, argv: Sequence[str | Path], *, cwd: Path, log: Path, health_url: str, **environment: str
) -> Iterator[Process]:
    """Start a program that runs until it is told to end. It may not be ready yet."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [str(argument) for argument in argv], cwd=cwd, env=os.environ | environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    process = Process(name, child, log, health_url)
    try:
        yield process
    finally:
        process.kill()
