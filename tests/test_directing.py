"Ways of acting, directions, the panel and the search."

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pyworld", reason="the vocoder is in the extra speech")
pytest.importorskip("torch", reason="networks need torch")
from mtep.core import InputError  # noqa: E402
from mtep.media import Sound, write_sound  # noqa: E402
from mtep.speech.directing import (  # noqa: E402
    COLUMNS,
    FEWEST,
    GROUPS,
    MOST,
    Direction,
    Member,
    acting_of,
    directed_row,
    followed,
    machine,
    measured,
    rating,
    search,
    sketched,
    varied,
    ways_of,
)
from mtep.speech.quality import FOUR  # noqa: E402
from mtep.speech.style import style_of, take_apart  # noqa: E402
from mtep.speech.synthesis import Synthesiser  # noqa: E402
from mtep.speech.voice import read_acting  # noqa: E402


def clips_of(speakers=("a", "b"), emotions=("neutral", "sad"), **numbers):
    rng, rows = np.random.default_rng(0), []
    for speaker in speakers:
        for emotion in emotions:
            for strong in (False, True) if emotion != "neutral" else (False,):
                row = dict(zip(COLUMNS, rng.normal(0, 0.1, len(COLUMNS)))) | {"range": np.log(5.0), "pace": np.log(4.0), "liveliness": np.log(7.0)}
                rows.append(row | {"speaker": speaker, "emotion": emotion, "strong": strong} | (numbers if emotion != "neutral" else {}))
    return pd.DataFrame(rows)


def test_levels_are_against_the_loudest_emotion():
    clips = clips_of(emotions=("neutral", "sad", "angry"))
    clips["level"] = clips.emotion.map({"neutral": -40.0, "sad": -45.0, "angry": -25.0})
    begin, end = followed(Direction({0: 1.0}), ways_of(clips, "sad"))
    assert begin.style["level"] == pytest.approx(-15) and end.style["level"] == pytest.approx(-20)


def test_who_does_not_act_the_emotion_is_left_out():
    clips = pd.concat([clips_of(("a",)), clips_of(("b",), ("neutral",)), clips_of(("c",), ("sad",))])
    assert ways_of(clips, "sad").names == ["a all", "a strong"]
    with pytest.raises(InputError, match="'angry' is not acted by anybody"):
        ways_of(clips, "angry")


def test_clips_that_could_not_be_measured_do_not_count(tmp_path):
    silent = write_sound(tmp_path / "silent.wav", np.full(16_000, 1e-3) * np.sign(np.sin(np.arange(16_000))), 16_000)
    table = measured([silent])
    assert table.isna().all(axis=None) and list(table) == COLUMNS
    clips = clips_of()
    clips.loc[clips.speaker == "b", "f0"] = np.nan
    assert ways_of(clips, "sad").names == ["a all", "a strong"]


def test_a_blend_lies_between_its_parts():
    clips = clips_of()
    clips.loc[clips.speaker == "b", "f0"] += np.where(clips[clips.speaker == "b"].emotion == "sad", 6.0, 0.0)
    ways = ways_of(clips, "sad")
    ends = [followed(Direction(shares), ways)[1].style["f0"] for shares in ({0: 1.0}, {2: 1.0}, {0: 1.0, 2: 1.0})]
    assert ends[2] == pytest.approx(np.mean(ends[:2]))
    assert "50% a all, 50% b all" in Direction({0: 2.0, 2: 2.0}).said(ways)


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "liveliness"])
def test_a_part_is_taken_farther_and_nothing_else(group):
    ways = ways_of(clips_of(f0=3.0, range=np.log(8.0), pace=np.log(3.0)), "sad")
    plain, far = (followed(Direction({0: 1.0}, dict.fromkeys(GROUPS, 1.0) | {group: times}), ways) for times in (1.0, 2.0))
    changed = {
        "f0": plain[1].style["f0"] != far[1].style["f0"], "range": plain[1].style["range"] != far[1].style["range"],
        "pace": plain[1].style["pace"] != far[1].style["pace"], "colour": not np.allclose(plain[1].colour.mean, far[1].colour.mean),
    }  # fmt: skip
    assert [name for name, moved in changed.items() if moved] == [group]
    assert far[0].style == plain[0].style


def test_variations_stay_within_bounds():
    ways, rng = ways_of(clips_of(speakers="abcdef"), "sad"), np.random.default_rng(0)
    one = Direction({0: 1.0})
    for _ in range(300):
        one = varied(one, ways, rng)
        assert 1 <= len(one.shares) <= 5 and all(FEWEST <= value <= MOST for value in one.times.values())


def test_the_search_is_the_same_again_and_never_worse_than_one_actor():
    ways = ways_of(clips_of(speakers="abcd"), "sad")
    rate = lambda direction: -float(np.abs(followed(direction, ways)[1].colour.mean - 0.1).mean())
    runs = [search(rate, ways, tries=40, seed=3) for _ in range(2)]
    assert runs[0][1][0].rating == runs[1][1][0].rating >= runs[0][0][0].rating
    assert [one.rating for one in runs[0][1]] == sorted((one.rating for one in runs[0][1]), reverse=True)


def test_a_sketch_goes_where_it_is_told():
    parts = take_apart(Synthesiser.load().say("Балалар есіктің жанында сөйлесіп тұр.", "kk", "f2").sound)
    own, acting = style_of(parts), read_acting(directed=False)
    neutral, angry = acting["high", "neutral"], acting["high", "angry"]
    got = style_of(sketched(parts, own, neutral, angry))
    assert got.f0 - own.f0 == pytest.approx(angry.style["f0"] - neutral.style["f0"], abs=1.0)


def test_a_member_learns_and_hears(tmp_path):
    rng, paths, told = np.random.default_rng(0), [], []
    for number in range(40):
        name = FOUR[number % 4]
        tone = np.sin(2 * np.pi * 150 * (1 + FOUR.index(name)) * np.arange(8_000) / 16_000) + 0.05 * rng.standard_normal(8_000)
        paths.append(write_sound(tmp_path / f"{number}.wav", 0.3 * tone, 16_000))
        told.append(name)
    numbers = lambda samples: np.abs(np.fft.rfft(samples))[:400]
    member = Member("tones", numbers, machine()).learn(paths, told)
    tone = np.sin(2 * np.pi * 600 * np.arange(8_000) / 16_000) + 0.05 * rng.standard_normal(8_000)
    heard = member.hear([Sound((0.3 * tone).astype(np.float32), 16_000)])
    assert heard.shape == (1, 4) and heard.sum() == pytest.approx(1) and FOUR[heard.argmax()] == "angry"
    assert rating({"tones": heard}, "angry") > 0.6


def test_rows_of_the_table_lead_to_the_same_place():
    neutral = read_acting(directed=False)["low", "neutral"]
    begin, end = followed(Direction({0: 1.0}), ways_of(clips_of(f0=5.0, pace=np.log(3.0)), "sad"))
    row = directed_row(begin, end, neutral)
    assert row["f0"] - neutral.style["f0"] == pytest.approx(end.style["f0"] - begin.style["f0"])
    assert row["pace"] / neutral.style["pace"] == pytest.approx(end.style["pace"] / begin.style["pace"])
    assert row["liveliness"] == end.liveliness and row["mean_07"] == end.colour.mean[7]


def test_numbers_and_back():
    row = np.linspace(-1, 1, len(COLUMNS))
    back = acting_of(row)
    assert np.log(back.style["pace"]) == pytest.approx(row[COLUMNS.index("pace")])
    assert np.allclose(np.log(back.colour.spread), row[-len(back.colour.spread) :])
