"""The chat page: Markdown and formulas, of which nothing can become markup or a request."""

from __future__ import annotations

import re
from typing import Any

from chat_page import ANSWER, DONE, NEEDS_CHROMIUM, ask, expect, questions, wait_until_saved
from stub_chat_server import STATIC, Script

pytest_plugins = ["chat_page_fixtures"]
pytestmark = NEEDS_CHROMIUM

FENCE = "```"

HOSTILE = f"""<script>alert(1)</script> <img src=x onerror=alert(2)> <b onclick="alert(3)">b</b> <br>

[run](javascript:alert(4)) [data](data:text/html,<script>alert(5)</script>) [odd](java&#115;cript:alert(6))
[vb]( JaVaScRiPt:alert(7))

![pic](https://example.com/pixel.png) ![x](javascript:alert(8)) ![y](x" onerror="alert(9))

<javascript:alert(10)> [fine](https://example.com/a_b?c=1&d=2 "a title") https://example.com/path).
mail: [m](mailto:a@b.org)

{FENCE}html
<script>alert(11)</script><img src=x onerror=alert(12)>
{FENCE}

$\\text{{<img src=x onerror=alert(13)>}}$ $\\href{{javascript:alert(14)}}{{x}}$ `<script>alert(15)</script>`

| <script>alert(16)</script> | b |
|---|---|
| <svg onload=alert(17)> | <a href="javascript:alert(18)">c</a> |
"""


def test_markdown_cannot_bring_in_markup(page: Any, script: Script) -> None:
    script.answers, script.pieces = [HOSTILE], 7
    ask(page, "<script>alert(0)</script>")
    prose = page.locator(ANSWER)
    assert (
        prose.locator(
            "script, img, svg:not(.icon), iframe, object, embed, style, [onerror], [onclick], [onload], [style]"
        ).count()
        == 0
    )
    links = prose.locator("a").evaluate_all("all => all.map(a => [a.getAttribute('href'), a.rel, a.target])")
    assert {href for href, _, _ in links} == {
        "https://example.com/pixel.png", "https://example.com/a_b?c=1&d=2",
        "https://example.com/path", "mailto:a@b.org",
    }  # fmt: skip
    assert all((rel, target) == ("noopener noreferrer", "_blank") for _, rel, target in links)
    assert "<script>alert(11)</script>" in prose.locator("pre").inner_text()
    text = prose.inner_text()
    assert "<script>alert(1)</script> <img src=x onerror=alert(2)>" in text
    assert "[run](javascript:alert(4))" in text
    assert questions(page) == ["<script>alert(0)</script>"]


MARKDOWN = f"""# Title

Some *em*, **strong**, ***both***, ~~gone~~, `a * b`, 2 * 3 * 4 and snake_case_name. **中文“强调”**后面。
Next line

- a
  - b

    more of b
- [x] done

7. seven
8. eight

> quote
> > inner

| a | b |
|:--|--:|
| 1 | `x|y` |

{FENCE}python
def f(x):  # note
    return "s" + 'it'
{FENCE}

---
{FENCE}
open fence"""
SHAPE = """root => {
  const kids = (node) => [...node.childNodes].map(name).filter((text) => text !== '""').join(' ');
  const name = (node) => node.nodeType === 3 ? JSON.stringify(node.data.trim())
    : `${node.localName}${node.className ? '.' + node.className : ''}(${kids(node)})`;
  root.normalize();
  return name(root);
}"""


def test_markdown_is_rendered_and_streaming_gives_the_same(page: Any, script: Script) -> None:
    script.answers, script.pieces = [MARKDOWN], 3
    ask(page, "Show")
    prose = page.locator(ANSWER)
    for selector, text in {
        "h3.h1": "Title", "em >> nth=0": "em", "strong >> nth=0": "strong", "em strong, strong em": "both",
        "del": "gone",
        "strong >> nth=2": "中文“强调”", "ul ul li": "b\n\nmore of b", "ol[start='7'] li >> nth=0": "seven",
        "blockquote blockquote": "inner", "td.side-right": "x|y", ".code-keyword >> nth=0": "def",
        ".code-comment": "# note",
        "pre >> nth=1": "open fence",
    }.items():  # fmt: skip
        assert prose.locator(selector).first.inner_text().strip() == text, selector
    assert "2 * 3 * 4 and snake_case_name" in prose.inner_text()
    assert prose.locator("input[type=checkbox]:checked").count() == 1
    streamed = prose.evaluate(SHAPE)
    wait_until_saved(page)
    page.reload()
    page.wait_for_selector(DONE)
    assert prose.evaluate(SHAPE) == streamed


def test_settled_blocks_are_not_rendered_again(page: Any, script: Script) -> None:
    script.answers, script.delay = ["first\n\nsecond\n\nthird\n\n" + "fourth " * 20], 0.01
    ask(page, "Go", wait=False)
    page.wait_for_selector(f"{ANSWER} p >> nth=3")
    page.locator(f"{ANSWER} p").first.evaluate("p => { p.mark = 1 }")
    page.wait_for_selector(DONE)
    assert page.locator(f"{ANSWER} p").first.evaluate("p => p.mark") == 1


FORMULAS = r"""Inline $x^2$ and \(a_1\), prices $5 and $10.

$$\frac{a}{\sqrt[3]{b}} = \sum_{i=1}^n \alpha_i \left( \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} \right)$$

\[
\begin{aligned} a &= b \\ &= c \end{aligned}
\]

$\mathbb{R} \unknowncommand \frac{1$ and $\text{速度 } v \leq c$"""


def test_formulas_are_mathml(page: Any, script: Script) -> None:
    script.answers = [FORMULAS]
    ask(page, "Show")
    prose = page.locator(ANSWER)
    assert prose.locator("math").count() == 6
    assert prose.locator("math[display=block]").count() == 2
    assert prose.locator("math").first.evaluate("m => m.namespaceURI") == "http://www.w3.org/1998/Math/MathML"
    for selector in ("msup", "msub", "mfrac mroot", "munderover", "mtable mtr:nth-child(2) mtd", "mtable.tex-aligned"):
        assert prose.locator(selector).count() > 0, selector
    text = prose.inner_text()
    assert "ℝ" in text
    assert r"\unknowncommand" in text
    assert "prices $5 and $10." in text
    assert prose.locator("mfrac").first.bounding_box()["height"] > 20
    assert prose.locator("annotation").first.text_content() == "x^2"


def test_broken_formulas_and_deep_nesting_do_no_harm(page: Any, script: Script) -> None:
    deep = "{" * 3000 + r"\left(" * 500 + r"\frac" * 500
    marks = "*a **b " * 2000 + "[" * 5000 + ">" * 5000
    script.answers = [f"${deep}$\n\n$$\\begin{{matrix}} & & \\\\ $$\n\n{'- ' * 300}x\n\n{marks}\n\nend"]
    script.pieces = 20_000
    ask(page, "Show")
    expect(page.locator(ANSWER)).to_contain_text("end")


def test_every_module_is_loaded_early() -> None:
    """index.html names each module that app.js needs, so that they do not wait for each other."""
    named = set(re.findall(r'rel="modulepreload" href="([\w-]+\.js)"', (STATIC / "index.html").read_text()))
    needed, open_ends = {"app.js"}, ["app.js"]
    while open_ends:
        found = set(re.findall(r'from "\./([\w-]+\.js)"', (STATIC / open_ends.pop()).read_text())) - needed
        needed |= found
        open_ends += found
    assert named == needed - {"app.js"}


def test_no_file_makes_markup_from_text() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function|srcdoc"
    )
    assert {path.name for path in STATIC.glob("*.js") if forbidden.search(path.read_text())} == set()
    markup = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", markup)
