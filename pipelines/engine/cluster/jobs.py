"""
Ray Jobs, in as many words as the engine needs: reach a cluster, hand it a job, ask after it, stop it.
"""

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.errors import RayfieldError, UsageError
from components.runtime import reachability
from components.runtime.redaction import redact, refuse

LIVE = ("PENDING", "RUNNING")
AGENTS = 30.0  # seconds for the agents of its nodes to be there: they come after the dashboard
NO_AGENT = "No available agent"


class Unreachable(RayfieldError):
    """A cluster that does not answer: it may be gone, or the network is."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of one cluster."""

    address: str
    client: Any

    @classmethod
    def at(cls, address: str) -> "Jobs":
        """The cluster of an address: of its dashboard, http://head:8265, or one that RAY_ADDRESS may hold."""
        refuse("--address", address, "Set RAY_AUTH_TOKEN, or name the user in ~/.netrc.")
        enable_token()
        if "://" in address:
            _knock(address)
        # whatever RAY_ADDRESS says would win over the address that is asked for; this wins over RAY_ADDRESS
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        from ray.dashboard.utils import get_address_for_submission_client
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)

        with _in_one_line(address):
            try:
                found = get_address_for_submission_client(address).rstrip("/")
            except ValueError:
                raise _no_address(address) from None
            return cls(found, JobSubmissionClient(found))

    def submit(self, name: str, entrypoint: str, package: Path, variables: Mapping[str, str]) -> None:
        """Hands over a job under a name of ours. Doing it twice does it once."""
        environment = {"working_dir": str(package), "env_vars": dict(variables)}
        until = time.monotonic() + AGENTS
        with _in_one_line(self.address):
            while self.state(name) is None:
                try:
                    self.client.submit_job(submission_id=name, entrypoint=entrypoint, runtime_env=environment)
                except RuntimeError as error:
                    if self.state(name) is None and (NO_AGENT not in str(error) or time.monotonic() > until):
                        raise
                    time.sleep(1)

    def state(self, name: str) -> str | None:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; None if the cluster knows no such job."""
        with _in_one_line(self.address):
            answer = self._get(f"/api/jobs/{name}")
            return str(answer["status"]) if answer else None

    def message(self, name: str) -> str:
        """Ray's words on how a job is or ended."""
        with _in_one_line(self.address):
            return " ".join(str((self._get(f"/api/jobs/{name}") or {}).get("message") or "").split())

    def output(self, name: str) -> str:
        """Output of a job's driver so far."""
        with _in_one_line(self.address):
            return redact(str((self._get(f"/api/jobs/{name}/logs") or {}).get("logs") or ""))

    def stop(self, name: str) -> None:
        with _in_one_line(self.address):
            self.client.stop_job(name)

    def versions(self) -> dict[str, str]:
        """The cluster's Python and Ray."""
        with _in_one_line(self.address):
            found = (self._get("/api/v0/cluster_metadata") or {}).get("data", {})
            return {"Python": str(found.get("pythonVersion", "")), "Ray": str(found.get("rayVersion", ""))}

    def mismatch(self) -> str:
        """How the cluster's Python and Ray differ from those here: keys hold versions. "" if they do not."""
        there, here = self.versions(), own_versions()
        wrong = [f"{name} {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]
        remedy = "neither side finds what the other made. Build the cluster's image from constraints.txt"
        return f"{'; '.join(wrong)}: {remedy}" if wrong else ""

    def is_here(self) -> bool:
        """True if each node of the cluster is this machine: an address on 127.0.0.1 may lead anywhere."""
        with _in_one_line(self.address):
            nodes = (self._get("/nodes?view=summary") or {}).get("data", {}).get("summary", [])
        alive = [n for n in nodes if n.get("raylet", {}).get("state") == "ALIVE"]
        return {node["hostname"] for node in alive} == {os.uname().nodename}

    def _get(self, path: str) -> dict[str, Any] | None:
        answer = self.client._do_request("GET", path, timeout=30)
        if answer.status_code == 404:
            return None
        if not answer.ok:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:200]}")
        found: dict[str, Any] = answer.json()
        return found


def own_versions() -> dict[str, str]:
    return {"Python": platform.python_version(), "Ray": importlib.metadata.version("ray")}


def enable_token() -> None:
    """Sends the token that RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH names: Ray's clients do only if they are told to."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named and not os.environ.get("RAY_AUTH_MODE"):
        from ray._private.authentication.authentication_token_setup import _enable_token_auth

        _enable_token_auth()  # the variable alone is too late where a step has imported Ray already


def _knock(address: str) -> None:
    """Ray's client has no timeout: a host that is gone, or says nothing, would hold us for minutes."""
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 8265)
    except ValueError:  # host:port
        raise _no_address(address) from None
    web = parts.scheme in ("http", "https")
    if (
        why := reachability.silent_http(address)
        if web and parts.port
        else reachability.refused(parts.hostname or "", port)
    ):
        raise Unreachable(_gone(address, why))


@contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    from ray.exceptions import AuthenticationError
    from requests.exceptions import RequestException

    try:
        yield
    except AuthenticationError as error:
        wrong = "does not take this token" if "Forbidden" in str(error) else "takes no job without its token"
        raise UsageError(
            f"The cluster at {address} {wrong}. Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it."
        ) from None
    except (ConnectionError, RequestException) as error:
        raise Unreachable(_gone(address, getattr(error, "strerror", None) or type(error).__name__)) from None
    except RuntimeError as error:
        words = " ".join(str(error).split())
        if NO_AGENT in words:
            raise RayfieldError(
                f"The cluster at {address} has no agent that takes jobs. Where a machine has a second Ray, the agent's "
                "port is taken: start the head with --dashboard-agent-listen-port=0."
            ) from None
        raise RayfieldError(f"The cluster at {address} refused: {words[-300:].rstrip('.')}.") from None


def _no_address(address: str) -> UsageError:
    return UsageError(f"--address is a cluster's dashboard, but got {address!r}. For example http://head:8265.")


def _gone(address: str, words: str) -> str:
    return f"The cluster at {address} does not answer ({words}). Is the dashboard's address right, and the head up?"
