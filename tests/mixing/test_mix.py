"""From domains to a mixture and a trained model, with networks of two layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strop.data import make_directory, read_json, write_json
from strop.data.documents import read_domains
from strop.errors import StropError, StropFailure
from strop.mixing import doremi, pool
from strop.mixing.compare import tokens_to_reach
from strop.mixing.files import read_mixture
from strop.mixing.jobs import Bench, Job, RunConfig, opened
from strop.mixing.methods import METHODS, SearchConfig
from strop.mixing.mix import mix
from strop.mixing.nearness import near
from strop.mixing.optimum import Objective
from strop.mixing.pool import run_all
from strop.mixing.proxy import REFERENCE, keep_reference, proxy_batch, proxy_order
from strop.mixing.report import summary
from strop.mixing.runs import read_arrays
from strop.mixing.train import change, train_on_mixture
from strop.models import load
from strop.recipes import STAGES, load_recipe, run_recipe
from strop.training.corpus import open_corpus
from strop.training.proxies import SHAPES, Shape
from strop.training.windows import training_windows, window_losses

pytestmark = pytest.mark.usefixtures("one_thread", "in_process")

TINY = RunConfig(model="tiny", context=16, batch=4, evaluated=128)
SEARCH = SearchConfig(tokens=4000, final=1500, runs=4)


@pytest.fixture(autouse=True)
def tiny_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(SHAPES, "tiny", Shape(1, 32, 32))


def domains_file(folder: Path, extra: str = "") -> Path:
    """Write three domains: two letters in turn, the same in another order, and digits."""
    random = np.random.default_rng(0)
    for name, letters in (("ab", "ab"), ("ba", "ba "), ("digits", "0123456789")):
        texts = ["".join(random.choice(list(letters), 150)) for _ in range(12)]
        rows = "".join(json.dumps({"text": one}) + "\n" for one in texts)
        (folder / f"{name}.jsonl").write_text(rows)
    path = folder / "domains.yaml"
    lines = "".join(f"  {name}: {name}.jsonl\n" for name in ("ab", "ba", "digits"))
    path.write_text(f"domains:\n{lines}tokenizer: byte\n{extra}")
    return path


@pytest.mark.parametrize("method", ["doremi", "swarm", "experts", "random"])
def test_from_domains_to_a_mixture_and_a_model(tmp_path: Path, method: str) -> None:
    path = domains_file(tmp_path)
    facts = mix(path, tmp_path / "out", method, SEARCH, TINY, seeds=2)
    mixture = read_json(tmp_path / "out" / "mixture.json")
    assert sum(mixture["domains"].values()) == pytest.approx(1)
    assert set(facts["contenders"]) == {method, "uniform", "natural", "temperature", "random"}
    assert facts["contenders"]["uniform"]["difference"]["n"] == 2
    assert 0.7 * SEARCH.tokens < facts["searched_tokens"] < 1.5 * SEARCH.tokens
    for word in ("uniform", "natural", "digits", "seeds"):
        assert word in summary(facts)
    assert (tmp_path / "out" / "weights.svg").read_text().startswith("<svg")
    trained = train_on_mixture(
        path, tmp_path / "model", tmp_path / "out" / "mixture.json", 1500, TINY
    )
    most = max(mixture["domains"], key=mixture["domains"].__getitem__)
    assert trained["losses"][most]["after"] < trained["losses"][most]["before"] - 1
    assert load(str(tmp_path / "model")).tokenizer.size == 257


def test_a_mixture_goes_where_the_objective_is(tmp_path: Path) -> None:
    """Digits are the hardest: the worst loss is theirs, and they get more."""
    bench = Bench(open_corpus(read_domains(domains_file(tmp_path))), TINY, tmp_path / "runs", 1)
    for method in ("swarm", "experts"):
        config = replace(SEARCH, objective=Objective("worst"), pull=0.0, tokens=12_000, runs=8)
        [found] = METHODS[method](bench, config, [0])
        assert found.weights[2] > 0.5, method
        config = replace(config, objective=Objective("weighted", {"ab": 1.0}))
        [found] = METHODS[method](bench, config, [0])
        assert found.weights[2] < 0.3, method


def test_a_target_and_what_it_is_near_to(tmp_path: Path) -> None:
    path = domains_file(tmp_path, "target: target.jsonl\n")
    random = np.random.default_rng(1)
    texts = ["".join(random.choice(list("0123456789"), 150)) for _ in range(6)]
    rows = "".join(json.dumps({"text": one}) + "\n" for one in texts)
    (tmp_path / "target.jsonl").write_text(rows)
    search = replace(SEARCH, objective=Objective("target"), pull=0.0)
    facts = mix(path, tmp_path / "out", "auto", search, TINY, seeds=1)
    assert facts["method"] == "experts"
    assert facts["table"]["digits"]["weight"] > 0.8
    assert "target" in facts["contenders"]["uniform"]["losses"]


def test_a_search_that_was_killed_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strop.training import loop

    path = domains_file(tmp_path)
    whole = mix(path, tmp_path / "whole", "doremi", SEARCH, TINY, seeds=1)
    monkeypatch.setattr(loop, "SAVING", 1e9)
    take = loop.Run.take_step
    for stop, place in ((3, "run"), (31, "proxy"), (5, "proxy"), (60, "run")):
        taken = []

        def interrupted(
            self: Any, *arguments: Any, taken: Any = taken, stop: int = stop, place: str = place
        ) -> None:
            taken.append(1)
            if len(taken) == stop:
                assert isinstance(self.objective.state, doremi.Trajectory) == (place == "proxy")
                raise KeyboardInterrupt
            take(self, *arguments)

        monkeypatch.setattr(loop.Run, "take_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mix(path, tmp_path / "parts", "doremi", SEARCH, TINY, seeds=1)
    monkeypatch.setattr(loop.Run, "take_step", take)
    parts = mix(path, tmp_path / "parts", "doremi", SEARCH, TINY, seeds=1)
    assert parts == whole


def test_reference_losses_are_of_what_the_proxy_sees_and_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    excess_losses = doremi.excess_losses

    def watched(proxy: Any, reference: Any, domains: Any, count: int) -> Any:
        assert np.isfinite(reference).all()  # NaN would be a window that was not expected
        seen.append(np.bincount(domains, minlength=count))
        return excess_losses(proxy, reference, domains, count)

    monkeypatch.setattr(doremi, "excess_losses", watched)
    bench = Bench(open_corpus(read_domains(domains_file(tmp_path))), TINY, tmp_path / "runs", 1)
    [found] = METHODS["doremi"](bench, SEARCH, [0])
    assert len(seen) == found.details["steps"] > 5
    assert all((counts == counts[0]).all() for counts in seen)  # as many tokens of each domain
    assert found.weights.min() > 0


def test_a_reference_keeps_the_losses_of_the_windows_that_the_proxy_sees(tmp_path: Path) -> None:
    bench = Bench(open_corpus(read_domains(domains_file(tmp_path))), TINY, tmp_path / "runs", 1)
    job = Job((1 / 3,) * 3, 1, 0, reference_for=4)
    make_directory(bench.place(job))
    network = opened(bench, 0).network
    keep_reference(bench, job, network)
    kept = list(read_arrays(bench.place(job) / REFERENCE).values())
    windows = training_windows(bench.corpus, ("second",), TINY.context)
    seen = set(proxy_order(windows, 4, proxy_batch(TINY, 3), 0).ravel().tolist())
    assert len(seen) < len(windows)
    for index, window in enumerate(windows):
        own = kept[window.domain][window.place]
        if index in seen:
            with torch.no_grad():
                expected = window_losses(network, [window])[0]
            np.testing.assert_allclose(own, expected.numpy(), atol=1e-5)
        else:
            assert np.isnan(own).all()


def test_a_proxy_learns_from_each_domain_by_its_new_weight(tmp_path: Path) -> None:
    """The gradient is that of the sum of weights times the domains' means, times the windows."""
    bench = Bench(open_corpus(read_domains(domains_file(tmp_path))), TINY, tmp_path / "runs", 1)
    network = opened(bench, 0).network
    windows = training_windows(bench.corpus, ("second",), TINY.context)
    batch = [windows[0], windows[1], windows[2], windows[len(windows) - 1]]
    starts = np.flatnonzero(np.diff([one.domain for one in windows], prepend=-1))
    batch.append(windows[int(starts[1])])
    reference = [np.full((int(size), TINY.context), 4.0) for size in windows.sizes]
    reference[2] -= 3.0  # much excess: its weight grows
    trajectory = doremi.Trajectory.start(3)
    objective = doremi.proxy_objective(bench.corpus.names, reference, trajectory, 1.0)
    total, _ = objective.loss(network, batch, None)
    [found, *_] = torch.autograd.grad(total, list(network.parameters()))
    assert trajectory.weights[2] > 2 * trajectory.weights[1]
    losses = window_losses(network, batch).mean(1)
    means = torch.stack([losses[:3].mean(), losses[4], losses[3]])
    weighted = len(batch) * (torch.from_numpy(trajectory.weights).float() * means).sum()
    [expected, *_] = torch.autograd.grad(weighted, list(network.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_online_weights_go_to_the_worst_and_are_for_nothing_else(tmp_path: Path) -> None:
    path = domains_file(tmp_path)
    search = replace(SEARCH, objective=Objective("worst"), tokens=6000, final=6000, eta=200.0)
    facts = mix(path, tmp_path / "out", "online", search, TINY, seeds=1)
    assert facts["table"]["digits"]["weight"] > 0.4  # ten digits are harder than two letters
    with pytest.raises(StropError, match="towards the worst loss: give that objective"):
        mix(path, tmp_path / "mean", "online", SEARCH, TINY, seeds=1)


def test_what_cannot_be_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = domains_file(tmp_path)
    monkeypatch.setattr(pool, "make", None)  # training anything would fail
    for search, config, said in (
        (replace(SEARCH, final=10**6), TINY, "allow more repetitions"),
        (replace(SEARCH, objective=Objective("weighted", {"abc": 1.0})), TINY, "unknown domain"),
        (replace(SEARCH, objective=Objective("target")), TINY, "name one in the file"),
        (replace(SEARCH, tokens=100), TINY, "too few for a search"),
        (SEARCH, replace(TINY, context=512), "domain ab: has a part of"),
    ):
        for method in ("doremi", "swarm", "experts"):
            with pytest.raises(StropError, match=said):
                mix(path, tmp_path / "out", method, search, config, seeds=1)


def test_names_that_a_run_notes_are_taken(tmp_path: Path) -> None:
    path = domains_file(tmp_path)
    path.write_text("domains:\n  loss: ab.jsonl\n  ba: ba.jsonl\n")
    with pytest.raises(StropError, match="a domain cannot be called loss"):
        mix(path, tmp_path / "out", "swarm", SEARCH, TINY, seeds=1)


def test_domains_are_near_to_themselves(tmp_path: Path) -> None:
    path = domains_file(tmp_path, "target: ab.jsonl\n")
    with pytest.raises(StropError, match="only repeats others"):
        open_corpus(read_domains(path))  # what the target has is in no domain
    (tmp_path / "t.jsonl").write_text('{"text": "abab abba ba"}\n{"text": "bbab abab aab"}\n')
    path.write_text(path.read_text().replace("target: ab", "target: t"))
    found = np.array(near(open_corpus(read_domains(path)), ["ab", "digits", "target"]))
    np.testing.assert_allclose(found[0, 0], 1)
    np.testing.assert_allclose(found[1, 2], 1)
    assert found[1, 0] < 0.1
    assert found[2, :2].min() > 5 * found[2, 2]  # letters are nearer to letters


def test_twenty_domains_are_all_in_every_batch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ""
    for number in range(20):
        letters = list("abcdefghijklmnopqrstuvwxyz"[number : number + 3])
        texts = ["".join(random.choice(letters, 60)) for _ in range(8)]
        rows = "".join(json.dumps({"text": one}) + "\n" for one in texts)
        (tmp_path / f"{number}.jsonl").write_text(rows)
        lines += f"  d{number}: {number}.jsonl\n"
    (tmp_path / "many.yaml").write_text(f"domains:\n{lines}tokenizer: byte\n")
    corpus = open_corpus(read_domains(tmp_path / "many.yaml"))
    bench = Bench(corpus, TINY, tmp_path / "runs", 1)
    [found] = METHODS["doremi"](bench, SEARCH, [0])
    assert found.weights.shape == (20,)
    assert found.weights.sum() == pytest.approx(1)
    for method in ("random", "swarm", "experts"):
        config = replace(SEARCH, tokens=40_000, runs=0)
        [found] = METHODS[method](bench, config, [0])
        assert found.weights.shape == (20,)
        assert found.weights.sum() == pytest.approx(1)


def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path) -> None:
    config = replace(TINY, learning_rate=1e30)
    bench = Bench(open_corpus(read_domains(domains_file(tmp_path))), config, tmp_path / "runs", 1)
    with pytest.raises(StropFailure, match="not finite: lower the learning rate"):
        run_all(bench, [Job((0.3, 0.3, 0.4), 20, 0)], "runs")


def test_one_domain_has_one_mixture(tmp_path: Path) -> None:
    path = domains_file(tmp_path)
    path.write_text("domains:\n  ab: ab.jsonl\ntokenizer: byte\n")
    for method in ("swarm", "experts", "doremi"):
        with pytest.raises(StropError, match="one domain has one mixture"):
            mix(path, tmp_path / method, method, SEARCH, TINY, seeds=1)


def test_stages_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    domains_file(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "name: r\nstages:\n"
        "  - mix: {domains: domains.yaml, method: experts, objective: worst, model: tiny,\n"
        "      context: 16, batch: 4, tokens: 3000, seeds: 2}\n"
        "  - train: {domains: domains.yaml, mixture: '${mix}', model: tiny, context: 16,\n"
        "      batch: 4, tokens: 1500}\n"
        "  - pack: {model: '${train}', format: bfp8}\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml", STAGES)
    finished = run_recipe(recipe, tmp_path / "run", STAGES)
    assert [one.kind for one in finished] == ["mix", "train", "pack"]
    report = (tmp_path / "run" / "report.md").read_text()
    for words in ("Worst loss with experts, against uniform", "Loss of digits", "digits"):
        assert words in report
    assert not any(one.executed for one in run_recipe(recipe, tmp_path / "run", STAGES))
    with (tmp_path / "ab.jsonl").open("a") as stream:  # another text: all of it again
        stream.write(json.dumps({"text": "ab" * 70}) + "\n")
    assert all(one.executed for one in run_recipe(recipe, tmp_path / "run", STAGES))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "is no mixture"),
        ({"domains": {"ab": 1.0}}, r"other domains \(ba, digits\)"),
        ({"domains": {"ab": 0.5, "ba": 0.4, "digits": 0.0}}, "add up to 0.9"),
        ({"domains": {"ab": 1.5, "ba": -0.5, "digits": 0.0}}, "numbers from 0 to 1"),
        ({"domains": {"ab": "1", "ba": 0, "digits": 0}}, "numbers from 0 to 1"),
    ],
)
def test_what_is_no_mixture_is_one_line(tmp_path: Path, content: Any, said: str) -> None:
    write_json(tmp_path / "mixture.json", content)
    with pytest.raises(StropError, match=said):
        read_mixture(tmp_path / "mixture.json", ["ab", "ba", "digits"])


def test_a_model_with_other_tokens_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    config = replace(TINY, model=str(tiny_model))
    with pytest.raises(StropError, match="has other tokens than the corpus"):
        train_on_mixture(domains_file(tmp_path), tmp_path / "out", None, 1500, config)
    extra = (tmp_path / "domains.yaml").read_text().replace("byte", str(tiny_model))
    (tmp_path / "domains.yaml").write_text(extra)
    facts = train_on_mixture(tmp_path / "domains.yaml", tmp_path / "out", None, 1500, config)
    assert facts["losses"]["digits"]["after"] < facts["losses"]["digits"]["before"]


def test_windows_of_one_document_are_one_sample() -> None:
    before, after = np.full(40, 3.0), np.repeat([1.0, 2.0, 1.0, 2.0], 10)
    found = change(np.repeat([0, 3, 4, 7], 10), before, after)
    assert found["documents"] == found["change"]["n"] == 4
    apart = change(np.arange(40), before, after)
    assert found["change"]["estimate"] == apart["change"]["estimate"] == -1.5
    widths = [one["change"]["high"] - one["change"]["low"] for one in (found, apart)]
    assert widths[0] > 2 * widths[1]
    assert change(np.zeros(40, np.int64), before, after)["change"] is None


def test_when_a_loss_was_reached() -> None:
    rows = [{"tokens": 100 * n, "losses": {"a": 5.0 - n}} for n in range(4)]
    result = {"curve": rows}
    assert tokens_to_reach(result, 3.5, lambda losses: losses["a"]) == 150
    assert tokens_to_reach(result, 2.0, lambda losses: losses["a"]) == 300
    assert tokens_to_reach(result, 1.0, lambda losses: losses["a"]) is None
    assert tokens_to_reach(result, 6.0, lambda losses: losses["a"]) == 0
