"""`mtep emotion`: what it prints and writes, what it refuses, and how it ends."""

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mtep.cli import app
from mtep.core import InputError, OfflineError
from mtep.emotion import recogniser
from mtep.media import write_sound

RATE = 16_000
LABELS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]


class Loudness:
    "A model to test with: the louder a clip is, the angrier."

    labels, card = LABELS, {"corpus": "no corpus", "licence": "none", "share": float("nan")}

    def vectors(self, clips):
        return np.array([[20 * np.log10(np.abs(clip).max() + 1e-9)] for clip in clips])

    def proba(self, vectors, own=None):
        angry = 1 / (1 + np.exp(-(vectors - (-20.0 if own is None else own.mean())) / 3))
        return np.hstack([(1 - angry) * [0.5, 0.1, 0.1, 0.1], angry, (1 - angry) * [0.1, 0.05, 0.05]])


@pytest.fixture(autouse=True)
def model(monkeypatch):
    "The toy under the names of the real ones."
    monkeypatch.setattr(recogniser, "MODELS", {"voice": lambda device: Loudness(), "forest": lambda device: Loudness()})


def tone(seconds, height):
    t = np.arange(round(seconds * RATE)) / RATE
    return (height * np.sin(2 * np.pi * 220 * t)).astype(np.float32)


@pytest.fixture
def clips(tmp_path, monkeypatch):
    "Three recordings: loud, soft, and nothing."
    monkeypatch.chdir(tmp_path)
    write_sound(tmp_path / "clips" / "loud.wav", tone(2, 0.9), RATE)
    write_sound(tmp_path / "clips" / "soft.wav", tone(2, 0.02), RATE)
    write_sound(tmp_path / "clips" / "off.wav", np.zeros(RATE), RATE)
    return tmp_path / "clips"


@pytest.fixture
def talk(tmp_path, monkeypatch):
    "Loud, a pause, soft: 29 seconds."
    monkeypatch.chdir(tmp_path)
    parts = [tone(12, 0.9), np.zeros(5 * RATE, np.float32), tone(12, 0.03)]
    return write_sound(tmp_path / "talk.wav", np.concatenate(parts), RATE)


def typed(line, code=0):
    "What a command leaves, after a check of its exit code."
    ended = CliRunner().invoke(app, ["emotion", *(shlex.split(line) if isinstance(line, str) else map(str, line))])
    assert ended.exit_code == code, (ended.output, ended.exception)
    return ended


def refused(line):
    "The one line with which the command refuses."
    ended = typed(line, code=2)
    lines = [text for text in ended.stderr.splitlines() if text.strip()]
    assert len(lines) == 1 and lines[0].startswith("mtep: ") and not ended.stdout, ended.output
    return lines[0]


# ------------------------------------------------------------------------------------------------ what it tells


def test_table_for_people(clips):
    ended = typed("clips")
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert lines[0] == ["clip", "emotion", "probability", "runner-up"]
    assert [line[1] for line in lines[1:]] == ["angry", "silence", "neutral"]
    assert lines[2][2:] == [], "silence has no numbers"
    assert ended.stderr.splitlines() == ["Model: voice, trained on no corpus (none)."]


def test_the_table_goes_to_a_file_too(clips):
    ended = typed("clips -o out.txt")
    assert not ended.stdout and "written: out.txt" in ended.stderr
    assert "angry" in (clips.parent / "out.txt").read_text(encoding="utf-8")


def test_csv_has_a_row_a_clip(clips):
    rows = list(csv.DictReader(io.StringIO(typed("clips -f csv --labels four").stdout)))
    assert [row["emotion"] for row in rows] == ["angry", "silence", "neutral"]
    assert list(rows[0])[-4:] == ["neutral", "happy", "sad", "angry"]
    assert sum(float(rows[0][label]) for label in list(rows[0])[-4:]) == pytest.approx(1, abs=1e-3)
    assert rows[1]["angry"] == "" and rows[1]["probability"] == ""
    typed("clips -o out.csv")
    assert (clips.parent / "out.csv").read_bytes().count(b"\n") == 4


def test_json_holds_everything_and_is_strict(clips, talk):
    (clips / "bad.wav").write_bytes(b"x")
    ended = typed("clips talk.wav --json --windows 3", code=1)
    found = json.loads(ended.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["model"] == "voice" and found["card"]["share"] is None and found["labels"] == LABELS
    assert found["settings"] == {"seconds": {"size": 3.0, "hop": 1.5, "whole": 3.0}, "interrupted": False}
    assert list(found["failed"]) == [os.path.join("clips", "bad.wav")] and found["enrolment"] is None
    silent = {clip["clip"]: clip for clip in found["clips"]}[os.path.join("clips", "off.wav")]
    assert silent["emotion"] == "silence" and set(silent["probabilities"].values()) == {None}
    long = found["clips"][-1]
    assert len(long["timeline"]) == 19 and [s["emotion"] for s in long["segments"]] == ["angry", "silence", "neutral"]
    typed("clips/loud.wav -o out.json")
    assert json.loads((clips.parent / "out.json").read_text(encoding="utf-8"))["clips"][0]["emotion"] == "angry"


def test_the_earlier_projects_format(clips):
    lines = typed("clips -f ravdess --labels five").stdout.splitlines()
    assert lines[0] == "|file_id|01|02|03|04|05|06|07|08|" and len(lines) == 4
    rows = {line.split("|")[1]: list(map(float, line.split("|")[2:-1])) for line in lines[1:]}
    assert sum(rows["loud"]) == pytest.approx(1, abs=1e-5) and rows["loud"][1] == 0
    assert rows["off"] == [0.0] * 8


def test_a_long_recording_shows_its_segments(talk):
    lines = typed("talk.wav").stdout.splitlines()
    assert [line.split()[2] for line in lines[-3:]] == ["angry", "silence", "neutral"]


def test_timelines_in_every_form(talk):
    names = ["t.csv", "t.json", "t.TextGrid", "t.png", "t.svg"]
    ended = typed("talk.wav " + " ".join(f"-t {name}" for name in names))
    assert "written: " in ended.stderr and all((talk.parent / name).stat().st_size > 300 for name in names)
    rows = list(csv.DictReader(open(talk.parent / "t.csv", encoding="utf-8")))
    assert len(rows) == 14 and rows[0]["clip"] == "talk.wav" and rows[0]["emotion"] == "angry"
    assert typed("talk.wav -f textgrid").stdout == (talk.parent / "t.TextGrid").read_text(encoding="utf-8")
    json.loads((talk.parent / "t.json").read_text(encoding="utf-8"))


def test_textgrids_of_several_clips(clips):
    assert "needs a file for each of 3 clips; add --output FOLDER" in refused("clips -f textgrid")
    typed("clips -f textgrid -o grids")
    assert sorted(path.name for path in (clips.parent / "grids").iterdir()) == [
        "loud.TextGrid", "off.TextGrid", "soft.TextGrid"
    ]  # fmt: skip
    typed("clips -t line.png -f csv")
    assert (clips.parent / "line-loud.png").is_file() and (clips.parent / "line-off.png").is_file()


def test_model_and_its_replacement_are_told(clips, monkeypatch):
    def missing(device):
        raise OfflineError("weights", "are not here", "run: something")

    monkeypatch.setitem(recogniser.MODELS, "voice", missing)
    assert "Chosen because there is no voice model: weights are not here" in typed("clips/loud.wav").stderr
    assert "weights are not here; run: something" in refused("clips/loud.wav --model voice")
    monkeypatch.setitem(recogniser.MODELS, "cnn", missing)
    monkeypatch.setitem(recogniser.MODELS, "forest", missing)
    assert "no cnn model: weights are not here" in refused("clips/loud.wav")
    assert 'pip install "mtep[offline]"' in refused("clips/loud.wav")


# ------------------------------------------------------------------------------------------------ enrolment


def test_enrolment_is_told(clips):
    for k in range(5):
        write_sound(clips.parent / "own" / f"{k}.wav", tone(1, 0.005), RATE)
    ended = typed("clips/soft.wav --enrol own --json")
    assert json.loads(ended.stdout)["enrolment"] == {"clips": 5, "used": True}
    assert "Enrolled: 5 of the speaker's own clips." in ended.stderr
    assert json.loads(ended.stdout)["clips"][0]["emotion"] == "angry"
    (clips.parent / "own" / "4.wav").write_bytes(b"x")
    few = typed("clips/soft.wav --enrol own", code=1)
    assert "4 usable clips, and 5 are needed; the plain model answers" in few.stderr and "4.wav" in few.stderr
    assert "neutral" in few.stdout
    (clips.parent / "none").mkdir()
    assert "none holds no audio" in refused("clips/soft.wav --enrol none")
    assert "does not exist" in typed("clips/soft.wav --enrol nowhere", code=1).stderr


# ------------------------------------------------------------------------------------------------ bad input


def test_one_bad_file_is_reported_and_the_exit_code_says_so(clips):
    (clips / "bad.wav").write_text("no sound", encoding="utf-8")
    write_sound(clips / "blink.wav", tone(0.1, 0.5), RATE)
    ended = typed("clips", code=1)
    assert ended.stdout.count("\n") == 4
    failed = [line for line in ended.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2 and "bad.wav is not a sound" in failed[0] and "blink.wav is too short" in failed[1]
    assert typed("clips/bad.wav", code=1).stdout == ""
    assert json.loads(typed("clips/bad.wav --json", code=1).stdout)["clips"] == []


def test_short_and_telephone_sound_get_remarks(clips):
    write_sound(clips / "call.wav", tone(0.5, 0.5)[::2], RATE // 2)
    ended = typed("clips/call.wav")
    assert "note: 1 clip: shorter than 1 s: unreliable" in ended.stderr
    assert "note: 1 clip: recorded at 8000 Hz" in ended.stderr and "nothing above 4 kHz" in ended.stdout


def test_wrong_usage_is_refused_on_one_line_before_a_model_is_loaded(clips, monkeypatch):
    monkeypatch.setattr(recogniser, "load_model", lambda *given: pytest.fail("a model was loaded"))
    (clips.parent / "empty").mkdir()
    for line, words in {
        "empty": "empty holds no audio",
        "nowhere.wav": "file nowhere.wav is not there",
        "clips --labels seven": "set of labels 'seven' is not known; choose one of: eight, five, four",
        "clips --format xml": "format 'xml' is not known",
        "clips --windows 90": "windows=90.0 is no number of seconds from 0.5 to 30",
        "clips --windows 2 --hop 3": "hop=3.0 is no number",
        "clips -t line.pdf": "end it in .csv, .json, .TextGrid, .png, .svg",
        "clips clips": "is listed more than once",
    }.items():
        assert words in refused(line)


def test_models_that_are_none(clips):
    assert "model 'cloud' is not known" in refused("clips --model cloud")
    assert "holds no readable config.json" in refused("clips --model clips")
    assert "model folder no/where is not there" in refused("clips --model no/where")


def test_an_output_that_cannot_be_written(clips):
    (clips.parent / "file").write_text("x", encoding="utf-8")
    assert "mtep: file/out.csv cannot be written" in typed("clips -o file/out.csv", code=2).stderr.replace("\\", "/")
    before = (clips / "loud.wav").read_bytes()
    assert "loud.wav is one of the recordings and would be written over" in refused("clips -o clips/loud.wav")
    assert (clips / "loud.wav").read_bytes() == before
    assert "clips is a folder; name a file in it" in refused("clips -f csv -o clips")


# ------------------------------------------------------------------------------------------------ interruption


def test_what_was_found_is_kept_when_interrupted(clips, monkeypatch):
    draw, seen = recogniser.table_lines, []

    def stopped(verdict):
        seen.append(verdict.clip)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return draw(verdict)

    monkeypatch.setattr(recogniser, "table_lines", stopped)
    ended = typed("clips -o out.csv", code=130)
    assert (clips.parent / "out.csv").read_text(encoding="utf-8").count("\n") == 3
    assert "interrupted after" in ended.stderr
    monkeypatch.setattr(recogniser, "summary", lambda verdict: (_ for _ in ()).throw(KeyboardInterrupt))
    assert json.loads(typed("clips --json", code=130).stdout)["settings"]["interrupted"] is True


SLOW = """
import sys, time, numpy as np
from mtep.cli import main
from mtep.emotion import recogniser
class Slow:
    labels, card = ["sad", "angry"], {}
    def vectors(self, clips):
        time.sleep(0.02 * len(clips)); return np.zeros((len(clips), 1))
    def proba(self, vectors, own=None):
        return np.tile([0.4, 0.6], (len(vectors), 1))
recogniser.MODELS["voice"] = lambda device: Slow()
sys.argv = ["mtep", "emotion", "clips", "-o", "out.csv"]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a signal as a Unix terminal does")
def test_ctrl_c_leaves_whole_lines(tmp_path):
    for k in range(400):
        write_sound(tmp_path / "clips" / f"{k:03}.wav", tone(0.3, 0.5), RATE)
    running = subprocess.Popen([sys.executable, "-c", SLOW], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    out, end = tmp_path / "out.csv", time.time() + 40
    while time.time() < end and not (out.is_file() and out.read_bytes().count(b"\n") > 30):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=20)[1]
    rows = list(csv.DictReader(open(out, encoding="utf-8")))
    assert running.returncode == 130 and "Traceback" not in said and "interrupted after" in said
    assert 30 <= len(rows) < 400 and all(row["emotion"] == "angry" for row in rows)


# ------------------------------------------------------------------------------------------------ start


def test_help_loads_nothing_heavy():
    probe = (
        "import sys; sys.argv = ['mtep', 'emotion', '--help']; from mtep.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nprint('MODULES', *sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    text, _, modules = told.partition("MODULES")
    assert not {"numpy", "pandas", "torch", "sklearn", "matplotlib", "av"} & {*modules.split()}
    assert all(option in text for option in ("--labels", "--enrol", "--windows", "--format", "--timeline", "--model"))


# --- words ---------------------------------------------------------------------------------------------------------


class ToyReader:
    "Reads two words, in English."

    labels, card = ["neutral", "happy", "sad", "angry"], {"name": "a toy", "corpus": "two words"}

    def predict(self, texts):
        kinds = {"glad": [0.1, 0.7, 0.1, 0.1], "sorry": [0.1, 0.1, 0.7, 0.1]}
        rows = [next((p for word, p in kinds.items() if word in text), [0.7, 0.1, 0.1, 0.1]) for text in texts]
        if any(not text.strip() for text in texts):
            raise InputError("text ''", "is empty", "give words")
        english = [text.isascii() for text in texts]
        return pd.DataFrame(rows, columns=self.labels).assign(language=["en" if e else "kk" for e in english], supported=english)


@pytest.fixture(autouse=True)
def reader(monkeypatch):
    monkeypatch.setattr(recogniser, "load_reader", lambda model="emotion-text": ToyReader())


def test_words_alone_are_judged(clips):
    found = json.loads(typed(["--text", "I am so glad.", "--text", "Мен қуаныштымын", "--json"]).stdout)
    assert [row["emotion"] for row in found["clips"]] == ["happy", "neutral"] and found["clips"][0]["clip"] == "I am so glad."
    assert "another language (kk)" in found["clips"][1]["notes"][0] and set(found["clips"][0]["probabilities"]) == set(ToyReader.labels)
    table = typed(["--text", "I am sorry", "--labels", "four"]).stdout
    assert "I am sorry" in table and "sad" in table


def test_lines_of_a_file_and_texts_that_are_alike_have_names_of_their_own(clips):
    (clips.parent / "lines.txt").write_text("I am glad.\n\nI am glad.\nI am sorry.\n", encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(typed("--transcript lines.txt -f csv").stdout)))
    assert [row["clip"] for row in rows] == ["1: I am glad.", "2: I am glad.", "I am sorry."]
    assert [row["emotion"] for row in rows] == ["happy", "happy", "sad"]
    assert [row["emotion"] for row in json.loads(typed(["--text", "glad " * 200, "--json"]).stdout)["clips"]] == ["happy"]


def test_voice_and_words_are_fused_and_each_is_told(clips):
    plain = json.loads(typed("clips/soft.wav --json").stdout)["clips"][0]
    found = json.loads(typed(["clips/soft.wav", "--text", "I am so glad.", "--json"]).stdout)["clips"][0]
    assert plain["emotion"] == "neutral" and "opinions" not in plain and found["emotion"] == "happy"
    assert set(found["probabilities"]) == set(ToyReader.labels)  # what both know, calm with neutral
    assert found["opinions"]["text"]["emotion"] == "happy" and found["opinions"]["text"]["weight"] > 0
    table = typed(["clips/soft.wav", "--text", "I am so glad."]).stdout
    assert "audio" in table and "text" in table and "happy 0.70" in table


def test_a_transcript_of_some_clips(clips):
    (clips.parent / "words.csv").write_text("clip,text\nsoft.wav,I am glad\noff.wav,I am sorry\n", encoding="utf-8")
    found = {row["clip"]: row for row in json.loads(typed("clips --transcript words.csv --json").stdout)["clips"]}
    said = {name.rpartition("/")[2].rpartition(os.sep)[2]: row for name, row in found.items()}
    assert set(said["soft.wav"]["opinions"]) == {"audio", "text"} and "opinions" not in said["loud.wav"]
    assert said["loud.wav"]["emotion"] == "angry" and (said["off.wav"]["emotion"], set(said["off.wav"]["opinions"])) == ("sad", {"text"})
    alone = json.loads(typed("clips --transcript words.csv --modality text --json").stdout)["clips"]
    assert [row["emotion"] for row in alone] == ["happy", "sad"]
    heard = json.loads(typed("clips --transcript words.csv --modality audio --json").stdout)["clips"]
    assert all("opinions" not in row for row in heard)


@pytest.mark.parametrize(("line", "told"), [
    ("", "is nothing to judge"), ("clips/soft.wav --modality fused", "needs words"), ("--text hi --modality audio", "needs recordings"),
    ("--text hi --modality fused", "needs recordings"), ("clips/soft.wav --modality smell", "modality 'smell'"),
    ("clips/soft.wav clips/loud.wav --text hi", "are 1 texts for 2 recordings"), ("--text hi --windows 4", "mean nothing to a text"),
    ("--text hi -t a.png", "mean nothing to a text"), ("clips/soft.wav --text hi --transcript words.csv", "both give words"),
    ("clips --transcript none.csv", "none.csv"), ("clips/soft.wav --text hi --labels eight", "needs calm"),
])  # fmt: skip
def test_requests_for_words_that_are_refused(clips, line, told):
    assert told in refused(line)


def test_an_empty_text_is_named_and_the_others_are_judged(clips):
    ended = typed(["--text", " ", "--text", "I am glad", "--json"], code=1)
    assert [row["emotion"] for row in json.loads(ended.stdout)["clips"]] == ["happy"] and "is empty" in ended.output
