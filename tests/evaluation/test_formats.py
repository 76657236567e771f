import csv

import numpy as np
import pytest

from strop.blockfp import dequantize, get_format, quantize
from strop.errors import StropError
from strop.evaluation import FormatRow, check, compare_formats, write_csv
from strop.evaluation import formats as module
from strop.evaluation.formats import activation_format, quantized_inputs, quantized_weights
from strop.models import Plan, load, pack, tensor_kind

SMALL = {"tokens": 256, "chunk": 32}


@pytest.fixture
def model(tiny_model):
    return load(str(tiny_model))


def snapshot(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def test_weights_only_equals_check_of_a_model_quantized_by_hand(model, tiny_model, text, tmp_path):
    import torch

    [row] = compare_formats(model, ["bfp4"], text, tmp_path, activations=False, **SMALL)

    candidate = load(str(tiny_model))
    signal, noise, bits, weights = {}, {}, 0, 0
    for name, parameter in candidate.network.named_parameters():
        weights += parameter.numel()
        if parameter.ndim < 2:
            bits += 32 * parameter.numel()
            continue
        before = parameter.numpy()
        packed = quantize(before, get_format("bfp4"))
        after = dequantize(packed)
        kind = tensor_kind(name)
        signal[kind] = signal.get(kind, 0.0) + (before.astype(float) ** 2).sum()
        noise[kind] = noise.get(kind, 0.0) + ((before - after).astype(float) ** 2).sum()
        bits += 8 * packed.nbytes
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(after))
    expected = check(candidate, load(str(tiny_model)), text, **SMALL)
    for name in ("perplexity", "source_perplexity", "difference", "kl", "agreement"):
        assert getattr(row.check, name) == getattr(expected, name), name
    assert row.bits_per_weight == bits / weights
    assert set(row.snr_db) == {"embedding", "attention", "mlp"}
    for kind, value in row.snr_db.items():
        assert value == pytest.approx(10 * np.log10(signal[kind] / noise[kind]), rel=1e-6)


def test_weights_come_back_whatever_happens(model, text, tmp_path):
    before = snapshot(model.network)
    compare_formats(model, ["mxint4"], text, tmp_path, **SMALL)
    inside = {}

    def stopped():
        with quantized_weights(model.network, Plan.parse("mxfp4")):
            inside.update(snapshot(model.network))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    after = snapshot(model.network)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not np.array_equal(before["model.embed_tokens.weight"], inside["lm_head.weight"])
    assert np.array_equal(inside["model.embed_tokens.weight"], inside["lm_head.weight"])


def test_inputs_of_linear_layers_go_through_the_format_and_hooks_leave():
    import torch

    layer = torch.nn.Sequential(torch.nn.Linear(40, 8), torch.nn.Tanh())
    x = torch.randn(1, 5, 40, generator=torch.Generator().manual_seed(0))
    plain = layer(x).detach()
    with torch.inference_mode(), quantized_inputs(layer, get_format("mxint4")):
        found = layer(x)
    coarse = torch.from_numpy(dequantize(quantize(x.numpy(), get_format("mxint4"))))
    assert torch.equal(found, layer(coarse))
    assert not torch.equal(found, plain)
    assert torch.equal(layer(x), plain)


def test_rows_come_in_order_and_activations_add_to_the_damage(model, text, tmp_path):
    rows = compare_formats(model, ["mxint8", "mxint4"], text, tmp_path, **SMALL)
    assert [(row.format, row.activations) for row in rows] == [
        ("mxint8", None),
        ("mxint8", "mxint8"),
        ("mxint4", None),
        ("mxint4", "mxint4"),
    ]
    fine, fine_both, coarse, coarse_both = (row.check.kl.estimate for row in rows)
    assert 0 < fine < fine_both < coarse < coarse_both


def test_a_plan_measures_what_pack_writes(model, tiny_model, text, tmp_path):
    summary = pack(str(tiny_model), "bfp4+bfp6", tmp_path / "packed")
    [row] = compare_formats(
        model, ["bfp4+bfp6"], text, tmp_path / "rows", activations=False, **SMALL
    )
    expected = check(load(str(tmp_path / "packed"), backend="torch"), model, text, **SMALL)
    assert row.check.kl == expected.kl
    assert row.check.perplexity == expected.perplexity
    assert row.bits_per_weight == pytest.approx(summary.bits_per_weight, rel=1e-12)


@pytest.mark.parametrize(("weights", "inputs"), [("bfp4+bfp6", "bfp8"), ("nvfp4", "nvfp4")])
def test_our_formats_read_activations_in_bfp8(weights, inputs):
    assert activation_format(Plan.parse(weights)).name == inputs


def test_resumes_where_it_was_stopped(model, text, tmp_path, monkeypatch):
    names, measured = ["mxint8", "mxint4", "mxfp4"], []
    measure = module.measure

    def stopped_at_the_third(*arguments, label):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(label)
        return measure(*arguments, label=label)

    monkeypatch.setattr(module, "measure", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        compare_formats(model, names, text, tmp_path, activations=False, **SMALL)
    assert measured == ["mxint8", "mxint4"]

    def counted(*arguments, label):
        measured.append(label)
        return measure(*arguments, label=label)

    monkeypatch.setattr(module, "measure", counted)
    rows = compare_formats(model, names, text, tmp_path, activations=False, **SMALL)
    assert measured == names
    again = compare_formats(model, names, text, tmp_path, activations=False, **SMALL)
    assert again == rows
    assert measured == names
    assert len(list(tmp_path.iterdir())) == 3  # the source's log-probabilities are gone

    compare_formats(model, names[:1], text, tmp_path, activations=False, seed=1, **SMALL)
    assert measured == [*names, "mxint8"]


def test_the_source_is_evaluated_once(model, text, tmp_path, monkeypatch):
    scored = []
    log_probabilities = module.log_probabilities
    monkeypatch.setattr(
        module, "log_probabilities", lambda *a: scored.append(1) or log_probabilities(*a)
    )
    compare_formats(model, ["mxint8", "mxint4"], text, tmp_path, **SMALL)
    assert len(scored) == SMALL["tokens"] // SMALL["chunk"]


def test_rows_survive_json_and_csv(model, text, tmp_path):
    rows = compare_formats(model, ["bfp8"], text, tmp_path, **SMALL)
    assert [FormatRow.from_json(row.to_json()) for row in rows] == rows
    write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["activations"] for line in lines] == ["float32", "bfp8"]
    for line, row in zip(lines, rows, strict=True):
        assert float(line["bits_per_weight"]) == row.bits_per_weight
        assert float(line["kl_low"]) == row.check.kl.low
        assert float(line["snr_db_mlp"]) == row.snr_db["mlp"]
        assert int(line["chunks"]) == row.check.chunks


def test_an_unknown_format_and_another_backend_are_refused(model, table_model, text, tmp_path):
    with pytest.raises(StropError, match="unknown format 'bfp44': did you mean 'bfp4'"):
        compare_formats(model, ["bfp44"], text, tmp_path, **SMALL)
    with pytest.raises(StropError, match="needs the torch backend"):
        compare_formats(table_model(), ["bfp4"], text, tmp_path, **SMALL)


@pytest.mark.parametrize("content", ["[]", "{}", '{"check": {}}', "{"])
def test_a_damaged_row_is_named(content, model, text, tmp_path):
    compare_formats(model, ["bfp8"], text, tmp_path, activations=False, **SMALL)
    [path] = tmp_path.iterdir()
    path.write_text(content)
    with pytest.raises(StropError, match=path.name):
        compare_formats(model, ["bfp8"], text, tmp_path, activations=False, **SMALL)
