"""The proof on real arithmetic: packed models, with any guesses; and a control that must fail."""

from pathlib import Path

import numpy as np
import pytest

from strop.decoding import GREEDY, Sampling, planner_for, prompt_tokens
from strop.decoding.costs import PassCosts
from strop.decoding.lookup import Lookup
from strop.decoding.planner import Planner
from strop.decoding.verify import Noise, Reckless, compare
from strop.errors import StropError
from strop.models import load, pack

SAMPLINGS = [
    Sampling(temperature=0, repetition_penalty=1, min_p=0, max_tokens=60),
    Sampling(temperature=0.8, repetition_penalty=1.1, max_tokens=60, seed=5),
]


def drafters(model):
    return [Lookup(), Noise(model.vocabulary)]


@pytest.mark.parametrize("format", ["bfp4", "bfp5", "bfp8"])
def test_packed_models(format: str, tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), format, tmp_path / "packed")
    model = load(str(tmp_path / "packed"))
    prompts = [[5, 6, 7, 5, 6], list(range(40, 90)), [1]]
    rows = list(compare(model, prompts, SAMPLINGS, lambda: Reckless(drafters(model))))
    assert [row.first_difference for row in rows] == [None] * 6
    assert all(row.guessed > 20 for row in rows)


def test_the_real_model(smollm2: Path, tmp_path: Path) -> None:
    pack(str(smollm2), "bfp8", tmp_path / "packed")
    model = load(str(tmp_path / "packed"))
    prompts = [prompt_tokens(model.tokenizer, "Say this twice: the cat sat on the mat.")]
    for planner in (
        lambda: Planner(PassCosts([1.0] * 16), [Lookup()]),
        lambda: Reckless(drafters(model)),
    ):
        rows = list(compare(model, prompts, SAMPLINGS, planner))
        assert [row.first_difference for row in rows] == [None, None]
        assert sum(row.accepted for row in rows) > 0


def test_logits_that_depend_on_the_number_of_rows_are_found_out(fake) -> None:
    class Inexact(fake):
        """Whose passes over several tokens round otherwise."""

        def session(self):
            session = super().session()
            forward = session.forward

            def other(tokens, last=None):
                rows = forward(tokens, last)
                noise = np.random.default_rng(len(tokens)).normal(0, 0.3, rows.shape)
                return rows + noise.astype(np.float32) if len(tokens) > 1 else rows

            session.forward = other
            return session

    model = Inexact()
    rows = list(compare(model, [[5]], SAMPLINGS, lambda: Reckless(drafters(model))))
    assert any(row.first_difference is not None for row in rows)


def test_what_guesses_by_default(fake, tiny_model: Path) -> None:
    assert planner_for(fake(), "none") is None
    assert planner_for(fake()) is None  # of unknown exactness
    assert [drafter.name for drafter in planner_for(fake(), "lookup").drafters] == ["lookup"]
    with pytest.raises(StropError, match="unknown drafter 'lokup': did you mean 'lookup'"):
        planner_for(fake(), "lokup")
    assert planner_for(load(str(tiny_model), backend="torch")) is None
    assert GREEDY.temperature == 0


def test_a_drafter_that_fails_does_not_end_the_comparison(fake, capsys) -> None:
    class Broken(Noise):
        name = "broken"

        def propose(self):
            raise ValueError("no")

    planner = Reckless([Broken(250)])
    rows = list(compare(fake(), [[5]], SAMPLINGS, lambda: planner))
    assert [row.first_difference for row in rows] == [None, None]
    assert planner.failed
    assert "drafter broken failed" in capsys.readouterr().err
