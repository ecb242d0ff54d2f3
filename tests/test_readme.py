"""Every figure in README's results table stands in reports/paper/numbers.json, under the run it names."""

import json
import re

import pytest

ROW = re.compile(
    r"^\| `?([a-z0-9-]+)`?(?: \(leaks speakers\))? \| ([a-z-]+) \| ([0-9.]+) \(([0-9.]+) to ([0-9.]+)\) "
    r"\| ([0-9.]+) \(([0-9.]+) to ([0-9.]+)\) \| `([0-9a-f]{12})` \|$",
    re.M,
)


def test_results_are_those_of_the_committed_runs(root):
    path = root / "reports" / "paper" / "numbers.json"
    if not path.is_file():
        pytest.skip("no paper/ yet: mtep reports --publish")
    numbers = json.loads(path.read_text(encoding="utf-8"))["numbers"]
    rows = ROW.findall((root / "README.md").read_text(encoding="utf-8"))
    told = {(protocol, system) for protocol, system, *_ in rows}
    assert len(told) == len(rows), "a protocol and a system stand in one row"
    wanted = {"forest", "svm", "forest-transductive", "svm-transductive", "logistic", "discriminant", "voice", "voice-transductive"}
    assert told >= {(protocol, system) for protocol in ("luna5", "emobox6", "random80") for system in wanted}
    for protocol, system, uar, uar_low, uar_high, war, war_low, war_high, run in rows:
        for name, shown in (("uar", (uar, uar_low, uar_high)), ("war", (war, war_low, war_high))):
            found = numbers[f"ravdess/{protocol}/{system}/{name}"]
            assert found["run"] == run
            assert tuple(f"{found[key]:.3f}" for key in ("value", "low", "high")) == shown
