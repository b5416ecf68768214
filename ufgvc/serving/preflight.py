"""What is checked before the service starts: its packages, its address, its token, room for its replicas."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import socket
from pathlib import Path

from ufgvc.core.errors import UserError, disk_error
from ufgvc.serving.limits import digest
from ufgvc.serving.settings import ServiceSettings

MODULES = ("fastapi", "uvicorn", "starlette", "python_multipart", "prometheus_client")
MIN_TOKEN = 16  # characters


def check_packages() -> None:
    """UserError if a package of the extra `serve` is missing."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install -c constraints.txt '.[serve]'"
        raise UserError(f"the packages of the service are not installed ({', '.join(missing)})", fix=fix)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_digest(settings: ServiceSettings) -> bytes | None:
    """The digest of the token; None if none is needed. UserError if it is needed and missing, or cannot be read."""
    if settings.token_file is not None:
        return read_token(settings.token_file)
    if not is_loopback(settings.host):
        fix = "give --token-file FILE with a long random word, or leave --host out"
        raise UserError("others could reach the service, so it needs a token", where=f"--host {settings.host}", fix=fix)
    return None


def read_token(path: str) -> bytes:
    """The digest of the token in a file. UserError if it cannot be read, is empty, short, or more than one word."""
    where, fix = f"--token-file {path}", "write one long random word into it: openssl rand -hex 24"
    try:
        words = Path(path).expanduser().read_text(encoding="ascii").split()
    except UnicodeDecodeError:
        raise UserError("is not plain text", where=where, fix=fix) from None
    except FileNotFoundError:
        raise UserError("there is no such file", where=where, fix=fix) from None
    except OSError as error:
        refused = disk_error(error, path)
        raise UserError(
            refused.what if refused else str(error), where=where, fix="give a file that can be read"
        ) from None
    if not words:
        raise UserError("is empty", where=where, fix=fix)
    if len(words) > 1 or len(words[0]) < MIN_TOKEN:
        raise UserError(f"must hold one word of at least {MIN_TOKEN} characters", where=where, fix=fix)
    return digest(words[0])


def page_urls(host: str, port: int) -> list[str]:
    """The URLs of the page: for a host that means all addresses, that on this machine and that on its network."""
    network = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}.get(host)  # addresses of nobody (RFC 5737, RFC 3849)
    hosts = [host]
    if network is not None:
        own = _address_towards(network)
        hosts = ["localhost", *([own] if own else [])]
    return [f"http://[{each}]:{port}/" if ":" in each else f"http://{each}:{port}/" for each in hosts]


def _address_towards(other: str) -> str | None:
    """This machine's address on the network that leads to another; None without one. Nothing is sent."""
    family = socket.AF_INET6 if ":" in other else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def check_address(host: str, port: int) -> None:
    """UserError if the service could not listen there."""
    where, family = f"--host {host} --port {port}", socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise UserError("there is no such address", where=where, fix="give an IP address of this machine") from None
        except OSError as error:
            number = error.errno or 0
            what, fix = _EXPLAINED.get(number, (os.strerror(number), "give another --host or --port"))
            raise UserError(what, where=where, fix=fix) from None


_EXPLAINED = {
    errno.EADDRINUSE: ("another program listens there already", "end it, or give another --port"),
    errno.EADDRNOTAVAIL: ("this machine has no such address", "give one of its own, or 0.0.0.0 for all of them"),
    errno.EACCES: ("this user may not listen there", "give a --port above 1023"),
}
