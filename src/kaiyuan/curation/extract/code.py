"""Documented functions: what the documentation says is the instruction, the function the answer.

Python is parsed, never run. Other languages are recognised by a documentation comment right above a function whose
braces close. A function that needs more of its file than imports is left out: nobody could write it from its
documentation alone.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator

from kaiyuan.corpus.units import units
from kaiyuan.curation.extract.candidate import Candidate
from kaiyuan.curation.sample import language_of

_FEWEST_UNITS, _LONGEST_LINES = 5, 80
_NAMES = {"javascript": "JavaScript", "typescript": "TypeScript", "java": "Java", "go": "Go", "c": "C", "c++": "C++",
          "rust": "Rust", "c#": "C#", "kotlin": "Kotlin", "swift": "Swift", "php": "PHP"}  # fmt: skip
_FENCES = {"c++": "cpp", "c#": "csharp"}
_ASK = {
    "en": "Write a {language} function `{signature}` that does the following:\n\n{text}",
    "zh": "请编写一个 {language} 函数 `{signature}`，要求如下：\n\n{text}",
}
_BUILTINS = frozenset(dir(builtins))


def functions(text: str, language: str) -> Iterator[Candidate]:
    """Documented functions of a file in ``language``, as ``corpus.sources.programming`` names it."""
    if language == "python":
        yield from _python(text)
    elif language in _NAMES:
        yield from _braces(text, language)


def _python(text: str) -> Iterator[Candidate]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = text.splitlines(keepends=True)
    imports = {name: node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
               for name in _imported(node)}  # fmt: skip
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        documentation = ast.get_docstring(node)
        needed = _free_names(node)
        if not documentation or not _worth(documentation, node.end_lineno - node.lineno + 1) or len(node.body) < 2:
            continue
        if any(name not in imports for name in needed) or node.name.startswith("__") or _is_stub(node):
            continue
        first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
        source = "".join(lines[first - 1 : node.end_lineno]).rstrip()
        used = sorted({imports[name].lineno: ast.unparse(imports[name]) for name in needed}.items())
        head = "\n".join(line for _, line in used)
        signature = f"{node.name}({ast.unparse(node.args)})" + (
            f" -> {ast.unparse(node.returns)}" if node.returns else ""
        )
        start = sum(map(len, lines[: first - 1]))
        answer = f"```python\n{head + chr(10) * 3 if head else ''}{source}\n```"
        question = _instruction("Python", signature, documentation)
        yield Candidate(question, answer, start, start + len(source), "code")


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Names that an import binds; relative ones and stars bind nothing that another file could have."""
    if isinstance(node, ast.ImportFrom) and (node.level or node.module == "__future__"):
        return
    for alias in node.names:
        if alias.name != "*":
            yield alias.asname or alias.name.split(".")[0]


def _free_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names that the function reads and neither binds anywhere in itself nor finds among the builtins."""
    read, bound = set[str](), {function.name}
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(_imported(node))
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
    return read - bound - _BUILTINS


def _is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Nothing but the docstring and ``pass``, ``...`` or ``raise NotImplementedError``."""
    rest = function.body[1:]
    return len(rest) == 1 and (
        isinstance(rest[0], ast.Pass)
        or (isinstance(rest[0], ast.Expr) and isinstance(rest[0].value, ast.Constant))
        or (isinstance(rest[0], ast.Raise) and "NotImplemented" in ast.unparse(rest[0]))
    )


def _worth(documentation: str, lines: int) -> bool:
    return len(units(documentation)) >= _FEWEST_UNITS and lines <= _LONGEST_LINES


def _instruction(language: str, signature: str, documentation: str) -> str:
    asking = _ASK["zh" if language_of(documentation) == "zh" else "en"]
    return asking.format(language=language, signature=signature, text=documentation.strip())


_COMMENT = re.compile(r"^(?:/\*\*(?P<block>.*?)\*/|(?P<lines>(?://[/!]?[^\n]*\n)+))\s*?\n?(?P<head>[^\n{};]*\([^{};]*)\{",
                      re.MULTILINE | re.DOTALL)  # fmt: skip
_FUNCTION = re.compile(r"\b([A-Za-z_$][\w$]*)\s*(?:<[^<>()]*>)?\(")
_KEYWORDS = {"if", "for", "while", "switch", "catch", "return", "match", "when", "else"}


def _braces(text: str, language: str) -> Iterator[Candidate]:
    """Functions at the margin of the file, below a comment that begins there too."""
    for found in _COMMENT.finditer(text):
        head = " ".join(found["head"].split())
        name = _FUNCTION.search(head)
        documentation = _uncommented(found["block"] or found["lines"])
        end = _closing(text, found.end() - 1)
        start = found.start("head")
        if not name or name[1] in _KEYWORDS or end < 0 or "class " in head or text[start] in " \t":
            continue
        if _worth(documentation, text.count("\n", start, end) + 1):
            source = text[start:end].rstrip()
            answer = f"```{_FENCES.get(language, language)}\n{source}\n```"
            question = _instruction(_NAMES[language], head.removeprefix("export ").strip(), documentation)
            yield Candidate(question, answer, found.start(), end, "code")


def _uncommented(comment: str) -> str:
    lines = [re.sub(r"^[ \t]*(?:\*|//[/!]?)[ \t]?", "", line) for line in comment.split("\n")]
    return "\n".join(line.rstrip() for line in lines).strip()


def _closing(text: str, opening: int) -> int:
    """Behind the brace that closes the one at ``opening``; strings and comments are passed over. -1: there is none."""
    depth = 0
    for found in _TOKEN.finditer(text, opening):
        depth += (found[0] == "{") - (found[0] == "}")
        if depth == 0:
            return found.end()
    return -1


_TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|[{}]""", re.DOTALL)
