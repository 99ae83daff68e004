"""The client of chat completions against a server that misbehaves."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from servers.chat_server import ChatServer, last_text
from servers.faulty_server import FOREVER, Fault

from m2kr.errors import M2KRError, UpstreamError, UsageError
from m2kr.rag.budget import Budget, BudgetSpent
from m2kr.rag.chat_client import ChatClient, ChatConfig, chat_config

ASK = [{"role": "user", "content": "What animal is this?"}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer() as started:
        yield started


def client(server: ChatServer, **settings: Any) -> ChatClient:
    settings = {"base_url": server.base, "backoff": 0.01, "timeout": 5.0} | settings
    return ChatClient(ChatConfig(model="tiny", **settings))


def test_an_answer_has_its_text_its_tokens_and_its_price(server: ChatServer) -> None:
    said = client(server, price_in=10, price_out=100).complete(ASK)
    assert (said.text, said.input_tokens, said.output_tokens) == ("a badger", 100, 3)
    assert said.dollars == pytest.approx(0.0013)
    ask = server.asks[0]
    assert (ask["model"], ask["messages"], ask["temperature"]) == ("tiny", ASK, 0)
    assert ask["stream"] is False
    assert ask["max_tokens"] == 64


def test_usage_that_is_not_said_is_unknown_and_never_0() -> None:
    with ChatServer(usage=None) as server:
        asking = client(server, price_in=1, price_out=1)
        said = asking.complete(ASK)
    assert (said.input_tokens, said.output_tokens, said.dollars) == (None, None, None)
    spent = asking.budget.spent
    assert (spent.unknown, spent.input_tokens) == (1, 0)
    assert spent.tokens_at_most > 64


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "5",
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": "7", "completion_tokens": 2},
        {"prompt_tokens": 10**30, "completion_tokens": 2},
    ],
)
def test_usage_that_makes_no_sense_is_unknown(server: ChatServer, usage: Any) -> None:
    server.more = {"usage": usage}
    server._usage = None
    said = client(server).complete(ASK)
    assert said.text == "a badger"
    assert said.input_tokens is None


PASSING = {
    "429": Fault(status=429, body=b'{"error": {"message": "slow down"}}'),
    "429, wait": Fault(status=429, headers={"Retry-After": "0"}),
    "429, wait part of a second": Fault(status=429, headers={"Retry-After": "0.05"}),
    "429, wait until": Fault(status=429, headers={"Retry-After": formatdate(0, usegmt=True)}),
    "429, wait nonsense": Fault(status=429, headers={"Retry-After": "soon"}),
    "408": Fault(status=408),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503, headers={"Retry-After": "0"}),
    "529": Fault(status=529),
    "reset": Fault(reset=True),
    "no body": Fault(body=b""),
    "no JSON": Fault(body=b"<html>busy</html>"),
    "half JSON": Fault(body=b'{"choices": [{"message": {"con'),
    "no object": Fault(body=b"[1]"),
    "no UTF-8": Fault(body=b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "no choices": Fault(body=b'{"choices": []}'),
    "no message": Fault(body=b'{"choices": [{"index": 0}]}'),
    "content a number": Fault(body=b'{"choices": [{"message": {"content": 3}}]}'),
    "deep": Fault(body=b"[" * 100_000),
    "deep, and whole": Fault(body=b'{"x": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "half body": Fault(truncate=40),
    "half body, chunked": Fault(truncate=40, chunked=True),
    "half body, unsized": Fault(truncate=40, unsized=True),
    "nothing of the body": Fault(truncate=0),
    "stalls": Fault(stall_at=20, stall=2.0),
    "slow": Fault(delay=2.0),
    "slow head": Fault(slow_head=0.05),
    "drips": Fault(drip=1, drip_seconds=0.02),
    "choice, error inside": Fault(
        body=b'{"choices": [{"message": {"content": "a b"}, "finish_reason": "error"}]}'
    ),
    "200, error inside": Fault(body=b'{"error": {"code": 503, "message": "no capacity"}}'),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again(server: ChatServer, name: str) -> None:
    server.fail(server.PATH, PASSING[name], times=2)
    patience = {"timeout": 0.2} if name in {"stalls", "slow", "slow head", "drips"} else {}
    said = client(server, **patience).complete(ASK)
    assert said.text == "a badger"
    assert len(server.posts) == 3


def test_the_servers_pause_is_kept_by_all_requests(server: ChatServer) -> None:
    server.fail(server.PATH, Fault(status=429, headers={"Retry-After": "0.4"}))
    asking = client(server, concurrency=1)
    begun = time.monotonic()
    assert asking.complete(ASK).text
    assert time.monotonic() - begun > 0.4


def test_a_pause_of_hours_is_not_waited_for(server: ChatServer) -> None:
    server.fail(server.PATH, Fault(status=429, headers={"Retry-After": "36000"}))
    with pytest.raises(UpstreamError, match="asks to wait 36,000 s"):
        client(server).complete(ASK)


def test_after_some_attempts_it_is_given_up_with_the_servers_words(server: ChatServer) -> None:
    said = b'{"error": {"message": "the model is\\nloading \\u001b[31m", "type": "x"}}'
    server.fail(server.PATH, Fault(status=503, body=said), times=FOREVER)
    with pytest.raises(UpstreamError, match=r"HTTP 503: the model is loading \[31m \(3 attempts\)"):
        client(server, attempts=3).complete(ASK)
    assert len(server.posts) == 3


FINAL = {
    400: (b'{"error": {"message": "Unsupported parameter: \'max_tokens\'. Use '
          b"'max_completion_tokens'\"}}", "max_tokens_name=max_completion_tokens"),
    401: (b'{"error": "no key"}', "export OPENAI_API_KEY"),
    403: (b'{"detail": "no access to this model"}', "no access to this model"),
    404: (b'{"message": "The model `tiny` does not exist."}', "base_url"),
    413: (b"too large", "fewer passages"),
    422: (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
    429: (b'{"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}', "quota"),
    501: (b"", "HTTP 501"),
}  # fmt: skip


@pytest.mark.parametrize("status", FINAL)
def test_what_stays_wrong_is_one_error_at_once(server: ChatServer, status: int) -> None:
    body, words = FINAL[status]
    server.fail(server.PATH, Fault(status=status, body=body), times=FOREVER)
    with pytest.raises(UpstreamError) as failed:
        client(server).complete(ASK)
    assert words in str(failed.value)
    assert len(server.posts) == 1


def test_a_page_in_place_of_an_answer_names_base_url(server: ChatServer) -> None:
    page = Fault(body=b"<html>sign in</html>", headers={"Content-Type": "text/html; charset=x"})
    server.fail(server.PATH, page, times=FOREVER)
    with pytest.raises(UpstreamError, match=r"no JSON \(text/html\); is base_url right\?"):
        client(server, attempts=2).complete(ASK)


def test_a_server_that_streams_is_told_apart(server: ChatServer) -> None:
    server.fail(server.PATH, Fault(body=b'data: {"choices": [{"delta": {"content": "a b'))
    with pytest.raises(UpstreamError, match="streams its answer"):
        client(server).complete(ASK)


@pytest.mark.parametrize("packed", [False, True])
def test_an_endless_body_is_not_read_to_its_end(server: ChatServer, packed: bool) -> None:
    if packed:
        fault = Fault(body=gzip.compress(bytes(16 << 20)), headers={"Content-Encoding": "gzip"})
    else:
        fault = Fault(body=b" " * (1 << 20), endless=True)
    server.fail(server.PATH, fault)
    with pytest.raises(UpstreamError, match="more than 8 MiB"):
        client(server).complete(ASK)


def test_nobody_there_is_said_soon() -> None:
    with ChatServer() as server:
        address = server.base
    gone = ChatClient(ChatConfig(model="tiny", base_url=address, attempts=3, backoff=0.01))
    with pytest.raises(UpstreamError, match=r"[Cc]onnection refused \(3 attempts\)"):
        gone.complete(ASK)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_another_server_get_neither_key_nor_question(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unique-key-4711")
    with ChatServer() as other:
        there = other.url(f"{other.PATH}?key=unique-key-4711", host="localhost")
        server.fail(server.PATH, Fault(status=status, headers={"Location": there}))
        with pytest.raises(UpstreamError, match="http://localhost:") as failed:
            client(server).complete(ASK)
        assert other.requests == []
    assert "4711" not in str(failed.value)


def test_redirects_on_the_same_server_are_followed(server: ChatServer) -> None:
    server.fail(server.PATH, Fault(status=307, headers={"Location": "/v1/chat/completions?x=1"}))
    server.fail(server.PATH, Fault(status=308, headers={"Location": "/v1/chat/completions"}))
    assert client(server).complete(ASK).text == "a badger"
    server.fail(server.PATH, Fault(status=307, headers={"Location": server.PATH}), times=9)
    with pytest.raises(UpstreamError, match="circle"):
        client(server).complete(ASK)


@pytest.mark.parametrize("there", ["http://[::1", "http://a:99999999/", "\xff\xfe"])
def test_redirects_to_what_is_no_address_are_one_error(server: ChatServer, there: str) -> None:
    server.fail(server.PATH, Fault(status=307, headers={"Location": there}))
    with pytest.raises(UpstreamError, match="no address"):
        client(server).complete(ASK)


def test_an_endless_body_of_a_redirect_is_not_read(server: ChatServer) -> None:
    there = {"Location": server.PATH}
    server.fail(server.PATH, Fault(status=307, headers=there, body=b"x" * 4096, endless=True))
    assert client(server, timeout=3).complete(ASK).text == "a badger"


def test_a_deep_error_is_told(server: ChatServer) -> None:
    deep = b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}"
    server.fail(server.PATH, Fault(status=400, body=deep))
    with pytest.raises(UpstreamError, match=r"HTTP 400: \{.error.: \[\["):
        client(server).complete(ASK)


def test_names_that_no_server_can_have_are_one_error_at_once(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for base in (f"http://{'a' * 80}.org/v1", "http://exa mple/v1"):
        with pytest.raises(UpstreamError, match="the server's address, or the proxy's"):
            client(server, base_url=base).complete(ASK)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:unique-4711@ba d:x")
    with pytest.raises(UpstreamError, match="the server's address, or the proxy's") as failed:
        client(server, base_url="https://example.org/v1").complete(ASK)
    assert "4711" not in str(failed.value)


def choice(content: Any = None, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"message": {"content": content, **message}, "finish_reason": finish}


@pytest.mark.parametrize(
    ("said", "text", "missing"),
    [
        (choice("  a badger\n"), "a badger", None),
        (choice([{"type": "text", "text": "a "}, {"type": "text", "text": "badger"}]), "a badger", None),
        (choice([{"type": "thinking", "thinking": []}, {"type": "text", "text": "x"}]), "x", None),
        (choice("<think>it is\nred</think>\n\na badger"), "a badger", None),
        (choice("it is red</think>a badger"), "a badger", None),
        (choice("<think>it is", "length"), "", "cut"),
        (choice(None, "length", reasoning_content="it is"), "", "cut"),
        (choice("", "stop", reasoning="it is"), "", "cut"),
        (choice("", "length"), "", "cut"),
        (choice("a very long", "length"), "a very long", None),
        (choice("", "stop"), "", None),
        (choice(None, "stop", refusal="I can't help with that."), "", "refused"),
        (choice("", "content_filter"), "", "refused"),
        (choice("a \ud83d badger"), "a � badger", None),
    ],
)  # fmt: skip
def test_each_form_of_an_answer(said: Any, text: str, missing: str | None) -> None:
    with ChatServer(lambda _: said) as server:
        answer = client(server).complete(ASK)
    assert (answer.text, answer.missing) == (text, missing)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (choice(None, "tool_calls", tool_calls=[{"function": {"name": "x"}}]), "calls a tool"),
        (choice([{"type": "image_url", "image_url": {}}]), "image_url in place of text"),
    ],
)
def test_what_is_no_answer_is_one_error(said: Any, words: str) -> None:
    with ChatServer(lambda _: said) as server:
        with pytest.raises(UpstreamError, match=words):
            client(server).complete(ASK)
        assert len(server.posts) == 1


def test_a_filters_refusal_by_status_is_an_answer_without_text(server: ChatServer) -> None:
    body = b'{"error": {"code": "content_filter", "message": "The prompt was filtered"}}'
    server.fail(server.PATH, Fault(status=400, body=body))
    said = client(server).complete(ASK)
    assert (said.text, said.missing) == ("", "refused")
    assert said.detail["refusal"] == "The prompt was filtered"


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]}, -1.5),
        ({"content": []}, None),
        (None, None),
        ({"content": [{"token": "a"}]}, None),
        ({"content": [{"token": "a", "logprob": float("-inf")}]}, None),
        ({"content": [{"token": "a", "logprob": 3}]}, None),
        ([1], None),
    ],
)
def test_log_probabilities_where_the_server_gives_them(logprobs: Any, expected: Any) -> None:
    with ChatServer(lambda _: choice("a") | {"logprobs": logprobs}) as server:
        assert client(server).complete(ASK).logprob == expected
        assert server.asks[0]["logprobs"] is True


def test_another_model_that_answers_is_said(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    asking = client(server)
    assert asking.complete(ASK).detail["model"] == "tiny-1"
    server.model = "tiny-2"
    asking.complete(ASK)
    assert "answers come from tiny-2 now, and came from tiny-1 before" in caplog.text


def run(asking: ChatClient, count: int) -> Iterator[tuple[int, str]]:
    def work(number: int, stop: threading.Event) -> str:
        return asking.complete([{"role": "user", "content": f"n{number}"}], stop=stop).text

    return asking.run(work, range(count))


def test_several_are_asked_at_a_time_and_each_answer_goes_to_its_question() -> None:
    with ChatServer(last_text, delay=0.02) as server:
        answers = dict(run(client(server, concurrency=4), 20))
        assert answers == {number: f"n{number}" for number in range(20)}
        assert 2 <= server.most <= 4


def test_a_budget_of_requests_is_used_to_its_end() -> None:
    with ChatServer(last_text, delay=0.01) as server:
        answers: dict[int, str] = {}
        with pytest.raises(BudgetSpent, match="6 requests"):
            answers.update(run(client(server, concurrency=4, request_budget=6), 20))
        assert len(server.asks) == 6
        assert len(list(run(client(server, request_budget=6), 6))) == 6


def test_answers_paid_for_come_before_the_error() -> None:
    def reply(ask: Any) -> str:
        time.sleep(0.01 if last_text(ask) == "n0" else 0.2)
        return last_text(ask)

    with ChatServer(reply) as server:
        server.fail(server.PATH, Fault(status=400, delay=0.05))
        answers = []
        with pytest.raises(UpstreamError, match="400"):
            answers.extend(run(client(server, concurrency=3), 20))
        assert len(answers) == len(server.asks)
        assert 1 <= len(answers) <= 4


def test_a_dollar_budget_stops_before_it_is_exceeded() -> None:
    with ChatServer(usage=(100, 3)) as server:
        settings: dict[str, Any] = {"price_in": 10, "price_out": 100, "concurrency": 4}
        asking = client(server, budget=0.05, **settings)
        answers = []
        with pytest.raises(BudgetSpent) as failed:
            answers.extend(run(asking, 100))
        true = len(server.asks) * 0.0013
        assert len(answers) == len(server.asks)
        assert 0.05 - 0.0085 < true <= 0.05
        assert asking.budget.spent.dollars == pytest.approx(true)
    assert "the same command goes on" in str(failed.value)
    assert f"${true:.6f}" in str(failed.value)


def test_tokens_that_nobody_counted_use_the_budget_up_too() -> None:
    with ChatServer(usage=None) as server:
        with pytest.raises(BudgetSpent, match=r"2,000 tokens(.|\n)*without a word on their tokens"):
            list(run(client(server, token_budget=2000), 100))
        assert 0 < len(server.asks) < 2000 / 64


def test_requests_that_are_alike_are_settled_each_for_itself() -> None:
    budget, stop = Budget(), threading.Event()
    with budget.request(100, 10, image=False, stop=stop) as first:
        first.asked = True
        with budget.request(100, 10, image=False, stop=stop) as second:
            second.asked = True  # and the server's word on its tokens never came
        first.input_tokens, first.output_tokens = 20, 3
    assert (budget.spent.requests, budget.spent.unknown) == (2, 1)
    assert budget.spent.tokens_at_most == 174 + 23


def test_images_are_taken_for_dear_after_the_first_is_known() -> None:
    with ChatServer(usage=(30_000, 3)) as server:
        asking = client(server, token_budget=200_000, concurrency=8)

        def work(_: int, stop: threading.Event) -> str:
            return asking.complete(ASK, image=True, stop=stop).text

        with pytest.raises(BudgetSpent):
            list(asking.run(work, range(20)))
        spent = asking.budget.spent
        assert 90_000 <= spent.tokens_at_most <= 200_000


def test_a_server_that_takes_more_than_was_asked_for_is_known_by_its_first_answer() -> None:
    with ChatServer(usage=(5_000, 2_000)) as server:
        with pytest.raises(BudgetSpent):
            list(run(client(server, token_budget=30_000, concurrency=1), 20))
        assert 3 <= len(server.asks) <= 4


def test_half_answers_count_as_dear_as_they_can_be(server: ChatServer) -> None:
    server.fail(server.PATH, Fault(truncate=30), Fault(status=503))
    asking = client(server)
    asking.complete(ASK)
    spent = asking.budget.spent
    assert (spent.requests, spent.unknown, spent.input_tokens) == (3, 1, 100)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": "5"}, "needs the prices"),
        ({"budget": "5", "price_in": "1"}, "needs the prices"),
        ({"budget": "-1", "price_in": "1", "price_out": "1"}, "'budget' can't be -1"),
        ({"budget": "five"}, "can't be 'five'"),
        ({"budget": "nan", "price_in": "1", "price_out": "1"}, "can't be 'nan'"),
        ({"temperature": "3"}, "temperature"),
        ({"concurrency": "0"}, "concurrency"),
        ({"max_token": "3"}, "did you mean 'max_tokens'"),
        ({"model": " "}, "no model"),
        ({"extra": "[]"}, "extra"),
        ({"extra": '{"messages": []}'}, "extra"),
        ({"api_key": "s3cret-value"}, "a key is no setting"),
        ({"OPENAI-API-KEY": "s3cret-value"}, "a key is no setting"),
        ({"key_env": "s3cret-value"}, "key_env is no name"),
        ({"key_env": "S3CRETVALUE"}, "not set"),
        ({"model": "//me:s3cret-value@example.org"}, "address"),
        ({"base_url": "https://me:s3cret-value@example.org/v1"}, "password"),
        ({"base_url": "https://example.org/v1?api_key=s3cret-value"}, "query"),
        ({"base_url": "https://example.org/v1#s3cret-value"}, "fragment"),
        ({"base_url": "example.org/s3cret-value"}, "no address"),
        ({"base_url": "file:///s3cret-value"}, "no address"),
        ({"base_url": "http://[::1/s3cret-value"}, "no address"),
        ({"base_url": ""}, "not set"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_their_secrets(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], words: str
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError) as failed:
        ChatClient(
            chat_config(ChatConfig, {"model": "m", "base_url": "http://[::1]:1"} | settings, "x")
        )
    assert words in str(failed.value)
    assert "s3cret" not in str(failed.value).lower()


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "ключ-ключ-ключ", "tab\there"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UsageError, match=r"\$MY_KEY holds") as failed:
        ChatClient(ChatConfig(model="m", base_url="https://example.org", key_env="MY_KEY"))
    assert value not in str(failed.value)


def test_the_key_goes_encrypted_or_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unique-key-4711")
    with pytest.raises(UsageError, match="unencrypted"):
        ChatClient(ChatConfig(model="m", base_url="http://gpu7:8000/v1"))
    ChatClient(ChatConfig(model="m", base_url="http://gpu7:8000/v1", key_env=""))
    ChatClient(ChatConfig(model="m", base_url="http://gpu7:8000/v1", allow_http=True))
    with ChatServer(key="unique-key-4711") as server:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert client(server).complete(ASK).text
        monkeypatch.setenv("OPENAI_API_KEY", "unique-key-4712")
        with pytest.raises(UpstreamError, match="401") as failed:
            client(server).complete(ASK)
    assert "471" not in str(failed.value)


@pytest.mark.parametrize(
    "base", ["/v1", "/v1/", "", "/", "/v1/chat/completions", "/v1/chat/completions/"]
)
def test_the_address_may_be_written_in_several_ways(server: ChatServer, base: str) -> None:
    asking = client(server, base_url=server.url(base))
    assert asking.complete(ASK).text == "a badger"
    assert asking.server == "localhost/v1"


def test_facts_hold_what_decides_answers_alone(server: ChatServer) -> None:
    facts = client(server).facts()
    same = client(server, concurrency=9, budget=1, price_in=1, price_out=1, timeout=9.0).facts()
    assert facts == same == json.loads(json.dumps(facts))
    assert client(server, temperature=1.0).facts() != facts
    assert client(server, extra='{"top_k": 1}').facts() != facts


def test_extra_reaches_the_server(server: ChatServer) -> None:
    client(server, extra='{"top_k": 1}', seed=3, max_tokens_name="max_completion_tokens").complete(
        ASK
    )
    ask = server.asks[0]
    assert (ask["top_k"], ask["seed"], ask["max_completion_tokens"]) == (1, 3, 64)
    assert "max_tokens" not in ask


def test_errors_are_ours() -> None:
    assert issubclass(BudgetSpent, M2KRError)
