"""From rows of data to what a network is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from strop.data import Example, Preference, Prompt, Rejected, held_out, prompt_key
from strop.errors import StropError
from strop.models.tokenizer import Tokenizer
from strop.training.sequences import Tokens
from strop.tuning.encode import TooLong, answer_ids, check_length, prompt_ids
from strop.tuning.losses import Loss
from strop.tuning.objective import Candidates

T = TypeVar("T")

Keyed = tuple[str, Candidates]  #: the hash of a prompt, and what is learned from it


def example_items(
    rows: Sequence[Example], tokenizer: Tokenizer, most: int
) -> tuple[list[Keyed], list[Rejected]]:
    """Return an item for each example, and the examples that are too long, with numbers from 1."""
    items: list[Keyed] = []
    rejected = []
    for number, row in enumerate(rows, start=1):
        prompt, answer = prompt_ids(tokenizer, row.prompt), answer_ids(tokenizer, row.completion)
        try:
            check_length(prompt, (answer,), most)
        except TooLong as error:
            rejected.append(Rejected(number, str(error), vars(row)))
            continue
        items.append((prompt_key(row.prompt), Candidates(prompt, (answer,), answer, pairs=())))
    return items, rejected


def preference_items(
    rows: Sequence[Preference], tokenizer: Tokenizer, most: int, loss: Loss
) -> tuple[list[Keyed], list[Rejected]]:
    """Return an item for each prompt with all pairs of its answers, and the rows that do not fit.

    Raises StropError if the loss needs values, or an order of all answers, that the rows lack.
    """
    groups: dict[tuple[str, str | None], list[tuple[Preference, Tokens, Tokens]]] = {}
    rejected = []
    for number, row in enumerate(rows, start=1):
        prompt = prompt_ids(tokenizer, row.prompt)
        try:
            chosen, rejected_ids = both_ids(tokenizer, row)
            target = () if row.reference is None else answer_ids(tokenizer, row.reference)
            check_length(prompt, (chosen, rejected_ids, target), most)
        except TooLong as error:
            rejected.append(Rejected(number, str(error), vars(row)))
            continue
        group = groups.setdefault((prompt_key(row.prompt), row.reference), [])
        group.append((row, chosen, rejected_ids))
    items = [
        (key, item_of(tokenizer, group, reference, loss))
        for (key, reference), group in groups.items()
    ]
    return items, rejected


def both_ids(tokenizer: Tokenizer, row: Preference) -> tuple[Tokens, Tokens]:
    """Return the tokens of both answers; those that a model wrote are taken as they are."""
    texts = row.chosen, row.rejected
    if row.tokens is None:
        chosen, rejected = (answer_ids(tokenizer, text) for text in texts)
        return chosen, rejected
    for ids, text in zip(row.tokens, texts, strict=True):
        known = all(0 <= token < tokenizer.size for token in ids)
        if not known or tokenizer.decode(ids) != text:
            raise StropError("the rows hold tokens of another model: leave out the token columns")
    return row.tokens


def item_of(
    tokenizer: Tokenizer,
    group: Sequence[tuple[Preference, Tokens, Tokens]],
    reference: str | None,
    loss: Loss,
) -> Candidates:
    """Put the pairs of one prompt together; without a reference the best answer is the target."""
    prompt: Prompt = group[0][0].prompt
    values: dict[Tokens, float] = {}
    for row, *answers in group:
        if row.values is not None:
            values.update(zip(answers, row.values, strict=True))
    answers = list(dict.fromkeys(answer for _, *both in group for answer in both))
    valued = len(values) == len(answers)
    if loss.needs_values and not valued:
        raise StropError("this loss needs chosen_value and rejected_value: rank with --pointwise")
    if loss.whole_list and len(group) > 1 and not valued:
        raise StropError("this loss needs the order of all answers: rank with --pointwise")
    if valued:
        answers.sort(key=lambda answer: -values[answer])
    best = answers[0] if valued else unbeaten([pair for _, *pair in group])
    target = best
    if reference is not None:  # as the model wrote it, if it did
        texts = {
            text: ids
            for row, *both in group
            for text, ids in zip((row.chosen, row.rejected), both, strict=True)
        }
        target = texts.get(reference) or answer_ids(tokenizer, reference)
    if loss.per_token:  # nothing but the target is computed
        return Candidates(prompt_ids(tokenizer, prompt), (target,), target, pairs=())
    return Candidates(
        prompt=prompt_ids(tokenizer, prompt),
        candidates=tuple(answers),
        target=target,
        pairs=tuple(
            (answers.index(chosen), answers.index(rejected)) for _, chosen, rejected in group
        ),
        values=tuple(values[answer] for answer in answers) if valued else None,
        with_target=loss.uses_target,
    )


def unbeaten(pairs: Sequence[Sequence[Tokens]]) -> Tokens:
    """Return the first chosen answer that nothing is preferred to; in a circle, the first one."""
    losers = {rejected for _, rejected in pairs}
    return next((chosen for chosen, _ in pairs if chosen not in losers), pairs[0][0])


def with_others(items: Sequence[Keyed], most: int) -> list[Keyed]:
    """Give each item the best answer to another prompt, the next that has one which fits.

    Raises StropError where there is none.
    """
    return [
        (key, replace(item, other=other(items, place, most)))
        for place, (key, item) in enumerate(items)
    ]


def other(items: Sequence[Keyed], place: int, most: int) -> Tokens:
    """Return an answer that belongs to another prompt than the item at `place`."""
    key, item = items[place]
    for name, next_item in (*items[place + 1 :], *items[:place]):
        answer = next_item.candidates[0]
        if name != key and len(item.prompt) + len(answer) <= most:
            return answer
    raise StropError("this loss needs answers to at least two prompts, each short enough for both")


def split(
    items: Sequence[tuple[str, T]], part: float, seed: int
) -> tuple[list[tuple[str, T]], list[tuple[str, T]]]:
    """Return the items to train on, and those held out: of each prompt all, or none."""
    if not part:
        return list(items), []
    train = [one for one in items if not held_out(one[0], part, seed)]
    rest = [one for one in items if held_out(one[0], part, seed)]
    if not train or not rest:
        raise StropError(
            f"{len(items)} prompts are too few to hold out {part:.0%} of them: give more, or "
            "hold out none"
        )
    return train, rest
