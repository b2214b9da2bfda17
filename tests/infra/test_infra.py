"""
What a team deploys: everything pinned, on loopback, without root and without a secret; and what reads it takes it.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.engine.cluster.kubernetes import USER

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
COMPOSE = (INFRA / "compose.yaml").read_text()
PINNED = re.compile(r".+:[0-9]+\.[0-9]+[0-9A-Za-z.-]*$")


def instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile: a word, and what follows it."""
    text = re.sub(r"\\\n", " ", (INFRA / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def services() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE)["services"]


# The image


def test_the_image_does_not_run_as_root():
    words = instructions()

    assert [rest for word, rest in words if word == "USER"] == [f"{USER}:{USER}"]
    assert [word for word, _ in words].index("USER") > max(n for n, (word, _) in enumerate(words) if word == "COPY")
    assert any(f"useradd --uid {USER}" in rest for word, rest in words if word == "RUN")


def test_the_image_begins_with_a_version_that_the_project_takes():
    default = dict(instructions())
    (python,) = [
        rest.partition("=")[2] for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON=")
    ]

    assert default["FROM"] == "python:${PYTHON}-slim-bookworm"
    assert re.fullmatch(r"3\.(11|12|13)\.[0-9]+", python)


def test_the_image_has_the_locked_versions_and_nothing_of_the_registry_that_they_came_from():
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]

    assert installs and all("-c constraints.txt" in rest for rest in installs)
    assert "://" not in (INFRA / "Dockerfile").read_text()


def test_the_image_copies_what_is_there_and_what_is_not_ignored():
    kept = [line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]

    assert sorted(copied) == sorted(kept)
    assert [name for name in copied if not (ROOT / name).exists()] == []


# Compose


def test_every_image_has_a_version():
    assert {name: one["image"] for name, one in services().items() if not PINNED.match(one["image"])} == {}


def test_every_port_is_on_loopback():
    ports = [port for one in services().values() for port in one.get("ports", [])]

    assert len(ports) == 3
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_nothing_starts_without_its_secrets_and_none_is_written_down():
    used = re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)([^}\s]*)", COMPOSE)
    example = (INFRA / ".env.example").read_text()
    names = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))

    assert {name for name, _ in used} == set(names)
    assert [name for name, rest in used if not rest.startswith(":?")] == []
    assert set(names.values()) == {""}


def test_git_ignores_the_filled_in_secrets():
    if not (ROOT / ".git").exists():
        assert "/infra/.env" in (ROOT / ".gitignore").read_text().splitlines()
        return
    command = ["git", "-C", str(ROOT), "check-ignore", "-q", "--no-index"]

    assert subprocess.run([*command, "infra/.env"]).returncode == 0
    assert subprocess.run([*command, "infra/.env.example"]).returncode == 1


def test_what_others_wait_for_says_when_it_is_healthy():
    for name, one in services().items():
        for other, how in one.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert services()[other]["healthcheck"]["test"][0] == "CMD", other


def test_every_volume_is_declared_and_what_must_last_has_one():
    declared = set(yaml.safe_load(COMPOSE)["volumes"])
    mounted = {v.partition(":")[0] for one in services().values() for v in one.get("volumes", [])}

    assert mounted == declared == {"postgres", "s3"}


def test_our_own_services_have_no_rights_that_they_do_not_need():
    for name, one in services().items():
        assert "no-new-privileges:true" in one["security_opt"], name
        if one["image"].startswith("rayfield:"):
            assert one["cap_drop"] == ["ALL"], name


def test_the_cluster_of_compose_asks_for_a_token():
    for name in ("ray-head", "ray-worker", "scheduler"):
        environment = services()[name]["environment"]

        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ray serve, which `ray` imports
def test_the_commands_of_our_own_services_exist():
    """Their options too: each is asked of the program itself, not of its manual."""
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import cli as ray

    from pipelines.cli.main import main

    assert services()["scheduler"]["command"] == ["rayfield", "scheduler"]
    assert "scheduler" in main.list_commands(None)
    for name, program in {"mlflow": mlflow, "ray-head": ray, "ray-worker": ray}.items():
        _, verb, *options = services()[name]["command"]
        known = {option for parameter in program.commands[verb].params for option in parameter.opts}

        assert [o for o in options if o.partition("=")[0] not in known] == [], name


# Machines of one's own


def test_ray_up_takes_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "cluster.yaml").read_text())
    validate_config(prepare_config(dict(config)))  # as `ray up` does

    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config({**config, "max_wrokers": 2}))


def test_the_dashboard_of_the_cluster_file_is_on_loopback_and_asks_for_a_token():
    config = yaml.safe_load((INFRA / "cluster.yaml").read_text())

    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert PINNED.match(config["docker"]["image"])


# systemd


def unit() -> str:
    return (INFRA / "rayfield-scheduler.service").read_text()


def test_systemd_takes_the_unit(tmp_path):
    """With a program that is there, since the project is not installed at /opt here."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    path = tmp_path / "rayfield-scheduler.service"
    path.write_text(unit().replace("/opt/rayfield/.venv/bin/rayfield", "/bin/true").replace("User=rayfield\n", ""))
    end = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    own = [line for line in end.stderr.splitlines() if "rayfield-scheduler" in line]

    assert end.returncode == 0 and own == [], end.stderr


def test_the_unit_interrupts_the_scheduler_first_and_gives_its_runs_time():
    """The scheduler itself waits for its runs a minute: systemd waits longer."""
    from pipelines.engine.scheduling.daemon import PATIENCE

    settings = dict(line.split("=", 1) for line in unit().splitlines() if re.match(r"[A-Z]\w+=", line))

    assert settings["ExecStart"].endswith("rayfield scheduler")
    assert settings["KillMode"] == "mixed"
    assert int(settings["TimeoutStopSec"]) > PATIENCE
    assert (settings["User"], settings["NoNewPrivileges"], settings["Restart"]) == ("rayfield", "yes", "on-failure")


@pytest.mark.parametrize("path", sorted(p for p in INFRA.iterdir() if p.is_file()), ids=lambda p: p.name)
def test_no_secret_is_in_any_file(path):
    text = path.read_text()

    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|xox[bp]-", text)
    assert not re.search(r"(?i)^ *-? *\w*(password|secret_key|token) *[:=] *(?!\$\{)['\"]?\w{4,}", text, re.M)
