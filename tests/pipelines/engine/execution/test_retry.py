"""
Classes of errors: what is tried again and what is not, by what was raised and by what that came from.
"""

import errno
import http.client
import socket
import sqlite3
import ssl
import urllib.error
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import ray.exceptions
import requests
import sqlalchemy.exc
import torch
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError
from mlflow.exceptions import MlflowException

from components.errors import DataError, Infeasible, RayfieldError, UsageError
from components.steps.registry.versions import TrackingDown
from pipelines.engine.execution.retry import CLASSES, kind_of
from pipelines.engine.store.store import StoreError


def answered(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "words"}}, "PutObject")


ASKED: Any = SimpleNamespace(real_url="http://h")
Closed = type("OperationalError", (Exception,), {"__module__": "psycopg"})


def answered_by_http(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("an answer", response=response)


def of_a_database(error: Exception, **more: Any) -> sqlalchemy.exc.OperationalError:
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, error, **more)


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


class UserCode(Exception):
    """As Ray Data wraps what a function of the user raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("user code failed")
        self.cause = cause


class WorkerGroupError(Exception):
    """As Ray Train says which of its workers failed."""

    def __init__(self, *failures: BaseException) -> None:
        super().__init__("workers failed")
        self.worker_failures = dict(enumerate(failures))


class ControllerError(Exception):
    """As Ray Train says that its controller failed."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__("the controller failed")
        self.controller_failure = failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError("no such family"), "user"),
        (Infeasible("nine GPUs"), "user"),
        (RayfieldError("whatever"), "user"),
        (DataError("no row"), "data"),
        (ValueError("a bug"), "code"),
        (KeyError("out"), "code"),
        (FileNotFoundError(errno.ENOENT, "gone"), "code"),
        (PermissionError(errno.EACCES, "closed"), "code"),
        (OSError(errno.ENOSPC, "full"), "code"),
        (NoCredentialsError(), "code"),
        (answered("NoSuchBucket"), "code"),
        (answered("AccessDenied"), "code"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "transient"),
        (TimeoutError("late"), "transient"),
        (socket.gaierror(-2, "no such host"), "transient"),
        (OSError(errno.EHOSTUNREACH, "no route"), "transient"),
        (OSError(errno.EBUSY, "SlowDown"), "transient"),
        (OSError(errno.EMFILE, "too many open files"), "transient"),
        (OSError("When listing 'tune/': AWS Error NETWORK_CONNECTION during ListObjectsV2: curlCode: 7"), "transient"),
        (EndpointConnectionError(endpoint_url="http://s3"), "transient"),
        (ConnectTimeoutError(endpoint_url="http://s3"), "transient"),
        (answered("SlowDown"), "transient"),
        (answered("503"), "transient"),
        (answered("ServiceUnavailable"), "transient"),
        (answered("RequestTimeout"), "transient"),
        (ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "PutObject"), "transient"),
        (urllib.error.URLError(ConnectionRefusedError(errno.ECONNREFUSED, "refused")), "transient"),
        (urllib.error.URLError(socket.gaierror(-3, "try again")), "transient"),
        (urllib.error.URLError("unknown url type: foo"), "code"),
        (urllib.error.URLError(ssl.SSLCertVerificationError("self-signed")), "code"),
        (urllib.error.HTTPError("http://h", 503, "busy", None, None), "transient"),
        (urllib.error.HTTPError("http://h", 404, "no such page", None, None), "code"),
        (aiohttp.ClientResponseError(ASKED, (), status=503), "transient"),
        (aiohttp.ClientResponseError(ASKED, (), status=404), "code"),
        (answered_by_http(503), "transient"),
        (answered_by_http(429), "transient"),
        (answered_by_http(403), "code"),
        (requests.exceptions.ChunkedEncodingError("cut"), "transient"),
        (http.client.IncompleteRead(b"half"), "transient"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "transient"),
        (sqlite3.OperationalError("database is locked"), "transient"),
        (sqlite3.OperationalError("no such table: runs"), "code"),
        (of_a_database(sqlite3.OperationalError("database is locked")), "transient"),
        (of_a_database(sqlite3.OperationalError("no such table: runs")), "code"),
        (of_a_database(Closed("the server closed the connection")), "transient"),
        (of_a_database(Exception("gone"), connection_invalidated=True), "transient"),
        (requests.ConnectionError("refused"), "transient"),
        (requests.Timeout("late"), "transient"),
        (MlflowException("busy", error_code=8), "code"),
        (TrackingDown("MLflow is down"), "transient"),
        (ray.exceptions.WorkerCrashedError(), "preempted"),
        (ray.exceptions.NodeDiedError("node"), "preempted"),
        (ray.exceptions.ActorDiedError(), "preempted"),
        (ray.exceptions.TaskCancelledError(), "preempted"),
        (ray.exceptions.LocalRayletDiedError(), "preempted"),
        (ray.exceptions.OutOfMemoryError("monitor"), "memory"),
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (OSError(errno.ENOMEM, "no memory"), "memory"),
    ],
)
def test_an_error_has_a_class(error, kind):
    assert kind_of(error) == kind


def test_an_error_has_the_class_of_what_it_was_raised_from():
    assert kind_of(raised_from(ValueError("cannot read"), ConnectionError("gone"))) == "transient"
    assert kind_of(raised_from(StoreError("not taken"), OSError(errno.ETIMEDOUT, "late"))) == "transient"
    assert kind_of(raised_from(StoreError("is full"), OSError(errno.ENOSPC, "full"))) == "user"


def test_a_users_error_is_one_whatever_it_was_raised_from():
    assert kind_of(raised_from(DataError("unreadable"), ConnectionError("gone"))) == "data"


def test_what_was_merely_being_handled_says_nothing():
    error: Any = ValueError("a bug in an except clause")
    error.__context__ = ConnectionError("gone")

    assert kind_of(error) == "code"


def test_what_ray_wraps_is_looked_into():
    assert kind_of(UserCode(UserCode(DataError("no row")))) == "data"
    assert kind_of(WorkerGroupError(ValueError("a bug"), ray.exceptions.WorkerCrashedError())) == "preempted"
    assert kind_of(WorkerGroupError(ValueError("a bug"))) == "code"
    assert kind_of(ControllerError(DataError("no row"))) == "data"


def test_an_error_that_comes_from_itself_ends():
    error = UserCode(ValueError("a bug"))
    error.cause.__cause__ = error

    assert kind_of(error) == "code"


def test_every_class_of_ray_that_is_named_is_there():
    named = [name.partition(".")[2] for name in CLASSES if name.startswith("ray.")]

    assert [name for name in named if not hasattr(ray.exceptions, name)] == []
