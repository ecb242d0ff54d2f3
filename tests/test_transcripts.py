"""Transcripts: files that are wrong, times that are mended, everything written and read again, sentences, scores."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from mtep.core import InputError, MediaError
from mtep.speech.transcripts import (
    FORMATS,
    Segment,
    Transcript,
    Word,
    alignment,
    best_cut,
    check_cues,
    clock,
    for_screen,
    format_transcript,
    grid_text,
    mend,
    places,
    plain,
    read_grid,
    read_srt,
    read_transcript,
    read_vtt,
    score,
    sentences,
    srt_text,
    vtt_text,
    write_transcript,
)

SRT = "1\n00:00:01,000 --> 00:00:02,000\nKids are talking.\n\n2\n{}\nBy the door.\n"


def said():
    "A transcript with everything in it."
    words = (Word("Kids", 0.9, 1.2, 0.98), Word('"are"', 1.2, 1.4, 0.9), Word("talking.", 1.4, 2.0, 0.7))
    first = Segment(0.9, 2.0, 'Kids "are" talking.', words, 0.85, 0.01)
    second = Segment(2.5, 3.0, "Сөйлесіп <b> тұр & жүр --> осы.", (), 0.5, None, "kk")
    return Transcript((first, second), "en", 0.97, 3.5, "talk.wav", "whisper-base", ("A note.",))


# bad input


@pytest.mark.parametrize(
    ("times", "complaint"),
    [
        ("-00:00:01,000 --> 00:00:02,500", "line 6 of .* has a negative time \\(-00:00:01.000\\)"),
        ("00:00:01,500 --> 00:00:02,500", "line 6 of .* begins \\(00:00:01.500\\) before the one before it has ended"),
        ("00:00:05,000 --> 00:00:03,000", "line 6 of .* ends \\(00:00:03.000\\) before it begins"),
        ("00:00:05,000 -> 00:00:06,000", "line 6 of .* holds no times"),
        ("00:00:75,000 --> 00:01:20,000", "line 6 of .* holds no times"),
    ],
)
def test_wrong_times_name_their_line(tmp_path, times, complaint):
    path = tmp_path / "talk.srt"
    path.write_text(SRT.format(times), encoding="utf-8")
    with pytest.raises(InputError, match=complaint):
        read_transcript(path)


def test_wrong_times_are_mended_when_asked(tmp_path):
    path = tmp_path / "talk.srt"
    path.write_text(SRT.format("00:00:01,500 --> 00:00:02,500"), encoding="utf-8")
    found = read_transcript(path, mend=True)
    assert [(s.start, s.end) for s in found.segments] == [(1.0, 1.5), (1.5, 2.5)]
    assert "overlapped" in found.notes[0]
    path.write_text(SRT.format("-00:00:03,000 --> -00:00:02,500"), encoding="utf-8")
    assert read_transcript(path, mend=True).text == "Kids are talking."


def test_mending_anything_gives_a_transcript():
    random.seed(0)
    for _ in range(200):
        times = [(random.uniform(-5, 20), random.uniform(-5, 20)) for _ in range(random.randint(0, 12))]
        segments = [Segment(a, b, f"w{k}", (Word(f"w{k}", a, b),)) for k, (a, b) in enumerate(times)]
        kept, _ = mend(segments)
        found = Transcript(kept)  # raises if anything overlaps
        there = {f"w{k}" for k, (a, b) in enumerate(times) if max(a, b) >= 0}
        assert set(found.text.split()) == there  # nothing that has a time is lost


def test_mending_what_is_right_changes_nothing():
    segments = said().segments
    assert mend(segments) == (segments, ())


@pytest.mark.parametrize("times", [(float("nan"), 1), (0, float("inf")), (-1, 1), (2, 1)])
def test_a_transcript_refuses_wrong_times(times):
    with pytest.raises(InputError, match="segment 1"):
        Transcript([Segment(*times, "Kids")])


def test_files_that_are_no_transcripts(tmp_path):
    with pytest.raises(InputError, match="ends in no known format"):
        read_transcript(tmp_path / "talk.doc")
    with pytest.raises(MediaError, match="does not exist"):
        read_transcript(tmp_path / "talk.srt")
    (tmp_path / "empty.srt").write_bytes(b"")
    with pytest.raises(MediaError, match="is empty"):
        read_transcript(tmp_path / "empty.srt")
    (tmp_path / "cyrillic.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\nДети\n".encode("cp1251"))
    with pytest.raises(InputError, match="line 3 of .* is not UTF-8"):
        read_transcript(tmp_path / "cyrillic.srt")
    (tmp_path / "sound.vtt").write_bytes(b"RIFF\0\0\0\0WAVE")
    with pytest.raises(InputError, match="is not a file of text"):
        read_transcript(tmp_path / "sound.vtt")
    (tmp_path / "plain.txt").write_text("Kids are talking.", encoding="utf-8")
    with pytest.raises(InputError, match="has no times"):
        read_transcript(tmp_path / "plain.txt")


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"segments": 3}', '{"segments": [{"start": 0}]}', '{"segments": [{"start": true, "end": 1, "text": ""}]}',
     '{"segments": [{"start": 2, "end": 1, "text": "x"}]}', '{"segments": [{"start": null, "end": 1, "text": "x"}]}',
     '{"segments": [], "seconds": "long"}', '{"segments": [["a"]]}'],
)  # fmt: skip
def test_broken_json(tmp_path, content):
    path = tmp_path / "talk.json"
    path.write_text(content or " ", encoding="utf-8")
    with pytest.raises(InputError):
        read_transcript(path)


def test_json_with_wrong_times_is_mended_when_asked(tmp_path):
    entries = [{"start": 0, "end": 2, "text": "Kids"}, {"start": 1, "end": 3, "text": "talk"}]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"segments": entries}), encoding="utf-8")
    with pytest.raises(InputError, match="segment 2 'talk' begins"):
        read_transcript(path)
    assert [s.end for s in read_transcript(path, mend=True).segments] == [1.0, 3.0]


def test_a_grid_that_breaks_off_anywhere():
    whole = grid_text(said())
    read_grid(whole)
    for cut in range(0, len(whole) - 4, 37):
        with pytest.raises(InputError):
            read_grid(whole[:cut])


# what files may look like


def test_line_ends_and_marks_do_not_matter(tmp_path):
    text = SRT.format("00:00:03,000 --> 00:00:04,000")
    wanted = [
        (s.start, s.text)
        for s in Transcript([Segment(1, 2, "Kids are talking."), Segment(3, 4, "By the door.")]).segments
    ]
    for number, content in enumerate(
        (text, text.replace("\n", "\r\n"), "\ufeff" + text, text.replace(",", "."), text + "\n\n\n")
    ):
        path = tmp_path / f"{number}.srt"
        path.write_bytes(content.encode("utf-8"))
        assert [(s.start, s.text) for s in read_transcript(path).segments] == wanted
    (tmp_path / "wide.srt").write_bytes(text.encode("utf-16"))
    assert [(s.start, s.text) for s in read_transcript(tmp_path / "wide.srt").segments] == wanted


def test_numbers_as_text_stay():
    assert [
        cue.text for cue in read_srt("1\n00:00:01,000 --> 00:00:02,000\n42\n\n2\n00:00:03,000 --> 00:00:04,000\n7")
    ] == ["42", "7"]


def test_vtt_without_blank_after_its_head():
    assert read_vtt("WEBVTT\n00:01.000 --> 00:02.000\nKids")[0].text == "Kids"
    with pytest.raises(InputError, match="holds no times"):
        read_vtt("WEBVTT\n\nKids are talking")


def test_a_grid_of_words_alone_is_read():
    words = (
        '"ooTextFile"\n"TextGrid"\n0\n2\n<exists>\n1\n"IntervalTier"\n"words"\n0\n2\n2\n0\n1\n"Kids"\n1\n2\n"talk"\n'
    )
    assert [cue.text for cue in read_grid(words)] == ["Kids", "talk"]


def test_whisper_json_with_times_of_words_missing():
    theirs = {
        "segments": [
            {
                "start": 0,
                "end": 1,
                "text": " Kids 7",
                "words": [{"word": "Kids", "start": 0, "end": 0.5}, {"word": "7"}],
            }
        ]
    }
    from mtep.speech.transcripts import read_json

    assert [word.text for word in read_json(json.dumps(theirs)).words] == ["Kids"]


# written and read again


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_formats_come_back(tmp_path, form):
    path = write_transcript(said(), tmp_path / f"talk{FORMATS[form][0]}")
    again = read_transcript(path, seconds=3.5)
    assert again.segments[0].text == said().segments[0].text
    if form != "txt":
        assert [(s.start, s.end) for s in again.segments] == [(0.9, 2.0), (2.5, 3.0)]
    if form == "json":
        assert again == said()
    if form == "textgrid":
        assert [word.start for word in again.words] == [0.9, 1.2, 1.4]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_empty_transcript_can_be_written(tmp_path, form):
    empty = Transcript((), "en", None, 4.0, "calm.wav", "whisper-base", ("No speech was found.",))
    path = write_transcript(empty, tmp_path / f"calm{FORMATS[form][0]}")
    if form in ("json", "textgrid", "vtt"):
        assert read_transcript(path).segments == ()


def test_random_transcripts_survive_every_format(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        edges = np.sort(rng.uniform(0, 4000, 2 * rng.integers(1, 8))).round(3)
        segments = [
            Segment(float(a), float(b), f"Сөз {k} “q” & <x>") for k, (a, b) in enumerate(zip(edges[::2], edges[1::2]))
        ]
        whole = Transcript(segments, seconds=4000.0)
        for form in ("srt", "json", "textgrid"):
            again = read_transcript(write_transcript(whole, tmp_path / f"{number}{FORMATS[form][0]}"))
            assert np.allclose([(s.start, s.end) for s in again.segments], edges.reshape(-1, 2), atol=0.0015)


def test_praat_intervals_follow_each_other():
    crowded = Transcript(
        [Segment(0, 1, "a b c", (Word("a", 0, 0.5), Word("b", 0.5, 0.5), Word("c", 0.5, 1)))], seconds=1.0
    )
    for name in ("words", "segments"):
        tier = [cue for cue in read_grid(grid_text(crowded), tier=name)]
        assert " ".join(cue.text for cue in tier) == "a b c"
    assert "nan" not in grid_text(crowded)


def test_an_arrow_in_the_text_is_no_time():
    assert "-->" not in srt_text(said()).split("\n")[6]
    assert read_vtt(vtt_text(said()))[1].text == said().segments[1].text


def test_unknown_format_and_name(tmp_path):
    with pytest.raises(InputError, match="format 'doc' is not known"):
        format_transcript(said(), "doc")
    with pytest.raises(InputError, match="ends in no format"):
        write_transcript(said(), tmp_path / "talk.doc")
    assert not list(tmp_path.iterdir())


def test_hours_are_written():
    assert [clock(3600 * 27 + 1), clock(59.9996)] == ["27:00:01.000", "00:01:00.000"]


# sentences and screens


def test_sentences_keep_words_and_times():
    found = sentences(said())
    assert found.text.split() == said().text.split()
    assert found.segments[0].words == said().segments[0].words
    assert found.segments[0].no_speech == 0.01
    assert found.segments[1].language == "kk"


@pytest.mark.parametrize(
    ("text", "count"),
    [("He said no. And left.", 2), ("At 3.5 p.m. he left.", 1), ("Mr. Smith left! Why?", 2), ("Well... he left.", 1),
     ("Қайда? Білмеймін.", 2), ("J. R. R. Tolkien wrote it.", 1), ("no punctuation at all", 1), ("«Жоқ.» Ол кетті.", 2)],
)  # fmt: skip
def test_where_sentences_end(text, count):
    assert len(sentences(Transcript([Segment(0, 9, text)])).segments) == count


def test_a_long_pause_ends_a_sentence():
    words = (Word("kids", 0, 1), Word("talk", 5, 6))
    assert len(sentences(Transcript([Segment(0, 6, "kids talk", words)])).segments) == 2
    assert len(sentences(Transcript([Segment(0, 6, "kids talk", words)]), pause=5).segments) == 1


def test_screens_hold_little():
    text = " ".join(f"word{k}{',' if k % 5 == 4 else ''}" for k in range(60))
    shown = for_screen(Transcript([Segment(0, 50, text)]))
    assert shown.text == text
    assert all(len(s.text) <= 84 and s.end - s.start <= 7 for s in shown.segments)
    huge = for_screen(Transcript([Segment(0, 50, "a" * 300)]))  # one word cannot be cut
    assert len(huge.segments) == 1
    assert best_cut([Word("a,", 0, 1), Word("b", 1, 2)]) == 1


# scores


def test_scores_of_nothing():
    with pytest.raises(InputError, match="reference holds no word"):
        score("", "Thank you.", "en")
    with pytest.raises(InputError, match="2 texts heard"):
        score(["a"], ["a", "b"])
    with pytest.raises(InputError, match="reference holds no word"):
        alignment("?!", "Kids", "en")
    assert score("Kids talk", "", "en").wer == 1
    assert score(["Kids", ""], ["Kids", "invented"], "en").insertions == 1


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [("I'm 25.", "I am twenty-five", "en"), ("The colour grey", "the color gray", "en"), ("HE TRAVELLED", "he traveled", "en"),
     ("Ёлка, ёж!", "елка еж", "ru"), ("Сен — кімсің?", "сен кімсің", "kk"), ("今日は。", "今 日は", "ja"), ("Straße!", "straße", "de")],
)  # fmt: skip
def test_ways_of_writing_are_no_errors(one, other, language):
    assert score(one, other, language).wer == 0


def test_normalising_twice_changes_nothing():
    for text in ("Mr. O'Neill's 3 dogs didn't bark at 10:30, um, did they?", "He's four, our hours, flour"):
        once = plain(text, "en")
        assert plain(once, "en") == once
    assert (
        plain("four hours of flour, our tour", "en") == "4 hours of flour our tour"
    )  # no word but spellings is changed


def test_alignment_covers_both_texts():
    rng = random.Random(0)
    words = "kids dogs are talking sitting by the door".split()
    for _ in range(50):
        one, other = (" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(2))
        table = alignment(one, other, "en")
        assert " ".join(table.said[table.said != ""]) == one
        assert " ".join(table.heard[table.heard != ""]) == other
        assert (table.kind != "equal").sum() == sum(
            getattr(score(one, other, "en"), name) for name in ("substitutions", "deletions", "insertions")
        )
        left, right, timed = places(table)
        assert not timed and (right > left).all()


def test_places_follow_times():
    heard = Transcript([Segment(1, 3, "b d", (Word("b", 1, 1.5, 0.9), Word("d", 2.5, 3, 0.8)))])
    left, right, timed = places(alignment("a b c d e", heard))
    assert timed
    assert (np.diff(left) > 0).all() and (right > left).all()
    assert right[0] <= 1.0 and 1.5 <= left[2] < right[2] <= 2.5 and left[4] >= 3.0


def test_notes_and_confidence():
    assert said().confidence == pytest.approx((1.101 * 0.85 + 0.501 * 0.5) / 1.602)
    assert "A note." in said()._repr_markdown_()
    assert "*no speech*" in Transcript(())._repr_markdown_()
    assert replace(said(), language="zh").text.startswith('Kids "are" talking.С')
    assert check_cues([], "x") == ([], ())
