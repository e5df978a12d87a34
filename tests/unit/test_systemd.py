"""`deploy/systemd` without a service manager: what `systemd-analyze verify` says, settings, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backfill.settings import Settings as BackfillSettings
from cdc_consumer.settings import Settings
from tests.container_files import ROOT, load_both, loaded
from tests.debian import require
from tests.unit.test_docs import PROGRAMS, resolve
from widetable.errors import ExitCode

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("cdc-consumer.service", "backfill.service")


def settings_of(unit: str, section: str = "Service") -> dict[str, list[str]]:
    """The settings of a section; most may be given several times."""
    found: dict[str, list[str]] = {}
    here = ""
    for line in (FOLDER / unit).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            here = line.strip("[]")
        elif here == section and "=" in line and not line.startswith("#"):
            name, _, text = line.partition("=")
            found.setdefault(name, []).append(text)
    return found


def environment(unit: str) -> dict[str, str]:
    """What the service's own lines set."""
    return dict(line.split("=", 1) for line in settings_of(unit)["Environment"])


def complaints(unit: str, text: str, folder: Path) -> list[str]:
    """What systemd says of a unit; the programs are those of this environment, for it looks for them."""
    (folder / unit).write_text(text.replace("/opt/narrow-to-wide/bin", str(Path(sys.executable).parent)))
    command = [require("systemd-analyze", "systemd"), "verify", "--man=no", str(folder / unit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - a fixed command
    said = [line for line in done.stderr.splitlines() if unit in line]
    assert said or done.returncode == 0, done.stderr
    return said


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_it(unit: str, tmp_path: Path) -> None:
    """Not one complaint; a setting that it does not know would be one."""
    text = (FOLDER / unit).read_text(encoding="utf-8")
    assert not complaints(unit, text, tmp_path)
    assert complaints(unit, text.replace("TimeoutStopSec=", "TimeoutStop="), tmp_path)


@pytest.mark.parametrize("unit", UNITS)
def test_every_variable_that_is_set_is_a_setting(unit: str, tmp_path: Path) -> None:
    """And each secret that is named is a credential that is loaded."""
    load_both(environment(unit), tmp_path)
    loaded_files = {line.split(":")[0] for line in settings_of(unit)["LoadCredential"]}
    named = {text.removeprefix("%d/") for name, text in environment(unit).items() if name.endswith("_FILE")}
    assert named == loaded_files


def test_no_restart_where_a_person_must_act() -> None:
    """2, 3 and 6 for the consumer; a copy is repeated after an outage only."""
    codes = {unit: set(map(int, settings_of(unit)["RestartPreventExitStatus"][0].split())) for unit in UNITS}
    assert codes["cdc-consumer.service"] == {ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.STOPPED}
    assert codes["backfill.service"] == set(ExitCode) - {ExitCode.DONE, ExitCode.UNREACHABLE}
    assert all(settings_of(unit)["Restart"] == ["on-failure"] for unit in UNITS)


def test_the_time_to_stop_is_longer_than_the_programs_own(tmp_path: Path) -> None:
    """Or systemd kills what would have ended by itself; and it asks the parent alone, which asks the others."""
    consumer = loaded(environment("cdc-consumer.service"), tmp_path, Settings).consumer.shutdown_s
    history = loaded(environment("backfill.service"), tmp_path, BackfillSettings).backfill.shutdown_s
    for unit, own_s in (("cdc-consumer.service", consumer), ("backfill.service", history)):
        assert int(settings_of(unit)["TimeoutStopSec"][0].removesuffix("s")) >= own_s + 10
        assert settings_of(unit)["KillMode"] == ["mixed"]


@pytest.mark.parametrize("unit", UNITS)
def test_the_command_is_a_command(unit: str) -> None:
    """From the environment that README's installation makes, as a user who is not root."""
    path, *arguments = settings_of(unit)["ExecStart"][0].split()
    program = Path(path).name
    resolve(PROGRAMS[program], program, arguments)
    assert settings_of(unit)["User"] != ["root"]


@pytest.mark.parametrize("unit", UNITS)
def test_the_service_may_do_as_little_as_can_be(unit: str) -> None:
    """Nothing to write to, no capability, no way to gain one."""
    service = settings_of(unit)
    assert service["ProtectSystem"] == ["strict"]
    assert service["CapabilityBoundingSet"] == [""]
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert service[name] == ["yes"], name
