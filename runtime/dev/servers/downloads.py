"""Kafka's jars: fetched once with Maven's own means, and checked against the list of SHA-256 sums beside this file."""

import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import jgo
from fasteners import InterProcessLock
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from runtime.dev.servers.processes import ServerFailed

KAFKA_VERSION = "4.4.0"
_ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-nop:2.0.17"
_SUMS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")


def fetch_kafka(downloads: Path) -> Path:
    """The folder with exactly the known jars. Raises ServerFailed where they cannot be had or differ."""
    downloads.mkdir(parents=True, exist_ok=True)
    target = downloads / f"kafka-{KAFKA_VERSION}"
    sums = _known_sums()
    with InterProcessLock(downloads / "lock"):
        if not target.exists():
            _download(downloads, target, sums)
        check(target, sums)
    return target


def check(folder: Path, sums: Mapping[str, str]) -> None:
    """Raises ServerFailed for a file that is missing, unknown or not what it was; wrong ones are removed."""
    present = {path.name for path in folder.iterdir()}
    wrong = [name for name, digest in sums.items() if name in present and _sha256(folder / name) != digest]
    odd = sorted({*wrong, *(sums.keys() - present), *(present - sums.keys())})
    if not odd:
        return
    shutil.rmtree(folder)
    raise ServerFailed(
        f"The download of Kafka is not what it should be: {', '.join(odd)}. It was removed; start again to fetch it"
        " anew. If this repeats, something between here and Maven Central changes files."
    )


def _known_sums() -> dict[str, str]:
    return {name: digest for digest, name in (line.split() for line in _SUMS.read_text().splitlines())}


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _download(downloads: Path, target: Path, sums: Mapping[str, str]) -> None:
    maven, cache = downloads / "maven", downloads / "jgo"
    os.environ["M2_REPO"] = str(maven)
    console = Console(stderr=True)
    console.print(f"Downloading Kafka {KAFKA_VERSION} into {downloads} (43 MB, once)")
    try:
        with _progress(console, maven, sums):
            environment = jgo.build(_ENDPOINT, cache_dir=cache)
    except Exception as error:  # jgo raises whatever its resolver, requests or the disk met
        raise ServerFailed(
            f"Kafka could not be downloaded: {error}\nCheck the network (HTTPS_PROXY, REQUESTS_CA_BUNDLE) and the disk,"
            f" and start again; what was fetched stays in {downloads}."
        ) from error
    unfinished = target.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for jar in environment.path.glob("*/*.jar"):
        shutil.copy(jar.resolve(), unfinished / jar.name)
    unfinished.rename(target)
    shutil.rmtree(maven)
    shutil.rmtree(cache)


class _progress:  # noqa: N801 - used as a function
    """Shows how many jars are there, until the block ends."""

    def __init__(self, console: Console, maven: Path, sums: Mapping[str, str]) -> None:
        self._bar = Progress(
            TextColumn("Kafka"), BarColumn(), TextColumn("{task.completed} of {task.total} files"), console=console
        )
        self._task = self._bar.add_task("jars", total=len(sums))
        self._maven, self._sums = maven, sums
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        while not self._ended.wait(0.3):
            there = {path.name for path in self._maven.rglob("*.jar")} if self._maven.exists() else set()
            self._bar.update(self._task, completed=len(there & self._sums.keys()))

    def __enter__(self) -> None:
        self._bar.start()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._bar.stop()
