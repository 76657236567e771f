"""A model behind an endpoint that speaks OpenAI's protocol: many requests at once, with retries."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from strop.console import say
from strop.data import Prompt
from strop.decoding import Sampling
from strop.errors import StropError, StropFailure, missing_extra
from strop.lm.interface import Answer, Failed, Scores
from strop.lm.replies import answered, spelled

KEYS = ("STROP_API_KEY", "OPENAI_API_KEY")  #: environment variables that may hold the key
MOST_OPTIONS = 20  #: of the most likely first tokens that an endpoint tells
LETTERS = 4  #: of a token, roughly: for what requests will cost
DEAD = 8  #: failures in a row that may be the endpoint's
HOPELESS = 32  #: failures of any kind before any answer
PROBE = "Say yes."  #: which tells, after many failures, whose fault they are
MOST_HANGING = 32  #: requests that were given up, after which nothing more is asked
MOST_TOGETHER = 256  #: requests: each has a thread
LONGEST_PAUSE = 120.0  #: seconds before a request is repeated, as the openai library has it
LOOK = 1.0  #: seconds after which to see whether a request takes too long
SLOWEST = 0.01  #: requests a minute
#: Errors, as the openai library calls them, that no other prompt and no other time will mend
NEVER = ("AuthenticationError", "NotFoundError")
#: Those of one prompt: too long, not allowed
REFUSALS = ("BadRequestError", "UnprocessableEntityError", "PermissionDeniedError")
LABEL = 63  #: letters of a part of a host's name, at most (RFC 1035, section 2.3.4)


@dataclass(frozen=True)
class RemoteConfig:
    """How an endpoint is used."""

    together: int = 8  #: requests at once
    per_minute: float = 0.0  #: requests a minute, at most; 0: no limit
    retries: int = 4  #: of a request that failed, with growing pauses or those that it is told
    timeout: float = 60.0  #: seconds that an endpoint may say nothing in
    price_in: float = 0.0  #: of a million tokens that are read, in whatever currency
    price_out: float = 0.0  #: of a million tokens that are written

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.together < 1 or self.retries < 0 or not self.timeout > 0:
            raise StropError("requests at once and the timeout must be above 0, retries at least 0")
        if not (self.together <= MOST_TOGETHER and self.timeout < math.inf):
            raise StropError(f"at most {MOST_TOGETHER} requests at once, and a finite timeout")
        if self.per_minute and not SLOWEST <= self.per_minute < math.inf:
            raise StropError(f"requests a minute: at least {SLOWEST}, or 0 for no limit")
        if not all(0 <= price < math.inf for price in (self.price_in, self.price_out)):
            raise StropError("prices must be numbers of at least 0")

    @property
    def longest(self) -> float:
        """Return the seconds after which a prompt is given up, whatever still drips in."""
        return (self.retries + 1) * (self.timeout + LONGEST_PAUSE)

    def cost(self, read: float, written: float) -> float:
        """Return what so many tokens cost."""
        return (self.price_in * read + self.price_out * written) / 1e6


@dataclass
class Usage:
    """What was asked of an endpoint so far."""

    requests: int = 0
    read: int = 0  #: tokens, as it counts them
    written: int = 0  #: tokens

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.requests += 1
        self.read += answer.prompt_tokens
        self.written += answer.tokens


class Unreached(Failed):
    """A failure that may be the endpoint's, not the prompt's."""


class Busy(Unreached):
    """A failure that a plain question says nothing of: too much was asked, or too long waited."""


class Refused(Failed):
    """A failure of what was asked for; something else may be answered."""


@dataclass
class Attempt:
    """When a request was sent; waiting for its turn is not counted."""

    sent: float = math.inf

    @property
    def seconds(self) -> float:
        """Return how long it takes."""
        return time.monotonic() - self.sent


@dataclass
class Gate:
    """Lets through so many a minute."""

    per_minute: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    next: float = 0.0  #: when the next may go
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> None:
        """Wait for a turn."""
        if not self.per_minute:
            return
        with self.lock:
            now = self.clock()
            turn = max(now, self.next)
            self.next = turn + 60.0 / self.per_minute
        if turn > now:
            self.sleep(turn - now)


def is_address(reference: str) -> bool:
    """Tell whether a reference is that of an endpoint."""
    return reference.startswith(("http://", "https://"))


class RemoteModel:
    """A model of an endpoint, http://host/v1#name."""

    def __init__(self, reference: str, chat: bool, config: RemoteConfig) -> None:
        """Take the address; nothing is asked yet. Raises StropError without a name."""
        self.address, _, self.model = reference.partition("#")
        try:
            parts = urlsplit(self.address)
            labels = (parts.hostname or "").split(".")
            named = bool(labels[0]) and max(map(len, labels)) <= LABEL and parts.port != 0
        except ValueError:  # a port that is no number, brackets without an end
            named = False
        if not named or not self.address.isprintable() or " " in self.address:
            raise StropError(f"{self.address}: is not an address such as http://host:8000/v1")
        if not self.model:
            raise StropError(f"{reference}: which model? Write {reference}#NAME")
        if not chat:
            raise StropError(f"{reference}: an endpoint for chat continues no plain text")
        self.name, self.config = reference, config
        self.chat: bool = True
        self.tells = True  #: log-probabilities, as far as it is known
        self.said: set[str] = set()  #: about them
        self.lock = threading.Lock()
        self.usage = Usage()
        self.gate = Gate(config.per_minute)

    @property
    def used(self) -> str:
        """Say what was asked so far, and what it cost by the prices that are known."""
        read, written = self.usage.read, self.usage.written
        cost = self.config.cost(read, written)
        price = f", cost {cost:.4f}" if cost else ""
        return (
            f"{self.name}: {self.usage.requests} answers, {read:,} tokens read, {written:,} "
            f"written{price}"
        )

    def expected(self, prompts: Sequence[Prompt], sampling: Sequence[Sampling]) -> str:
        """Say what will be asked, and about what it costs by the prices that are known."""
        read = sum(map(letters, prompts)) // LETTERS
        written = sum(one.max_tokens for one in sampling)
        cost = self.config.cost(read, written)
        price = f", about {cost:.4f} at most by your prices" if cost else ""
        return (
            f"{self.name}: {len(prompts)} requests, about {read:,} tokens to read, at most "
            f"{written:,} to write{price}"
        )

    @property
    def identity(self) -> str:
        """Return its address: what is behind it is not known."""
        return self.name

    @cached_property
    def client(self) -> Any:
        """The client of the openai library."""
        try:
            import openai
        except ModuleNotFoundError as error:
            raise missing_extra("openai", "remote") from error
        keys = {name: os.environ.get(name, "").strip() for name in KEYS}
        variable, key = next(((name, key) for name, key in keys.items() if key), ("", "none"))
        if not (key.isascii() and key.isprintable()):
            raise StropError(f"{variable}: a key has letters, digits and marks of ASCII only")
        try:
            return openai.OpenAI(
                api_key=key,
                base_url=self.address,
                timeout=self.config.timeout,
                max_retries=self.config.retries,
            )
        except Exception as error:  # of its HTTP library: addresses, proxies of the environment
            raise StropError(f"{self.address}: {error}") from error

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer | Failed]]:
        """Answer prompts, several at a time; see `LanguageModel`.

        Says before what will be asked, and after what was. Raises StropError for what the endpoint
        will never do, such as a wrong key, and StropFailure when it fails again and again, at a
        plain question too: else it is the prompts that cannot be answered.
        """
        if not prompts:
            return
        say(self.expected(prompts, sampling))
        waiting = deque(enumerate(zip(prompts, sampling, strict=True)))
        running: dict[Future[Answer | Failed], tuple[int, Attempt]] = {}
        in_a_row, failures, hanging = 0, 0, 0
        never: StropError | None = None
        last: Failed = Failed("nothing")
        try:
            while waiting or running:
                while waiting and len(running) < self.config.together:
                    number, (prompt, how) = waiting.popleft()
                    attempt = Attempt()
                    future = in_background(self.ask, prompt, how, options, attempt)
                    running[future] = number, attempt
                wait(running, LOOK, return_when=FIRST_COMPLETED)
                for future, (number, attempt) in list(running.items()):
                    if future.done():
                        del running[future]
                        if isinstance(error := future.exception(), StropError):
                            never = error
                            continue
                        answer = future.result()
                    elif attempt.seconds > self.config.longest:
                        answer = self.late()
                        del running[future]
                        hanging += 1  # its thread goes on
                    else:
                        continue
                    if isinstance(answer, Answer):
                        self.usage.add(answer)
                    else:
                        failures, last = failures + 1, answer
                    in_a_row = in_a_row + 1 if isinstance(answer, Unreached) else 0
                    yield number, answer
                # Not before all that were answered together have been handed over.
                if never:
                    raise never
                hopeless = failures >= HOPELESS and not self.usage.requests
                if in_a_row >= DEAD or hopeless or hanging >= MOST_HANGING:
                    sure = isinstance(last, Busy) or hanging >= MOST_HANGING
                    verdict = last if sure else self.probed()
                    if isinstance(verdict, Failed):
                        yield from answered_meanwhile(running)
                        raise StropFailure(
                            f"{self.name}: {failures} requests failed, the last with: "
                            f"{verdict.reason}; run the same command again to go on"
                        )
                    in_a_row = 0
        finally:
            say(self.used)

    def late(self) -> Busy:
        """Return the failure of a request that was given up."""
        return Busy(f"no whole answer in {self.config.longest:g} s")

    def probed(self) -> Answer | Failed:
        """Ask a plain question."""
        attempt = Attempt()
        future = in_background(self.request, PROBE, Sampling(max_tokens=8), (), {}, attempt)
        while not future.done():
            if attempt.seconds > self.config.longest:
                return self.late()
            wait([future], LOOK)
        answer = future.result()
        if isinstance(answer, Answer):
            self.usage.add(answer)
        return answer

    def ask(
        self, prompt: Prompt, sampling: Sampling, options: Sequence[str], attempt: Attempt
    ) -> Answer | Failed:
        """Ask for one answer, without log-probabilities if those are what is refused."""
        if not (options and self.tells):
            return self.request(prompt, sampling, options, {}, attempt)
        logprobs = {"logprobs": True, "top_logprobs": MOST_OPTIONS}
        found = self.request(prompt, sampling, options, logprobs, attempt)
        if isinstance(found, Answer) and found.options.count(None) == len(options):
            self.say_once("tells no log-probabilities of a first token")
        if not isinstance(found, Refused):
            return found
        plain = self.request(prompt, sampling, options, {}, attempt)
        if isinstance(plain, Answer):
            self.tells = False
            self.say_once(f"refuses log-probabilities, goes on without them: {found.reason}")
        return plain

    def say_once(self, words: str) -> None:
        """Say what is wrong with its log-probabilities, the first time."""
        with self.lock:
            if words.split(":")[0] not in self.said:
                say(f"{self.name}: {words}")
            self.said.add(words.split(":")[0])

    def request(
        self,
        prompt: Prompt,
        sampling: Sampling,
        options: Sequence[str],
        settings: Mapping[str, Any],
        attempt: Attempt,
    ) -> Answer | Failed:
        """Send one request."""
        import openai

        messages: Any = prompt
        if isinstance(prompt, str):
            messages = [{"role": "user", "content": prompt}]
        create = self.client.chat.completions.create
        attempt.sent = math.inf
        self.gate.enter()
        attempt.sent = time.monotonic()
        try:
            reply = create(
                model=self.model,
                messages=list(messages),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed % 2**31,
                stop=list(sampling.stop) or None,
                **settings,
            )
        except tuple(getattr(openai, name) for name in NEVER) as error:
            raise StropError(f"{self.name}: {spelled(error)}") from error
        except tuple(getattr(openai, name) for name in REFUSALS) as error:
            return Refused(spelled(error))
        except (openai.RateLimitError, openai.APITimeoutError) as error:
            return Busy(spelled(error))
        except openai.APIError as error:
            return Unreached(spelled(error))
        except (ValueError, RecursionError):
            return Unreached("a reply that is not JSON")
        try:
            return answered(reply, options)
        except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError):
            return Unreached("a reply without an answer")

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, Scores | Failed]]:
        """Refuse: the protocol has no way to score a given answer."""
        raise StropError(
            f"{self.name}: endpoints score no given answers, which choices, losses and "
            "perplexities need: use a local model"
        )


def in_background(ask: Callable[..., Answer | Failed], *asked: Any) -> Future[Answer | Failed]:
    """Ask in a thread that nobody waits for at the end, as Python does for those of its pools."""
    future: Future[Answer | Failed] = Future()

    def run() -> None:
        """Hand over the answer, or the error."""
        try:
            future.set_result(ask(*asked))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def answered_meanwhile(
    running: Mapping[Future[Answer | Failed], tuple[int, Attempt]],
) -> Iterator[tuple[int, Answer | Failed]]:
    """Yield the answers that came while nobody looked: they may have been paid for."""
    for future, (number, _) in running.items():
        if future.done() and not future.exception():
            yield number, future.result()


def letters(prompt: Prompt) -> int:
    """Return the length of a prompt."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message["content"]) for message in prompt)
