"""What other libraries find in texts: started by ``privacy.py`` with the Python that has them, never by hand.

Reads one JSON object from standard input: ``peer``, ``cases`` (texts to find in) and ``corpora`` (name to texts to be
timed on). Writes one: ``version``, ``note``, ``found`` (for every case [start, end, kind]) and ``seconds`` by corpus;
or ``missing``, the reason why the library is not there.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Found = tuple[int, int, str]
Adapter = tuple[Callable[[str], Iterator[Found]], Callable[[str], Any], str]


def datatrove(public_only: bool) -> Adapter:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter(only_remove_public_ips=public_only)
    replacers = (("email", formatter.emails_replacer), ("ip", formatter.ip_replacer))

    def find(text: str) -> Iterator[Found]:
        for kind, replacer in replacers:
            for match in replacer.regex.finditer(text):
                if replacer.validator is None or replacer.validator(match[0]):
                    yield *match.span(), kind

    return find, formatter.format, "e-mail and IP only" + ("" if public_only else "; only_remove_public_ips=False")


def data_juicer_redaction() -> Adapter:
    from data_juicer.ops.mapper.pii_redaction_mapper import PiiRedactionMapper

    mapper = PiiRedactionMapper()
    patterns = (
        ("secret", mapper._pem_block, 0), ("secret", mapper._jwt_re, 0), ("ip", mapper._ipv4_re, 0),
        ("ip", mapper._ipv6_re, 0), ("email", mapper._email_re, 0), ("secret", mapper._secret_kv, 2),
        ("phone", mapper._phone_cn, 0), ("phone", mapper._phone_intl, 0), ("id", mapper._id_card_cn, 0),
    )  # fmt: skip

    def redact(text: str) -> Any:
        return (
            mapper.process_batched({"text": [text]})
            if mapper.is_batched_op()
            else mapper.process_single({"text": text})
        )

    return lambda text: _first_wins(text, patterns), redact, "pii_redaction_mapper, its defaults"


def data_juicer_cleaners() -> Adapter:
    from data_juicer.ops.mapper.clean_email_mapper import CleanEmailMapper
    from data_juicer.ops.mapper.clean_ip_mapper import CleanIpMapper

    mappers = (("email", CleanEmailMapper()), ("ip", CleanIpMapper()))
    patterns = tuple((kind, re.compile(mapper.pattern, re.DOTALL), 0) for kind, mapper in mappers)

    def clean(text: str) -> Any:
        rows = {"text": [text]}
        for _, mapper in mappers:
            rows = mapper.process_batched(rows)
        return rows

    return lambda text: _first_wins(text, patterns), clean, "clean_email_mapper and clean_ip_mapper"


def _first_wins(text: str, patterns: tuple[tuple[str, re.Pattern[str], int], ...]) -> Iterator[Found]:
    """As by one substitution after the other: what an earlier pattern took, a later one does not see."""
    for kind, pattern, group in patterns:
        spans = [match.span(group) for match in pattern.finditer(text)]
        for start, end in spans:
            yield start, end, kind
        for start, end in spans:
            text = text[:start] + "\0" * (end - start) + text[end:]


PRESIDIO_KINDS = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "IP_ADDRESS": "ip",
    "US_SSN": "ssn", "US_PASSPORT": "passport",
}  # fmt: skip


def presidio() -> Adapter:
    """Its pattern recognisers with its context words; no spaCy model, so no names. 0.35 is its demo's threshold."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    phone = PhoneRecognizer(supported_regions=[*PhoneRecognizer.DEFAULT_SUPPORTED_REGIONS, "CN"])
    names = ("Email", "CreditCard", "Iban", "Ip", "UsSsn", "UsPassport")
    registry = RecognizerRegistry([phone, *(getattr(known, f"{name}Recognizer")() for name in names)])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=_blank_engine(), supported_languages=["en"])

    def analyze(text: str) -> Any:
        return analyzer.analyze(text, language="en", entities=list(PRESIDIO_KINDS), score_threshold=0.35)

    def find(text: str) -> Iterator[Found]:
        for result in analyze(text):
            yield result.start, result.end, PRESIDIO_KINDS[result.entity_type]

    return find, analyze, "pattern recognisers, phone regions with CN, blank spaCy model (no names), threshold 0.35"


def _blank_engine() -> Any:
    """spaCy's tokenizer alone, lower case for lemmas, so that context words still work."""
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from spacy.language import Language

    @Language.component("lower_case_lemmas")
    def lemmas(document: Any) -> Any:
        for token in document:
            token.lemma_ = token.lower_
        return document

    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    language = spacy.blank("en")
    language.max_length = 10_000_000
    language.add_pipe("lower_case_lemmas")
    engine.nlp = {"en": language}
    return engine


PEERS: dict[str, tuple[str, Callable[[], Adapter]]] = {
    "datatrove": ("datatrove", lambda: datatrove(True)),
    "datatrove, all IPs": ("datatrove", lambda: datatrove(False)),
    "data-juicer": ("py-data-juicer", data_juicer_redaction),
    "data-juicer clean": ("py-data-juicer", data_juicer_cleaners),
    "presidio": ("presidio-analyzer", presidio),
}


def timed(work: Callable[[str], Any], texts: list[str], enough: float = 1.0) -> float:
    """CPU seconds for one pass, the least of at least two that take ``enough`` together; the first also warms up."""
    passes: list[float] = []
    while len(passes) < 2 or sum(passes) < enough:
        start = time.process_time()
        for text in texts:
            work(text)
        passes.append(time.process_time() - start)
    return min(passes)


def main() -> None:
    request = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is not part of the answer
    package, build = PEERS[request["peer"]]
    try:
        find, work, note = build()
    except ImportError as error:
        json.dump({"missing": f"{package} cannot be imported: {error}"}, output)
        return
    found = [sorted(set(find(text))) for text in request["cases"]]
    seconds = {name: timed(work, texts) for name, texts in request["corpora"].items()}
    json.dump(
        {"version": importlib.metadata.version(package), "note": note, "found": found, "seconds": seconds}, output
    )


if __name__ == "__main__":
    main()
