"""Kafka's jars: fetched once from Maven Central, and checked against the list of SHA-256 sums beside this file.

The list names all of them, so that nothing has to be resolved: that took longer than the download. `make lock` writes
the list."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import httpx
from fasteners import InterProcessLock
from jgo.maven import MavenContext
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from runtime.dev.servers.processes import ServerFailed

KAFKA_VERSION = "4.4.0"
ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-nop:2.0.17"
"""What jgo resolves to the jars of the list."""

SUMS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")
_AT_ONCE = 8


def fetch_kafka(downloads: Path) -> Path:
    """The folder with exactly the known jars. Raises ServerFailed where they cannot be had or differ."""
    downloads.mkdir(parents=True, exist_ok=True)
    target = downloads / f"kafka-{KAFKA_VERSION}"
    sums = _known_sums()
    with InterProcessLock(downloads / "lock"):
        if not target.exists():
            _download(downloads, target, sums)
        check(target, {_file_name(coordinate): digest for coordinate, digest in sums.items()})
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
    """By group:artifact:version."""
    return {coordinate: digest for digest, coordinate in (line.split() for line in SUMS.read_text().splitlines())}


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _download(downloads: Path, target: Path, sums: Mapping[str, str]) -> None:
    console = Console(stderr=True)
    console.print(f"Downloading Kafka {KAFKA_VERSION} into {downloads} (43 MB, once)")
    unfinished = target.with_suffix(".unfinished")
    unfinished.mkdir(exist_ok=True)
    try:
        with _progress(console, len(sums)) as advance:
            for _ in _jars(unfinished, sums):
                advance()
    except (httpx.HTTPError, OSError) as error:
        raise ServerFailed(
            f"Kafka could not be downloaded: {error or type(error).__name__}\nCheck the network (HTTPS_PROXY,"
            f" SSL_CERT_FILE) and the disk, and start again; what was fetched stays in {downloads}."
        ) from error
    unfinished.rename(target)


def _jars(folder: Path, sums: Mapping[str, str]) -> Iterator[Path]:
    """Puts the jars into a folder, several at once; each as soon as it is there. Ends all downloads when one fails or
    the caller is interrupted."""
    ended = threading.Event()
    maven = MavenContext()
    central = maven.remote_repos["central"]

    def fetch(coordinate: str, digest: str) -> Path:
        group, artifact, version = coordinate.split(":")
        jar = maven.project(group, artifact).at_version(version).artifact()
        file = folder / jar.filename
        if file.exists() and _sha256(file) == digest:
            return file  # of an earlier start, which was interrupted
        with client.stream("GET", f"{central}/{jar.component.path_prefix.as_posix()}/{jar.filename}") as answer:
            answer.raise_for_status()
            with file.open("wb") as output:
                for piece in answer.iter_bytes():
                    if ended.is_set():
                        break
                    output.write(piece)
        return file

    with httpx.Client(timeout=30, follow_redirects=True) as client:
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            for jar in as_completed([pool.submit(fetch, *item) for item in sums.items()]):
                yield jar.result()
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    columns = TextColumn("Kafka"), BarColumn(), TextColumn("{task.completed} of {task.total} files")
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("jars", total=total)
        yield lambda: bar.advance(task)
