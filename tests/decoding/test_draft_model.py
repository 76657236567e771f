"""Drafts by models: another one, the upper plane, one with other tokens; none changes a text."""

from itertools import islice
from pathlib import Path

import pytest
from tests.decoding.packed_models import PROMPTS, SAMPLINGS

from strop.decoding import GREEDY, complete, planner_for
from strop.decoding.choose import drafters_for
from strop.decoding.costs import PassCosts
from strop.decoding.draft_model import (
    ModelDrafter,
    NestedDrafter,
    TranslatingDrafter,
    model_drafter,
)
from strop.decoding.planner import Planner
from strop.decoding.verify import Reckless, compare
from strop.errors import StropError
from strop.models import load, pack


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed")
    for format in ("bfp8n", "bfp4", "bfp8"):
        pack(str(tiny_model), format, directory / format)
    return directory


def test_another_model(packed: Path) -> None:
    model, small = load(str(packed / "bfp8")), load(str(packed / "bfp4"))
    rows = list(compare(model, PROMPTS, SAMPLINGS, lambda: Reckless([ModelDrafter(small)])))
    assert [row.first_difference for row in rows] == [None] * len(rows)
    assert sum(row.accepted for row in rows) > 0.1 * sum(row.guessed for row in rows)


def test_a_model_guesses_itself_rightly(packed: Path) -> None:
    model = load(str(packed / "bfp8"))
    for sampling in SAMPLINGS:
        planner = Planner(PassCosts([1.0] * 16), [drafter := ModelDrafter(model)])
        drafter.seconds = 0.0001
        cost = complete(model, PROMPTS[0], sampling, planner=planner).statistics
        assert cost.accepted == cost.guessed
        assert cost.passes < 10


def test_the_upper_plane_in_the_same_session(packed: Path) -> None:
    model = load(str(packed / "bfp8n"))
    rows = list(compare(model, PROMPTS, SAMPLINGS, lambda: Reckless([NestedDrafter(model)])))
    assert [row.first_difference for row in rows] == [None] * len(rows)
    assert sum(row.accepted for row in rows) > 0.1 * sum(row.guessed for row in rows)


def test_the_upper_plane_says_what_a_bfp4_model_would(packed: Path) -> None:
    model, upper = load(str(packed / "bfp8n")), load(str(packed / "bfp4"))
    drafter, session = NestedDrafter(model), model.session()
    session.forward(PROMPTS[1][:-1])
    drafter.start(PROMPTS[1], GREEDY, session)
    row = upper.session().forward(PROMPTS[1])[-1]
    # Its keys and values are those of all 8 bits: close to bfp4's, not the same.
    assert next(drafter.propose()).token in row.argsort()[-5:]
    assert session.length == len(PROMPTS[1]) - 1


def test_models_that_have_no_upper_plane(packed: Path, tiny_model: Path) -> None:
    with pytest.raises(StropError, match="nested format"):
        planner_for(load(str(packed / "bfp8")), "nested")
    with pytest.raises(StropError, match="packed as bfp8n"):
        planner_for(load(str(tiny_model)), "nested")


def test_a_model_with_other_tokens(fake) -> None:
    """Both write the same text; the drafter is only given texts, not tokens."""
    script, prompt = "a text that both of them write, and write once more", [70, 71, 72, 73]

    def scripted():
        model = fake(script=script)
        model.prompt_length = len(prompt)
        return model

    plain = complete(scripted(), prompt, SAMPLINGS[0])
    model = scripted()
    translating = TranslatingDrafter(scripted(), model.tokenizer)
    translating.seconds = 0.0
    found = complete(
        model, prompt, SAMPLINGS[0], planner=Planner(PassCosts([1.0] * 16), [translating])
    )
    assert found.tokens == plain.tokens
    assert sum(found.statistics.accepted.values()) > 0.8 * len(plain.tokens)


def test_how_a_model_guesses_depends_on_its_tokens(fake, packed: Path) -> None:
    tiny = load(str(packed / "bfp8"))
    assert isinstance(model_drafter(load(str(packed / "bfp4")), tiny), ModelDrafter)
    assert isinstance(model_drafter(fake(), tiny), TranslatingDrafter)


def test_guesses_at_the_end_of_a_drafters_context(packed: Path) -> None:
    model, small = load(str(packed / "bfp8")), load(str(packed / "bfp4"))
    small.context_length = 60
    plain = complete(model, PROMPTS[1], SAMPLINGS[0])
    drafter = ModelDrafter(small)
    found = complete(model, PROMPTS[1], SAMPLINGS[0], planner=Reckless([drafter]))
    assert found.tokens == plain.tokens
    drafter.start(list(range(100)), GREEDY, None)
    assert list(islice(drafter.propose(), 3)) == []


def test_names(packed: Path) -> None:
    model = load(str(packed / "bfp8n"))
    names = [
        [drafter.name for drafter in drafters_for(model, name, ())]
        for name in ("auto", "lookup", "nested", str(packed / "bfp4"))
    ]
    assert names == [["lookup"], ["lookup"], ["lookup", "nested"], ["lookup", str(packed / "bfp4")]]
