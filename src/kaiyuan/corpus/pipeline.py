"""What becomes of one document: normalise, language, furniture, rules, contamination, personal data.

All of it is decided by the text and the settings alone; what depends on other documents (``kaiyuan.corpus.dedup``)
comes afterwards. ``kaiyuan.corpus.cleaning`` runs this over units of work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from kaiyuan.corpus.boilerplate import without_boilerplate
from kaiyuan.corpus.decontaminate import Contamination
from kaiyuan.corpus.filters import QualityRules, View, rejection_of
from kaiyuan.corpus.language import convert, detect, script
from kaiyuan.corpus.normalize import normalize
from kaiyuan.corpus.pii import Audit, PrivacySettings, find
from kaiyuan.corpus.pii import replace as fill_in
from kaiyuan.corpus.rules import KEYS, SETS, Rule, broken, rules_of
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.settings import Settings

TRAIN, HELD_OUT, REJECTED = "train.jsonl", "heldout.jsonl", "rejected.jsonl"
STAGES = ("language", "quality", "decontamination", "deduplication")
"""Where a document can be stopped, in this order."""


class CorpusSettings(Settings):
    """What is kept of a corpus, and in which form. Everything but deduplication is about one document alone."""

    min_chars: int = Field(default=20, ge=0)
    """Fewest characters, after normalisation."""
    languages: list[str] = ["en", "zh"]
    """ISO codes of the languages to keep; code is always kept."""
    min_language_confidence: float = Field(default=0.65, ge=0, le=1)
    """Below it the detector is not believed, and the language that the source states holds."""
    chinese_script: Literal["", "Hans", "Hant"] = ""
    """Convert Chinese to simplified (``Hans``) or traditional (``Hant``) characters; "" leaves it as it is."""
    pages: list[str] = ["web"]
    """Labels of documents that are web pages: their menus, cookie notices, buttons and repeated headers are taken out,
    and lines that many of them share (``line_documents``)."""
    quality: QualityRules = QualityRules()
    """The rules that hold for all text; see ``kaiyuan.corpus.filters``."""
    rules: dict[str, list[str]] = {}
    """Further sets of rules by label, such as ``{web = ["gopher_repetition"]}``; see ``kaiyuan.corpus.rules``."""
    limits: dict[str, dict[str, float]] = {}
    """Other limits for these, by language and name: ``{zh = {"fineweb.line_punct_ratio" = 0.05}}``."""
    contamination_share: float = Field(default=0.0, ge=0, le=1)
    """How much of an evaluation item's runs a document must hold to go; 0: any run."""
    anonymize: bool = True
    privacy: PrivacySettings = PrivacySettings()
    """Which personal data and secrets to replace, and by what; see docs/privacy.md."""
    dedup_urls: bool = True
    """Keep one document of each address."""
    dedup_threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity from which two documents are duplicates."""
    score: str = "score"
    """Field of ``extra`` by which the best of several duplicates is chosen; without it, how much of the text lies in
    whole sentences."""
    line_documents: int = Field(default=0, ge=0)
    """A line that so many pages share is taken out of all of them; 0: no line is."""
    held_out_share: float = Field(default=0.03, ge=0, lt=1)

    @field_validator("rules")
    @classmethod
    def _known_sets(cls, rules: dict[str, list[str]]) -> dict[str, list[str]]:
        if unknown := sorted({name for sets in rules.values() for name in sets} - set(SETS)):
            raise ValueError(f"no set {', '.join(unknown)}; known: {', '.join(SETS)}")
        return rules

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if unknown := sorted({key for changed in limits.values() for key in changed} - KEYS):
            raise ValueError(f"no rule {', '.join(unknown)}; known: {', '.join(sorted(KEYS))}")
        return limits

    def is_page(self, label: str, language: str) -> bool:
        """Whether a document with this label and language is taken for a web page."""
        return label in self.pages and language != "code"

    def of_one(self) -> dict[str, object]:
        """The settings that decide about one document alone."""
        later = {"dedup_urls", "dedup_threshold", "line_documents", "held_out_share"}
        return self.model_dump(exclude=later)


@dataclass(frozen=True)
class Outcome:
    """What became of a document: one to keep, taken apart, or the stage and the reason that say why not."""

    original: Document
    document: Document | None
    language: str
    pii: Counter[str] = field(default_factory=Counter)
    furniture: Counter[str] = field(default_factory=Counter)
    stage: str = ""
    reason: str = ""
    view: View | None = None
    """The text of ``document``, taken apart; None if it has changed since then."""
    audit: tuple[dict[str, Any], ...] = ()
    """What was replaced where, if an audit is wanted."""

    @property
    def kind(self) -> str:
        """The reason without its numbers."""
        return self.reason.split(":", 1)[0]


class Cleaner:
    """The steps on one document. ``contamination`` is a file of ``Contamination``, read when it is first needed."""

    def __init__(self, settings: CorpusSettings, contamination: Path | None = None, audit: Audit | None = None) -> None:
        self.settings, self._path, self.audit = settings, contamination, audit
        self._rules = {label: rules_of(sets) for label, sets in settings.rules.items()}

    @cached_property
    def contamination(self) -> Contamination | None:
        return None if self._path is None else _loaded(self._path)

    def __call__(self, document: Document) -> Outcome:
        """Clean; the id of what comes out is the hash of its new text."""
        settings, text, language = self.settings, normalize(document.text), document.language
        if language != "code":
            language, reason = _language(text, document.language, settings)
            if reason:
                return Outcome(document, None, language, stage="language", reason=reason)
        extra, furniture = document.extra, Counter[str]()
        if language == "zh":
            text, extra = _in_script(text, extra, settings.chinese_script)
        if settings.is_page(document.label, language):
            text, furniture = without_boilerplate(text)
        view = View(text, language)
        stage, reason = self._stopped(view, text, self._rules.get(document.label, ()))
        if reason:
            return Outcome(document, None, language, furniture=furniture, stage=stage, reason=reason)
        findings = find(text, settings.privacy) if settings.anonymize else []
        new = fill_in(text, findings, settings.privacy.numbered)
        cleaned = replace(document, id=document_id(new), text=new, language=language, extra=extra)
        return Outcome(
            document, cleaned, language, Counter(finding.kind for finding in findings), furniture,
            view=view if view.original == new else None,
            audit=() if self.audit is None else tuple(self.audit.rows(cleaned.id, text, findings)),
        )  # fmt: skip

    def _stopped(self, view: View, text: str, rules: Sequence[Rule]) -> tuple[str, str]:
        settings = self.settings
        if len(text) < settings.min_chars:
            return "quality", f"too short: {len(text)} characters, at least {settings.min_chars} are wanted"
        reason = rejection_of(view, settings.quality)
        if not reason and view.language != "code":
            reason = next(broken(view, rules, settings.limits), None)
        if reason:
            return "quality", reason
        if self.contamination is not None:
            found = self.contamination.find(view if view.original is text else text, settings.contamination_share)
            if found:
                return "decontamination", f"contamination: {found.share:.0%} of {found.set} #{found.item}"
        return "", ""


@lru_cache(maxsize=2)
def _loaded(path: Path) -> Contamination:
    return Contamination.load(path)


def _language(text: str, stated: str, settings: CorpusSettings) -> tuple[str, str | None]:
    detected, confidence = detect(text)
    if confidence < settings.min_language_confidence and stated in settings.languages:
        return stated, None
    if detected in settings.languages:
        return detected, None
    return detected, f"language: {detected} ({confidence:.2f})"


def _in_script(text: str, extra: dict[str, object], wanted: str) -> tuple[str, dict[str, object]]:
    """Chinese text in the wanted script, and which script it is in now."""
    found = script(text)
    if wanted and found and found != wanted:
        text, found = convert(text, wanted), wanted
    return text, {**extra, "script": found} if found else extra
