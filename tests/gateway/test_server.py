from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.conftest import Say
from tests.gateway.gateway_client import (
    InstantClock,
    anthropic_events,
    ask,
    fold_anthropic,
    fold_openai,
    messages,
    openai_events,
)

from quarterdeck.errors import OptionError, ScriptError
from quarterdeck.gateway import recording
from quarterdeck.gateway.server import ModelServer, read_script, serve
from quarterdeck.testing import FakeClock

CHAT = "/v1/chat/completions"
PATHS = pytest.mark.parametrize("path", ["/v1/messages", CHAT])


def text_in(path: str, data: bytes) -> str:
    """The text that a whole stream carries."""
    if path == CHAT:
        return str(fold_openai(openai_events(data))["message"]["content"])
    return "".join(b.get("text", "") for b in fold_anthropic(anthropic_events(data))["content"])


# -- answers ------------------------------------------------------------------------------------------


@PATHS
async def test_a_stream(model: ModelServer, say: Say, path: str) -> None:
    model.push({"text": "hello", "chunk": 2, "headers": {"X-Limit": 5}})
    heard = await say(messages(stream=True), path)
    assert (heard.status, heard.ending) == (200, "complete")
    assert heard.headers["content-type"] == "text/event-stream"
    assert heard.headers["request-id"] == "req_scripted_0001"
    assert heard.headers["x-limit"] == "5"
    assert text_in(path, heard.data) == "hello"


@PATHS
async def test_one_json_object(model: ModelServer, say: Say, path: str) -> None:
    model.push({"tools": [{"name": "Bash", "input": {"command": "ls"}}]})
    heard = await say(messages(), path)
    assert (heard.status, heard.ending) == (200, "complete")
    assert heard.headers["content-type"] == "application/json"
    if path == CHAT:
        (call,) = heard.json["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"command": "ls"}
    else:
        assert heard.json["content"][0]["input"] == {"command": "ls"}
        assert heard.json["stop_reason"] == "tool_use"


async def test_requests_share_a_connection(model: ModelServer) -> None:
    host, port = model.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(messages()).encode()
    one = (
        f"POST /v1/messages?beta=true HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {model.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    model.push({"text": "first"}, {"text": "second"})
    writer.write(one + one)
    data = b""
    while data.count(b"end_turn") < 2:
        data += await asyncio.wait_for(reader.read(65536), 10)
    assert data.index(b"first") < data.index(b"second")
    assert model.connections == 1
    assert [r.path for r in model.requests] == ["/v1/messages"] * 2
    writer.close()


async def test_the_small_paths(model: ModelServer, say: Say) -> None:
    counted = await say(messages("x" * 4000), "/v1/messages/count_tokens")
    assert counted.json["input_tokens"] >= 1000
    listed = await say(None, "/v1/models", method="GET")
    assert listed.json["data"][0]["id"] == "scripted"
    root = await say(None, "/", method="GET")
    assert root.status == 200
    head = await say(None, "/", method="HEAD", token="")
    assert (head.status, head.data) == (200, b"")
    for path, method in (("/v1/unknown", "POST"), ("/v1/messages", "GET"), ("/x", "DELETE")):
        heard = await say({} if method == "POST" else None, path, method=method)
        assert heard.status == 404
        assert heard.json["error"]["type"] == "not_found_error"


async def test_a_directive(say: Say) -> None:
    heard = await say(messages('please [[{"text": "directed", "stop_reason": "max_tokens"}]]'))
    assert heard.json["content"][0]["text"] == "directed"
    assert heard.json["stop_reason"] == "max_tokens"
    wrong = await say(messages('[[{"txt": "directed"}]]'))
    assert wrong.status == 400
    assert "txt = 'directed'" in wrong.json["error"]["message"]


async def test_helpers_get_the_auxiliary_text() -> None:
    script = {"aux_text": "a title", "replies": [{"text": "main"}], "default": {"text": "over"}}
    async with ModelServer(script) as model:
        said = []
        for tools in (False, True, True):
            heard = await ask(model.url, "/v1/messages", messages(tools=tools), token=model.token)
            said.append(heard.json["content"][0]["text"])
        assert said == ["a title", "main", "over"]
        assert [r.source for r in model.requests] == ["aux", "script", "default"]


@PATHS
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"{}", b'{"messages":5}']
)
async def test_a_body_that_is_no_request(say: Say, path: str, body: bytes) -> None:
    heard = await say(body, path)
    assert (heard.status, heard.ending) == (400, "complete")
    assert heard.json["error"]["type"] == "invalid_request_error"


async def test_two_megabytes_stream_in_time(model: ModelServer) -> None:
    model.push({"text": "0123456789abcdef" * 131_072, "chunk": 40})
    host, port = model.url.removeprefix("http://").split(":")
    body = json.dumps(messages(stream=True)).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/messages HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
        f"X-Api-Key: {model.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    heard = await reader.read()
    assert time.perf_counter() - start < 3
    assert heard.count(b"event: content_block_delta") == -(-2_097_152 // 40)
    assert heard.endswith(b"0\r\n\r\n")
    writer.close()


# -- faults -------------------------------------------------------------------------------------------


@PATHS
@pytest.mark.parametrize("stream", [True, False])
async def test_an_http_error(model: ModelServer, say: Say, path: str, stream: bool) -> None:
    error = {"type": "rate_limit_error", "message": "slow down"}
    model.push({"status": 429, "error": error, "headers": {"retry-after": 7}})
    heard = await say(messages(stream=stream), path)
    assert (heard.status, heard.headers["retry-after"]) == (429, "7")
    assert heard.json["error"].items() >= error.items()
    assert (await say(messages(), path)).status == 200


@PATHS
async def test_an_error_inside_the_stream(model: ModelServer, say: Say, path: str) -> None:
    model.push({"text": "abcdef", "chunk": 2, "error_after": 2, "error": {"message": "busy"}})
    heard = await say(messages(stream=True), path)
    assert (heard.status, heard.ending, len(heard.events)) == (200, "complete", 3)
    assert json.loads(heard.events[2].split(b"data: ")[1])["error"]["message"] == "busy"


async def test_an_error_event_without_a_stream_is_an_http_error(
    model: ModelServer, say: Say
) -> None:
    model.push({"text": "a", "error_after": 1}, {"text": "a", "error_after": 1})
    assert (await say(messages())).status == 529
    assert (await say(messages(), CHAT)).status == 500


@PATHS
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_reset(model: ModelServer, say: Say, path: str, count: int) -> None:
    model.push({"text": "abcdef", "chunk": 2, "drop_after": count})
    heard = await say(messages(stream=True), path, keep=5)
    assert (heard.status, heard.ending, len(heard.events)) == (200, "reset", count)


@PATHS
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_truncated_stream(model: ModelServer, say: Say, path: str, count: int) -> None:
    model.push({"text": "abcdef", "chunk": 2, "truncate_after": count})
    heard = await say(messages(stream=True), path, keep=5)
    assert (heard.status, heard.ending, len(heard.events)) == (200, "complete", count)
    assert b"message_stop" not in heard.data
    assert b"[DONE]" not in heard.data
    assert heard.closed


async def test_a_whole_answer_leaves_the_connection_open(say: Say) -> None:
    assert not (await say(messages(stream=True), keep=0.05)).closed


@PATHS
async def test_faults_without_a_stream(model: ModelServer, say: Say, path: str) -> None:
    for field in ("drop_after", "truncate_after", "malformed_after"):
        model.push({"text": "abcdef", field: 1})
    endings = [await say(messages(), path) for _ in range(3)]
    assert [heard.ending for heard in endings] == ["reset", "cut", "complete"]
    for heard in endings:
        with pytest.raises(ValueError):
            json.loads(heard.data)


@PATHS
async def test_a_malformed_event(model: ModelServer, say: Say, path: str) -> None:
    model.push({"text": "abc", "malformed_after": 2})
    heard = await say(messages(stream=True), path)
    broken = heard.events[2].split(b"data: ")[1]
    with pytest.raises(ValueError):
        json.loads(broken)
    assert heard.ending == "complete"


@PATHS
async def test_a_hang(model: ModelServer, say: Say, clock: InstantClock, path: str) -> None:
    model.push({"hang": 3600})
    heard = await say(messages(stream=True), path, keep=5)
    assert (heard.status, heard.data, heard.ending) == (0, b"", "cut")
    assert clock.slept == [3600]
    assert model.requests[0].status == 0


async def test_an_empty_message(model: ModelServer, say: Say) -> None:
    model.push({"empty": True}, {"empty": True})
    folded = fold_anthropic(anthropic_events((await say(messages(stream=True))).data))
    assert (folded["content"], folded["stop_reason"]) == ([], "end_turn")
    assert (await say(messages(), CHAT)).json["choices"][0]["message"]["content"] is None


async def test_delays_and_pings(model: ModelServer, say: Say, clock: InstantClock) -> None:
    delays = {"delay": 3, "first_delay": 2, "step_delay": 1}
    model.push({"text": "abcd", "chunk": 2, "pings": 1, **delays})
    heard = await say(messages(stream=True))
    assert clock.slept == [3, 1, 2, 1, 1]
    assert heard.events[1] == b'event: ping\ndata: {"type": "ping"}'


@pytest.mark.parametrize(
    "reply", [{"hang": 9}, {"text": "a", "delay": 9}, {"text": "a", "step_delay": 9}]
)
async def test_a_client_that_leaves_ends_its_reply(reply: dict[str, Any]) -> None:
    clock = FakeClock()
    async with ModelServer([reply], clock=clock) as model:
        asking = asyncio.create_task(
            ask(model.url, "/v1/messages", messages(stream=True), token=model.token)
        )
        async with asyncio.timeout(5):
            while not clock.sleeping:
                await asyncio.sleep(0.001)
        assert model.connections == 1
        asking.cancel()
        async with asyncio.timeout(5):
            while model.connections or clock.sleeping:
                await asyncio.sleep(0.001)


def open_descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def test_closing_ends_everything() -> None:
    before = asyncio.all_tasks()
    descriptors = open_descriptors()
    clock = FakeClock()
    model = ModelServer([{"hang": 9, "repeat": "forever"}], clock=clock)
    await model.start()
    asking = [
        asyncio.create_task(ask(model.url, "/v1/messages", messages(), token=model.token))
        for _ in range(5)
    ]
    async with asyncio.timeout(5):
        while clock.sleeping < 5:
            await asyncio.sleep(0.001)
    await model.aclose()
    await model.aclose()
    assert model.connections == 0
    heard = await asyncio.gather(*asking)
    assert {each.status for each in heard} == {0}
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert len(model.requests) == 5
    with pytest.raises(ConnectionRefusedError):
        await ask(model.url, "/", token=model.token, method="GET")
    await asyncio.sleep(0.01)  # the clients close their side
    assert open_descriptors() <= descriptors


# -- who gets in --------------------------------------------------------------------------------------


@PATHS
async def test_refusals_come_before_the_body(model: ModelServer, say: Say, path: str) -> None:
    model.push({"text": "a"})
    big = b"x" * 1_000_000
    for options, status in (
        ({"token": ""}, 401),
        ({"token": "another-token"}, 401),
        ({"headers": {"Host": "evil.example"}}, 403),
        ({"headers": {"Origin": "http://evil.example"}}, 403),
    ):
        heard = await say(big, path, **options)
        assert (heard.status, heard.ending) == (status, "complete")
        assert heard.headers["connection"] == "close"
        kind = {401: "authentication_error", 403: "permission_error"}[status]
        assert heard.json["error"]["type"] == kind
        assert model.token.encode() not in heard.data
    assert model.requests == ()
    assert (await say(messages(), path)).status == 200


async def test_a_body_over_the_limit(model: ModelServer, say: Say, monkeypatch: Any) -> None:
    monkeypatch.setattr("quarterdeck.gateway.server.MAX_BODY", 1000)
    heard = await say(messages("x" * 1000))
    assert (heard.status, heard.json["error"]["type"]) == (413, "request_too_large")


async def test_ipv6() -> None:
    try:
        model = ModelServer([{"text": "six"}], host="::1")
        await model.start()
    except OptionError:
        pytest.skip("this machine has no ::1")
    heard = await ask(model.url, "/v1/messages", messages(), token=model.token)
    assert heard.json["content"][0]["text"] == "six"
    await model.aclose()


@pytest.mark.parametrize(
    "options", [{"host": "0.0.0.0"}, {"port": -1}, {"token": "a b"}, {"variables": {"a-b": ""}}]
)
def test_options_are_checked_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ModelServer(**options)


async def test_a_taken_port(model: ModelServer, tmp_path: Path) -> None:
    other = ModelServer(port=int(model.url.rsplit(":", 1)[1]), log=tmp_path / "log")
    with pytest.raises(OptionError, match=r"port = .*cannot listen"):
        await other.start()
    await other.aclose()


# -- what is recorded ---------------------------------------------------------------------------------


async def test_a_recorded_request(model: ModelServer, say: Say) -> None:
    model.push({"text": "a", "when_text": "hi"})
    await say(messages("hi there"), headers={"User-Agent": "test/1"})
    (record,) = model.requests
    assert (record.method, record.path, record.model) == ("POST", "/v1/messages", "m-1")
    assert record.body["messages"][0]["content"] == "hi there"
    assert record.reply == {"text": "a", "when_text": "hi"}
    assert (record.source, record.status, record.time) == ("script", 200, 1_700_000_000.0)
    assert record.headers["user-agent"] == "test/1"
    assert record.headers["x-api-key"] == "[redacted]"
    model.clear()
    assert model.requests == ()


async def test_the_token_is_nowhere_in_the_records(tmp_path: Path) -> None:
    log = tmp_path / "log.ndjson"
    async with ModelServer(log=log) as model:
        token = model.token
        escaped = "".join(f"\\u{ord(c):04x}" for c in token)
        said = f'{{"messages": [{{"role": "user", "content": "env: {token} {escaped}", "{token}": 1}}]}}'
        path = f"/v1/messages?key={token}"
        headers = {"Authorization": f"Bearer {token}", "X-Other": f"a {token}"}
        await ask(model.url, path, said.encode(), token=token, headers=headers)
        await ask(model.url, f"/{token}", {}, token=token)
        assert len(model.requests) == 2
        assert token not in repr(model.requests)
        assert "[redacted] [redacted]" in repr(model.requests)
    text = log.read_text()
    assert token not in text
    assert [json.loads(line)["status"] for line in text.splitlines()] == [200, 404]
    assert log.stat().st_mode & 0o777 == 0o600


async def test_records_are_bounded(model: ModelServer, say: Say, monkeypatch: Any) -> None:
    monkeypatch.setattr(recording, "MAX_RECORDS", 3)
    for n in range(5):
        await say(messages(str(n)))
    assert [r.body["messages"][0]["content"] for r in model.requests] == ["2", "3", "4"]
    monkeypatch.setattr(recording, "MAX_BYTES", 1000)
    await say(messages("x" * 600))
    await say(messages("y" * 600))
    assert [r.body["messages"][0]["content"][0] for r in model.requests] == ["y"]


async def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "none" / "log", tmp_path / "link"):
        with pytest.raises(OptionError, match="log"):
            await ModelServer(log=path).start()
    assert not (tmp_path / "elsewhere").exists()


async def test_push_works_from_any_thread(model: ModelServer, say: Say) -> None:
    def work() -> None:
        for _ in range(50):
            model.push({"text": "a"})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for _ in range(200):
        await say(messages())
    assert {r.source for r in model.requests} == {"script"}
    await say(messages())
    assert model.requests[-1].source == "default"


async def test_a_push_that_is_wrong_appends_nothing(model: ModelServer, say: Say) -> None:
    with pytest.raises(ScriptError, match=r"push: reply 2: txt = 'b'"):
        model.push({"text": "a"}, {"txt": "b"})
    await say(messages())
    assert model.requests[0].source == "default"


# -- files --------------------------------------------------------------------------------------------


def test_scripts_from_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("- text: hello ${name}\n")
    assert read_script(good, {"name": "Ada"}).replies[0].text == "hello Ada"
    assert read_script(str(good), {"name": "Ada"}).replies[0].text == "hello Ada"


def test_files_that_are_no_scripts(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"- text: \xff")
    os.mkfifo(tmp_path / "fifo.yaml")
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    for name, message in (
        ("none.yaml", "cannot be read: No such file"),
        ("latin.yaml", "not UTF-8"),
        ("fifo.yaml", "not a file"),
        ("big.yaml", "larger than"),
        (".", "Is a directory|not a file"),
    ):
        with pytest.raises(ScriptError, match=message) as caught:
            read_script(tmp_path / name)
        assert caught.value.remedy


async def test_serve(tmp_path: Path) -> None:
    script = tmp_path / "demo.yaml"
    script.write_text("- text: hello ${name}\n")
    ready: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            script,
            token="my-own-token",
            variables={"name": "Ada"},
            log=tmp_path / "log",
            ready=lambda url, token: ready.set_result((url, token)),
        )
    )
    url, token = await ready
    heard = await ask(url, "/v1/messages", messages(), token=token)
    assert heard.json["content"][0]["text"] == "hello Ada"
    assert token == "my-own-token"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionRefusedError):
        await ask(url, "/", method="GET")
    with pytest.raises(ScriptError, match="no such variable"):
        await serve(script, ready=lambda *_: None)
