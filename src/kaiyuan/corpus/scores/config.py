"""What a scorer is trained from and how: the config of ``kaiyuan train-scorer`` and of ``[corpus.scorer]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from kaiyuan.corpus.sources.spec import Source, as_table
from kaiyuan.settings import Settings
from kaiyuan.synthesis.llm.config import Client, Endpoint


class LabelsSection(Settings):
    """Where labels come from: exactly one of the three."""

    file: str = ""
    """JSON Lines; see docs/scores.md."""
    demo: bool = False
    demo_pieces: int = Field(default=400, ge=20)
    """Of each source of the demo corpus, at most."""
    documents: list[Annotated[Source, BeforeValidator(as_table)]] = []
    """What a judge labels: sources as in a recipe."""
    judge: Endpoint | None = None
    client: Client = Client()
    limit: int = Field(default=2000, ge=1)
    """Documents that are judged, evenly spread over what there is."""

    @model_validator(mode="after")
    def _one(self) -> LabelsSection:
        if sum((bool(self.file), self.demo, bool(self.documents))) != 1:
            raise ValueError("give one of file, demo = true, or documents with a judge")
        if bool(self.documents) != (self.judge is not None):
            raise ValueError("documents and judge go together")
        return self

    def files_read(self) -> list[Path]:
        return [Path(self.file)] if self.file else []


class ScorerSettings(Settings):
    """How scorers are trained."""

    bits: int = Field(default=18, ge=8, le=24)
    """Columns for n-grams: 2 to this power."""
    c: float = Field(default=10.0, gt=0)
    """Weight of the labels against the L2 penalty."""
    calibration: Literal["isotonic", "platt"] = "isotonic"
    dimensions: list[Literal["quality", "educational", "toxicity", "category"]] = [
        "quality", "educational", "toxicity", "category",
    ]  # fmt: skip


class EmbeddingSection(Settings):
    """Vectors in place of n-grams: of an endpoint, or of a model folder."""

    base_url: str = ""
    model: str
    """The endpoint's name of it; without ``base_url`` a model folder."""
    api_key_env: str = ""


class ScorerConfig(Settings):
    """A config of ``kaiyuan train-scorer``."""

    labels: LabelsSection
    scorer: ScorerSettings = ScorerSettings()
    embedding: EmbeddingSection | None = None
