"""``kaiyuan train-scorer``: labels of a file, a judge or the demo corpus become a scorer with a report."""

from __future__ import annotations

import heapq
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from rich.console import Console

from kaiyuan.corpus.scores.demo_set import demo_labels
from kaiyuan.corpus.scores.embeddings import endpoint_embedding, model_embedding
from kaiyuan.corpus.scores.encoders import EmbeddingEncoder, Encoder, NgramEncoder
from kaiyuan.corpus.scores.labels import Labelled, read_labels
from kaiyuan.corpus.scores.report import scorer_page, show
from kaiyuan.corpus.scores.scorer import LinearScorer
from kaiyuan.corpus.scores.training import ScorerSettings, train
from kaiyuan.corpus.sources import Document
from kaiyuan.corpus.sources.spec import Source, as_table
from kaiyuan.errors import ConfigError, listing
from kaiyuan.files import write_jsonl, write_text
from kaiyuan.settings import Settings, problems_of
from kaiyuan.synthesis.llm.config import Client, Endpoint


class LabelsSection(Settings):
    """Where labels come from: exactly one of the three."""

    file: str = ""
    """JSON Lines; see docs/scores.md."""
    demo: bool = False
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


def load_scorer_config(path: Path) -> ScorerConfig:
    """A ``ConfigError`` names the file and everything that is wrong with it."""
    try:
        return ScorerConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigError(listing(f"{path} cannot be used", problems_of(error))) from None


def train_scorer(path: Path, out: Path) -> LinearScorer:
    """Write the scorer into ``out``, with labels.jsonl (those of a judge) and report.html; shows the report."""
    config = load_scorer_config(path)
    rows = _labels(config.labels, out)
    scorer = train(rows, _encoder(config), config.scorer)
    scorer.report["labels"] = _origin(config.labels)
    scorer.save(out / "scorer")
    write_text(out / "report.html", scorer_page(scorer.report))
    show(scorer.report, Console(highlight=False))
    return scorer


def _labels(section: LabelsSection, out: Path) -> list[Labelled]:
    if section.demo:
        return demo_labels()
    if section.file:
        return read_labels(Path(section.file))
    from kaiyuan.corpus.scores.judge import judge

    assert section.judge is not None
    out.mkdir(parents=True, exist_ok=True)
    rows = judge(_documents(section), section.judge, out, section.client)
    write_jsonl(out / "labels.jsonl", (row.row() for row in rows))
    return rows


def _documents(section: LabelsSection) -> list[Document]:
    """At most ``limit`` documents, those with the smallest ids: a sample by hash."""
    from kaiyuan.corpus.sources.reading import find_parts, read_part

    found = (
        item
        for source in section.documents
        for part, form in find_parts(source)
        for item in read_part(part, source.model_copy(update={"format": form}))
        if isinstance(item, Document)
    )
    return heapq.nsmallest(section.limit, found, key=lambda document: document.id)


def _encoder(config: ScorerConfig) -> Encoder:
    section = config.embedding
    if section is None:
        return NgramEncoder(config.scorer.bits)
    if section.base_url:
        embed = endpoint_embedding(section.base_url, section.model, section.api_key_env)
        return EmbeddingEncoder(embed, section.model)
    return EmbeddingEncoder(model_embedding(Path(section.model)), section.model)


def _origin(section: LabelsSection) -> str:
    if section.demo:
        return "the demo set: sources and spoilt text, not anybody's judgement"
    return f"the judge {section.judge.model}" if section.judge is not None else section.file
