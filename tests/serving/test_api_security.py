"""Keys, hosts, origins and the chat page's headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_engine import FakeEngine
from live_server import client_of

from kaiyuan.errors import ConfigError
from kaiyuan.serving import pages
from kaiyuan.serving.server import default_name
from kaiyuan.serving.settings import check_exposure, generation_defaults, is_loopback, read_api_keys
from kaiyuan.tokenizer import Tokenizer

KEY = "correct-horse-battery"
ROUTES = [
    ("GET", "/v1/models"), ("GET", "/ready"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/unknown"),
    ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/tokenize"),
    ("POST", "/detokenize"), ("GET", "/version"), ("POST", "/"),
    ("OPTIONS", "/v1/models"),
]  # fmt: skip


def test_every_route_but_health_asks_for_the_key(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(tokenizer)
    with client_of(engine, api_keys=(KEY,)) as http:
        for method, path in ROUTES:
            for header in (None, "", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer", "Basic YTpi", "Bearer é"):
                headers = {} if header is None else {"authorization": header.encode()}
                reply = http.request(method, path, headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key"), (path, header)
        assert http.get("/health").status_code == 200
        right = {"authorization": f"Bearer {KEY}"}
        assert http.get("/v1/models", headers=right).status_code == 200
        assert http.post("/v1/completions", json={"prompt": "a"}, headers=right).status_code == 200
        assert http.get("/v1/models", headers={**right, "host": "my.server:8000"}).status_code == 200
    assert len(engine.requests) == 1


def test_each_of_several_keys_opens_and_has_prefixes_of_its_own(tokenizer: Tokenizer) -> None:
    engine, keys = FakeEngine(tokenizer), (f"{KEY}-one", f"{KEY}-two")
    with client_of(engine, api_keys=keys) as http:
        for key, salt in ((keys[0], ""), (keys[1], ""), (keys[0], "mine"), (keys[0], "")):
            body = {"prompt": "a", "cache_salt": salt}
            headers = {"authorization": f"Bearer {key}"}
            assert http.post("/v1/completions", json=body, headers=headers).status_code == 200
            chat = {"messages": [{"role": "user", "content": "Hi"}], "cache_salt": salt}
            assert http.post("/v1/chat/completions", json=chat, headers=headers).status_code == 200
        for wrong in ("".join(keys), f"{keys[0]} {keys[1]}", KEY):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {wrong}"}).status_code == 401
    salts = [salt for _, _, salt in engine.requests]
    assert salts[::2] == salts[1::2]
    one, two, mine, again = salts[::2]
    assert one == again
    assert len({one, two, mine}) == 3
    assert mine == one + "mine"
    assert not any(key in salt for key in keys for salt in salts)


def test_without_a_key_only_this_machines_names_are_answered(tokenizer: Tokenizer) -> None:
    with client_of(FakeEngine(tokenizer)) as http:
        for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "LOCALHOST"):
            assert http.get("/v1/models", headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::2]"):
            assert http.get("/v1/models", headers={"host": host}).status_code == 403, host


@pytest.mark.parametrize("key", ["", KEY])
def test_other_pages_cannot_post(tokenizer: Tokenizer, key: str) -> None:
    engine = FakeEngine(tokenizer)
    with client_of(engine, api_keys=(key,) if key else ()) as http:
        own = str(http.base_url).rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        for origin in ("http://evil.example", "null", own + "0", "http://localhost", "", "file://"):
            reply = http.post("/v1/completions", json={"prompt": "a"}, headers={**headers, "origin": origin})
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "cross_origin"), origin
        assert engine.requests == []
        good = http.post("/v1/completions", json={"prompt": "a"}, headers={**headers, "origin": own})
        assert good.status_code == 200
        assert not any(name.startswith("access-control") for name in good.headers)


def test_the_page_is_public_and_locked_down(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = tmp_path / "static"
    (static / "img").mkdir(parents=True)
    for name in ("index.html", "app.js", "style.css", "img/logo.svg", ".secret.js", "notes.py"):
        (static / name).write_text(name)
    (tmp_path / "outside.html").write_text("outside")
    monkeypatch.setattr(pages.load_pages, "__defaults__", (static,))
    with client_of(FakeEngine(tokenizer), api_keys=(KEY,)) as http:
        types = {"/": "text/html", "/app.js": "text/javascript", "/static/style.css": "text/css",
                 "/img/logo.svg": "image/svg+xml"}  # fmt: skip
        for path, kind in types.items():
            reply = http.get(path)
            assert reply.status_code == 200
            assert reply.headers["content-type"].startswith(kind)
            assert reply.headers["content-security-policy"] == pages.POLICY
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["referrer-policy"] == "no-referrer"
            again = http.get(path, headers={"if-none-match": reply.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert http.head("/").headers["content-length"] == str(len("index.html"))
        for path in ("/.secret.js", "/notes.py", "/..%2foutside.html", "/static/%2e%2e/outside.html"):
            assert http.get(path).status_code == 401, path


def test_without_the_page_there_is_none(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages.load_pages, "__defaults__", (tmp_path / "none",))
    with client_of(FakeEngine(tokenizer)) as http:
        reply = http.get("/")
        assert reply.status_code == 404
        assert reply.headers["cache-control"] == "no-store"


def test_an_open_address_needs_a_key() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        assert is_loopback(host)
        check_exposure(host, ())
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com", ""):
        with pytest.raises(ConfigError, match="KAIYUAN_API_KEY"):
            check_exposure(host, ())
        check_exposure(host, (KEY,))


def test_where_the_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    monkeypatch.delenv("KAIYUAN_API_KEY", raising=False)
    assert read_api_keys(None) == ()
    monkeypatch.setenv("KAIYUAN_API_KEY", KEY)
    assert read_api_keys(None) == (KEY,)
    file.write_text(f"{KEY}-of-the-file\n")
    assert read_api_keys(file) == (f"{KEY}-of-the-file",)
    file.write_text(f"{KEY}-one\n\n  {KEY}-two\r\n{KEY}-one\n")
    assert read_api_keys(file) == (f"{KEY}-one", f"{KEY}-two")
    for text in ("", "short", "two words of a key", "schlüssel-schlüssel", f"{KEY}\nshort"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="key"):
            read_api_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_api_keys(tmp_path / "absent")


def test_the_key_is_not_shown(tokenizer: Tokenizer) -> None:
    from live_server import settings

    assert KEY not in repr(settings(api_keys=(KEY,)))


def test_defaults_of_a_folder(tmp_path: Path) -> None:
    assert generation_defaults(tmp_path) == {}
    file = tmp_path / "generation_config.json"
    file.write_text('{"temperature": 0.7, "top_k": 20, "eos_token_id": [1], "repetition_penalty": null}')
    assert generation_defaults(tmp_path) == {"temperature": 0.7, "top_k": 20}
    file.write_text('{"temperature": 0.7, "do_sample": false}')
    assert generation_defaults(tmp_path) == {"temperature": 0.0}
    file.write_text('{"max_new_tokens": 9}')
    assert generation_defaults(tmp_path) == {"max_tokens": 9}
    file.write_text('{"temperature": "warm"}')
    with pytest.raises(ConfigError, match=r"generation_config\.json.*\n.*temperature"):
        generation_defaults(tmp_path)


def test_names_of_models() -> None:
    assert default_name(Path("/x/runs/demo/dpo/model")) == "demo-dpo"
    assert default_name(Path("/x/Hunyuan-Large")) == "Hunyuan-Large"
