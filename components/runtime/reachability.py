"""
Does anybody answer at an address: asked within seconds, before a client that would wait for minutes is.

Each function returns why nobody does, in a few words, and nothing where somebody does.
"""

import socket
import ssl
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

CONNECT = 3.0
"""seconds for a host to take a connection"""
ANSWER = 4.0
"""seconds for a server to say its first word"""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""how a gRPC client begins: HTTP/2's preface, and settings that change nothing"""
SETTINGS = 4
"""the type of the frame that a server begins with"""


def refused(host: str, port: int) -> str:
    """Asks for a TCP connection."""
    try:
        socket.create_connection((host, port), CONNECT).close()
    except (OSError, UnicodeError, OverflowError) as error:
        return words(error)
    return ""


def silent_http(url: str) -> str:
    """Asks an HTTP server for anything: a refusal is an answer too, and so is a certificate that we do not trust."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        urlopen(bare, timeout=ANSWER).close()
    except HTTPError:
        return ""
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return "" if isinstance(reason, ssl.SSLError) else words(reason)
    return ""


def silent_grpc(host: str, port: int) -> str:
    """Asks for the settings that a gRPC server begins with."""
    try:
        with socket.create_connection((host, port), CONNECT) as connection:
            connection.settimeout(ANSWER)
            connection.sendall(PREFACE)
            said = connection.recv(9)
    except (OSError, UnicodeError, OverflowError) as error:
        return words(error)
    return "" if said[3:4] == bytes([SETTINGS]) else "what answers there speaks no gRPC"


def words(error: object) -> str:
    """An error of the network in a few words."""
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
