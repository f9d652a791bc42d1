from __future__ import annotations

import pytest

from quarterdeck.errors import OptionError
from quarterdeck.gateway.door import check_port, check_token, loopback, refusal

TOKEN = "scripted-token"
OK = {"host": "127.0.0.1:80", "x-api-key": TOKEN}


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "::1")]
)
def test_loopback_addresses(host: str, address: str) -> None:
    assert loopback(host) == address


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "127.0.0.1 ", "127"]
)
def test_other_addresses_are_refused(host: str) -> None:
    with pytest.raises(OptionError, match="loopback only"):
        loopback(host)


@pytest.mark.parametrize("port", [-1, 65536, True, "80"])
def test_ports(port: int) -> None:
    with pytest.raises(OptionError, match="port"):
        check_port(port)


@pytest.mark.parametrize("token", ["", "short", "with space", "x" * 300, "line\nline12345"])
def test_a_bad_token_is_not_shown(token: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_token(token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, None),
        ({"x-api-key": "", "authorization": f"Bearer {TOKEN}"}, None),
        ({"x-api-key": "", "authorization": f"bearer {TOKEN}"}, None),
        ({"x-api-key": "other", "authorization": f"Bearer {TOKEN}"}, None),
        ({"host": "LOCALHOST:80"}, None),
        ({"host": "[::1]:80"}, None),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": TOKEN + "x"}, 401),
        ({"x-api-key": TOKEN[:-1]}, 401),
        ({"x-api-key": "", "authorization": f"Basic {TOKEN}"}, 401),
        ({"x-api-key": "", "authorization": TOKEN}, 401),
        ({"x-api-key": "t\xf6ken"}, 401),
        ({"host": "127.0.0.1:81"}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"host": "evil.example:80"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://127.0.0.1:80"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"host": "evil.example", "x-api-key": ""}, 403),
    ],
)
def test_who_gets_in(change: dict[str, str], status: int | None) -> None:
    refused = refusal({**OK, **change}, address="127.0.0.1", port=80, token=TOKEN)
    assert (refused[0] if refused else None) == status
    assert refused is None or TOKEN not in refused[1]


def test_the_bound_address_is_a_name_too() -> None:
    headers = {**OK, "host": "127.0.0.9:80"}
    assert refusal(headers, address="127.0.0.9", port=80, token=TOKEN) is None
    assert refusal(headers, address="127.0.0.1", port=80, token=TOKEN) is not None
