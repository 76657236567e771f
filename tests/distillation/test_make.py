"""Making a draft head, on a tiny model and in seconds; and when it is refused."""

import errno
import json
import math
import shutil
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from strop.decoding import Sampling, complete, planner_for
from strop.decoding.costs import PassCosts
from strop.decoding.verify import Reckless, compare
from strop.distillation import make as making
from strop.distillation import make_draft, network, texts
from strop.distillation.make import expected, refuse_if_hopeless
from strop.distillation.prompts import own_prompts
from strop.distillation.texts import Texts, write_texts
from strop.errors import StropError
from strop.models import load, pack

PROMPTS = [f"prompt number {index}" for index in range(40)]


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed") / "model"
    pack(str(tiny_model), "bfp8", directory)
    return directory


def test_from_prompts_to_a_head_that_guesses(
    packed: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        making, "known_costs", lambda model: PassCosts([0.01 + 0.0001 * n for n in range(16)])
    )
    monkeypatch.setattr(making, "SIZES", ((64, 1.0), (200, 2.0)))
    monkeypatch.setattr(making, "MINUTES_LEFT", 0.05)
    monkeypatch.setattr("strop.distillation.texts.MOST", 40)
    report = make_draft(str(packed), tmp_path / "head", PROMPTS, minutes=0.1, tokens=2000)
    assert 1 <= len(report.acceptance) <= 3  # as far as guesses before were right
    assert all(rate.n > 0 for rate in report.acceptance)
    assert all(0 <= rate.low <= rate.estimate <= rate.high <= 1 for rate in report.acceptance)
    assert report.speedup >= 1
    assert (report.outputs, report.inner) in {(64, 64), (200, 128)}
    model = load(str(packed))
    drafters = planner_for(model, str(tmp_path / "head")).drafters
    sampling = Sampling(max_tokens=40, seed=3)
    rows = list(compare(model, [[5, 6, 7]], [sampling], lambda: Reckless(drafters)))
    assert rows[0].first_difference is None
    assert rows[0].guessed > 0


def test_states_and_tokens_of_texts_belong_together(packed: Path, tmp_path: Path) -> None:
    model = load(str(packed))
    prompts = [[5, 6, 7], [9, 8]]
    written = write_texts(model, prompts, 300, 0, 60.0, tmp_path)
    assert written.spans[0, 0] == 0
    assert written.spans[-1, 1] == len(written.tokens) == len(written.states)
    begin, end = written.spans[0]
    # A text begins with the last token of its prompt.
    prompt = next(one for one in prompts if one[-1] == written.tokens[begin])
    session = model.session()
    session.forward([*prompt[:-1], *written.tokens[begin:end].tolist()])
    expected_states = session.states[len(prompt) - 1 :].astype(np.float16)
    assert np.array_equal(expected_states, written.states[begin:end])
    assert len(written.starts(3)) == sum(max(0, end - begin - 3) for begin, end in written.spans)


def test_texts_go_on_where_they_were_broken_off(packed: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(texts, "GROUP", 4)
    model = load(str(packed))
    arguments = (model, [[5, 6, 7], [9, 8]], 3000, 0, 60.0)
    whole = write_texts(*arguments, tmp_path / "whole")
    write, groups = texts.write_group, []

    def broken_off(*some):
        if len(groups) == 2:
            raise KeyboardInterrupt
        groups.append(some[2])
        return write(*some)

    monkeypatch.setattr(texts, "write_group", broken_off)
    with pytest.raises(KeyboardInterrupt):
        write_texts(*arguments, tmp_path / "broken")
    monkeypatch.setattr(texts, "write_group", lambda *some: groups.append(some[2]) or write(*some))
    found = write_texts(*arguments, tmp_path / "broken")
    assert groups == list(range(len(groups)))
    assert len(groups) > 2
    for name in ("tokens", "states", "spans"):
        assert np.array_equal(getattr(found, name), getattr(whole, name))
    next(iter((tmp_path / "broken").iterdir())).write_bytes(b"not an archive")
    with pytest.raises(StropError, match=r"is damaged .*: remove it"):
        write_texts(*arguments, tmp_path / "broken")


def test_training_goes_on_where_it_was_broken_off(tmp_path: Path, one_thread, monkeypatch) -> None:
    random = np.random.default_rng(0)
    states = random.standard_normal((900, 32)).astype(np.float16)
    tokens = random.integers(0, 50, 900).astype(np.int32)
    learned = Texts(tokens, states, np.array([[0, 400], [400, 900]]), 0.0)
    clock = count()
    monkeypatch.setattr(network.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(network, "KEEP_SECONDS", 0.0)

    def weights_after(*stops):
        for stop in stops:
            torch.manual_seed(1)
            embedding = torch.randn(50, 32)
            head = network.Head(embedding, torch.ones(32), 16, 1e-5)
            teacher = network.Teacher(embedding, embedding)
            keep = tmp_path / f"{stops}.pt"
            for _ in islice(network.train(head, teacher, learned, 0.5, 0, keep), stop):
                pass
        return head.weights()

    whole, broken = weights_after(None), weights_after(5, 1, None)
    for name, value in whole.items():
        assert np.array_equal(value, broken[name]), name
    assert not np.array_equal(whole["fuse"], weights_after(5)["fuse"])


def test_after_an_interruption_nothing_is_done_twice(
    packed: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(making, "known_costs", lambda model: PassCosts([0.01] * 16))
    monkeypatch.setattr(making, "SIZES", ((64, 1.0),))
    monkeypatch.setattr(making, "MINUTES_LEFT", 0.02)
    monkeypatch.setattr(texts, "MOST", 40)
    monkeypatch.setattr("strop.distillation.prompts.COUNT", 40)
    place, work = tmp_path / "head", tmp_path / "head.work"
    arguments = {"minutes": 0.05, "tokens": 1000}

    def broken_off(*some):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(network, "right_guesses", broken_off)
        with pytest.raises(KeyboardInterrupt):
            make_draft(str(packed), place, **arguments)
    assert not place.exists()
    with monkeypatch.context() as patch:
        patch.setattr(texts, "write_group", broken_off)
        patch.setattr(making, "own_prompts", broken_off)
        make_draft(str(packed), place, **arguments)
        assert "going on with what" in capsys.readouterr().err
    assert place.exists()
    assert not work.exists()
    # What was made with other settings is of no use; what has none is not ours.
    work.mkdir()
    (work / "trials.json").write_text("damaged")
    with pytest.raises(StropError, match="is in the way"):
        make_draft(str(packed), place, **arguments)
    (work / "settings.json").write_text("{}")
    make_draft(str(packed), place, **arguments)
    assert "starting anew" in capsys.readouterr().err


def test_training_is_kept_while_a_head_is_made(
    packed: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(making, "known_costs", lambda model: PassCosts([0.01] * 16))
    monkeypatch.setattr(making, "SIZES", ((64, 1.0),))
    monkeypatch.setattr(making, "MINUTES_LEFT", 0.02)
    monkeypatch.setattr(texts, "MOST", 40)
    monkeypatch.setattr(network, "KEEP_SECONDS", 0.0)
    arguments = {"prompts": PROMPTS, "minutes": 0.05, "tokens": 1000}
    work = tmp_path / "head.work"
    measure, train, calls = network.right_guesses, network.train, []

    def broken_off(*some):
        calls.append(1)
        if len(calls) == 2:  # the first is that of the trial
            raise KeyboardInterrupt
        return measure(*some)

    with monkeypatch.context() as patch:
        patch.setattr(network, "right_guesses", broken_off)
        with pytest.raises(KeyboardInterrupt):
            make_draft(str(packed), tmp_path / "head", **arguments)
    kept = torch.load(work / "training.pt", weights_only=True)
    assert kept["batches"] > 0
    assert len(json.loads((work / "trials.json").read_text())) == 1
    trained = []
    monkeypatch.setattr(network, "train", lambda *some: trained.append(some[-1]) or train(*some))
    make_draft(str(packed), tmp_path / "head", **arguments)
    assert trained == [work / "training.pt"]  # and no trial
    assert not work.exists()


def test_prompts_that_the_model_writes_are_chat_messages(packed: Path, monkeypatch) -> None:
    monkeypatch.setattr("strop.distillation.prompts.COUNT", 8)
    model = load(str(packed))
    found = own_prompts(model, 0)
    assert found
    for prompt in found:
        text = model.tokenizer.decode(prompt, special=True)
        assert text.startswith("<|im_start|>user")
        assert text.endswith("<|im_start|>assistant\n")
    assert complete(model, found[0], Sampling(max_tokens=3)).tokens


def test_what_is_expected_by_hand() -> None:
    # Two guesses, right half of the time: 1 + 1/2 + 1/4 tokens for a pass of 1.2 and two of 0.1.
    speed, length = expected([0.5, 0.5], 0.1, [1.0, 1.1, 1.2])
    assert (speed, length) == (pytest.approx(1.75 / 1.4), 2)
    assert expected([0.5], 0.5, [1.0, 2.0]) == (1.0, 0)


def test_where_no_head_can_pay_it_is_refused_with_the_numbers(packed: Path) -> None:
    model = load(str(packed))
    with pytest.raises(StropError, match=r"cannot pay on this machine: .* 1.00, 2.00"):
        refuse_if_hopeless(model, [1.0, 2.0, 3.0, 4.0, 5.0])
    refuse_if_hopeless(model, [1.0, 1.1, 1.2])


def test_what_is_not_packed_is_refused(tiny_model: Path) -> None:
    with pytest.raises(StropError, match="strop pack"):
        make_draft(str(tiny_model))


def test_too_few_prompts(packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(making, "known_costs", lambda model: PassCosts([0.01] * 16))
    with pytest.raises(StropError, match="too few"):
        make_draft(str(packed), prompts=["one"])
    with pytest.raises(StropError, match="no prompt that fits"):
        make_draft(str(packed), tmp_path / "head", ["long " * 400] * 2)


def test_nothing_but_a_head_is_replaced(packed: Path, tmp_path: Path, monkeypatch) -> None:
    model = tmp_path / "model"
    shutil.copytree(packed, model)
    (tmp_path / "file").touch()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    for place, message in (
        (model, "would replace the source"),
        (tmp_path, "would replace the source"),
        (Path(), "would replace the source"),
        (tmp_path / "file", "is a file: name a directory"),
        (mine, "holds thesis.txt, which is not of a draft head"),
    ):
        with pytest.raises(StropError, match=message):
            make_draft(str(model), place, PROMPTS, minutes=1)
    assert (mine / "thesis.txt").exists()
    assert not list(tmp_path.glob("*.work"))
    with pytest.raises(StropError, match="inf minutes are no time"):
        make_draft(str(model), None, PROMPTS, minutes=math.inf)


@pytest.mark.parametrize(
    "content", ["{}", "null", "[1]", '[["a", "b", "c"]]', "[[1.0, 64, 64]]", "[[1.0, 64.5, 64]]"]
)
def test_damaged_trials(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    path.write_text(content)
    with pytest.raises(StropError, match=r"trials.json is damaged: remove it"):
        making.read_trials(path, 64)
    path.write_text("[[1.5, 4096, 128]]")
    assert making.read_trials(path, 64) == [(1.5, 4096, 128)]


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"prompts": ["ab"], "seconds": 1}'])
def test_damaged_prompts(packed: Path, content: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(StropError, match=r"prompts.json is damaged: remove it"):
        making.asked_of(load(str(packed)), None, 0, path)


def test_a_full_disk_while_training_is_kept(tmp_path: Path, monkeypatch) -> None:
    learned = Texts(
        np.zeros(900, np.int32), np.zeros((900, 32), np.float16), np.array([[0, 900]]), 0.0
    )
    embedding = torch.randn(50, 32)
    head = network.Head(embedding, torch.ones(32), 16, 1e-5)
    monkeypatch.setattr(network, "KEEP_SECONDS", 0.0)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    teacher = network.Teacher(embedding, embedding)
    training = network.train(head, teacher, learned, 0.5, 0, tmp_path / "kept.pt")
    with pytest.raises(StropError, match=r"cannot write .*kept.pt: No space left"):
        list(training)


@pytest.mark.parametrize("position", [3, 700, -30])
def test_damaged_training(position: int, tmp_path: Path) -> None:
    head = network.Head(torch.randn(50, 32), torch.ones(32), 16, 1e-5)
    optimizer = torch.optim.AdamW(head.parameters())
    path = tmp_path / "training.pt"
    state = {"head": head.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, path)
    with pytest.raises(StropError, match=r"training.pt is damaged .*: remove it"):
        network.restored(path, head, optimizer)  # without the number of batches
    torch.save(state | {"batches": 7, "seconds": 1.5}, path)
    assert network.restored(path, head, optimizer) == (7, 1.5)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StropError, match=r"training.pt is damaged .*: remove it"):
        network.restored(path, head, optimizer)
