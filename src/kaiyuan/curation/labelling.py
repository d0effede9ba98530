"""Labels of the two-level taxonomy for instructions whose source gave none, so that they can be balanced.

A model labels some thousands; a scorer learns from its labels (``teach``) and labels the rest for nothing, leaving to
the model what it is not sure of. The paper does the same with a taxonomy and classifiers (3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kaiyuan.curation.asking import Due, ModelTier, Outcome
from kaiyuan.curation.judges import Judges
from kaiyuan.curation.log import NONE, Decision, DecisionLog, Standing, Tier, now, read_log, standings
from kaiyuan.curation.pairs import Pair
from kaiyuan.curation.places import DECISIONS
from kaiyuan.curation.sample import Sample
from kaiyuan.errors import ConfigError, DataError
from kaiyuan.files import sha256_of
from kaiyuan.progress import Progress
from kaiyuan.synthesis.llm import schemas
from kaiyuan.synthesis.llm.calls import Answer, Message
from kaiyuan.synthesis.llm.instruct import read_label
from kaiyuan.synthesis.llm.library import built_in, fill_fenced, read_data, topics_of, version_of

if TYPE_CHECKING:
    from kaiyuan.corpus.scores import LinearScorer

Labelled = Sample | Pair
SCORER = "scorer"
"""Who labels when a scorer does; its version is the hash of its files."""
_BATCH = 256


def is_labelled(item: Labelled, standing: Standing) -> bool:
    """Whether the log or the sample's source says a topic."""
    return bool(standing.topic or item.labels.get("topic"))


class Labelling(ModelTier):
    """Topic, kind and difficulty by the labeller of a config: what the judge of synthesis is asked."""

    tier: ClassVar[Tier] = "label"
    doing: ClassVar[str] = "labelling"
    done: ClassVar[str] = "labelled"
    usual_out: ClassVar[int] = 50

    def __init__(self, config: Judges, every: bool = False) -> None:
        """``every``: also what its source or somebody else has labelled."""
        super().__init__(config)
        if config.labeller is None:
            raise ConfigError("the config names no [labeller]; give one, or a --scorer")
        self.every, self.by = every, config.model_of("labeller")
        path = Path(config.run.taxonomy or built_in("taxonomy"))
        prompts, taxonomy = read_data(built_in("prompts")), read_data(path)
        self.topics = topics_of(taxonomy, path)
        self._prompts: Mapping[str, str] = prompts["label"]
        self.version = f"{version_of(prompts, built_in('prompts'))} {version_of(taxonomy, path)}"
        self.schema = schemas.label(self.topics)

    def is_known(self, item: Labelled, standing: Standing) -> bool:
        if not self.every:
            return is_labelled(item, standing)
        found = standing.label
        return bool(standing.topic and found and (found.by, found.version) == (self.by, self.version))

    def role_of(self, item: Labelled) -> str:
        return "labeller"

    def check_answer(self, item: Labelled, answer: Answer) -> None:
        """Anybody may say what a question is about."""

    def messages(self, item: Labelled) -> list[Message]:
        text = self._prompts["zh" if item.language == "zh" else "en"]
        prompt = fill_fenced(text, topics=", ".join(self.topics), instruction=item.question)
        return [{"role": "user", "content": prompt}]

    def read(self, value: dict[str, Any]) -> dict[str, Any]:
        return read_label(value, self.topics)

    def verdict(self, found: Sequence[dict[str, Any]]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        label = dict(found[0])
        return label.pop("topic"), (), label


class ByScorer:
    """Labels by the category of a scorer of ``kaiyuan train-scorer`` or of ``teach``."""

    def __init__(self, folder: Path, min_confidence: float) -> None:
        from kaiyuan.corpus.scores import load_scorer

        self.scorer, self.min_confidence = load_scorer(folder), min_confidence
        if not any(head.classes for head in self.scorer.heads):
            raise DataError(f"{folder}: this scorer knows no categories; make one with kaiyuan curate teach")
        hashes = [sha256_of(path)[:12] for path in sorted(folder.glob("scorer.*"))]
        self.version = f"{':'.join(hashes)} from {min_confidence:g}"

    def decide(self, items: Sequence[Labelled]) -> Iterator[Decision]:
        for item, found in zip(items, self.scorer.score([item.question for item in items]), strict=True):
            topic, confidence = str(found["category"]), float(found["category_confidence"])
            sure = confidence >= self.min_confidence
            yield Decision(
                item.hash, "label", SCORER, self.version, topic if sure else NONE, now(),
                () if sure else (f"less sure than {self.min_confidence:g}",), {"confidence": confidence},
            )  # fmt: skip


def label_by_scorer(folder: Path, items: Iterable[Labelled], scorer: ByScorer) -> tuple[Outcome, Due]:
    """Label what has no label, as far as the scorer is sure; the others are decided ``none``."""
    outcome, work = Outcome(), Due()
    with DecisionLog(folder / DECISIONS) as log:
        known = standings(log.decisions)
        chosen = []
        for item in items:
            if is_labelled(item, standing := known.get(item.hash, Standing())):
                work.passed_over["labelled already"] += 1
            elif standing.label and (standing.label.by, standing.label.version) == (SCORER, scorer.version):
                work.passed_over["asked already"] += 1
            else:
                chosen.append(item)
        with Progress("labelling", len(chosen), "samples") as progress:
            for start in range(0, len(chosen), _BATCH):
                found = list(scorer.decide(chosen[start : start + _BATCH]))
                log.append(found)
                for decision in found:
                    outcome.count(decision)
                progress.update(len(found))
    return outcome, work


def teach(folder: Path, items: Iterable[Labelled]) -> LinearScorer:
    """A scorer that has learnt categories of instructions from the labels that models and people gave.

    Its report says which share of the held-out ones it gets right. ``DataError`` if there are too few.
    """
    from kaiyuan.corpus.scores.config import ScorerSettings
    from kaiyuan.corpus.scores.encoders import NgramEncoder
    from kaiyuan.corpus.scores.labels import Labelled as Row
    from kaiyuan.corpus.scores.training import train

    known = standings(read_log(folder / DECISIONS))
    rows = []
    for item in items:
        standing = known.get(item.hash, Standing())
        if standing.topic and standing.label and standing.label.by != SCORER:
            rows.append(Row(item.question, item.language, {}, standing.topic))
    if not rows:
        raise DataError(f"{folder}: no labels to learn from; make some with kaiyuan curate label --config --limit")
    settings = ScorerSettings(dimensions=["category"])
    scorer = train(rows, NgramEncoder(settings.bits), settings)
    scorer.report["labels"] = f"labels of {folder}"
    return scorer
