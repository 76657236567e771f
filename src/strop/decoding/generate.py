"""Generate text. Guesses of a drafter make it faster and change nothing.

With guesses g1...gk for the next tokens, one pass over the last token and them gives k + 1 rows of
logits. From the first row the next token is chosen as it would be without guesses; if it is g1, the
second row is what the model says after it, and so on. The choice is a pure function of the logits,
the tokens before, the seed and the position (see sampling.py), and the native engine's logits do
not depend on how many rows a pass has: so the tokens are those of plain generation, greedy or
sampled, whatever is guessed. (Coupled sampling: Daliri, Musco and Suresh 2024, arXiv 2408.07978.)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from time import perf_counter

import numpy as np

from strop.decoding.cache import (
    PREFILL_CHUNK,
    CachedSession,
    common_prefix,
    forward_together,
)
from strop.decoding.drafters import Guess
from strop.decoding.output import (
    Completion,
    Delta,
    FinishReason,
    Output,
    Statistics,
    collect,
)
from strop.decoding.planner import NOTHING, Draft, Planner
from strop.decoding.rejection import accept_or_replace
from strop.decoding.sampling import Sampling, log_probabilities, log_probability, sample
from strop.errors import StropError
from strop.models.interface import Logits, Model, States

WIDTH = 8  #: texts that are written at once, if nothing else is said
Job = tuple[list[int], Sampling]  #: a prompt, and how it is continued
Place = tuple[CachedSession, Planner | None]  #: where one text after another is written

LOOK_AHEAD = 256  # jobs among which one with a prompt that was read already is looked for


class Continuation:
    """One text: what the next pass computes of it, and what is chosen then."""

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        sampling: Sampling,
        place: Place,
        keep_states: bool = False,
        options: Sequence[int] = (),
    ) -> None:
        """Begin where the cache agrees with the prompt."""
        self.sampling, self.place = sampling, place
        self.cache, self.planner = place
        self.vocabulary = model.vocabulary
        self.keep_states, self.wanted = keep_states, options
        self.prompt = prompt
        self.length = len(prompt)
        self.room = min(model.context_length - len(prompt), sampling.max_tokens)
        self.sequence = np.array([*prompt, *[0] * self.room], dtype=np.int64)
        self.output = Output(model, len(prompt), sampling)
        self.reused = self.cache.keep(prompt)
        self.rows: Logits  #: logits from which tokens are chosen next
        self.options: tuple[float, ...] = ()
        self.draft = NOTHING
        self.passes = 0
        self.guessed, self.accepted = Counter[str](), Counter[str]()
        self.reason: FinishReason | None = None
        self.prefill_seconds = self.decode_seconds = 0.0

    @property
    def reading(self) -> bool:
        """Tell whether some of the prompt is left to read."""
        return len(self.cache.tokens) < len(self.prompt)

    def ask(self, together: int = 1) -> list[int]:
        """Return the tokens of the next pass, in which so many texts are written.

        They are of the prompt, or the last token and guesses for those after it.
        """
        if self.reading:
            read = len(self.cache.tokens)
            return list(self.prompt[read : read + PREFILL_CHUNK])
        # The last token that there is room for needs no guess.
        limit = len(self.prompt) + self.room - self.length - 1
        if self.planner:
            self.draft = possible(self.planner.draft(limit, together), self.vocabulary)
            self.cache.truncate(self.length - 1)  # what a drafter that failed left behind
        self.passes += 1
        return [int(self.sequence[self.length - 1]), *self.draft.tokens]

    def read(self, rows: Logits, seconds: float) -> None:
        """Take the logits of a pass that read of the prompt; after its end begin to write."""
        start = perf_counter()
        self.rows = rows
        if not self.reading:
            self.options = log_probabilities(self.rows[-1], self.wanted)
            if self.planner:
                self.planner.start(self.prompt, self.sampling, self.cache.session)
            self.reason = None if self.room else "context"
        self.prefill_seconds += seconds + perf_counter() - start

    def step(self) -> list[Delta]:
        """Choose what the logits of the last pass allow, and say what is new."""
        if self.reason:
            return [Delta("", None, None, self.reason, self.statistics())]
        return self.choose()

    def choose(self) -> list[Delta]:
        """Choose tokens from the rows while the guesses for them are right, and one more."""
        start = perf_counter()
        shown: list[Delta] = []
        draft = self.draft
        for row, guess in zip_longest(self.rows, draft.guesses):
            token = self.choose_one(row, guess)
            self.sequence[self.length] = token
            self.length += 1
            text, self.reason = self.output.push(token)
            right = guess is not None and token == guess.token
            drafter = draft.drafter if right else None
            logprob = log_probability(row, token) if self.sampling.logprobs else None
            shown.append(Delta(text, token, drafter, logprob=logprob, state=self.state(len(shown))))
            if self.reason or not right:
                break
        if draft.drafter:
            self.guessed[draft.drafter] += len(draft.guesses)
            self.accepted[draft.drafter] += sum(delta.drafter is not None for delta in shown)
        self.cache.truncate(self.length - 1)  # guesses that were wrong
        if self.planner and self.reason is None:
            self.planner.learn(
                draft, self.sequence[self.length - len(shown) : self.length].tolist()
            )
        self.decode_seconds += perf_counter() - start
        if self.reason:
            shown[-1] = replace(shown[-1], finish_reason=self.reason, statistics=self.statistics())
        return shown

    def state(self, index: int) -> States | None:
        """Return the state behind a row of logits, if states are kept and the backend has them."""
        states = self.cache.session.states if self.keep_states else None
        return None if states is None else states[index : index + 1]

    def choose_one(self, row: Logits, guess: Guess | None) -> int:
        """Choose a token from a row of logits; there may be a guess for it."""
        history, position = self.sequence[: self.length], self.length
        settings = self.sampling
        if settings.rule == "rejection":
            return accept_or_replace(row, history, settings, position, guess)
        return sample(row, history, settings, settings.seed, position)

    def statistics(self) -> Statistics:
        """Return what it cost so far."""
        return Statistics(
            prompt_tokens=len(self.prompt),
            reused_tokens=self.reused,
            generated_tokens=self.output.count,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            passes=self.passes,
            guessed=dict(self.guessed),
            accepted=dict(self.accepted),
        )


def generate(
    model: Model,
    prompt_tokens: Sequence[int],
    sampling: Sampling | None = None,
    cache: CachedSession | None = None,
    planner: Planner | None = None,
) -> Iterator[Delta]:
    """Continue a prompt, one `Delta` for each token; the last one says why it ended and the cost.

    An empty prompt starts from what `beginning` returns. `cache` is a session to go on
    from: what agrees with the prompt is not computed again. Prompt and output together fill at
    most `model.context_length` tokens. `planner` decides what is guessed; the text is the same
    without it. Raises StropError for a prompt longer than that, and what `beginning` does.
    """
    prompt = checked_prompt(model, prompt_tokens)
    place = (cache or CachedSession(model.session()), planner)
    written = together(model, [(prompt, sampling or Sampling())], [place])
    return (delta for _, _, shown in written for delta in shown)


def complete(
    model: Model,
    prompt_tokens: Sequence[int],
    sampling: Sampling | None = None,
    cache: CachedSession | None = None,
    planner: Planner | None = None,
) -> Completion:
    """Continue a prompt to the end. Takes and raises what `generate` does."""
    return collect(generate(model, prompt_tokens, sampling, cache, planner))


def complete_many(
    model: Model,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    planner: Callable[[], Planner] | None = None,
    width: int = WIDTH,
    keep_states: bool = False,
    options: Sequence[int] = (),
) -> Iterator[tuple[int, Completion]]:
    """Continue many prompts, each by its own sampling, up to `width` of them in every pass.

    Yields the number of a prompt and its completion, as each ends. A pass reads the weights once
    for all texts in it, of which each has guesses of its own (`planner` makes one for each place).
    The texts are those that `complete` gives. The decoding time of a text is that of all passes in
    which it took part. With `keep_states` a completion has the model's states; of the `options`,
    token ids, it has the log-probabilities as its first token. Raises what `generate` does, before
    anything is computed.
    """
    if width < 1:
        raise StropError(f"width must be at least 1, not {width}")
    checked = [checked_prompt(model, prompt) for prompt in prompts]
    jobs = list(zip(checked, samplings, strict=True))
    return completed(model, jobs, planner, min(width, len(jobs)), keep_states, options)


def completed(
    model: Model,
    jobs: Sequence[Job],
    planner: Callable[[], Planner] | None,
    width: int,
    keep_states: bool,
    options: Sequence[int],
) -> Iterator[tuple[int, Completion]]:
    """Put the steps of each text together."""
    caches = opened(model, [prompt for prompt, _ in jobs], width)
    places = [(cache, planner() if planner else None) for cache in caches]
    every: dict[int, list[Delta]] = {}
    for number, text, shown in together(model, jobs, places, keep_states, options):
        every.setdefault(number, []).extend(shown)
        if text.reason:
            yield number, replace(collect(every.pop(number)), options=text.options)


def together(
    model: Model,
    jobs: Sequence[Job],
    free: list[Place],
    keep_states: bool = False,
    options: Sequence[int] = (),
) -> Iterator[tuple[int, Continuation, list[Delta]]]:
    """Run the loop for several texts; where one ends the next begins.

    A pass reads of one prompt at most, and the texts that are being written go along with it: their
    few rows cost little beside those of a prompt, and a lot in a pass of their own.
    """
    waiting = deque(enumerate(jobs))
    active: dict[int, Continuation] = {}
    while waiting or active:
        if waiting and free and not any(text.reading for text in active.values()):
            place = free.pop()
            number, (prompt, sampling) = next_job(waiting, place[0])
            active[number] = Continuation(model, prompt, sampling, place, keep_states, options)
        advance(model, list(active.values()))
        for number, text in list(active.items()):
            if text.reading:
                continue
            shown = text.step()
            if text.reason:
                del active[number]
                free.append(text.place)
            yield number, text, shown


def advance(model: Model, texts: Sequence[Continuation]) -> None:
    """Compute the logits after each text, in one pass over all of them."""
    start = perf_counter()
    reading = [text.reading for text in texts]
    asked = [text.ask(len(texts) - sum(reading)) for text in texts]
    wanted = [1 if one else len(ids) for ids, one in zip(asked, reading, strict=True)]
    logits = forward_together(model, [text.cache for text in texts], asked, wanted)
    seconds = perf_counter() - start
    for text, rows, one in zip(texts, logits, reading, strict=True):
        if one:
            text.read(rows, seconds)
        else:
            text.rows = rows
            text.decode_seconds += seconds


def opened(model: Model, prompts: Sequence[list[int]], count: int) -> list[CachedSession]:
    """Return so many sessions, which have read what all prompts begin with; it is read once."""
    if count < 2:
        return [CachedSession(model.session()) for _ in range(count)]
    first = CachedSession(model.session())
    shared = min(common_prefix(prompts[0], one[:-1]) for one in prompts)
    for start in range(0, shared, PREFILL_CHUNK):
        first.forward(prompts[0][start : min(shared, start + PREFILL_CHUNK)], last=0)
    return [first, *(first.fork() for _ in range(count - 1))]


def next_job(waiting: deque[tuple[int, Job]], cache: CachedSession) -> tuple[int, Job]:
    """Take a job whose prompt the cache holds already, if one of the next does; else the first."""
    ahead = enumerate(islice(waiting, LOOK_AHEAD))
    known = (index for index, (_, (prompt, _)) in ahead if cache.holds(prompt))
    index = next(known, 0)
    job = waiting[index]
    del waiting[index]
    return job


def possible(draft: Draft, vocabulary: int) -> Draft:
    """Return the guesses up to the first that is no token of the model."""
    for index, guess in enumerate(draft.guesses):
        if not 0 <= guess.token < vocabulary:
            return replace(draft, guesses=draft.guesses[:index]) if index else NOTHING
    return draft


def checked_prompt(model: Model, tokens: Sequence[int]) -> list[int]:
    """Return the tokens to start from; StropError where there are none, or more than fit."""
    prompt = list(tokens) or [beginning(model)]
    if len(prompt) > model.context_length:
        raise StropError(
            f"the prompt has {len(prompt)} tokens, but the context of {model.name} "
            f"holds {model.context_length}: shorten the prompt"
        )
    return prompt


def beginning(model: Model) -> int:
    """Return the token that a text begins after: the beginning-of-text one, or that of an end.

    A model without the first learned texts one after another, with the second between them; so does
    lm-evaluation-harness take them. Raises StropError if the model has neither.
    """
    tokenizer = model.tokenizer
    for name in ("bos_token", "eos_token"):
        text = tokenizer.tokens.get(name)
        token = None if text is None else tokenizer.backend.token_to_id(text)
        if token is not None:
            return int(token)
    raise StropError(
        f"the prompt is empty and {model.name} has no token that a text begins or ends with"
    )
