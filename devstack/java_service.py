"""What the Java servers share: their command line and a configuration written before each start."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from devstack import jars
from devstack.service import Service

LOG_SETTINGS = Path(str(resources.files("devstack").joinpath("log4j2.xml")))


class JavaService(Service):
    """A server whose main class takes one properties file."""

    start_timeout_s = 120.0
    heap = "512m"
    main_class = ""

    @property
    def config_path(self) -> Path:
        """The properties file; rewritten before each start."""
        return self.folder / f"{self.name}.properties"

    def _prepare(self) -> None:
        write_properties(self.config_path, self._properties())

    def _properties(self) -> Mapping[str, str]:
        """The lines of the properties file."""
        return {}

    def _command(self) -> Sequence[str]:
        return self._java(self.main_class, str(self.config_path))

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        options = [f"-Xmx{self.heap}", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={LOG_SETTINGS}"]
        return [jars.java(), *options, "-cp", f"{jars.jars() / 'kafka'}/*", main_class, *arguments]


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Write a Java properties file that only we may read."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
