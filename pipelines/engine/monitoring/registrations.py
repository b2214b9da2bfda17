"""
Kept registrations: MLflow's place is in no key, so each is looked for in the MLflow of now.

A database of this machine is asked by SQL and a server over HTTP, since a run with nothing to do imports no MLflow.
Whatever else MLflow may lie in is asked through its own client.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.runtime.objects import database, tracking_uri
from components.runtime.redaction import redact
from pipelines.engine.graph.plan_cache import statuses
from pipelines.engine.store.store import Store

PATIENCE = 3.0
"""seconds that a server or a locked database is given"""
PROXIED = ("AUTH", "AWS_SIGV4", "INSECURE_TLS", "SERVER_CERT_PATH", "CLIENT_CERT_PATH")
"""MLFLOW_TRACKING_...: with these a server is asked through MLflow's own client"""
ABSENT = (b"RESOURCE_DOES_NOT_EXIST", b"INVALID_PARAMETER_VALUE")
"""what a server says of a version, or of an alias, that is not there"""
CHAMPION = "champion"

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """How a version stands in MLflow now."""

    there: bool | None
    """whether it is there, whole, under its key; None where MLflow does not answer"""
    champion: str | None = None
    """the version that is champion"""
    problem: str = ""
    """why MLflow does not answer"""


def kept(nodes: Iterable[Mapping[str, Any]], store: Store) -> dict[str, Manifest | None]:
    """Key -> manifest, or None where the step must run: what it registered is not in the MLflow of now, as well."""
    nodes = list(nodes)
    told = told_now(nodes, statuses(nodes, store))
    return {key: None if manifest and _is_elsewhere(manifest) else manifest for key, manifest in told.items()}


def _is_elsewhere(manifest: Manifest) -> bool:
    return manifest.get("standing", {}).get("there") is False


def forget_elsewhere(nodes: Iterable[Mapping[str, Any]], store: Store) -> Iterator[str]:
    """Forgets each registration that is not in the MLflow of now, for the run to make it anew; says so in a line."""
    for node in _registering(nodes):
        manifest = store.manifest(node["key"])
        if manifest and standing(manifest["result"]).there is False:
            store.delete(f"keys/{node['key']}.json")
            result, where = manifest["result"], redact(tracking_uri())
            yield f"{result['name']} version {result['version']} is not in MLflow at {where}: it is registered anew."


def told_now(
    nodes: Iterable[Mapping[str, Any]], manifests: Mapping[str, Manifest | None]
) -> dict[str, Manifest | None]:
    """The manifests; that of a registration says of its version what MLflow says now."""
    told = dict(manifests)
    for node in _registering(nodes):
        if manifest := told[node["key"]]:
            now = standing(manifest["result"])
            told[node["key"]] = {**manifest, "describe": described(manifest["result"], now), "standing": asdict(now)}
    return told


def _registering(nodes: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (node for node in nodes if node.get("registers"))


def described(result: Mapping[str, Any], now: Standing) -> str:
    """A version in one line, as `Model.describe`, but of what is champion as MLflow has it now."""
    what = f" ({result['what']})" if result.get("what") else ""
    return f"{result['name']} version {result['version']}{what}{_words(result, now)}"


def _words(result: Mapping[str, Any], now: Standing) -> str:
    promoted = result["verdict"] == "PROMOTE"
    said = "" if promoted else f": {result['verdict']} ({'; '.join(result['reasons'])})"
    if now.there is None:
        return f"{' became champion' if promoted else said}; MLflow does not answer now"
    if now.champion == result["version"]:
        return " is champion" if promoted else f"{said}, and is champion now"
    if promoted:
        return f" became champion, and {f'version {now.champion}' if now.champion else 'none'} is now"
    return said


# Asking


def standing(result: Mapping[str, Any]) -> Standing:
    """How the version that a registration made stands now."""
    uri = tracking_uri()
    ask = _in_a_database if database(uri) else _at_a_server if _is_plain(uri) else _by_its_client
    try:
        return ask(uri, result["name"], result["version"], result["key"])
    except Exception as error:  # whatever a server or MLflow makes of it: what is kept stays, and this is said
        return Standing(None, problem=redact(" ".join(str(error).split())[:300]))


def _is_plain(uri: str) -> bool:
    special = any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in PROXIED)
    return uri.startswith(("http://", "https://")) and not special


def _in_a_database(uri: str, name: str, version: str, key: str) -> Standing:
    import sqlite3
    from contextlib import closing
    from urllib.parse import quote

    path = database(uri)
    if path is None or not path.exists():
        return Standing(False)
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=PATIENCE)) as found:
        tables = {row[0] for row in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "model_version_tags" not in tables:
            return Standing(False)
        there = found.execute(THERE, (name, version, key)).fetchone()
        champion = found.execute(ALIASED, (name, CHAMPION)).fetchone()
        return Standing(there is not None, str(champion[0]) if champion else None)


THERE = """
SELECT 1 FROM model_versions AS v JOIN model_version_tags AS t USING (name, version)
WHERE v.name = ? AND v.version = ? AND t.key = 'rayfield.key' AND t.value = ?
AND v.status = 'READY' AND v.current_stage <> 'Deleted_Internal'
"""
ALIASED = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"


def _at_a_server(uri: str, name: str, version: str, key: str) -> Standing:
    found = _get(uri, "model-versions/get", name=name, version=version)
    champion = _get(uri, "registered-models/alias", name=name, alias=CHAMPION)
    tags = {tag["key"]: tag.get("value") for tag in found.get("tags", [])}
    whole = found.get("status") == "READY" and tags.get("rayfield.key") == key
    return Standing(whole, str(champion["version"]) if champion else None)


def _get(uri: str, what: str, **asked: str) -> dict[str, Any]:
    """The version that MLflow's server answers with; nothing if it has none."""
    import json
    from urllib.error import HTTPError
    from urllib.parse import urlencode, urlsplit, urlunsplit
    from urllib.request import Request, urlopen

    parts = urlsplit(uri)
    place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    request = Request(f"{place}/api/2.0/mlflow/{what}?{urlencode(asked)}", headers=_signed(parts))
    try:
        with urlopen(request, timeout=PATIENCE) as answer:
            return dict(json.load(answer)["model_version"])
    except HTTPError as error:
        said = error.read()
        if any(word in said for word in ABSENT):
            return {}
        raise


def _signed(parts: Any) -> dict[str, str]:
    """The header that says who asks: MLflow's own variables, or the user in the address."""
    from base64 import b64encode
    from urllib.parse import unquote

    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(parts.username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(parts.password or "")
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"} if user else {}


def _by_its_client(uri: str, name: str, version: str, key: str) -> Standing:
    from components.steps.registry.versions import aliased, by_key, client

    api = client()
    champion = aliased(api, name, CHAMPION)
    return Standing(by_key(api, name, key) == version, str(champion.version) if champion else None)
