"""The paper's tables, figures and numbers: what is shown, what is refused, and that it comes out the same each time."""

import json
import re

import pandas as pd
import pytest

from mtep.core import ExperimentError
from mtep.reports import (
    COLUMNS,
    Run,
    collect,
    compare,
    comparison_text,
    current_ids,
    find_runs,
    gather,
    latex_text,
    markdown_table,
    protocol_order,
    publish,
)

LABELS = ["neutral", "angry"]


def put(root, name, experiment="forest", protocol="luna5", corpus="ravdess", value=0.5, day=1, synthetic=False, **more):
    "A run folder as the runner leaves it."
    options = {"parameters": {}, "metrics": None, "digest": "d" * 64, "predictions": False, "system": "forest"}
    options |= {"ends": True, "notebook": "10_forest.ipynb"} | more
    folder = root / experiment / name
    folder.mkdir(parents=True)
    metric = {"corpus": corpus, "protocol": protocol, "system": options["system"], "n": 4, "unit": "", "spread": 0.01}
    metric |= {"low": value - 0.1, "high": value + 0.1} if options["ends"] else {"low": None, "high": None}
    pair = [metric | {"name": "uar", "value": value}, metric | {"name": "war", "value": value + 0.01}]
    result = {"experiment": experiment, "metrics": options["metrics"] or pair, "synthetic": synthetic, "files": []}
    record = {
        "id": name, "experiment": experiment, "status": "ok", "started": f"2026-11-{day:02}T08:00:00Z", "mtep": "0.1.0",
        "parameters": {"corpus": corpus, "protocol": protocol, "trees": 300, "jobs": 2} | options["parameters"],
        "commit": "0123456789abcdef", "dirty": day % 2 == 0, "synthetic": synthetic, "notebook": options["notebook"],
        "corpora": [{"name": corpus, "digest": options["digest"], "clips": 4, "synthetic": synthetic}],
    }  # fmt: skip
    if options["predictions"]:
        table = pd.DataFrame({
            "file": ["a.wav", "b.wav"], "speaker": ["01", "02"], "fold": ["0", "1"], "protocol": protocol,
            "system": options["system"], "truth": LABELS, "predicted": LABELS[::-1],
            "neutral": [0.1, 0.9], "angry": [0.9, 0.1],
        })  # fmt: skip
        table.to_csv(folder / "predictions.csv", index=False)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def contents(root, made):
    return {name: (root / name).read_bytes() for name in made["files"]}


# reading --------------------------------------------------------------------------------------------------------------


def test_only_whole_finished_runs_are_read(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa")
    failed = put(tmp_path, "bbbbbbbbbbbb.failed")
    (failed / "result.json").unlink()
    put(tmp_path, ".cccccccccccc-draft1")
    put(tmp_path / "local", "dddddddddddd")
    (tmp_path / "paper" / "figures").mkdir(parents=True)
    assert [run.id for run in find_runs(tmp_path)] == ["aaaaaaaaaaaa"]
    assert find_runs(tmp_path / "none") == []


@pytest.mark.parametrize("spoil", ["{", "[]", "{}", '{"metrics": [{"name": "uar", "value": null}]}'])
def test_a_spoiled_run_is_named_and_not_passed_over(tmp_path, spoil):
    folder = put(tmp_path, "aaaaaaaaaaaa")
    (folder / "result.json").write_text(spoil, encoding="utf-8")
    with pytest.raises(ExperimentError, match="aaaaaaaaaaaa is not a whole run"):
        Run.load(folder)
    (folder / "result.json").unlink()
    with pytest.raises(ExperimentError, match="is not a whole run .FileNotFoundError."):
        find_runs(tmp_path)


def test_the_table_is_long_and_knows_what_is_current(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa", day=1)
    put(tmp_path, "bbbbbbbbbbbb", day=2)
    put(tmp_path, "cccccccccccc", day=1, parameters={"trees": 20})
    put(tmp_path, "dddddddddddd", day=1, corpus="emodb")
    table = collect(tmp_path)
    assert list(table) == COLUMNS and len(table) == 8
    assert set(table.run[table.current]) == {"bbbbbbbbbbbb", "cccccccccccc", "dddddddddddd"}
    assert ("forest", "aaaaaaaaaaaa") not in current_ids(find_runs(tmp_path))
    assert set(table.commit) == {"0123456789ab", "0123456789ab+changes"}
    assert list(collect(tmp_path / "none")) == COLUMNS


# the paper ------------------------------------------------------------------------------------------------------------


def test_protocols_that_leak_stand_last():
    assert protocol_order(["random80", "own", "speakers5", "luna5"]) == ["luna5", "speakers5", "own", "random80"]


def test_the_paper_is_complete_and_every_number_names_its_run(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa", protocol="random80", value=0.7, predictions=True)
    put(tmp_path, "bbbbbbbbbbbb", protocol="luna5", value=0.45, predictions=True)
    put(tmp_path, "cccccccccccc", "forest-audit", "luna5", value=0.44, day=9)
    speed = [{"name": "ratio", "value": 2.1, "system": "cold", "unit": "×"}]
    put(tmp_path, "dddddddddddd", "benchmarks", metrics=speed)
    made = publish(tmp_path)
    names = ["confusion-ravdess-luna5", "confusion-ravdess-random80", "scores-ravdess"]
    figures = [f"paper/figures/{name}.{kind}" for name in names for kind in ("pdf", "svg")]
    assert made["files"] == ["results.csv", *figures, "paper/numbers.json", "paper/table.md", "paper/table.tex"]
    text = (tmp_path / "paper" / "table.md").read_text(encoding="utf-8")
    assert "| system | score | luna5 | random80 (leaks speakers) |" in text
    assert "| forest | UAR | 0.450 (0.350–0.550) | 0.700 (0.600–0.800) |" in text
    assert "forest/bbbbbbbbbbbb (luna5)" in text and "| cold | ratio | 2.100 × |" in text and "SYNTHETIC" not in text
    saved = json.loads((tmp_path / "paper" / "numbers.json").read_text(encoding="utf-8"))
    number = saved["numbers"]["ravdess/luna5/forest/uar"]
    assert (number["run"], number["value"], number["n"]) == ("bbbbbbbbbbbb", 0.45, 4)
    assert saved["numbers"]["ravdess/luna5/forest/uar@cccccccccccc"]["experiment"] == "forest-audit"
    assert all(number["run"] for number in saved["numbers"].values())
    assert saved["figures"]["scores-ravdess"]["runs"] == ["forest/aaaaaaaaaaaa", "forest/bbbbbbbbbbbb"]


def test_the_same_runs_give_the_same_bytes_whatever_the_order_of_making(tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    order = [("aaaaaaaaaaaa", "luna5"), ("bbbbbbbbbbbb", "random80")]
    for place, runs in zip(places, (order, order[::-1])):
        for name, protocol in runs:
            put(place, name, protocol=protocol, predictions=True)
    first, second = (contents(place, publish(place)) for place in places)
    assert first == second
    assert not re.search(rb"20\d\d-\d\d-\d\d", first["paper/numbers.json"] + first["paper/table.md"])


def test_publishing_refuses_two_notebooks_that_give_different_things_one_name(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa", system="svm", day=1)
    put(tmp_path, "bbbbbbbbbbbb", "forest-audit", system="svm", day=2)
    publish(tmp_path)
    put(tmp_path, "cccccccccccc", "voice", system="svm", notebook="11_wav2vec2.ipynb")
    with pytest.raises(ExperimentError, match="svm/uar.* is reported by 10_forest.ipynb and 11_wav2vec2.ipynb"):
        publish(tmp_path)


def test_publishing_refuses_synthetic_runs_and_gathering_marks_them(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa")
    put(tmp_path, "bbbbbbbbbbbb", corpus="synthetic", protocol="speakers5", synthetic=True, predictions=True)
    put(tmp_path, "cccccccccccc", "exploration", corpus="synthetic", synthetic=True,
        metrics=[{"name": "share", "value": 0.5, "corpus": "synthetic"}])  # fmt: skip
    with pytest.raises(ExperimentError) as caught:
        publish(tmp_path)
    assert "forest/bbbbbbbbbbbb" in str(caught.value) and "exploration/cccccccccccc" in str(caught.value)
    assert not (tmp_path / "paper").exists() and not (tmp_path / "results.csv").exists()
    assert gather(tmp_path)["synthetic"] == ["exploration/cccccccccccc", "forest/bbbbbbbbbbbb"]
    paper = tmp_path / "paper"
    text = (paper / "table.md").read_text(encoding="utf-8")
    assert "## ravdess: " in text and "## SYNTHETIC — synthetic: " in text and "## SYNTHETIC — exploration" in text
    assert r"\caption{SYNTHETIC --- synthetic" in (paper / "table.tex").read_text(encoding="utf-8")
    figures = json.loads((paper / "numbers.json").read_text(encoding="utf-8"))["figures"]
    assert figures["scores-synthetic"]["caption"].startswith("SYNTHETIC")
    assert figures["confusion-synthetic-speakers5"]["caption"].startswith("SYNTHETIC")
    assert "SYNTHETIC" not in figures["scores-ravdess"]["caption"]
    results = pd.read_csv(tmp_path / "results.csv")
    assert results.synthetic.sum() == 3


def test_an_empty_folder_is_an_error(tmp_path):
    for verb in (gather, publish, lambda root: compare(root, root)):
        with pytest.raises(ExperimentError, match="holds no finished run; run an experiment first"):
            verb(tmp_path)


def test_words_are_escaped():
    assert latex_text(r"a_b & 5% of {x}^~\$#") == (
        r"a\_b \& 5\% of \{x\}\textasciicircum{}\textasciitilde{}\textbackslash{}\$\#"
    )  # fmt: skip
    assert markdown_table(["a|b"], [["c"]], 1) == "| a\\|b |\n| --- |\n| c |\n"


# comparison -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "options", "wanted"),
    [
        (0.5, {}, "same"),
        (0.5 + 5e-7, {}, "same"),
        (0.58, {}, "within interval"),
        (0.61, {}, "outside"),
        (0.39, {}, "outside"),
        (0.58, {"ends": False}, "differs"),
    ],
)
def test_verdicts(tmp_path, here, options, wanted):
    put(tmp_path, "aaaaaaaaaaaa", **options)
    put(tmp_path / "local", "bbbbbbbbbbbb", value=here, **options)
    row = compare(tmp_path / "local", tmp_path).iloc[0]
    assert (row.verdict, row.note) == (wanted, "")
    assert row.difference == pytest.approx(here - 0.5)


def test_what_explains_a_difference_is_noted(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa")
    put(tmp_path / "local", "bbbbbbbbbbbb", digest="e" * 64, parameters={"trees": 20, "jobs": 1})
    note = compare(tmp_path / "local", tmp_path).note[0]
    assert note == "ravdess: this copy has other bytes; trees=20 here, 300 committed"


def test_of_several_committed_runs_the_most_alike_is_compared(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa", value=0.5, day=1)
    put(tmp_path, "bbbbbbbbbbbb", value=0.3, day=2, parameters={"trees": 20})
    put(tmp_path / "local", "cccccccccccc", value=0.5)
    assert set(compare(tmp_path / "local", tmp_path).verdict) == {"same"}


def test_what_has_no_counterpart_says_so_and_speed_is_left_out(tmp_path):
    put(tmp_path, "aaaaaaaaaaaa", protocol="random80")
    put(tmp_path / "local", "bbbbbbbbbbbb", protocol="speakers5", corpus="synthetic", synthetic=True)
    speed = [
        {"name": "warm_ratio", "value": 60.0, "system": "x"},
        {"name": "seconds", "value": 3.0, "system": "x"},
        {"name": "peak", "value": 300.0, "system": "x", "unit": "MB"},
        {"name": "rows", "value": 88.0, "system": "x"},
    ]
    put(tmp_path / "local", "cccccccccccc", "exploration", metrics=speed)
    put(tmp_path / "local", "dddddddddddd", "benchmarks", metrics=speed)
    table = compare(tmp_path / "local", tmp_path)
    assert set(table.verdict) == {"nothing committed"} and set(table.metric) == {"uar", "war", "rows"}
    assert comparison_text(table).endswith("3 figures compared: 3 nothing committed.\n")


def test_the_committed_results_are_those_of_the_committed_runs(root, tmp_path):
    runs = find_runs(root / "reports")
    if not runs:
        pytest.skip("no runs are committed")
    assert not [run.id for run in runs if run.synthetic]
    text = collect(root / "reports").to_csv(index=False, lineterminator="\n")
    assert (root / "reports" / "results.csv").read_text(encoding="utf-8") == text, "run: mtep reports --publish"
