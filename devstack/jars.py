"""Java, and the jars of the chain: fetched once by Maven into a cache outside the tree.

In: `pom.xml`. Out: `<cache>/<hash of pom.xml>/{kafka,plugins/debezium,plugins/converter,registry}`. The
folder appears by one rename when it is complete, so a download that was cut short is simply done again.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from devstack.errors import DevstackError

OLDEST_JAVA = 17
FOLDERS = {
    "kafka": "kafka",
    "debezium": "plugins/debezium",
    "converter": "plugins/converter",
    "registry": "registry",
}
CONVERTER = "io.apicurio.registry.utils.converter.AvroConverter"
INSTALL_HINT = "install it, for example: apt-get install openjdk-17-jre-headless maven"


def java() -> str:
    """The path of a Java that is new enough.

    Raises:
        DevstackError: there is none; says what to install.
    """
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("java", path=f"{home}/bin" if home else None)
    if path is None:
        raise DevstackError(f"java {OLDEST_JAVA} or newer is missing: {INSTALL_HINT}")
    answer = subprocess.run([path, "-version"], check=False, capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', answer)
    if found is None or int(found[1]) < OLDEST_JAVA:
        raise DevstackError(f"{path} is older than java {OLDEST_JAVA}: {INSTALL_HINT}")
    return path


def jars() -> Path:
    """The folder of jars; downloads them (250 MB, once) when it is not there yet.

    Raises:
        DevstackError: Maven is missing or could not fetch them.
    """
    pom = Path(str(resources.files("devstack").joinpath("pom.xml")))
    folder = cache() / hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    if folder.exists():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise DevstackError(f"mvn (Maven 3.8 or newer) is missing: {INSTALL_HINT}")
    with _lock(cache() / "lock"):
        if not folder.exists():
            _download(maven, pom, folder)
    return folder


def cache() -> Path:
    """Where jars are kept: DEVSTACK_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "narrow-to-wide"
    folder = Path(os.environ.get("DEVSTACK_CACHE", default)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One download at a time; the lock goes with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(maven: str, pom: Path, folder: Path) -> None:
    print(f"fetching the Java parts of the chain into {folder} (about 250 MB, once)", flush=True)
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    for profile, place in FOLDERS.items():
        _copy_dependencies(maven, pom, profile, draft / place)
    for archive in (draft / "registry").glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(draft / "registry", filter="data")
        archive.unlink()
    _name_converter(draft / FOLDERS["converter"])
    draft.rename(folder)


def _name_converter(plugin: Path) -> None:
    """Add the service manifest that the converter's jar lacks.

    With it Connect finds every plugin by name and need not scan all classes: 10 of the 20 s of its start.
    """
    with zipfile.ZipFile(plugin / "manifest.jar", "w") as jar:
        jar.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", CONVERTER + "\n")


def _copy_dependencies(maven: str, pom: Path, profile: str, place: Path) -> None:
    goal = "dependency:copy-dependencies"
    done = subprocess.run(
        [maven, "-q", "-B", "-f", str(pom), "-P", profile, goal, f"-DoutputDirectory={place}"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        reason = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no reason given")
        raise DevstackError(
            f"Maven could not fetch the {profile} jars; check the network, then retry: {reason}"
        )
