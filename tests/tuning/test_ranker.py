"""Rankers on a tiny model: orders, labels, and whether one learns what there is to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tuning.rows import preferences

from strop.data import Preference
from strop.errors import StropError
from strop.training.network import NetworkConfig, Trainee, open_trainee
from strop.training.schedule import TrainingConfig
from strop.tuning.drift import Start
from strop.tuning.fit import TuneConfig
from strop.tuning.ranker import KINDS, Ranker, RankerConfig, Reader, ranker_objective
from strop.tuning.tune import accuracy, ranker_items, tune_ranker


@pytest.fixture
def trainee(tiny_model: Path) -> Trainee:
    return open_trainee(str(tiny_model), NetworkConfig(rank=4))


def by_hand(trainee: Trainee, text: str, labels: tuple[str, str]) -> float:
    """The margin, from the network's own logits for a whole text."""
    encode = trainee.source.tokenizer.encode
    network = trainee.network
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([encode(text, special=False)])).logits[0, -1]
    network.set_attn_implementation("strop_groups")
    first, second = (encode(label, special=False)[0] for label in labels)
    return float(logits[first] - logits[second])


def test_margins_are_those_of_the_whole_texts(trainee: Trainee) -> None:
    pairwise, pointwise = (Reader(trainee.source, RankerConfig(kind, 100, 100)) for kind in KINDS)
    item = pairwise.compared("Why?", ("Because.", "No."))
    margins = pairwise.margins(trainee.network, [item]).tolist()
    texts = [
        f"Why?\n\nAnswer A: {a}\n\nAnswer B: {b}\n\nBetter answer: "
        for a, b in (("Because.", "No."), ("No.", "Because."))
    ]
    wanted = [by_hand(trainee, text, ("A", "B")) for text in texts]
    assert margins == pytest.approx(wanted, abs=1e-4)
    item = pointwise.compared("Why?", ("Because.", "No.", "Yes."))
    margins = pointwise.margins(trainee.network, [item]).tolist()
    texts = [f"Why?\n\nAnswer: {a}\n\nThis answer is " for a in ("Because.", "No.", "Yes.")]
    assert margins == pytest.approx([by_hand(trainee, one, ("g", "b")) for one in texts], abs=1e-4)


def test_long_prompts_keep_their_end_and_long_answers_their_beginning(trainee: Trainee) -> None:
    reader = Reader(trainee.source, RankerConfig("pointwise", prompt_tokens=3, answer_tokens=4))
    group = reader.compared("abcdef", ("uvwxyz",)).group
    assert trainee.source.tokenizer.decode(group.prompt) == "def"
    assert (
        trainee.source.tokenizer.decode(group.completions[0])
        == "\n\nAnswer: uvw\n\nThis answer is "
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_cross_entropy_of_the_right_labels(trainee: Trainee, kind: str) -> None:
    reader = Reader(trainee.source, RankerConfig(kind, 100, 100))
    items = [reader.compared("a", ("yes", "no")), reader.compared("b", ("no", "maybe"))]
    loss, rows = ranker_objective(reader).loss(trainee.network, items, None)
    wanted = 0.0
    for item in items:
        first, second = reader.margins(trainee.network, [item]).tolist()
        wanted += np.log1p(np.exp(-first)) + np.log1p(np.exp(second))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert len(rows) == 2


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
def test_a_ranker_learns_a_rule_and_reads_it_back(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    data = preferences(tmp_path / "rule.jsonl", 240, lambda n: ("+" * 6, "-" * 6))
    training = TrainingConfig(learning_rate=1e-2, epochs=3, batch=16)
    config = TuneConfig(NetworkConfig(rank=8), training, held_out=0.25)
    facts = tune_ranker(str(tiny_model), data, tmp_path / "r", RankerConfig(kind, 100, 100), config)
    assert facts["accuracy"]["estimate"] == 1
    assert facts["verdict"] == "better"
    ranker = Ranker(tmp_path / "r")
    if kind == "pairwise":
        up, down = ranker.prefer([("q", "+++++", "-----"), ("q", "-----", "+++++")])
        assert up > 0.9
        assert down == pytest.approx(1 - up, abs=1e-5)  # the order of asking says nothing
        with pytest.raises(StropError, match="pairwise"):
            ranker.scores([("q", ["a"])])
    else:
        [[good, bad]] = ranker.scores([("q", ["+++++", "-----"])])
        assert good > 0.7 > 0.3 > bad


@pytest.mark.usefixtures("one_thread")
def test_a_ranker_of_noise_is_no_better_than_lengths(tiny_model: Path, tmp_path: Path) -> None:
    """The negative control: nothing in the answers says which was preferred."""
    random = np.random.default_rng(0)

    def noise(number: int) -> tuple[str, str]:
        a, b = ("".join(random.choice(list("+-*/"), 6)) for _ in "12")
        return (a, b) if a != b else ("+-", "-+")

    data = preferences(tmp_path / "noise.jsonl", 160, noise)
    training = TrainingConfig(learning_rate=1e-3, batch=16)
    config = TuneConfig(NetworkConfig(rank=4), training, held_out=0.4)
    reads = RankerConfig("pointwise", 100, 100)
    facts = tune_ranker(str(tiny_model), data, tmp_path / "r", reads, config)
    assert facts["verdict"] == "cannot tell"


def test_a_ranker_is_found_missing(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StropError, match=r"ranker\.json"):
        Ranker(tmp_path)
    (tmp_path / "ranker.json").write_text('{"sort": "pairwise"}')
    with pytest.raises(StropError, match="not of a ranker"):
        Ranker(tmp_path)
    for wrong in ({"kind": "threewise"}, {"prompt_tokens": 0}):
        with pytest.raises(StropError):
            RankerConfig(**wrong)


def test_a_ranker_is_compared_with_lengths_by_prompt() -> None:
    """Two prompts with several pairs each are two samples, not many."""
    right = np.array([[7.0, 7.0], [3.0, 6.0]])
    shorter = np.array([[0.0, 7.0], [3.0, 6.0]])
    found = accuracy({"right": right, "shorter": shorter})
    assert found["accuracy"]["n"] == 2
    assert found["accuracy"]["estimate"] == pytest.approx(0.75)
    assert found["baseline"] == "longer"
    assert found["baseline_accuracy"]["estimate"] == pytest.approx(0.75)
    assert found["verdict"] == "cannot tell"
    assert accuracy({}) == {}


def test_answers_that_are_equal_as_far_as_they_are_read_are_no_pair(trainee: Trainee) -> None:
    reader = Reader(trainee.source, RankerConfig("pointwise", answer_tokens=4))
    rows = [Preference("a", "yes and", "yes but"), Preference("a", "yes", "no")]
    items, rejected = ranker_items(reader, rows)
    assert len(items) == 1
    assert items[0][1].shorter == 0
    assert [one.line for one in rejected] == [1]


def test_a_ranker_that_reads_more_than_the_context_is_refused(trainee: Trainee) -> None:
    with pytest.raises(StropError, match="but the context of the model holds 512"):
        Reader(trainee.source, RankerConfig("pairwise", prompt_tokens=256, answer_tokens=120))


def test_divergence_is_that_of_the_plain_distributions(trainee: Trainee) -> None:
    from strop.training.sequences import Group

    groups = [Group((5, 6, 7), ((8, 9), (10, 11, 12))), Group((5, 9), ((20,),))]
    network = trainee.network
    start = Start(network, ["a", "b"], groups, 100)
    by_prompt = Start(network, ["a", "b", "a"], [*groups, groups[0]], 100)
    assert start.divergence(network).estimate == pytest.approx(0, abs=1e-6)

    def logits(tokens: tuple[int, ...], last: int) -> torch.Tensor:
        network.set_attn_implementation("sdpa")
        with torch.no_grad():
            found = network(input_ids=torch.tensor([tokens])).logits[0]
        network.set_attn_implementation("strop_groups")
        return found[len(tokens) - last - 1 : -1].log_softmax(-1)

    def every() -> torch.Tensor:
        return torch.cat([logits(g.prompt + c, len(c)) for g in groups for c in g.completions])

    before = every()
    with torch.no_grad():
        for one in network.parameters():
            if one.requires_grad:
                one.add_(0.05 * torch.randn_like(one))
    after = every()
    wanted = (before.exp() * (before - after)).sum(-1).mean()
    assert start.divergence(network).estimate == pytest.approx(float(wanted), rel=1e-4)
    assert (start.divergence(network).n, by_prompt.divergence(network).n) == (2, 2)
