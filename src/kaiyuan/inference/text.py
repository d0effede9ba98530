"""Text of an answer as it is made: never cut inside a character, and never showing part of a stop text."""

from __future__ import annotations

from kaiyuan.tokenizer import StreamDecoder, Tokenizer


class TextStream:
    """Turns tokens into text. What might be the beginning of a stop text is held back until that is decided."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stops = stops
        self._held = ""
        self.stopped = False
        """Whether a stop text was found; the text ends before it and nothing follows."""

    def feed(self, token: int) -> str:
        """The text that is certain to belong to the answer now."""
        return "" if self.stopped else self._release(self._decoder.feed(token))

    def flush(self) -> str:
        """The rest, when the answer has ended for another reason."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.flush()) + ("" if self.stopped else self._held)
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        text = self._held + new
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` with which ``stop`` begins."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - length :]):
            return length
    return 0
