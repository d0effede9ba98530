"""From logits to answers: sampling, checking of guesses, log-probabilities, text, and when an answer ends.

Shapes: R rows of logits, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kaiyuan.inference.outputs import FinishReason, Piece, TokenLogprob
from kaiyuan.inference.params import SamplingParams
from kaiyuan.inference.sampling import adjust, is_adjusted, sample
from kaiyuan.inference.scheduler import Scheduler, Work
from kaiyuan.inference.sequence import Sequence
from kaiyuan.inference.speculation import ngram_draft


class Answering:
    """Takes the results of a step. ``speculative_tokens`` is how many tokens are guessed ahead."""

    def __init__(self, scheduler: Scheduler, speculative_tokens: int = 0) -> None:
        self._scheduler, self.ahead = scheduler, speculative_tokens
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: dict[str, int] = {}

    @torch.inference_mode()
    def take(self, plan: list[Work], logits: list[Tensor]) -> list[tuple[int, Piece]]:
        """What the work of a step adds to each answer; finished sequences leave the scheduler."""
        complete = []
        for work, rows_RV in zip(plan, logits, strict=True):
            self._prompt_logprobs(work, rows_RV)
            if work.complete:
                complete.append((work, rows_RV[-1 - len(work.sequence.draft) :]))
            else:
                self._scheduler.done(work, 0)
        if not complete:
            return []
        sequences = [work.sequence for work, _ in complete]
        firsts_BV = torch.stack([rows_RV[0] for _, rows_RV in complete])
        tokens = sample(_adjusted(firsts_BV, sequences), *_how(sequences)).tolist()
        scored = _logprobs(firsts_BV, tokens, [sequence.params.logprobs for sequence in sequences])
        return [self._continue(work, rows_RV, token) for (work, rows_RV), token in zip(complete, scored, strict=True)]

    def take_chosen(
        self, plan: list[Work], tokens: list[list[int]], logprobs: list[list[float]]
    ) -> list[tuple[int, Piece]]:
        """What tokens that were chosen elsewhere, several for each piece of work, add to the answers."""
        return [self._extend(*each) for each in zip(plan, tokens, logprobs, strict=True)]

    def _extend(self, work: Work, tokens: list[int], logprobs: list[float]) -> tuple[int, Piece]:
        sequence, text = work.sequence, ""
        self._begin(sequence)
        for token, logprob in zip(tokens, logprobs, strict=True):
            text += self._add(sequence, TokenLogprob(token, logprob))
            if sequence.finish_reason:
                break
        return self._end(work, len(tokens) - 1, text)

    def _begin(self, sequence: Sequence) -> None:
        if len(sequence.tokens) == sequence.prompt_length:
            self.prompt_tokens += sequence.prompt_length

    def _continue(self, work: Work, rows_RV: Tensor, token: TokenLogprob) -> tuple[int, Piece]:
        """Add the sampled token, and more as long as the draft has guessed what is sampled."""
        sequence = work.sequence
        self._begin(sequence)
        draft, sequence.draft = sequence.draft, []
        text, row = self._add(sequence, token), 0
        while not sequence.finish_reason and row < len(draft) and draft[row] == token.token_id:
            row += 1
            logits_1V = rows_RV[row : row + 1]
            sampled = sample(logits_1V, *_how([sequence])).tolist()
            (token,) = _logprobs(logits_1V, sampled, [sequence.params.logprobs])
            text += self._add(sequence, token)
        return self._end(work, row, text)

    def _end(self, work: Work, ahead: int, text: str) -> tuple[int, Piece]:
        """Report ``text``; ``ahead`` is how many tokens after those of ``work`` have been computed too."""
        sequence = work.sequence
        self._scheduler.done(work, min(ahead, len(sequence.tokens) - work.end))
        if sequence.finish_reason:
            text += self._finish(sequence)
        else:
            self._look_ahead(sequence)
        return sequence.request, self._piece(sequence, text)

    def _add(self, sequence: Sequence, scored: TokenLogprob) -> str:
        """Append the token unless it ends the answer; returns the text that is certain now."""
        token = scored.token_id
        self.generation_tokens += 1
        if token in sequence.stops:
            sequence.finish_reason = "stop"
            return ""
        sequence.tokens.append(token)
        sequence.logprobs.append(scored)
        text, stopped = "", False
        if sequence.text is not None:
            text = sequence.text.feed(token)
            stopped = sequence.text.stopped
        if sequence.matcher is not None:
            sequence.matcher.take(token)
            stopped = stopped or sequence.matcher.finished
        if stopped:
            sequence.finish_reason = "stop"
        elif len(sequence.tokens) >= sequence.limit:
            sequence.finish_reason = "length"
        return text

    def _finish(self, sequence: Sequence) -> str:
        self._scheduler.remove(sequence)
        reason = str(sequence.finish_reason)
        self.finished[reason] = self.finished.get(reason, 0) + 1
        return "" if sequence.text is None else sequence.text.flush()

    def _look_ahead(self, sequence: Sequence) -> None:
        room = sequence.limit - len(sequence.tokens) - 1
        if self.ahead and room > 0 and not is_adjusted(sequence):
            sequence.draft = ngram_draft(sequence.tokens, min(self.ahead, room))

    def _piece(self, sequence: Sequence, text: str) -> Piece:
        first = sequence.reported == 0
        fresh = tuple(sequence.logprobs[sequence.reported :])
        sequence.reported = len(sequence.logprobs)
        if sequence.children:  # the prompt is in the cache now
            for child in sequence.children:
                self._scheduler.add(child)
            sequence.children = []
        reason: FinishReason | None = sequence.finish_reason
        prompt = tuple(sequence.prompt_logprobs) if first else ()
        return Piece(sequence.index, text, fresh, reason, prompt, sequence.cached_tokens)

    @staticmethod
    def _prompt_logprobs(work: Work, rows_RV: Tensor) -> None:
        """The row of token i tells the log-probability of token i + 1."""
        sequence = work.sequence
        if not sequence.params.prompt_logprobs or work.start >= sequence.prompt_length:
            return
        known = 1 + len(sequence.prompt_logprobs)  # more than that after a preemption
        targets = sequence.tokens[work.start + 1 : min(work.end + 1, sequence.prompt_length)]
        found = _logprobs(rows_RV[: len(targets)], targets, [sequence.params.logprobs] * len(targets))
        sequence.prompt_logprobs += found[max(0, known - work.start - 1) :]


def wants_only_a_token(sequence: Sequence) -> bool:
    """Whether the next token is chosen from the logits as they are, and nothing is asked about any other."""
    return not sequence.params.logprobs and not is_adjusted(sequence)


def _how(sequences: list[Sequence]) -> tuple[list[SamplingParams], list[torch.Generator]]:
    return [sequence.params for sequence in sequences], [sequence.generator for sequence in sequences]


def _adjusted(logits_BV: Tensor, sequences: list[Sequence]) -> Tensor:
    """Logits to sample from; a copy if any must be changed."""
    rows = [row for row, sequence in enumerate(sequences) if is_adjusted(sequence)]
    if rows:
        logits_BV = logits_BV.clone()
        for row in rows:
            logits_BV[row] = adjust(logits_BV[row], sequences[row])
    return logits_BV


def _logprobs(logits_RV: Tensor, tokens: list[int], tops: list[int]) -> list[TokenLogprob]:
    """Log-probability of each row's token, with as many of the most likely ones as ``tops`` says."""
    if not tokens:
        return []
    index_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    normalizer_R = logits_RV.logsumexp(-1)
    picked = (logits_RV.gather(1, index_R1)[:, 0] - normalizer_R).tolist()
    most = min(max(tops), logits_RV.shape[1])
    if most == 0:
        return [TokenLogprob(token, logprob) for token, logprob in zip(tokens, picked, strict=True)]
    values_RK, ids_RK = logits_RV.topk(most, dim=-1)
    best = zip(ids_RK.tolist(), (values_RK - normalizer_R[:, None]).tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(ids[:top], values[:top], strict=True)))
        for token, logprob, (ids, values), top in zip(tokens, picked, best, tops, strict=True)
    ]
