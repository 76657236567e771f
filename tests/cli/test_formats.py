import sys

import pytest

from strop.blockfp import FORMATS
from strop.cli import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["strop", "formats", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_list_shows_every_format_by_rising_size(monkeypatch, capsys):
    assert run(monkeypatch, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.split()[0] in FORMATS]
    assert sorted(names) == sorted(FORMATS)
    bits = [FORMATS[name].bits_per_weight for name in names]
    assert bits == sorted(bits)


def test_compare_writes_table_csv_and_plot(tiny_model, tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("It was the age of wisdom, it was the age of foolishness. " * 10)
    files = [tmp_path / "table.csv", tmp_path / "plot.svg", tmp_path / "rows"]
    code = run(
        monkeypatch,
        *("compare", tiny_model, "--formats", "bfp8, mxint4", "--text", text),
        *("--tokens", 256, "--chunk", 32),
        *("--csv", files[0], "--plot", files[1], "--output", files[2]),
    )
    out = capsys.readouterr().out
    assert code == 0
    rows = [line.split("│")[1:3] for line in out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["mxint4", "float32"],
        ["bfp8", "float32"],
        ["mxint4", "mxint4"],
        ["bfp8", "bfp8"],
    ]
    assert "n = 8 chunks of 32 tokens" in out
    assert len(files[0].read_text().splitlines()) == 5
    assert files[1].read_text().startswith("<?xml")
    assert len(list(files[2].iterdir())) == 4


def test_a_misspelt_format_is_found_before_the_model_is(monkeypatch, capsys):
    assert run(monkeypatch, "compare", "no-such-model", "--formats", "bpf4") == 2
    assert "unknown format 'bpf4': did you mean 'bfp4'?" in capsys.readouterr().err


def test_a_plot_that_cannot_be_drawn_is_found_before_the_model_is(monkeypatch, capsys):
    assert run(monkeypatch, "compare", "no-such-model", "--plot", "plot.pdf") == 2
    assert "plot.pdf: a plot is written as .svg or .png" in capsys.readouterr().err
