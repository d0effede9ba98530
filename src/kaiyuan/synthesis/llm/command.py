"""The command ``kaiyuan synthesize-llm``."""

from __future__ import annotations

from pathlib import Path

from kaiyuan.synthesis.llm.config import load_config


def synthesize_llm(path: Path, out: Path | None = None, dry_run: bool = False) -> str:
    """Run the config at ``path`` in ``out`` (default: ``runs/<run.name>``), or only say what it would cost."""
    config = load_config(path)
    folder = out or Path("runs") / config.run.name
    if dry_run:
        from kaiyuan.synthesis.llm.estimate import dry_run as estimate

        return estimate(config, folder)
    from kaiyuan.synthesis.llm.run import run_or_explain

    return run_or_explain(config, folder)
