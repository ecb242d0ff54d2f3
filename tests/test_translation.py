"""Translation: bad input first, then what a memory, a checkpoint and figures must keep to."""

import json
import shlex

import pandas as pd
import pytest

pytest.importorskip("torch", reason="checkpoints need torch")
from typer.testing import CliRunner  # noqa: E402

from mtep.cli import app  # noqa: E402
from mtep.cli_language import lines_of  # noqa: E402
from mtep.core import CorpusError, InputError, MtepError, project_root, settings  # noqa: E402
from mtep.kazakh import script_of  # noqa: E402
from mtep.texts import key_of  # noqa: E402
from mtep.translation import (  # noqa: E402
    LONGEST,
    NLLB_CODES,
    Candidate,
    Hub,
    Memory,
    Translation,
    Translator,
    complaints,
    contaminated,
    doubts,
    from_network,
    in_words,
    likeness,
    load_parallel,
    mended_number,
    number_key,
    odd_numbers,
    pieces_of,
    plain,
    quality,
    read_phrasebook,
    spoken_seconds,
    tiny_translation_checkpoint,
)


@pytest.fixture(scope="module")
def translator():
    return Translator.load("memory")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_translation_checkpoint(tmp_path_factory.mktemp("hub") / "tiny")


def typed(line, code=0, given=None):
    ended = CliRunner().invoke(app, shlex.split(line) if isinstance(line, str) else line, input=given)
    assert ended.exit_code == code, ended.output
    return ended


# --- bad input


@pytest.mark.parametrize("text", [None, 3, b"hello", ["hello"]])
def test_what_is_no_text_is_refused(translator, text):
    with pytest.raises(InputError, match="is no text"):
        translator.translate([text])


def test_languages_that_are_not_known(translator):
    for wrong in (dict(to="kz"), dict(language="english"), dict(to="xx", language="en")):
        with pytest.raises(InputError, match="language"):
            translator.translate("hello", **wrong)
    with pytest.raises(InputError, match="script 'arabic'"):
        translator.translate("hello", script="arabic")
    with pytest.raises(InputError, match="can't be told"):
        translator.translate("😀😀")
    none = translator.translate("Das ist schön.", language="de")[0]
    assert none.origin == "none" and "no memory for de to kk" in none.notes[0] and "nllb" in none.notes[0]


@pytest.mark.parametrize("text", ["", "   ", "<br/>", "\n"])
def test_nothing_is_nothing(translator, text):
    made = translator.translate(text, language="en")[0]
    assert (made.text, made.origin, made.confidence) == ("", "none", 0.0) and made.source == text


def test_long_mixed_and_marked_up_texts(translator):
    long = translator.translate("word, " * 900, language="en")[0]
    assert not long.text and len(long.parts) > 4 and max(len(part.source) for part in long.parts) <= LONGEST
    mixed = translator.translate("Привет, hello 你好 🙂!", language="ru")[0]
    assert mixed.origin == "none" and mixed.source.startswith("Привет")
    marked = translator.translate("<p>Kids are <b>talking</b> by the&nbsp;door.</p>", language="en")[0]
    assert marked.origin == "memory" and "Markup was left out." in marked.notes
    assert plain("3 < 4 > 2") == ("3 < 4 > 2", [])
    assert pieces_of("x" * 5000) and max(map(len, pieces_of("x" * 5000))) <= LONGEST


def test_folders_that_hold_no_checkpoint(tmp_path):
    with pytest.raises(MtepError):
        Translator.load(tmp_path)
    with pytest.raises(InputError, match="least=2"):
        Translator.load(least=2)
    with pytest.raises(CorpusError, match="holds no .tsv"):
        read_phrasebook(tmp_path)
    (tmp_path / "a.tsv").write_text("en\tkk\nhello\tсәлем\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="has no column family, topic, ru"):
        read_phrasebook(tmp_path)


# --- the phrasebook


def test_the_phrasebook_is_what_it_says():
    book = read_phrasebook()
    assert complaints(book) == []
    assert book.family.nunique() >= 1000
    assert {"Kids are talking by the door.", "Dogs are sitting by the door."} <= set(book.en)
    parts = book.groupby("family").split.nunique()
    assert (parts == 1).all() and set(book.split) == {"train", "dev", "test"}
    assert (book.groupby(book.en.map(key_of)).family.nunique() == 1).all()


def test_what_ships_is_what_lies_under_data():
    own = project_root() / "data" / "phrasebook"
    if not own.is_dir():
        pytest.skip("no checkout: data/phrasebook is not installed")
    pd.testing.assert_frame_equal(read_phrasebook(own), read_phrasebook())


def test_complaints():
    rows = pd.DataFrame([("x1", "t", "Hello there", "Сәлеметсің бе", "Привет"), ("x2", "t", "hello there!", "Иттер отыр", "Привет"),
                         ("x3", "t", "Good night", "", "Доброй ночи"), ("x4", "t", "A", "Мына сөйлем бір әріп үшін өте ұзын болып кетті", "А")],
                        columns=["family", "topic", "en", "kk", "ru"])  # fmt: skip
    told = "\n".join(complaints(rows))
    assert "x2: the English of x1 again" in told and "x3: empty kk" in told and "x4: 1 letters" in told and "x1:" not in told
    assert doubts("Собаки сидят у двери, и никто не разговаривает") and not doubts("Иттер есіктің жанында отыр.")


# --- the memory


def test_the_memory_gives_back_what_it_was_given():
    book = read_phrasebook()
    memory = Memory(book)
    for row in book.sample(40, random_state=0).itertuples():
        for code in ("en", "ru"):
            found = memory.look_up(getattr(row, code).upper(), code, "kk")
            assert found.likeness == 1 and key_of(found.source) == key_of(getattr(row, code))


@pytest.mark.parametrize(("one", "other"), [
    ("I can do it", "I can't do it"), ("Это правда", "Это не правда"), ("Wait 5 minutes", "Wait 15 minutes"), ("You know him.", "You know him?"),
])  # fmt: skip
def test_small_words_that_turn_a_sentence_around(one, other):
    code = "ru" if one[0] == "Э" else "en"
    assert likeness(one, other, code) == 0 and likeness(one, one, code) == 1


def test_a_text_is_whole_only_if_each_sentence_is(translator):
    made = translator.translate("Dogs are sitting by the door. Enzymes catalyse phosphorylation.", language="en")[0]
    assert not made.text and made.origin == "none" and made.parts[0].text and not made.parts[1].text
    assert any("1 of 2 sentences" in note for note in made.notes)


def test_the_language_wanted_stays_and_latin_is_latin(translator):
    assert translator.translate("Иттер есіктің жанында отыр.")[0].origin == "same"
    made = translator.translate("Dogs are sitting by the door.", script="latin")[0]
    assert script_of(made.text) == "latin"
    assert translator.translate("Собаки сидят у двери.", to="en")[0].text == "Dogs are sitting by the door."


# --- checkpoints


def test_candidates_are_told_in_order_and_company_changes_nothing(checkpoint):
    hub = Hub(checkpoint)
    texts = ["i am happy", "no", "they were sitting by the old wooden door", "yes, and you?"]
    together = hub.candidates(texts, "en", "kk", count=3, beams=4, batch=2)
    assert [len(each) for each in together] == [3] * 4
    for text, each in zip(texts, together):
        alone = hub.candidates([text], "en", "kk", count=3, beams=4)[0]
        assert each == alone or text in ("no", "yes, and you?")  # random weights don't end, and a batch is bounded by its longest
        assert [c.score for c in each] == sorted((c.score for c in each), reverse=True)
        assert all(0 <= c.score <= 1 and c.seconds == spoken_seconds(c.text) for c in each)


def test_the_language_wanted_is_forced(checkpoint):
    hub = Hub(checkpoint)
    assert hub.code("kk") == ("kaz_Cyrl", hub.tokenizer.convert_tokens_to_ids("kaz_Cyrl"))
    with pytest.raises(InputError, match="language 'tr' is unknown to"):
        hub.code("tr")
    other = hub.candidates(["i am happy"], "en", "ru")[0][0].text
    assert other != hub.candidates(["i am happy"], "en", "kk")[0][0].text


def test_memory_before_checkpoint(checkpoint):
    translator = Translator.load(checkpoint)
    known, strange = translator.translate(["Dogs are sitting by the door.", "enzymes and proteins"], language="en", count=2)
    assert (known.origin, known.candidates) == ("memory", ()) and strange.origin == "hub" and len(strange.candidates) == 2
    assert 0 <= strange.confidence <= 1


def test_another_family_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tiny_translation_checkpoint(tmp_path / "tiny")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "t5" / name).write_bytes((tmp_path / "tiny" / name).read_bytes())
    with pytest.raises(InputError, match=r"families NLLB|family of translation checkpoints"):
        Hub(tmp_path / "t5")


# --- figures


def test_quality():
    assert quality(["Иттер отыр."], ["Иттер отыр."]).chrf == 100 and quality([""], ["Иттер отыр."]).chrf == 0
    assert quality(["", "a"], ["b", "a"]).refused == 0.5
    assert "version" in quality(["a"], ["a"]).signatures[1]
    assert contaminated(["A b.", "c"], ["a b", "d", "C!"]) == [0, 2]


def test_tests_are_not_in_the_phrasebook():
    if not (settings().data / "parallel").is_dir():
        pytest.skip("the parallel texts are not here: set MTEP_DATA")
    book = read_phrasebook()
    for name in ("flores200_devtest.en-kk", "ntrex.en-kk", "flores200_devtest.ru-kk", "ntrex.ru-kk"):
        table = load_parallel(name)
        assert not contaminated([*book.en, *book.ru], table.src) and not contaminated(book.kk, table.tgt)
    with pytest.raises(CorpusError, match="was not found"):
        load_parallel("tatoeba.xx-kk")


def test_every_language_has_its_code():
    assert len({*NLLB_CODES.values()}) == len(NLLB_CODES) and NLLB_CODES["kk"] == "kaz_Cyrl"


# --- the command


def test_the_command(tmp_path):
    assert typed('translate "Kids are talking by the door."').stdout.strip() == "Балалар есіктің жанында сөйлесіп тұр."
    ended = typed("translate - --json --model memory", given="Dogs are sitting by the door.\n\nThe ionosphere refracts.\n")
    rows = json.loads(ended.stdout)
    assert [row["origin"] for row in rows] == ["memory", "none"] and "line 3" in ended.stderr
    assert "is empty" in typed(["translate", "  "], code=2).stderr
    assert "language 'kz'" in typed("translate hello --to kz", code=2).stderr
    assert "Not translated" in typed('translate "Quarks are confined." --from en --model memory', code=1).stderr
    with pytest.raises(InputError, match="is no file, and others are"):
        (tmp_path / "a.txt").write_text("x", encoding="utf-8")
        lines_of([str(tmp_path / "a.txt"), "nowhere.txt"])


def test_subtitles_keep_their_times(tmp_path):
    place, out = tmp_path / "film.srt", tmp_path / "film.kk.srt"
    place.write_text("1\n00:00:01,000 --> 00:00:02,500\nKids are talking by the door.\n\n2\n00:00:03,000 --> 00:00:04,000\n"
                     "Dogs are sitting by the door.\n", encoding="utf-8")  # fmt: skip
    ended = typed(["translate", str(place), "-o", str(out)])
    text = out.read_text(encoding="utf-8")
    assert "2 of 2 lines translated" in ended.stderr and "00:00:01,000 --> 00:00:02,500\nБалалар есіктің" in text and "Иттер" in text


# --- numbers
@pytest.mark.parametrize(
    ("token", "language", "key"),
    [
        ("12,500", "en", "12500"), ("12,500.5", "en", "12500.5"), ("1,299.99", "en", "1299.99"), ("3.5", "en", "3.5"), ("0.125", "en", "0.125"),
        ("12 500,5", "kk", "12500.5"), ("12\u202f500", "kk", "12500"), ("0,125", "ru", "0.125"), ("12,500", "ru", "12.500"), ("1.234.567", "kk", "1234567"),
        ("٢٠٢٠", "ar", "2020"), ("２０", "ja", "20"), ("2020", "kk", "2020"),
    ],
)  # fmt: skip
def test_a_number_is_the_same_however_it_is_written(token, language, key):
    assert number_key(token, language) == key


@pytest.mark.parametrize(
    ("source", "told", "missing", "made_up"),
    [
        ("It cost 12,500.5 dollars.", "Ол 12 500,5 доллар тұрды.", [], []),
        ("A rise of 3.5%.", "35% өсім.", ["3.5"], ["35"]),
        ("At 10:30.", "Сағат 1030.", ["10", "30"], ["1030"]),
        ("5 and 5 are 10.", "5 пен 10.", ["5"], []),
        ("On 01.02.2024.", "01.02.2024 күні.", [], []),
        ("В 2020 году.", "2020 жылы 12 500м.", [], ["12 500"]),
        ("", "", [], []),
    ],
)
def test_numbers_that_stand_on_one_side_alone(source, told, missing, made_up):
    language = "ru" if source.startswith("В") else "en"
    assert [[match[0] for match in side] for side in odd_numbers(source, told, language)] == [missing, made_up]


@pytest.mark.parametrize(
    ("source", "told", "wanted"),
    [
        ("He left in 1856.", "Ол 1998 жылы кетті.", "Ол 1856 жылы кетті."),
        ("He left in 1856.", "Ол 1998-де кетті.", "Ол 1856-да кетті."),
        ("From 5 to 7.", "5-тен 5-ке дейін.", "5-тен 7-ге дейін."),
        ("It cost 12,500.5 dollars.", "Ол 7 доллар тұрды.", "Ол 12500,5 доллар тұрды."),
        ("He has 2 dogs.", "Оның екі иті бар.", "Оның екі иті бар."),
        ("Seven of 20 pupils.", "Жиырма оқушының 7-еуі.", "Жиырма оқушының 7-еуі."),
        ("3 million dollars.", "3 000 000 доллар.", "3 000 000 доллар."),
        ("At 3 pm.", "15:00-де.", "15:00-де."),
        ("From 1914 to 1918.", "1941 жылдан 1942 жылға дейін.", "1941 жылдан 1942 жылға дейін."),
        ("The A4 paper of 2020.", "2019-xyz", "2019-xyz"),
        ("", "7", "7"),
    ],
)
def test_one_made_up_number_is_exchanged(source, told, wanted):
    assert mended_number(source, told, "en") == wanted
    assert mended_number(source, wanted, "en") == wanted


def test_into_english_a_number_has_a_point():
    assert mended_number("Баға 3,5 теңге.", "The price is 7 tenge.", "kk", "en") == "The price is 7 tenge."  # Kazakh words for numbers aren't known here
    assert mended_number("Цена 3,5 тенге.", "The price is 7 tenge.", "ru", "en") == "The price is 3.5 tenge."


def test_number_words_are_words():
    assert [in_words(text, "en") for text in ("I have 2 dogs, both with him.", "a dozen", "in the XIX century", "a mix of 3")] == [False, True, True, False]
    assert [in_words(text, "ru") for text in ("В 2020 году дома стояли.", "пять домов", "девятнадцатый век", "три миллиона")] == [False, True, True, True]
    assert in_words("zwei Hunde", "de")  # of other languages nothing is known


def test_a_number_that_the_source_does_not_have_is_told():
    empty = Translation("He left in 1856 and came in 1870.", "", "en", "kk", "none", 0.0)
    told = from_network(empty, [Candidate("Ол 1998 жылы кетті, 2001 жылы келді.", 0.5, 2.0)], "model")
    assert told.confidence == 0.5 and told.notes == ("Look at 1998, 2001, which the source doesn't have.",)
    right = from_network(empty, [Candidate("Ол 1856 жылы кетті, 1870 жылы келді.", 0.5, 2.0)], "model")
    assert right.notes == ()
