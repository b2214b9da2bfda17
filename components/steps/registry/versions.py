"""
MLflow's model registry in this project's words: versions found by their key, two aliases, and every move recorded.

The alias `champion` is the version in use; the one before it is `previous`. A move writes `previous` first, so that a
crash between the two leaves the champion where it was.
"""

import getpass
import json
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.errors import DataError, RayfieldError, UsageError
from components.runtime import reachability
from components.runtime.crash_points import point
from components.runtime.objects import database, tracking_uri
from components.runtime.redaction import redact

MOVES = 50  # of an alias that are remembered
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""of the servers of SQL that MLflow knows"""
SCHEMES = ("", "file", "http", "https", "sqlite", *PORTS, "databricks", "databricks-uc", "uc")
"""of MLFLOW_TRACKING_URI"""


class TrackingDown(RayfieldError, ConnectionError):
    """The MLflow server does not answer: registering waits until it does."""


def client() -> Any:
    """An MLflow client, with the database made and migrated by one process at a time."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 keep a dead server for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from filelock import FileLock

    uri = tracking_uri()
    path = database(uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        for logger in ("mlflow", "alembic", "sqlalchemy"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        if path is None:
            check_address(uri)
            _check_server(uri)
            return mlflow.MlflowClient(uri, uri)
        # six processes that open a fresh database at once: five crash in its migrations
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            path.touch()  # SQLite would make it 0644 at most, and a team with umask 002 could not share it
            _check_database(path)
            api = mlflow.MlflowClient(uri, uri)
            api.search_experiments(max_results=1)
        return api


def check_address(uri: str) -> None:
    """Refuses an address at which MLflow could never be."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    files = scheme in ("", "file") and uri not in ("databricks", "uc")
    plugins = [one.name for one in entry_points(group="mlflow.tracking_store")]
    if scheme not in (*SCHEMES, *plugins) or (files and not os.environ.get("MLFLOW_ALLOW_FILE_STORE")):
        raise UsageError(
            f"MLflow is at an address such as http://host:5000 or sqlite:////folder/mlflow.db, but MLFLOW_TRACKING_URI "
            f"is {redact(uri)}. Set another, or unset it for a database beside the store."
        )


def _check_server(uri: str) -> None:
    """MLflow's own patience with a server that does not answer is minutes."""
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    why = ""
    if kind in ("http", "https"):
        why = reachability.silent_http(f"{uri.rstrip('/')}/health")
    elif kind in PORTS:
        why = reachability.refused(parts.hostname or "localhost", parts.port or PORTS[kind]) or _sql_refuses(uri)
    if why:
        raise TrackingDown(f"MLflow at {redact(uri)} does not answer: {why}. Run again when it does.")


def _sql_refuses(uri: str) -> str:
    """Why a server of SQL lets nobody in; MLflow would ask ten times."""
    import sqlalchemy

    try:
        sqlalchemy.create_engine(uri).connect().close()
    except ImportError as error:
        raise UsageError(f"MLFLOW_TRACKING_URI {redact(uri)} needs a package that is not here: {error}.") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        return redact(" ".join(str(getattr(error, "orig", None) or error).split())[:200].rstrip("."))
    return ""


def _check_database(path: Path) -> None:
    """MLflow would ask a damaged file ten times, with longer and longer pauses."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as found:
            found.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            return  # by another process, for a moment
        raise DataError(
            f"MLflow's database must be one of SQLite, but {path} is not: {error}. Put a copy of it back, or move it "
            "away: MLflow begins anew there, and the runs of the store are safe."
        ) from None


def asked() -> Any:
    """A client for those who only ask: where there is no database yet, none is made."""
    if not _is_there():
        raise UsageError(
            f"A model is looked up where one was registered, but there is no {tracking_uri()}. "
            "`rayfield run quickstart` registers one; pass --store if it is elsewhere."
        )
    return client()


def _is_there() -> bool:
    """True if MLflow has anything: a server, or a database that was made."""
    path = database(tracking_uri())
    return path is None or path.exists()


@contextmanager
def reachable() -> Iterator[None]:
    """Says in one line that the server does not answer, whatever MLflow makes of it."""
    try:
        yield
    except Exception as error:
        if not is_down(error):
            raise
        raise TrackingDown(
            f"MLflow at {tracking_uri()} does not answer as it should: {cause(error)}. Run again when it does."
        ) from error


def is_down(error: Exception) -> bool:
    """True if the server could not be reached: MLflow wraps what the network said in an error of its own."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, ConnectionError) or (
        isinstance(error, MlflowException) and _is_of_the_network(error.__context__)
    )


def cause(error: Exception) -> str:
    """An error of MLflow in a line: of the network's, the end alone, without what its client wraps around it."""
    _, caused, said = " ".join(str(error).split()).rpartition("(Caused by ")
    return re.sub(r"""^\w+\(['"](.*)['"]\)+$""", r"\1", said)[-300:] if caused else said[:300]


def _is_of_the_network(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def experiment(api: Any, name: str) -> str:
    """The id of an experiment; it is made if there is none."""
    found = api.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    path = database(tracking_uri())
    return api.create_experiment(name, artifact_location=artifacts_beside(path) if path else None)


def artifacts_beside(path: Path) -> str:
    """The address of the folder where the files of an SQLite database's runs lie: `?` and `#` are quoted there."""
    return path.with_name("mlartifacts").as_uri()


# Models and their versions


def ensure(api: Any, name: str) -> None:
    """Makes the registered model if there is none."""
    from mlflow.exceptions import MlflowException

    from components.artifacts import model_name  # with torch, which a driver does without

    try:
        api.create_registered_model(model_name(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def aliased(api: Any, name: str, alias: str) -> Any:
    """The version that an alias stands for; None if for none."""
    from mlflow.exceptions import MlflowException

    try:
        return api.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def by_key(api: Any, name: str, key: str) -> str | None:
    """The version with a key: registering twice finds the first."""
    found = api.search_model_versions(f"name = '{name}' and tags.`rayfield.key` = '{key}'")
    return str(min(int(one.version) for one in found)) if found else None


def version_of(api: Any, name: str, version: str) -> Any:
    """One version of a model; a usage error where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return api.get_model_version(name, version)
    except MlflowException as error:
        if is_down(error):
            raise
        known = ", ".join(str(one.version) for one in _versions(api, name)) or "none"
        raise UsageError(
            f"Model {name!r} has no version {version!r}: it has {known}. See `rayfield models list`."
        ) from error


def _versions(api: Any, name: str) -> list[Any]:
    found = api.search_model_versions(f"name = '{name}'") if re.fullmatch(r"[\w .-]+", name) else []
    return sorted(found, key=lambda one: int(one.version))


# The champion


def move(api: Any, name: str, version: str, before: str | None, what: str, **why: Any) -> None:
    """Makes a version the champion, and the one before it `previous`. Doing it twice does it once."""
    if before not in (None, version):
        api.set_registered_model_alias(name, "previous", before)
        point("register: `previous` moved, `champion` not yet")
    now = aliased(api, name, "champion")
    if now is None or str(now.version) != version:
        api.set_registered_model_alias(name, "champion", version)
    point("register: `champion` moved")
    told = moves(api, name)
    if not told or told[-1]["to"] != version:
        said = {"what": what, "from": before, "to": version, **why, **signed()}
        api.set_registered_model_tag(name, "rayfield.moves", json.dumps([*told, said][-MOVES:]))


def back(api: Any, name: str) -> dict[str, Any]:
    """Makes `previous` the champion again, and the champion `previous`: going back twice changes nothing."""
    champion, previous = aliased(api, name, "champion"), aliased(api, name, "previous")
    if previous is None or champion is None or previous.version == champion.version:
        raise UsageError(f"Model {name!r} has no previous champion to go back to. See `rayfield models show {name}`.")
    move(api, name, str(previous.version), str(champion.version), "rollback")
    return moves(api, name)[-1]


def moves(api: Any, name: str) -> list[dict[str, Any]]:
    """Every change of the champion, the oldest first: what, from, to, who and when."""
    return json.loads(api.get_registered_model(name).tags.get("rayfield.moves", "[]"))


def signed() -> dict[str, str]:
    """Who does something, and when."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = str(os.getuid())
    return {"who": f"{user}@{os.uname().nodename}", "when": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"}


# For people


def listing() -> list[dict[str, Any]]:
    """A row for each registered model: its champion, the one before, and how many versions it has."""
    if not _is_there():
        return []
    api, rows = client(), []
    for model in api.search_registered_models():
        versions = {str(one.version): one for one in _versions(api, model.name)}
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        champion = versions.get(aliases.get("champion", ""))
        rows.append(
            {
                "name": model.name,
                "champion": aliases.get("champion"),
                "previous": aliases.get("previous"),
                "versions": len(versions),
                **({"family": champion.tags.get("rayfield.family"), "score": _score(champion)} if champion else {}),
            }
        )
    return rows


def history(name: str) -> dict[str, Any]:
    """A model: its versions with their verdicts, and every move of its champion."""
    from mlflow.exceptions import MlflowException

    api = asked()
    try:
        model = api.get_registered_model(name)
    except MlflowException as error:
        if is_down(error):
            raise
        raise UsageError(f"No model {name!r} at {tracking_uri()}. `rayfield models list` has all.") from error
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    rows = [_row(one, [alias for alias, v in aliases.items() if v == str(one.version)]) for one in _versions(api, name)]
    return {"name": name, "aliases": aliases, "versions": rows, "moves": moves(api, name)}


def details(name: str, version: str) -> dict[str, Any]:
    """One version: its row, the evidence of its verdict, and its model card."""
    found = version_of(asked(), name, version)
    said = {"evidence": evidence_of(found), "promotion": evidence_of(found, "promotion"), "card": found.description}
    return {**_row(found, list(found.aliases)), **said}


def _row(version: Any, aliases: list[str]) -> dict[str, Any]:
    tags = version.tags
    when = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "version": str(version.version),
        "aliases": sorted(aliases),
        "family": tags.get("rayfield.family"),
        "verdict": tags.get("rayfield.verdict"),
        "score": _score(version),
        "when": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        "key": tags.get("rayfield.key"),
    }


def _score(version: Any) -> str:
    goal = version.tags.get("rayfield.goal", "").partition(" ")[0]
    value = json.loads(version.tags.get("rayfield.scores", "{}")).get(goal)
    error = json.loads(version.tags.get("rayfield.error", "{}")).get(goal)
    return "" if value is None else f"{goal} {value:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def evidence_of(version: Any, of: str = "evidence") -> dict[str, Any] | None:
    """The evidence of the verdict of a version's registration, or of its last "promotion"; None if there is none."""
    said = version.tags.get(f"rayfield.{of}")
    return json.loads(said) if said else None


# The model itself


def folder_of(uri: str) -> Path:
    """The folder of a registered model, fetched to this machine where it lies elsewhere."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if not uri.startswith("models:/"):
        raise UsageError(f"A model is models:/NAME@champion or models:/NAME/VERSION, but got {uri!r}.")
    asked()
    mlflow.set_tracking_uri(tracking_uri())
    try:
        return Path(mlflow.artifacts.download_artifacts(uri)) / "artifacts"
    except MlflowException as error:
        if is_down(error):
            raise
        raise UsageError(f"No model {uri} at {tracking_uri()}: {' '.join(str(error).split())}") from error


def registered(uri: str) -> tuple[Any, Any, Path]:
    """The family, the network and the folder of a registered model: models:/furniture@champion."""
    from components.steps.registry.inference import opened

    with reachable():
        folder = folder_of(uri)
    family, representation, net = opened(folder)
    return family, (representation, net), folder
