"""
Manifests: Kubernetes' own schemas and KubeRay's definitions take them, and no secret is in any.
"""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result

from components.errors import UsageError
from pipelines.cli.main import main
from pipelines.engine.cluster.kubernetes import Deployment, manifests

NIGHTLY = Deployment(
    name="classify",
    pipeline="classify",
    words=("--trials", "3", "--root", "two words"),
    image="registry.example/rayfield:1.0",
    store="s3://bucket/rayfield",
    run="20261123-020000-classify",
    tracking="http://mlflow:5000",
    gpus=1,
    schedule="0 2 * * *",
    timezone="Europe/Berlin",
)
FILES = {"raycluster.yaml": "rayclusters", "rayjob.yaml": "rayjobs", "raycronjob.yaml": "raycronjobs"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {name: yaml.safe_load(text) for name, text in manifests(NIGHTLY, ray_cron_job=True).items()}


def strict(schema: Any) -> Any:
    """A structural schema as the API server reads it, but that names it does not know are errors, and not dropped."""
    if isinstance(schema, list):
        return [strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(inner) for name, inner in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return found


@cache
def definition(kind: str) -> Any:
    """KubeRay's definition of a kind: a megabyte of YAML."""
    folder = os.environ.get("RAYFIELD_KUBERAY_CRDS", "")
    path = Path(folder) / f"ray.io_{kind}.yaml"
    if not folder or not path.is_file():
        pytest.skip("RAYFIELD_KUBERAY_CRDS must name the folder of KubeRay's CRDs (helm-chart/kuberay-operator/crds)")
    (version,) = [v for v in yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"] if v["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


@pytest.mark.parametrize("name", FILES)
def test_kuberays_definitions_take_them(made, name):
    jsonschema.Draft202012Validator(definition(FILES[name])).validate(made[name])


@pytest.mark.parametrize("path", [("spec", "entrypiont"), ("spec", "rayClusterSpec", "headGroupSpec", "replicas")])
def test_kuberays_definitions_refuse_a_name_that_they_do_not_know(made, path):
    broken = yaml.safe_load(yaml.safe_dump(made["rayjob.yaml"]))
    *inner, last = path
    place = broken
    for name in inner:
        place = place[name]
    place[last] = "x"

    with pytest.raises(jsonschema.ValidationError, match=last):
        jsonschema.Draft202012Validator(definition("rayjobs")).validate(broken)


@pytest.mark.parametrize("kubernetes", ["1.30", "1.37"])
def test_kubernetes_schemas_take_the_cron_job(made, kubernetes):
    kubernetes_validate.validate(made["cronjob.yaml"], kubernetes, strict=True)


@pytest.mark.parametrize("number", range(7))
def test_kubernetes_schemas_take_every_pod(made, number):
    """KubeRay's pods, by Kubernetes' own schema: it says more than the copy in KubeRay's definitions."""
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pods(made)[number]}
    kubernetes_validate.validate(whole, "1.37", strict=True)


def pods(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The spec of every pod, wherever it stands."""

    def walk(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [pod for inner in value for pod in walk(inner)]
        if not isinstance(value, dict):
            return []
        own = [value] if "containers" in value else []
        return own + [pod for inner in value.values() for pod in walk(inner)]

    return walk(list(made.values()))


def test_every_pod_is_one_that_a_restricted_namespace_takes(made):
    assert len(pods(made)) == 7  # two of each cluster, one that submits
    for pod in pods(made):
        (container,) = pod["containers"]

        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["envFrom"] == [{"secretRef": {"name": "rayfield"}}]


def test_a_gpu_is_asked_of_the_workers_alone(made):
    cluster = made["raycluster.yaml"]["spec"]
    limits = [t["template"]["spec"]["containers"][0]["resources"]["limits"] for t in cluster["workerGroupSpecs"]]

    assert [limit["nvidia.com/gpu"] for limit in limits] == ["1"]
    assert "nvidia.com/gpu" not in str(cluster["headGroupSpec"])


def test_every_cluster_asks_for_a_token(made):
    clusters = [
        made["raycluster.yaml"]["spec"],
        made["rayjob.yaml"]["spec"]["rayClusterSpec"],
        made["raycronjob.yaml"]["spec"]["jobTemplate"]["rayClusterSpec"],
    ]

    assert [c["authOptions"] for c in clusters] == [{"mode": "token"}] * 3


def test_no_secret_of_this_machine_is_in_any(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "hush")

    assert "hush" not in "".join(manifests(NIGHTLY, ray_cron_job=True).values())


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_a_driver_that_is_started_again_has_the_name_of_its_run(made):
    """The job's own; a label that differs from tick to tick, and not from one pod of a tick to the next."""
    job = made["rayjob.yaml"]["spec"]
    (head,) = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert environment(head)["RAYFIELD_RUN"] == NIGHTLY.run
    assert job["jobId"] == f"rayfield-{NIGHTLY.run}-a1"

    tick = made["cronjob.yaml"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    field = environment(tick)["RAYFIELD_RUN"]["fieldRef"]["fieldPath"]
    assert field == "metadata.labels['batch.kubernetes.io/job-name']"
    template = made["raycronjob.yaml"]["spec"]["jobTemplate"]
    (head,) = template["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert environment(head)["RAYFIELD_RUN"]["fieldRef"]["fieldPath"] == "metadata.labels['ray.io/cluster']"
    assert "jobId" not in template  # a second tick would be refused


def test_the_cron_job_runs_one_at_a_time_in_its_zone_and_tries_nothing_hopeless_again(made):
    spec = made["cronjob.yaml"]["spec"]
    tick = spec["jobTemplate"]["spec"]

    assert (spec["concurrencyPolicy"], spec["schedule"], spec["timeZone"]) == ("Forbid", "0 2 * * *", "Europe/Berlin")
    assert tick["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3, 4]
    assert tick["template"]["spec"]["restartPolicy"] == "Never"  # without it Kubernetes refuses the rule
    assert tick["template"]["spec"]["containers"][0]["command"][3:] == [
        "submit",
        "classify",
        "--trials",
        "3",
        "--root",
        "two words",
        "--address",
        "http://classify-head-svc.default.svc:8265",
    ]


def test_the_entrypoint_is_the_command_that_a_person_would_type(made):
    entry = made["rayjob.yaml"]["spec"]["entrypoint"]

    assert entry == "python -m pipelines run classify --trials 3 --root 'two words'"


def test_a_job_without_a_clock_has_no_cron_job():
    assert set(manifests(replace(NIGHTLY, schedule="", timezone=""))) == {"raycluster.yaml", "rayjob.yaml"}
    with pytest.raises(UsageError, match="--ray-cron-job needs --schedule"):
        manifests(replace(NIGHTLY, schedule="", timezone=""), ray_cron_job=True)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"store": ".rayfield"}, "reached by every pod"),
        ({"store": "file:///data"}, "reached by every pod"),
        ({"image": "rayfield"}, "has a version"),
        ({"image": "localhost:5000/rayfield"}, "has a version"),
        ({"image": "rayfield:latest"}, "has a version"),
        ({"name": "My_Job"}, "small letters"),
        ({"name": "a" * 41}, "at most 40"),
        ({"store": "s3://me:word@bucket/x"}, "--store .* holds a secret. Put it into the Secret 'rayfield'"),
        ({"tracking": "http://me:word@mlflow:5000"}, "--mlflow .* holds a secret. Put it into the Secret 'rayfield'"),
        ({"memory": "lots"}, "16Gi"),
        ({"timezone": ""}, "go together"),
        ({"timezone": "Berlin"}, "Europe/Berlin"),
        ({"schedule": "often"}, "five|minute"),
    ],
)
def test_what_no_cluster_would_take_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        replace(NIGHTLY, **fields).checked()


def test_an_image_by_its_digest_has_a_version():
    assert replace(NIGHTLY, image="rayfield@sha256:" + "0" * 64).checked()


# The command


def rayfield(*words: str) -> Result:
    return CliRunner().invoke(main, ["render", "k8s", *words], catch_exceptions=False)


GIVEN = ("quickstart", "--image", "rayfield:1.0", "--store", "s3://bucket/rayfield")


def test_the_command_writes_a_file_for_each(tmp_path):
    words = ["--schedule", "0 2 * * *", "--timezone", "UTC", "--out", str(tmp_path / "k8s"), "--size", "tiny"]
    assert rayfield(*GIVEN, *words).exit_code == 0

    assert {path.name for path in (tmp_path / "k8s").iterdir()} == {"raycluster.yaml", "rayjob.yaml", "cronjob.yaml"}
    job = yaml.safe_load((tmp_path / "k8s" / "rayjob.yaml").read_text())
    assert job["spec"]["entrypoint"].endswith("run quickstart --size tiny")


def test_without_a_folder_all_is_printed():
    result = rayfield(*GIVEN)

    assert [one["kind"] for one in yaml.safe_load_all(result.stdout)] == ["RayCluster", "RayJob"]


def test_a_file_of_ones_own_is_not_in_the_image(tmp_path):
    result = rayfield("mine.py", *GIVEN[1:])

    assert result.exit_code == 2 and "one of the image" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--mlflow", "http://me:planted@m:5000"],
        ["--source", "s3://me:planted@b/x"],
        ["--set", "gan.lr=s3://me:planted@b"],
    ],
)
def test_a_secret_is_written_into_no_manifest(tmp_path, words):
    result = rayfield(*GIVEN, *words, "--out", str(tmp_path / "k8s"))

    assert result.exit_code == 2 and "holds a secret" in result.stderr
    assert "planted" not in result.stderr and not (tmp_path / "k8s").exists()
