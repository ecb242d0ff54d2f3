"""Every notebook is a test: its lessons assert what they show."""

from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

NOTEBOOKS = sorted((Path(__file__).parent.parent / "nbs").glob("*.ipynb"))
run_notebook.__test__ = False


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, root, monkeypatch):
    monkeypatch.chdir(path.parent)
    flags = get_config(path=root).tst_flags.split()
    passed, _seconds = run_notebook(path, skip_flags=flags, basepath=root)
    assert passed, f"{path.name} failed; its traceback is above"
