"""Known failures of tuning on preferences, recognised in the figures of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strop.tuning.curves import Steps

PART = 0.2  #: of a run's steps: its end
DEAD = 0.02  #: share of open hinges below which only the cross-entropy trains
CLOSED = 0.98  #: share of open hinges above which nothing was learned
FALL = 10.0  #: nats that the log-probability of chosen answers may fall
DRIFT = 1.25  #: times the length of answers before, beyond which it has drifted
REPEATED = 0.3  #: share of 4-grams that came before in the same text, beyond which it loops


@dataclass(frozen=True)
class Run:
    """What is known of a run. Only evaluations, which are on the same prompts, are compared."""

    steps: Steps
    evaluations: Steps

    def end(self, name: str) -> float | None:
        """Return a figure of the last evaluation; without any, its mean over the last steps."""
        if self.evaluations:
            last = self.evaluations[-1].get(name)
            return None if last is None else float(last)
        some = max(1, int(PART * len(self.steps)))
        values = [step[name] for step in self.steps[-some:] if name in step]
        return sum(values) / len(values) if values else None

    def change(self, name: str) -> float | None:
        """Return how a figure changed from the first evaluation to the last."""
        if len(self.evaluations) < 2 or name not in self.evaluations[0]:
            return None
        return float(self.evaluations[-1][name] - self.evaluations[0][name])


def dead_hinge(run: Run) -> str | None:
    """The margin is reached for all pairs, and only the cross-entropy trains."""
    active = run.end("active")
    if active is None or active >= DEAD:
        return None
    return (
        f"dead hinge: {active:.0%} of pairs are within the margin at the end, so only the "
        "cross-entropy trains: set a larger margin or beta, or stop earlier"
    )


def open_hinge(run: Run) -> str | None:
    """No pair ever gets to the margin."""
    active, grown = run.end("active"), run.change("margin")
    if active is None or active <= CLOSED or grown is None or grown > 0:
        return None
    return (
        f"nothing learned: {active:.0%} of pairs are within the margin at the end, and on held-out "
        "prompts it did not grow: raise the learning rate, or train longer"
    )


def chosen_falls(run: Run) -> str | None:
    """Chosen answers became less likely, by more than the margin grew."""
    chosen, grown = run.change("chosen"), run.change("margin")
    if chosen is None or grown is None or chosen > -FALL or grown >= -chosen:
        return None
    return (
        f"chosen answers fall: on held-out prompts their log-probability went down by "
        f"{-chosen:.0f} nats: lower the learning rate, or raise regularization if the loss has it"
    )


def overfitted(run: Run) -> str | None:
    """The loss on held-out items rose again."""
    losses = [row["loss"] for row in run.evaluations]
    if len(losses) < 3 or losses[-1] <= min(losses) + 0.1 * abs(min(losses)):
        return None
    best = run.evaluations[losses.index(min(losses))]["step"]
    return (
        f"overfitted: the held-out loss was lowest after step {best} ({min(losses):.3g}) and "
        f"{losses[-1]:.3g} at the end: the weights of step {best} were kept; train shorter"
    )


def unlearned(run: Run) -> str | None:
    """Training never made the held-out loss smaller."""
    losses = [row["loss"] for row in run.evaluations]
    if len(losses) < 2 or min(losses[1:]) < losses[0]:
        return None
    return (
        "nothing learned: the held-out loss was never lower than before training: the weights "
        "are those from before; change the learning rate, or give more data"
    )


#: In the order of importance: the first that is found is what is said.
FAILURES: tuple[Callable[[Run], str | None], ...] = (
    unlearned,
    chosen_falls,
    overfitted,
    dead_hinge,
    open_hinge,
)


def diagnose(steps: Steps, evaluations: Steps) -> str:
    """Say in one line which known failure a run shows, if it shows one."""
    run = Run(steps, evaluations)
    found = [line for line in (test(run) for test in FAILURES) if line]
    return found[0] if found else "no known failure shows"


def text_failures(lengths: Mapping[str, Any], repeated: Mapping[str, Any]) -> str:
    """Say in one line whether answers became much longer, or loop.

    Both are given as baseline, candidate and their difference, each with its interval.
    """
    before, after = (lengths[name]["estimate"] for name in ("baseline", "candidate"))
    if after > DRIFT * before and lengths["difference"]["low"] > 0:
        return (
            f"length drift: answers have {after:.0f} tokens, {before:.0f} before: judge them "
            "controlled for length, and look at the lengths of chosen answers in the data"
        )
    before, after = (repeated[name]["estimate"] for name in ("baseline", "candidate"))
    if after > REPEATED and repeated["difference"]["low"] > 0:
        return (
            f"loops: {after:.0%} of 4-grams repeat, {before:.0%} before: lower the learning rate, "
            "or raise regularization if the loss has it"
        )
    return "no drift of length, and no loops"


def repeated_ngrams(tokens: Sequence[int], size: int = 4) -> float:
    """Return the share of n-grams that came before in the same text; 0 where there are none."""
    grams = [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
