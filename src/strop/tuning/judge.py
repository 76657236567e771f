"""Is the tuned model better? Answers of two models, judged by what did not build the pairs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.console import say
from strop.data import Prompt, prompt_key, read_rows, sha256_file, write_rows
from strop.data.instructions import shown
from strop.data.journal import Journal
from strop.errors import StropError
from strop.evaluation.pairwise import MOST_CONFLICTS, Pair, ask_both_ways, judgement
from strop.lm import FAILED, RemoteConfig, RemoteModel, open_model
from strop.lm.remote import is_address
from strop.models.identity import model_identity
from strop.stage import ROWS, Facts, finished, rows_path, run_stage
from strop.stats import (
    against_half,
    bootstrap,
    length_controlled,
    mean,
    net_win_rate,
    paired_difference,
    verdict,
)
from strop.tuning.answers import check_samples, prompt_of
from strop.tuning.diagnosis import repeated_ngrams, text_failures
from strop.tuning.origins import Origins, origins_of, ranker_hash
from strop.tuning.overlap import rouge_l
from strop.tuning.ranker import Ranker
from strop.tuning.sample import SampleConfig, asked_of, sample

NOTHING = "nothing to judge by: a ranker, a model, or answers with references"
REPLIES = "replies.jsonl"  #: of a judge, in the order in which they came


def judge(
    candidate: Path,
    baseline: Path,
    output: Path,
    ranker: Path | None = None,
    model: str | None = None,
    most_conflicts: float = MOST_CONFLICTS,
    remote: RemoteConfig | None = None,
    work: Path | None = None,
) -> Facts:
    """Compare the first answers of two sampling stages to the same prompts.

    With a ranker: how often the candidate's answer wins, and how often it would if both were
    equally long. With a language model as judge: the same, asked in both orders, and no verdict if
    it contradicts itself in more than `most_conflicts` of them. With reference answers in the rows:
    how much of them each says. Always: lengths, loops, answers that did not end. Every figure has
    an interval over prompts. Prompts that a model or the ranker was trained on are left out. Raises
    StropError for a ranker that built the pairs which a model was trained on, if fewer than two
    prompts are left, and if there is nothing to judge by.
    """
    if not 0.0 <= most_conflicts <= 1.0:
        raise StropError(f"a share of conflicts lies between 0 and 1, not {most_conflicts}")
    places = [candidate, baseline]
    paths = [rows_path(place, output) for place in places]
    inputs = {f"answers{n}": sha256_file(path) for n, path in enumerate(paths)}
    known = origins_of(places)
    if ranker:
        inputs["ranker"] = independent(ranker, known)
        known |= origins_of([ranker])

    asked = open_model(model, remote=remote) if model else None
    if asked:
        inputs["judge"] = asked.identity

    def make(directory: Path, place: Path) -> Facts:
        both, left_out = matched(places, known.prompts)
        reads = Ranker(ranker, place) if ranker else None
        facts = judged(both, reads, asked is not None, directory) | left_out
        if asked:
            pairs = [pair_of(one, other) for one, other in both]
            with Journal(place / REPLIES) as journal:
                rows = ask_both_ways(pairs, asked, journal)
            facts["judge"] = judgement(pairs, rows, most_conflicts) | {"name": asked.name}
            shutil.copyfile(place / REPLIES, directory / REPLIES)
        return facts

    settings = {
        "candidate": str(candidate),
        "baseline": str(baseline),
        "ranker": str(ranker),
        "judge": model,
        "most_conflicts": most_conflicts,
    }

    def resume(facts: Facts) -> list[str]:
        found = facts["judge"]["not_judged"] if "judge" in facts else {}
        failed = any(reason.startswith(FAILED) for reason in found)
        return [REPLIES] if failed and isinstance(asked, RemoteModel) else []

    return run_stage("judge", output, settings, inputs, make, work, resume)


def independent(ranker: Path, known: Origins) -> str:
    """Return the hash of a ranker. Raises StropError if it built pairs of what it is to judge."""
    digest = ranker_hash(ranker)
    if digest in known.rankers:
        raise StropError(
            f"{ranker} ranked the pairs that a model was trained on, so it cannot judge it: train "
            "another on other data"
        )
    return digest


def judge_models(
    models: tuple[str, str],
    prompts: Sequence[Path],
    output: Path,
    max_tokens: int = 256,
    ranker: Path | None = None,
    model: str | None = None,
    most_conflicts: float = MOST_CONFLICTS,
    remote: RemoteConfig | None = None,
    columns: Mapping[str, str] | None = None,
) -> Facts:
    """Let two models answer the prompts of one or more files, and compare; see `judge`.

    Answers take the most likely token each time. They are kept beside the output, in
    OUTPUT.answers, and used again. Each file is a test set of its own; a prompt that is in several
    counts in the first of them. `columns` says what the files call theirs.
    """
    if not prompts:
        raise StropError("which prompts?")
    if len({path.stem for path in prompts}) != len(prompts):
        raise StropError("two files of prompts have one name")
    finished(output, "judge")  # before hours of writing answers: all that could be wrong
    if ranker:
        independent(ranker, origins_of([Path(one).expanduser() for one in models]))
    if model and is_address(model):
        open_model(model, remote=remote)
    elif model:
        model_identity(model)
    asked = [one for path in prompts for one in asked_of(rows_path(path), columns).rows]
    if again := len(asked) - len({prompt_key(one.prompt) for one in asked}):
        say(f"prompts that come again count where they come first: {again} of {len(asked)}")
    if not (ranker or model) and sum(one.reference is not None for one in asked) < 2:
        raise StropError(NOTHING)
    config = SampleConfig(n=1, temperature=0.0, max_tokens=max_tokens)
    places = []
    for writer, role in zip(models, ("candidate", "baseline"), strict=True):
        rows: dict[str, dict[str, Any]] = {}
        place = output.parent / f"{output.name}.answers" / role
        for path in prompts:
            answers = place / path.stem
            sample(writer, path, answers, config, columns)
            for row in read_rows(answers / ROWS):
                rows.setdefault(prompt_key(prompt_of(row)), {**row, "set": path.stem})
        write_rows(place / ROWS, rows.values())
        origins_of([place / path.stem for path in prompts]).write(place)
        places.append(place)
    return judge(places[0], places[1], output, ranker, model, most_conflicts, remote)


Rows = tuple[Mapping[str, Any], Mapping[str, Any]]  #: of the candidate and of the baseline


def matched(places: Sequence[Path], trained_on: Collection[str]) -> tuple[list[Rows], Facts]:
    """Return the rows for prompts that both have and that may be judged, and how many may not."""
    tables: list[dict[str, Mapping[str, Any]]] = []
    for place in places:
        path = rows_path(place)
        rows = read_rows(path)
        check_samples(rows, path)
        first: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            first.setdefault(prompt_key(prompt_of(row)), row)
        if again := len(rows) - len(first):
            say(f"{path}: {again} of {len(rows)} rows left out, whose prompts came before")
        tables.append(first)
    one, other = tables
    common = [key for key in one if key in other]
    fresh = [key for key in common if key not in trained_on]
    left_out = {"trained_on": len(common) - len(fresh), "only_one": len(one.keys() ^ other.keys())}
    for count, why in zip(
        left_out.values(), ("were trained on", "only one of both answered"), strict=True
    ):
        if count:
            say(f"{count} prompts left out, which {why}")
    if len(fresh) < 2:
        raise StropError(
            f"{places[0]} and {places[1]} have {len(fresh)} prompts in common that were not "
            "trained on: too few to judge"
        )
    return [(one[key], other[key]) for key in fresh], left_out


def pair_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pair:
    """Return the first answers of both to a prompt."""
    test_set = str(one.get("set", ""))
    return Pair(shown(prompt_of(one)), one["candidates"][0], other["candidates"][0], test_set)


def judged(both: Sequence[Rows], ranker: Ranker | None, has_judge: bool, directory: Path) -> Facts:
    """Write a row for each prompt and return the figures."""
    rows = [compared(one, other) for one, other in both]
    if ranker:
        texts: list[tuple[Prompt, str, str]] = [
            (prompt_of(one), *row["answers"]) for (one, _), row in zip(both, rows, strict=True)
        ]
        for row, probability in zip(rows, preferences(ranker, texts), strict=True):
            row["preferred"] = probability
    write_rows(directory / ROWS, rows)
    facts: Facts = {"prompts": len(rows)}
    if ranker:
        facts |= win_facts(rows) | {"dtype": ranker.dtype}
    known = [row for row in rows if "overlap" in row]
    if len(known) > 1:
        facts["overlap"] = difference_facts(column(known, "overlap"), lower_is_better=False)
    elif not (ranker or has_judge):
        raise StropError(NOTHING)
    facts["tokens"] = difference_facts(column(rows, "tokens"))
    facts["repeated"] = difference_facts(column(rows, "repeated"), lower_is_better=True)
    facts["ended"] = difference_facts(column(rows, "ended"), lower_is_better=False)
    facts["diagnosis"] = text_failures(facts["tokens"], facts["repeated"])
    return facts


def compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of both answers to a prompt without a ranker."""
    answers = [row["candidates"][0] for row in (one, other)]
    tokens = [row["tokens"][0] for row in (one, other)]
    found = {
        "prompt": one["prompt"],
        "answers": answers,
        "tokens": [len(ids) for ids in tokens],
        "repeated": [repeated_ngrams(ids) for ids in tokens],
        "ended": [float(row["finish"][0] in ("end", "stop")) for row in (one, other)],
    }
    if "reference" in one:
        found["overlap"] = [rouge_l(text, [one["reference"]]) for text in answers]
    return found


def preferences(ranker: Ranker, rows: Sequence[tuple[Prompt, str, str]]) -> list[float]:
    """Return the probability that the first answer is better; equal answers are even."""
    different = [row for row in rows if row[1] != row[2]]
    if ranker.config.kind == "pairwise":
        probabilities = ranker.prefer(different) if different else []
    else:
        scores = ranker.scores([(prompt, (a, b)) for prompt, a, b in different])
        probabilities = [float(a > b) + 0.5 * (a == b) for a, b in scores]
    found = iter(probabilities)
    return [0.5 if a == b else next(found) for _, a, b in rows]


def column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """Return a figure of both answers, (prompts, 2)."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def win_facts(rows: Sequence[Mapping[str, Any]]) -> Facts:
    """Return the win rate, and the one controlled for length."""
    preferred = np.array([row["preferred"] for row in rows])
    wins = (preferred > 0.5) + 0.5 * (preferred == 0.5)
    longer = np.array([row["tokens"][0] - row["tokens"][1] for row in rows], dtype=np.float64)
    counts = [int((wins == outcome).sum()) for outcome in (1.0, 0.5, 0.0)]
    rate = net_win_rate(*counts)
    controlled = length_controlled(wins, longer)
    return {
        "win_rate": rate.to_json() | {"verdict": against_half(rate)},
        "length_controlled": controlled.to_json() | {"verdict": against_half(controlled)},
    }


def difference_facts(values: NDArray[np.float64], lower_is_better: bool | None = None) -> Facts:
    """Return the means of both, and of their difference, paired by prompt."""
    difference = paired_difference(values[:, 0], values[:, 1], mean)
    found = {
        "candidate": bootstrap(values[:, 0]).to_json(),
        "baseline": bootstrap(values[:, 1]).to_json(),
        "difference": difference.to_json(),
    }
    if lower_is_better is None:
        return found
    return found | {"verdict": verdict(difference, lower_is_better)}
