"""PURE. Who may talk to a server on loopback: addresses, tokens, and the refusal of everybody else.

A web page in the user's browser can send requests to loopback too; the checks of Host and Origin keep
it out, and the token keeps out other users of the machine.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping

from quarterdeck.errors import OptionError

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,256}\Z")
_NAMES = ("127.0.0.1", "localhost", "[::1]")


def loopback(host: str) -> str:
    """The loopback address that `host` names. Raises OptionError for any other."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        if address.is_loopback:
            return str(address)
    except ValueError:
        pass
    remedy = "use 127.0.0.1, ::1 or localhost"
    raise OptionError("host", host, "the scripted model listens on loopback only", remedy=remedy)


def check_port(port: int) -> int:
    """The port; 0 stands for a free one. Raises OptionError."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        remedy = "use 1 to 65535, or 0 for a free one"
        raise OptionError("port", port, "not a port", remedy=remedy)
    return port


def check_token(token: str) -> str:
    """The token. Raises OptionError, without the token in it."""
    if not _TOKEN.match(token):
        remedy = "use 8 to 256 letters, digits and . _ ~ + / = -"
        raise OptionError("token", "...", "not usable as a token", remedy=remedy)
    return token


def in_url(address: str) -> str:
    """The address as it stands in a URL and in a Host header."""
    return f"[{address}]" if ":" in address else address


def refusal(
    headers: Mapping[str, str], *, address: str, port: int, token: str
) -> tuple[int, str] | None:
    """HTTP status and reason when these request headers (names in lower case) do not get in, or None."""
    hosts = {f"{name}:{port}" for name in (in_url(address), *_NAMES)}
    if headers.get("host", "").lower() not in hosts:
        return 403, "the Host header does not name this server; use the printed address"
    if "origin" in headers:
        return 403, "requests from web pages are refused"
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    if any(hmac.compare_digest(text.encode(), token.encode()) for text in given):
        return None
    return 401, "the API key is not the token of this server"
