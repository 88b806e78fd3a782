"""Downloads Kafka's jars from Maven Central, once, and checks them against the list of SHA-256 sums beside this file.

The list names all jars, because to resolve the dependencies took longer than the download. `make lock` writes the list.
"""

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
"""The artifacts from which `make lock` resolves the list of jars."""

SUMS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")
_PARALLEL_DOWNLOADS = 8
_one_thread = threading.Lock()
"""The lock file excludes other processes only. Several brokers of one process start in threads."""


def fetch_kafka(downloads: Path) -> Path:
    """The folder with Kafka's jars; see `fetch`."""
    return fetch(downloads, SUMS)


def fetch(downloads: Path, list_file: Path) -> Path:
    """The folder with exactly the jars that a list names. Downloads them if the folder is missing. Raises ServerFailed
    if the download fails or a jar differs."""
    downloads.mkdir(parents=True, exist_ok=True)
    target = downloads / list_file.stem
    sums = _read_sums(list_file)
    with _one_thread, InterProcessLock(downloads / "lock"):
        if not target.exists():
            _download(downloads, target, sums)
        check(target, {_file_name(coordinate): digest for coordinate, digest in sums.items()})
    return target


def check(folder: Path, sums: Mapping[str, str]) -> None:
    """Raises ServerFailed and deletes the folder if a file is missing, is not listed or differs from its sum."""
    present = {path.name for path in folder.iterdir()}
    wrong = [name for name, digest in sums.items() if name in present and _sha256(folder / name) != digest]
    missing, unlisted = sums.keys() - present, present - sums.keys()
    if not (wrong or missing or unlisted):
        return
    shutil.rmtree(folder)
    raise ServerFailed(
        f"The downloaded files of Kafka differ from the list: {', '.join(sorted({*wrong, *missing, *unlisted}))}. They"
        " were deleted; start again to download them. If this repeats, a proxy between this machine and Maven Central"
        " changes files."
    )


def _read_sums(list_file: Path) -> dict[str, str]:
    """The SHA-256 sums by the coordinates `group:artifact:version`."""
    return {coordinate: digest for digest, coordinate in (line.split() for line in list_file.read_text().splitlines())}


def _file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _download(downloads: Path, target: Path, sums: Mapping[str, str]) -> None:
    console = Console(stderr=True)
    console.print(f"Downloading {target.name} into {downloads} (once)")
    unfinished = target.with_suffix(".unfinished")
    unfinished.mkdir(exist_ok=True)
    try:
        with _progress_bar(console, len(sums)) as advance:
            for _ in _download_jars(unfinished, sums):
                advance()
    except (httpx.HTTPError, OSError) as error:
        raise ServerFailed(
            f"Kafka could not be downloaded: {error or type(error).__name__}\nCheck the network (HTTPS_PROXY,"
            f" SSL_CERT_FILE) and the disk, and start again. Complete files stay in {downloads}."
        ) from error
    unfinished.rename(target)


def _download_jars(folder: Path, sums: Mapping[str, str]) -> Iterator[Path]:
    """Download the jars in parallel, and yield each as soon as it is complete. When a download fails or the caller is
    interrupted, all downloads stop."""
    stopped = threading.Event()
    maven = MavenContext()
    central = maven.remote_repos["central"]

    def download(coordinate: str, digest: str) -> Path:
        group, artifact, version = coordinate.split(":")
        jar = maven.project(group, artifact).at_version(version).artifact()
        file = folder / jar.filename
        if file.exists() and _sha256(file) == digest:
            return file  # from an earlier, interrupted download
        with client.stream("GET", f"{central}/{jar.component.path_prefix.as_posix()}/{jar.filename}") as response:
            response.raise_for_status()
            with file.open("wb") as output:
                for chunk in response.iter_bytes():
                    if stopped.is_set():
                        break
                    output.write(chunk)
        return file

    with httpx.Client(timeout=30, follow_redirects=True) as client:
        pool = ThreadPoolExecutor(_PARALLEL_DOWNLOADS)
        try:
            for future in as_completed([pool.submit(download, *item) for item in sums.items()]):
                yield future.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _progress_bar(console: Console, total: int) -> Iterator[Callable[[], None]]:
    columns = TextColumn("Kafka"), BarColumn(), TextColumn("{task.completed} of {task.total} files")
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("jars", total=total)
        yield lambda: bar.advance(task)
