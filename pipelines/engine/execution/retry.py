"""
Whose an error is: what decides whether a step is tried again.

    user        what was asked for, or given, cannot be: never tried again
    data        the data are not what they should be: never tried again
    code        a mistake in a step: never tried again
    transient   the network, a server, a bucket: tried again
    preempted   the process or the machine was taken away: tried again
    memory      there was not enough of it: tried again
    damaged     an object of the store is not what it was: tried again, when what made it has made it anew
"""

import errno
from collections.abc import Iterator

from components.errors import RayfieldError

# "package.Class", so that nothing is imported to look at an error; the most derived class that is listed decides
CLASSES = {
    "components.UsageError": "user",
    "components.Infeasible": "user",
    "components.DataError": "data",
    "components.Damaged": "damaged",
    "builtins.ConnectionError": "transient",
    "builtins.TimeoutError": "transient",
    "socket.gaierror": "transient",
    "botocore.HTTPClientError": "transient",
    "botocore.ConnectionError": "transient",
    "aiohttp.ClientConnectionError": "transient",
    "aiohttp.ClientPayloadError": "transient",
    "requests.ConnectionError": "transient",
    "requests.Timeout": "transient",
    "requests.ChunkedEncodingError": "transient",
    "http.IncompleteRead": "transient",
    "ssl.SSLEOFError": "transient",
    "psycopg.OperationalError": "transient",
    "psycopg2.OperationalError": "transient",
    "urllib3.HTTPError": "transient",
    "ray.RpcError": "transient",
    "ray.RuntimeEnvSetupError": "transient",
    "ray.WorkerCrashedError": "preempted",
    "ray.NodeDiedError": "preempted",
    "ray.LocalRayletDiedError": "preempted",
    "ray.RayActorError": "preempted",
    "ray.ObjectLostError": "preempted",
    "ray.TaskCancelledError": "preempted",
    "builtins.MemoryError": "memory",
    "torch.OutOfMemoryError": "memory",
    "ray.OutOfMemoryError": "memory",
}
CODES = {
    **dict.fromkeys(("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT"), "transient"),
    **dict.fromkeys(("EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ENETRESET"), "transient"),
    # what s3fs makes of SlowDown and of a server's 5xx, and what a network file system says
    **dict.fromkeys(("EBUSY", "EIO", "EAGAIN", "ESTALE"), "transient"),
    # others that run here have too many files open
    **dict.fromkeys(("EMFILE", "ENFILE"), "transient"),
    "ENOMEM": "memory",
}
"""of an OSError, by the name of its number"""

BUSY = (
    *("408", "425", "429", "500", "502", "503", "504"),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"),
    *("InternalError", "InternalFailure", "ServiceUnavailable", "RequestTimeout", "TEMPORARILY_UNAVAILABLE"),
)
"""what servers answer that are there, and cannot now"""

LOCKED = ("database is locked", "database table is locked")
"""what SQLite says, whose class is that of a wrong statement too"""
FULL = ("out of memory", "can't allocate memory")
AWAY = (
    "aws error network_connection",
    "aws error slow_down",
    "aws error service_unavailable",
    "aws error internal_fail",
)
"""what pyarrow says, in an OSError without a number, of a bucket that does not answer"""


def kind_of(error: BaseException) -> str:
    """The class of an error: its own, or that of what it was raised from."""
    known = next(filter(None, map(_own, _chain(error))), "")
    return known or ("user" if isinstance(error, RayfieldError) else "code")


def ours(error: BaseException) -> BaseException:
    """The error that a person is to read: Ray makes a traceback of what its workers said in one line."""
    found = (one for one in _chain(error) if isinstance(one, RayfieldError))
    return next((one for one in found if not type(one).__module__.startswith("ray.")), error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it says that it comes from; Ray Train holds one for each worker that failed."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            failures = getattr(one, "worker_failures", None) or {}
            # `reason` is of urllib, `orig` of SQLAlchemy
            names = ("controller_failure", "cause", "__cause__", "reason", "orig")
            wrapped = [getattr(one, name, None) for name in names]
            waiting += [*failures.values(), *wrapped]


def _own(error: BaseException) -> str:
    for base in type(error).__mro__:
        if kind := CLASSES.get(f"{base.__module__.partition('.')[0]}.{base.__name__}"):
            return kind
    if isinstance(error, OSError) and error.errno is not None:
        return CODES.get(errno.errorcode.get(error.errno, ""), "")
    if any(words in str(error).lower() for words in FULL):
        return "memory"
    if isinstance(error, OSError) and any(words in str(error).lower() for words in AWAY):
        return "transient"
    if type(error).__name__ == "OperationalError" and any(words in str(error) for words in LOCKED):
        return "transient"
    # SQLAlchemy says of any error whether the connection was lost
    lost = getattr(error, "connection_invalidated", False) is True
    return "transient" if lost or any(answer in BUSY for answer in _answers(error)) else ""


def _answers(error: BaseException) -> Iterator[str]:
    """Codes of a server's answer: botocore's or MLflow's, or the status of whatever speaks HTTP."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code", ""))
        yield str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    yield str(getattr(response, "status_code", ""))
    own = vars(error)  # aiohttp's `code` is a property that warns
    yield from (str(own[name]) for name in ("error_code", "code", "status", "status_code") if name in own)
