import json
import math

import numpy as np
import pytest

from strop.errors import StropError, StropFailure
from strop.evaluation import check
from strop.evaluation.check import log_softmax, scores


def slow_log_softmax(row):
    row = [float(value) for value in row]
    total = math.log(sum(math.exp(value - max(row)) for value in row)) + max(row)
    return [value - total for value in row]


def slow_check(candidate, source, chunks):
    """Losses, KL and agreement per chunk, one number at a time in float64."""
    rows = []
    for chunk in chunks:
        ours, theirs = candidate.session().forward(chunk), source.session().forward(chunk)
        loss, source_loss, kl, agreed = 0.0, 0.0, 0.0, 0
        for position in range(len(chunk) - 1):
            q, p = slow_log_softmax(ours[position]), slow_log_softmax(theirs[position])
            loss -= q[chunk[position + 1]]
            source_loss -= p[chunk[position + 1]]
            kl += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
            agreed += p.index(max(p)) == q.index(max(q))
        rows.append(np.array([loss, source_loss, kl, agreed]) / (len(chunk) - 1))
    return np.mean(rows, axis=0)


def test_equals_a_plain_loop_in_float64(table_model, text):
    candidate, source = table_model("small", noise=0.3), table_model("large")
    result = check(candidate, source, text, tokens=1600, chunk=100)

    ids = list(text.encode())  # 30 chunks, of which 16 spread evenly are measured
    starts = [100 * (index * 30 // 16) for index in range(16)]
    chunks = [ids[start : start + 100] for start in starts]
    loss, source_loss, kl, agreed = slow_check(candidate, source, chunks)
    assert result.perplexity.estimate == pytest.approx(math.exp(loss), rel=1e-5)
    assert result.source_perplexity.estimate == pytest.approx(math.exp(source_loss), rel=1e-5)
    assert result.kl.estimate == pytest.approx(kl, rel=1e-5)
    assert result.agreement.estimate == pytest.approx(agreed, abs=1e-12)
    ratio = 100 * (math.exp(loss - source_loss) - 1)
    assert result.difference.estimate == pytest.approx(ratio, rel=1e-4)
    assert (result.chunks, result.chunk, result.tokens) == (16, 100, 16 * 99)
    assert result.kl.n == result.perplexity.n == 16
    assert (result.candidate, result.source) == ("small", "large")


def test_negative_control_a_model_against_itself_loses_exactly_nothing(table_model, text):
    result = check(table_model(), table_model(), text, tokens=1600, chunk=100)
    assert (result.kl.low, result.kl.estimate, result.kl.high) == (0.0, 0.0, 0.0)
    assert (result.difference.low, result.difference.high) == (0.0, 0.0)
    assert (result.agreement.low, result.agreement.estimate) == (1.0, 1.0)
    assert result.perplexity == result.source_perplexity
    assert result.verdict == "cannot tell"


def test_a_noisy_model_is_told_from_its_source(table_model):
    rng = np.random.default_rng(0)
    source = table_model()
    # Text the source itself wrote, so that noise can only harm.
    ids = [0, 1]
    for _ in range(4000):
        row = slow_log_softmax(source.tables[0][ids[-1]] + source.tables[1][ids[-2]])
        row = np.exp(np.array(row[:128]))
        ids.append(int(rng.choice(128, p=row / row.sum())))
    text = bytes(ids).decode()
    result = check(table_model(noise=0.5), source, text, tokens=4000, chunk=100)
    assert result.difference.excludes(0.0)
    assert result.kl.low > 0.0
    assert result.agreement.high < 1.0
    assert result.verdict == "worse"


def test_is_deterministic_and_turns_into_json(table_model, text):
    results = [
        check(table_model(noise=0.1), table_model(), text, tokens=1000, chunk=100, seed=3)
        for _ in range(2)
    ]
    assert results[0] == results[1]
    row = json.loads(json.dumps(results[0].to_json(), allow_nan=False))
    assert row["kl"]["n"] == row["chunks"] == 10
    assert row["verdict"] in ("better", "worse", "cannot tell")


def test_log_softmax_of_extreme_logits():
    logits = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], np.float32)
    assert log_softmax(logits) == pytest.approx(
        np.array([[0.0, -1e4, -2e4], [-math.log(3)] * 3]), rel=1e-6
    )


def test_different_tokenizers_are_refused(table_model, byte_tokenizer, text):
    other = table_model("other", tokenizer=byte_tokenizer(shift=1))
    with pytest.raises(StropError, match="different tokenizers"):
        check(table_model(), other, text, tokens=800, chunk=100)


def test_different_vocabularies_are_refused():
    with pytest.raises(StropError, match="vocabularies differ in size: 5 and 4"):
        scores(np.zeros((2, 5), np.float32), np.zeros((2, 4), np.float32), [0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_a_failure(table_model, text, bad):
    broken = table_model("broken")
    broken.tables[0][ord("a"), 7] = bad
    with pytest.raises(StropFailure, match="broken: its logits hold NaN or infinity"):
        check(broken, table_model(), text, tokens=800, chunk=100)


def test_a_chunk_beyond_the_context_is_refused(table_model, text):
    with pytest.raises(StropError, match="context of 64 tokens"):
        check(table_model(context_length=64), table_model(), text, tokens=800, chunk=100)
