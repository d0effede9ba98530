from __future__ import annotations

import pytest

from kaiyuan.corpus.dedup import normalized_url


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://Example.com", "example.com"),
        ("https://www.example.com:443/a/b/", "example.com/a/b"),
        ("http://example.com:8080//a//b", "example.com:8080/a/b"),
        ("http://example.com/index.html", "example.com"),
        ("http://example.com/a/index.php?id=3", "example.com/a?id=3"),
        ("http://example.com/a?b=2&a=1#part", "example.com/a?a=1&b=2"),
        ("http://example.com/a?utm_source=x&fbclid=y&id=1", "example.com/a?id=1"),
        ("http://user:pass@example.com/a;jsessionid=12AB?x=", "example.com/a?x="),
        ("http://m.example.com/%E6%B0%B4", "example.com/水"),
        ("http://xn--fiqs8s/", "中国"),
        ("http://example.com/A", "example.com/A"),
        ("https://example.com/viewtopic.php?t=12", "example.com/viewtopic.php?t=12"),
        ("ftp://example.com/a", ""), ("not a url", ""), ("http://", ""), ("http://[::1", ""), ("", ""),
        ("http://example.com:99999/", ""),
    ],
)  # fmt: skip
def test_normal_form(url: str, normal: str) -> None:
    assert normalized_url(url) == normal
    if normal:
        assert normalized_url("http://" + normal) == normal
