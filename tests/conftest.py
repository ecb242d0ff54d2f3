"""One cache for the whole test run, no windows, one thread a process."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MTEP_PROGRESS"] = "0"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background, whose children cannot be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
_cache = tempfile.TemporaryDirectory(prefix="mtep-test-cache-", ignore_cleanup_errors=True)
os.environ["MTEP_CACHE"] = _cache.name


@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout."
    return ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    "The folder of real corpora, or a skip that says why."
    folder = os.environ.get("MTEP_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real data: set MTEP_DATA to a folder with ravdess/ and emodb/")
    return Path(folder)


@pytest.fixture(scope="session")
def ravdess(data_folder):
    "RAVDESS, or a skip that says why."
    from mtep.corpora import find, load

    if find("ravdess") is None:
        pytest.skip(f"no RAVDESS below MTEP_DATA={data_folder}")
    return load("ravdess")
