"""
Kubernetes manifests: a cluster that stays, a job with a cluster of its own, and what starts one at a time by the clock.

    raycluster.yaml    KubeRay's RayCluster           rayjob.yaml       one run, with a cluster that ends with it
    cronjob.yaml       submits to the cluster         raycronjob.yaml   a RayJob a tick, where KubeRay has its gate on

A run's name is in the environment, so that a driver or a pod that is started again continues the run that it began.
Secrets are named and never held: each pod gets the variables of one Kubernetes Secret.
"""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from components.errors import UsageError
from components.runtime.redaction import refuse
from pipelines.engine.scheduling.triggers import cron

USER = 1000
"""of infra/Dockerfile"""
RETRIES = 2
NEVER_BETTER = [2, 3, 4]
"""exit codes that a second try does not mend: usage, the gate, not feasible"""
TICK = "metadata.labels['batch.kubernetes.io/job-name']"
CLUSTER = "metadata.labels['ray.io/cluster']"


@dataclass(frozen=True)
class Deployment:
    """The pipeline to run, and the image, resources and places to run it in."""

    name: str
    pipeline: str
    words: tuple[str, ...]
    image: str
    store: str
    run: str
    """the name of the RayJob's run"""
    tracking: str = ""
    namespace: str = "default"
    secret: str = "rayfield"
    workers: int = 2
    cpus: int = 4
    memory: str = "16Gi"
    gpus: int = 0
    schedule: str = ""
    timezone: str = ""

    def checked(self) -> "Deployment":
        """This one, if a cluster could take it."""
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise UsageError(f"--name is small letters, digits and '-', at most 40, but got {self.name!r}.")
        if not re.search(r"(:[^/:]+|@sha256:[0-9a-f]{64})$", self.image) or self.image.endswith(":latest"):
            raise UsageError(f"--image has a version, but got {self.image!r}. For example registry/rayfield:1.0.")
        if "://" not in self.store or self.store.startswith("file://"):
            raise UsageError(
                f"--store is reached by every pod, but got {self.store!r}. For example s3://bucket/rayfield."
            )
        remedy = f"Put it into the Secret {self.secret!r}, which every pod gets"
        refuse("--store", self.store, f"{remedy}, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
        refuse("--mlflow", self.tracking, f"{remedy}, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.")
        if not re.fullmatch(r"[1-9][0-9]*(Mi|Gi|Ti)", self.memory):
            raise UsageError(f"--memory is a number and Mi, Gi or Ti, but got {self.memory!r}. For example 16Gi.")
        if bool(self.schedule) != bool(self.timezone):
            raise UsageError("--schedule and --timezone go together. For example --timezone Europe/Berlin, or UTC.")
        if self.schedule:
            cron(self.schedule, self.timezone)
        return self


def manifests(of: Deployment, *, ray_cron_job: bool = False) -> dict[str, str]:
    """File name -> YAML."""
    found = {"raycluster.yaml": cluster(of), "rayjob.yaml": job(of)}
    if of.schedule:
        found["cronjob.yaml"] = cron_job(of)
    if ray_cron_job:
        if not of.schedule:
            raise UsageError("--ray-cron-job needs --schedule and --timezone. For example --schedule '0 2 * * *'.")
        found["raycronjob.yaml"] = ray_cron(of)
    return {name: text(manifest, of) for name, manifest in found.items()}


def text(manifest: Mapping[str, Any], of: Deployment) -> str:
    import yaml

    head = (
        f"# Made by `rayfield render k8s {of.pipeline}` for Ray {version('ray')}, Python {platform.python_version()}.\n"
    )
    head += f"# The Secret {of.secret!r} holds what no file should: AWS_*, MLFLOW_TRACKING_*.\n"
    return head + yaml.safe_dump(dict(manifest), sort_keys=False, width=120)


def cluster(of: Deployment) -> dict[str, Any]:
    return _object("ray.io/v1", "RayCluster", of, _cluster_spec(of, []))


def job(of: Deployment) -> dict[str, Any]:
    spec = _job_spec(of, [{"name": "RAYFIELD_RUN", "value": of.run}])
    return _object("ray.io/v1", "RayJob", of, {**spec, "jobId": f"rayfield-{of.run}-a1"})


def ray_cron(of: Deployment) -> dict[str, Any]:
    """Needs `--feature-gates=RayCronJob=true`. It knows no overlap policy: the leases of steps keep two runs apart."""
    own = [{"name": "RAYFIELD_RUN", "valueFrom": {"fieldRef": {"fieldPath": CLUSTER}}}]
    spec = {"schedule": of.schedule, "timeZone": of.timezone, "jobTemplate": _job_spec(of, own)}
    return _object("ray.io/v1", "RayCronJob", of, spec)


def cron_job(of: Deployment) -> dict[str, Any]:
    """Submits to the cluster and waits. A pod's Job is named by its tick: so is the run, whichever pod submits it."""
    address = f"http://{of.name}-head-svc.{of.namespace}.svc:8265"
    token = {"secretKeyRef": {"name": of.name, "key": "auth_token"}}  # KubeRay makes it, under the cluster's name
    own: list[dict[str, Any]] = [
        {"name": "RAYFIELD_RUN", "valueFrom": {"fieldRef": {"fieldPath": TICK}}},
        {"name": "RAY_AUTH_MODE", "value": "token"},  # to Ray's own pods KubeRay gives both
        {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
    ]
    command = ["python", "-m", "pipelines", "submit", of.pipeline, *of.words, "--address", address]
    container = {"name": "submit", **_container(of, own, {"cpu": "1", "memory": "2Gi"}), "command": command}
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, **_pod(of, container)}
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": NEVER_BETTER}}
    tick = {"backoffLimit": RETRIES, "ttlSecondsAfterFinished": 86400, "podFailurePolicy": {"rules": [rule]}}
    spec = {
        "schedule": of.schedule,
        "timeZone": of.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": {**tick, "template": {"metadata": {"labels": _labels(of)}, "spec": pod}}},
    }
    return _object("batch/v1", "CronJob", of, spec)


def _object(api: str, kind: str, of: Deployment, spec: Mapping[str, Any]) -> dict[str, Any]:
    meta = {"name": of.name, "namespace": of.namespace, "labels": _labels(of)}
    return {"apiVersion": api, "kind": kind, "metadata": meta, "spec": dict(spec)}


def _labels(of: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": "rayfield", "app.kubernetes.io/instance": of.name}


def _job_spec(of: Deployment, own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "entrypoint": entrypoint(of),
        "submissionMode": "K8sJobMode",
        "submitterConfig": {"backoffLimit": RETRIES},
        "backoffLimit": RETRIES,  # each with a new cluster; the run continues, since its name and store are the same
        "preRunningDeadlineSeconds": 1800,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": _cluster_spec(of, own),
    }


def entrypoint(of: Deployment) -> str:
    import shlex

    return shlex.join(["python", "-m", "pipelines", "run", of.pipeline, *of.words])


def _cluster_spec(of: Deployment, own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    size = {"cpu": str(of.cpus), "memory": of.memory, **({"nvidia.com/gpu": str(of.gpus)} if of.gpus else {})}
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # reached by its Service; by token alone
            "template": _template(of, "ray-head", own, {"cpu": "2", "memory": "8Gi"}),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "minReplicas": 1,  # a cluster of no node looks as if nothing could ever run in it
                "replicas": 1,
                "maxReplicas": of.workers,
                "rayStartParams": {},
                "template": _template(of, "ray-worker", [], size),
            }
        ],
    }


def _template(of: Deployment, name: str, own: Sequence[Mapping[str, Any]], size: Mapping[str, str]) -> dict[str, Any]:
    return {"metadata": {"labels": _labels(of)}, "spec": _pod(of, {"name": name, **_container(of, own, size)})}


def _pod(of: Deployment, container: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 120,  # a step that is told to end writes its checkpoint
        "containers": [dict(container)],
    }


def _container(of: Deployment, own: Sequence[Mapping[str, Any]], size: Mapping[str, str]) -> dict[str, Any]:
    told = {"RAYFIELD_STORE": of.store, "RAY_USAGE_STATS_ENABLED": "0"}
    if of.tracking:
        told["MLFLOW_TRACKING_URI"] = of.tracking
    return {
        "image": of.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [*({"name": name, "value": value} for name, value in told.items()), *map(dict, own)],
        "envFrom": [{"secretRef": {"name": of.secret}}],
        "resources": {"requests": dict(size), "limits": dict(size)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
