"""Which of two answers a language model prefers, asked in both orders.

A judge that prefers whatever comes first has preferences that say nothing of the answers. So each
pair is asked both ways round: a preference counts if it stays when the answers change places. What
changes with the order is a conflict, and above a share of conflicts there is no verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from strop.console import progress
from strop.data import Prompt, sha256_json
from strop.data.journal import Journal
from strop.decoding import GREEDY
from strop.errors import StropFailure
from strop.lm import FAILED, Answer, Failed, LanguageModel
from strop.stats import (
    Interval,
    Verdict,
    against_half,
    holm,
    length_controlled,
    net_win_rate,
    sign_test,
    spelled_p,
    wilson,
)

MOST_CONFLICTS = 0.3  #: share of pairs above which there is no verdict
#: The letter that a reply begins with, not the article of "A better answer would be"
LETTER = re.compile(r"^\W*(?:answer\s+)?([abc])(?=\W*$|\s*[:.,)\]*]|\s+is\b)", re.IGNORECASE)
SAMPLING = replace(GREEDY, max_tokens=8, stop=("\n",))
#: What is asked; what all pairs have in common comes first, so that it is read once.
SYSTEM = "You compare two answers that assistants gave, without regard to their order or length."
QUESTION = """\
Which of two answers is better: more helpful, more relevant, more accurate?
Reply with one letter: A if answer A is better, B if answer B is better, C if neither is.

What was asked:
{prompt}

Answer A:
{first}

Answer B:
{second}

The better answer (A, B or C):"""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt."""

    prompt: str
    ours: str
    theirs: str
    test_set: str = ""  #: which of several it belongs to

    @property
    def key(self) -> str:
        """Return the hash of what is compared."""
        return sha256_json([self.prompt, self.ours, self.theirs])


def question(prompt: str, first: str, second: str) -> Prompt:
    """Return what a judge is asked."""
    # One pass over the template: what the answers say is not filled in again.
    text = QUESTION.format(prompt=prompt, first=first, second=second)
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": text})


def preference(answer: Answer | Failed) -> tuple[str | None, str]:
    """Return the letter that a judge replied, A, B or C, and "judged" or why there is none."""
    if isinstance(answer, Failed):
        return None, answer.status
    found = LETTER.match(answer.text)
    return (found[1].upper(), "judged") if found else (None, "no letter")


#: (first order, second order) -> outcome for ours. Ours is A in the first, B in the second.
OUTCOMES: dict[tuple[str, str], float] = {
    ("A", "B"): 1.0,
    ("A", "C"): 1.0,
    ("C", "B"): 1.0,
    ("C", "C"): 0.5,
    ("A", "A"): 0.5,
    ("B", "B"): 0.5,
    ("B", "A"): 0.0,
    ("B", "C"): 0.0,
    ("C", "A"): 0.0,
}
CONFLICTS = {("A", "A"), ("B", "B")}  #: the same place, whichever answer is there


def ask_both_ways(
    pairs: Sequence[Pair], judge: LanguageModel, journal: Journal
) -> list[dict[str, Any]]:
    """Return a row for each pair: both replies, and the outcome for ours, None if not judged.

    What the journal has is not asked again, but for requests that failed.
    """
    known = {
        (row["key"], row["order"]): row
        for row in journal.rows
        if not row["status"].startswith(FAILED)
    }
    left = [
        (one, order)
        for one in dict.fromkeys(pairs)
        for order in (0, 1)
        if one.ours != one.theirs and (one.key, order) not in known
    ]
    prompts = [
        question(one.prompt, *((one.theirs, one.ours) if order else (one.ours, one.theirs)))
        for one, order in left
    ]
    with progress(f"judging ({judge.name})", len(left), "questions") as advance:
        for number, answer in judge.generate(prompts, [SAMPLING] * len(left)):
            one, order = left[number]
            letter, status = preference(answer)
            reply = answer.text if isinstance(answer, Answer) else None
            row = {
                "key": one.key,
                "order": order,
                "letter": letter,
                "status": status,
                "reply": reply,
                "prompt_hash": sha256_json(prompts[number]),
                "judge": judge.identity,
            }
            journal.add(row)
            known[one.key, order] = row
            advance(1)
    return [both(one, known) for one in pairs]


def both(one: Pair, known: Mapping[tuple[str, int], Mapping[str, Any]]) -> dict[str, Any]:
    """Put the replies for both orders together; equal answers are a tie that nobody is asked."""
    row = {"test_set": one.test_set, "key": one.key}
    if one.ours == one.theirs:
        return row | {"letters": None, "outcome": 0.5, "status": "equal answers"}
    replies = [known[one.key, order] for order in (0, 1)]
    letters = [reply["letter"] for reply in replies]
    if None in letters:
        missing = [reply["status"] for reply in replies if reply["letter"] is None]
        # What failed may be answered when it is asked again, what was said stays.
        status = next((one for one in missing if one.startswith(FAILED)), missing[0])
        return row | {"letters": letters, "outcome": None, "status": status}
    first, second = letters
    return row | {"letters": letters, "outcome": OUTCOMES[first, second], "status": "judged"}


def judgement(
    pairs: Sequence[Pair],
    rows: Sequence[Mapping[str, Any]],
    most_conflicts: float = MOST_CONFLICTS,
) -> dict[str, Any]:
    """Return how reliable a judge was, and what it says: of each test set, and of all together.

    Raises StropFailure if it judged fewer than two pairs.
    """
    judged = [
        (one, row) for one, row in zip(pairs, rows, strict=True) if row["outcome"] is not None
    ]
    reasons = Counter(row["status"] for row in rows if row["outcome"] is None)
    asked = [tuple(row["letters"]) for _, row in judged if row["letters"]]
    if len(judged) < 2 or not asked:
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise StropFailure(f"{len(asked)} pairs were judged: {said or 'all answers are equal'}")
    conflicts = wilson(sum(letters in CONFLICTS for letters in asked), len(asked))
    reliable = conflicts.estimate <= most_conflicts
    sets: dict[str, list[tuple[Pair, float]]] = {}
    for one, row in judged:
        sets.setdefault(one.test_set, []).append((one, row["outcome"]))
    found = {name: counted(outcomes) for name, outcomes in sets.items()}
    together = counted([(one, row["outcome"]) for one, row in judged])
    corrected = holm([own["p"] for own in found.values()])
    for own, p in zip(found.values(), corrected, strict=True):
        own |= {"p_holm": p, "verdict": word(own, p) if reliable else "withheld"}
    together["verdict"] = word(together, together["p"]) if reliable else "withheld"
    return {
        "judged": len(judged),
        "not_judged": dict(reasons),
        "conflicts": conflicts.to_json(),
        "most_conflicts": most_conflicts,
        "reliable": reliable,
        "first_place": first_place(asked),
        "sets": found,
        "together": together,
    }


def first_place(asked: Sequence[tuple[str, ...]]) -> dict[str, Any] | None:
    """Return how often replies prefer the first place, of those to a pair that prefer one.

    The two replies to a pair belong together: it counts as 1, 1/2 or 0, as a verdict does. None
    where no reply prefers a place.
    """
    decided = [[letter for letter in letters if letter != "C"] for letters in asked]
    shares = [letters.count("A") / len(letters) for letters in decided if letters]
    if not shares:
        return None
    return net_win_rate(*(shares.count(share) for share in (1.0, 0.5, 0.0))).to_json()


def counted(outcomes: Sequence[tuple[Pair, float]]) -> dict[str, Any]:
    """Return wins, ties and losses, with their rate and the p-value of it."""
    values = [outcome for _, outcome in outcomes]
    wins, ties, losses = (values.count(value) for value in (1.0, 0.5, 0.0))
    rate = net_win_rate(wins, ties, losses)
    longer = [float(len(one.ours.split()) - len(one.theirs.split())) for one, _ in outcomes]
    controlled = length_controlled(values, longer) if len(values) > 2 else rate
    return {
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "net_win_rate": rate.to_json(),
        "length_controlled": controlled.to_json(),
        "p": sign_test(wins, losses),
    }


def word(found: Mapping[str, Any], p: float) -> Verdict:
    """Say what a net win rate shows: that needs an interval without 50%, and p below 5%."""
    return against_half(Interval(**found["net_win_rate"]), p)


def spelled(facts: Mapping[str, Any]) -> str:
    """Say what a judge found, and how far to trust it."""
    conflicts = Interval(**facts["conflicts"]).scaled(100)
    lines = [f"conflicts between both orders: {conflicts:.0f}% of {conflicts.n} pairs"]
    if facts["first_place"]:
        first = Interval(**facts["first_place"]).scaled(100)
        lines[0] += f"; decided replies preferred the first place in {first:.0f}% (n = {first.n})"
    lines += [f"not judged: {count} {reason}" for reason, count in facts["not_judged"].items()]
    if not facts["reliable"]:
        lines.append(
            f"no verdict: more than {100 * facts['most_conflicts']:.0f}% conflicts, so the judge "
            "mostly says in which order it was asked"
        )
    sets = facts["sets"] if len(facts["sets"]) > 1 else {}
    for name, one in [*sets.items(), ("all", facts["together"])]:
        rate = Interval(**one["net_win_rate"]).scaled(100)
        equal = Interval(**one["length_controlled"]).scaled(100)
        p = spelled_p(one["p"])
        if "p_holm" in one and sets:
            p += f", {spelled_p(one['p_holm'])} with all sets"
        lines.append(
            f"{name}: {one['wins']} wins, {one['ties']} ties, {one['losses']} losses; net win rate "
            f"{rate:.0f}%, at equal lengths {equal:.0f}%, {p}: {one['verdict']} (n = {rate.n})"
        )
    return "\n".join(lines)
