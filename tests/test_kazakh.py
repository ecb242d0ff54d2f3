"""Kazakh text: what is refused, what agrees with what, what comes back, and the table of cases."""

import csv
import datetime
import random
import re
import time
import unicodedata

import pytest

from mtep.core import InputError, settings
from mtep.kazakh import (
    ALPHABET,
    CURRENCIES,
    LARGEST,
    MONTHS,
    SUFFIXES,
    UNITS,
    arabic_to_cyrillic,
    attach,
    check_kazakh,
    date_words,
    decimal_words,
    fraction_words,
    is_back,
    latin_system,
    latin_to_cyrillic,
    lower,
    money_words,
    normalise,
    number_words,
    ordinal_words,
    roman,
    round_trip,
    script_of,
    sentences,
    spoken,
    spoken_parts,
    suffix_kinds,
    time_words,
    to_cyrillic,
    to_latin,
    upper,
    with_suffix,
)

WORKS = (spoken, spoken_parts, normalise, sentences, to_latin, to_cyrillic, latin_to_cyrillic, arabic_to_cyrillic)
NAMES = "нөл бір екі үш төрт бес алты жеті сегіз тоғыз он жиырма отыз қырық елу алпыс жетпіс сексен тоқсан жүз мың".split()
BACK = "алты тоғыз он жиырма отыз қырық алпыс тоқсан мың миллион миллиард".split()


@pytest.fixture(scope="module")
def cases(root):
    "The table of cases."
    with open(root / "data" / "kazakh" / "spoken.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def parallel(name, side):
    "A side of a parallel corpus, or a skip that says why."
    path = settings().data / "parallel" / f"{name}.tsv"
    if not path.is_file():
        pytest.skip(f"no {path.name} below MTEP_DATA={settings().data}")
    with open(path, encoding="utf-8") as file:
        return [row[side] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row[side]]


# ---- bad input


@pytest.mark.parametrize("work", [*WORKS, check_kazakh, script_of], ids=lambda work: work.__name__)
@pytest.mark.parametrize("wrong", [None, 5, 2.5, b"\xd0\x91", ["text"]], ids=repr)
def test_what_is_no_text_is_refused(work, wrong):
    with pytest.raises(InputError, match="is no text; (give a string|decode it first)"):
        work(wrong)


@pytest.mark.parametrize("odd", ["", " ", "\n\n", "😀👩‍🚀", "<br>", "&amp;", "№", "₸₸", "--", "…", "\ud800", "\u0306", "°C", "%", "²"])
def test_texts_without_words_pass_through(odd):
    for work in WORKS:
        assert isinstance(work(odd), (str, list))
    assert check_kazakh(odd)[0] is False


@pytest.mark.parametrize(
    "odd",
    ["1/0", "0/0", "99:99", "24:30", "32.13.2026", "30.02.2026", "0.0.0", "1,2,3,4", "5--7", "5-", "-", "1.", ",5", "+ 7", "IIII", "XXXX",
     "1" * 5000, "1 000 " * 900, "5-" * 2000, "т.б." * 1200, "1:1:1:1", "٣ ٤", "१२", "№ 0", "0 қаңтар", "31-31-31-31", "8 8 8", "$", "$$5$"],
    ids=lambda odd: odd[:12],
)  # fmt: skip
def test_odd_numbers_do_no_harm(odd):
    assert isinstance(spoken(odd), str)
    assert "  " not in spoken(odd).strip()


def test_numbers_that_cannot_be_named_are_refused():
    for wrong in (LARGEST + 1, -LARGEST - 1):
        with pytest.raises(InputError, match="too large"):
            number_words(wrong)
    for wrong in (True, "5", 2.0, None):
        with pytest.raises(InputError, match="whole number"):
            number_words(wrong)
    for wrong in ("", "көп", "1,2,3", float("nan"), float("inf"), "٣,x"):
        with pytest.raises(InputError, match="is no decimal number"):
            decimal_words(wrong)
    with pytest.raises(InputError, match="has no parts"):
        fraction_words(1, 0)


def test_dates_times_and_money_that_are_none_are_refused():
    for wrong in ((2026, 2, 30), (2026, 13, 1), (2026, 0, 1), (None, 1, 0), (2026, "1", 1)):
        with pytest.raises(InputError, match="is on no calendar"):
            date_words(*wrong)
    for wrong in ((25, 0), (24, 1), (-1, 0), (5, 60)):
        with pytest.raises(InputError, match="is on no clock"):
            time_words(*wrong)
    with pytest.raises(InputError, match="is not known"):
        money_words(5, "tenge")
    with pytest.raises(InputError, match="is no decimal number"):
        money_words("five")


def test_names_that_are_not_known_are_refused():
    for work in (lambda: with_suffix("он", "casus"), lambda: upper("a", "runes"), lambda: check_kazakh("а", "kirill")):
        with pytest.raises(InputError, match="is not known"):
            work()
    with pytest.raises(InputError, match="spelling '2019' is not known"):
        latin_to_cyrillic("a", "2019")


def test_tags_and_addresses_stay():
    kept = '<td colspan="2">&#8376; https://a.kz/5?x=7 www.b5.kz/9 q7@mail.kz</td>'
    assert spoken(kept) == kept
    assert normalise(kept) == kept
    assert spoken("<b>5</b> бала, x < 5, y > 3") == "<b>бес</b> бала, x < бес, y > үш"


def test_long_sentence_is_one_and_quick():
    long = "Бұл өте ұзақ сөйлем, онда 25 сөз, 3-ші бет, 21.11.2026 күні бар, " * 90
    start = time.perf_counter()
    assert len(long) > 5000 and len(sentences(long)) == 1
    assert spoken(long).count("үшінші бет") == 90
    assert not re.search(r"\d", spoken(long))
    assert check_kazakh(long)[0] and check_kazakh(to_latin(long), "latin")[0]
    assert time.perf_counter() - start < 5


def test_many_of_one_mark_are_quick():
    start = time.perf_counter()
    for odd in ("-" * 20_000, "(" * 20_000, "1-" * 10_000, "<" * 20_000, "«" * 5_000, "а." * 5_000, "IV-" * 5_000, '"' * 5_000, "a'" * 9_000):
        spoken(odd), normalise(odd), sentences(odd), to_cyrillic(odd)
    assert time.perf_counter() - start < 20


# ---- the table


def test_table_is_whole(cases):
    assert len(cases) >= 200
    assert len({case["written"] for case in cases}) == len(cases)
    assert all(all(case[name] for name in ("kind", "written", "spoken", "why")) for case in cases)
    assert all(unicodedata.is_normalized("NFC", case["spoken"]) for case in cases)


def test_every_case_of_the_table_is_said_as_it_should_be(cases):
    wrong = [(case["written"], spoken(case["written"]), case["spoken"]) for case in cases if spoken(case["written"]) != case["spoken"]]
    assert not wrong


def test_what_was_said_stays_as_it_is(cases):
    assert not [case["spoken"] for case in cases if spoken(case["spoken"]) != case["spoken"]]


def test_parts_tell_what_was_replaced(cases):
    for case in cases:
        text, parts = case["written"], spoken_parts(case["written"])
        assert all(text[part.start : part.end] == part.written for part in parts)
        assert all(a.end <= b.start for a, b in zip(parts, parts[1:]))


# ---- numbers and suffixes


def value(words):
    "The number that words name: the way back, written apart from the way there."
    small = dict(zip(NAMES, [*range(10), *range(10, 100, 10)]))
    total = group = 0
    for word in words.split():
        if word == "жүз":
            group = max(1, group) * 100
        elif word in ("мың", "миллион", "миллиард", "триллион", "квадриллион", "квинтиллион"):
            scale = 1000 ** (1 + ("мың", "миллион", "миллиард", "триллион", "квадриллион", "квинтиллион").index(word))
            total, group = total + max(1, group) * scale, 0
        else:
            group += small[word]
    return total + group


def test_number_words_name_the_number():
    draw = random.Random(5)
    for n in [*range(3000), *(draw.randrange(10 ** draw.randrange(1, 22)) for _ in range(3000))]:
        assert value(number_words(n)) == n
    assert number_words(-7) == "минус " + number_words(7)


def test_vowels_of_suffixes_agree_with_the_numeral():
    for name in [*NAMES, "миллион", "миллиард"]:
        assert is_back(name) == (name in BACK), name
        for kind in {*SUFFIXES, "ordinal", "possessive"} - {"instrumental", "owned"}:
            added = with_suffix(name, kind)[len(name) - 2 :]
            assert not re.search("[еіәөү]" if name in BACK else "[аыоұ]", added), (name, kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("dative", "нөлге бірге екіге үшке төртке беске алтыға жетіге сегізге тоғызға онға жиырмаға отызға қырыққа елуге алпысқа"
                   " жетпіске сексенге тоқсанға жүзге мыңға"),
        ("ablative", "нөлден бірден екіден үштен төрттен бестен алтыдан жетіден сегізден тоғыздан оннан жиырмадан отыздан қырықтан"
                     " елуден алпыстан жетпістен сексеннен тоқсаннан жүзден мыңнан"),
        ("genitive", "нөлдің бірдің екінің үштің төрттің бестің алтының жетінің сегіздің тоғыздың онның жиырманың отыздың қырықтың"
                     " елудің алпыстың жетпістің сексеннің тоқсанның жүздің мыңның"),
        ("accusative", "нөлді бірді екіні үшті төртті бесті алтыны жетіні сегізді тоғызды онды жиырманы отызды қырықты елуді алпысты"
                       " жетпісті сексенді тоқсанды жүзді мыңды"),
        ("locative", "нөлде бірде екіде үште төртте бесте алтыда жетіде сегізде тоғызда онда жиырмада отызда қырықта елуде алпыста"
                     " жетпісте сексенде тоқсанда жүзде мыңда"),
        ("instrumental", "нөлмен бірмен екімен үшпен төртпен беспен алтымен жетімен сегізбен тоғызбен онмен жиырмамен отызбен"
                         " қырықпен елумен алпыспен жетпіспен сексенмен тоқсанмен жүзбен мыңмен"),
        ("ordinal", "нөлінші бірінші екінші үшінші төртінші бесінші алтыншы жетінші сегізінші тоғызыншы оныншы жиырмасыншы отызыншы"
                    " қырқыншы елуінші алпысыншы жетпісінші сексенінші тоқсаныншы жүзінші мыңыншы"),
    ],
)  # fmt: skip
def test_every_numeral_in_every_case(kind, said):
    assert [with_suffix(name, kind) for name in NAMES] == said.split()


@pytest.mark.parametrize(
    ("word", "plural", "dative", "ablative", "possessive"),
    [
        ("бала", "балалар", "балаға", "баладан", "баласы"),
        ("кітап", "кітаптар", "кітапқа", "кітаптан", "кітабы"),
        ("мектеп", "мектептер", "мектепке", "мектептен", "мектебі"),
        ("көл", "көлдер", "көлге", "көлден", "көлі"),
        ("адам", "адамдар", "адамға", "адамнан", "адамы"),
        ("тау", "таулар", "тауға", "таудан", "тауы"),
        ("үй", "үйлер", "үйге", "үйден", "үйі"),
        ("қыз", "қыздар", "қызға", "қыздан", "қызы"),
        ("қазақ", "қазақтар", "қазаққа", "қазақтан", "қазағы"),
        ("клуб", "клубтар", "клубқа", "клубтан", "клубы"),
        ("рубль", "рубльдер", "рубльге", "рубльден", "рублі"),
        ("минут", "минуттар", "минутқа", "минуттан", "минуты"),
        ("секунд", "секундтар", "секундқа", "секундтан", "секунды"),
        ("литр", "литрлер", "литрге", "литрден", "литрі"),
        ("станция", "станциялар", "станцияға", "станциядан", "станциясы"),
        ("халық", "халықтар", "халыққа", "халықтан", "халқы"),
    ],
)
def test_nouns_with_suffixes(word, plural, dative, ablative, possessive):
    assert [with_suffix(word, kind) for kind in ("plural", "dative", "ablative", "possessive")] == [plural, dative, ablative, possessive]


def test_tails_are_read_whatever_was_typed():
    for n in (*range(1, 31), 40, 100, 1000, 10**6):
        for kind in SUFFIXES:
            for other in ("үш", "он", "алты", "жүз", "отыз"):  # whose ending may be the wrong one
                tail = with_suffix(other, kind)[len(other) :]
                assert spoken(f"{n}-{tail}") == with_suffix(number_words(n), kind), (n, tail)
    assert attach("бес", suffix_kinds("інші")) == "бесінші"


def test_ordinals_by_hyphen_and_by_suffix_are_the_same():
    for n in range(1, 130):
        assert spoken(f"{n}-сынып") == f"{ordinal_words(n)} сынып"
        assert spoken(f"{n}-шы") == spoken(f"{n}-ші") == ordinal_words(n)


def test_every_day_and_every_minute():
    for k in range(0, 4000, 7):
        day = datetime.date(2020, 1, 1) + datetime.timedelta(days=k)
        assert spoken(f"{day:%d.%m.%Y}") == spoken(day.isoformat()) == date_words(day)
        assert spoken(f"{day.year} жылғы {day.day} {MONTHS[day.month - 1]}") == date_words(day)
    for minute in range(24 * 60):
        hour, rest = divmod(minute, 60)
        assert spoken(f"{hour:02}:{rest:02}") == time_words(hour, rest)


def test_units_and_currencies_are_said_and_take_suffixes():
    for unit, name in UNITS.items():
        assert spoken(f"12 {unit}").endswith(f"он екі {name}"), unit
    for sign, (name, _) in CURRENCIES.items():
        assert spoken(f"12 {sign}") == f"он екі {name}"
        assert spoken(f"12 {sign}-ге") == f"он екі {with_suffix(name, 'dative', possessive=name.endswith('ы'))}"


def test_roman_numerals():
    assert [roman(each) for each in ("I", "IV", "XIX", "ХХІ", "XXXIX")] == [1, 4, 19, 21, 39]
    assert [roman(each) for each in ("", "IIII", "VX", "XL", "MIX", "ABC")] == [None] * 6
    assert spoken("Х. Есенжанов, DVD, X сағат, VIP") == "Х. Есенжанов, DVD, X сағат, VIP"


def test_numbers_inside_names_are_said_apart():
    assert spoken("HER2 мен 5G") == "HER екі мен бес G"
    assert spoken("1-ақ рет, 5-А сынып") == "бір-ақ рет, бесінші А сынып"


# ---- letters, scripts


def test_normalise_is_done_once():
    for text in ("Бiз \"əдемі\" - ¥лы сөз...", "— «Кел!» — деді. -Жоқ", "а\u00a0б\u200bв", "iPhoneдан, Samsungтың USBға", "YКІМЕТ, Yй", "ĸ"):
        assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("бiлiм", "білім"), ("әлeм", "әлем"), ("əлəулім", "әләулім"), ("ѳмір", "өмір"), ("Yміт", "Үміт"), ("¥лт", "Ұлт".lower()),
        ("ғaлым", "ғалым"), ("їнi", "іні"), ("hалық", "һалық"), ("қaзaқ", "қазақ"), ("и\u0306од", "йод"), ("ҡала", "қала"),
        ("iPhoneға", "iPhoneға"), ("Google", "Google"), ("ОК", "ОК"), ("a", "a"), ("Kaspiден", "Kaspiден"),
    ],
)  # fmt: skip
def test_letters_that_look_alike(typed, right):
    assert normalise(typed) == right


def test_quotes_and_dashes():
    assert normalise('"Абай" - ұлы ақын') == "«Абай» – ұлы ақын"
    assert normalise("бір-бірін 5-7 -- солай") == "бір-бірін 5-7 – солай"
    assert normalise("“Сөз”... Ия…..") == "«Сөз»… Ия….."
    assert normalise("бір \t екі \n үш") == "бір екі\nүш"


def test_case_of_latin_letters():
    for text in ("irı ızğar", "İİII"):
        assert lower(upper(text, "latin"), "latin") == lower(text, "latin")
    assert len(lower("İstanbul Iİ", "latin")) == len("İstanbul Iİ")


@pytest.mark.parametrize(
    ("cyrillic", "latin"),
    [
        ("Қазақстан", "Qazaqstan"), ("ҚАЗАҚСТАН РЕСПУБЛИКАСЫ", "QAZAQSTAN RESPUBLİKASY"), ("тіл", "tıl"), ("Ілияс", "Iliias"), ("иә", "iä"),
        ("үй", "üi"), ("ұл", "ūl"), ("ауыл", "auyl"), ("шеңгел", "şeñgel"), ("жүрек", "jürek"), ("ғылым", "ğylym"), ("яғни", "iağni"),
        ("қоян", "qoian"), ("ұят", "ūiat"), ("оқу", "oqu"), ("айтшы", "aitşy"), ("жатса", "jatsa"), ("ащы", "aşşy"), ("тұщы", "tūşşy"),
        ("экономика", "ekonomika"), ("цирк", "tsirk"), ("конституция", "konstitutsiia"), ("жаһан", "jahan"), ("хат", "hat"),
        ("район", "raion"), ("радио", "radio"), ("кию", "kiiu"), ("бюджет", "biudjet"), ("Нұр-Сұлтан", "Nūr-Sūltan"),
    ],
)  # fmt: skip
def test_latin_of_2021_there_and_back(cyrillic, latin):
    assert to_latin(cyrillic) == latin
    assert latin_to_cyrillic(latin, "2021") == cyrillic


def test_every_letter_of_the_alphabet_has_a_latin_one():
    assert re.fullmatch("[a-zäğıñöşūü]*", to_latin(ALPHABET))
    assert not re.search("[cwx]", to_latin(ALPHABET))
    assert to_latin("12 hello, 😀!") == "12 hello, 😀!"


def test_older_and_informal_latin():
    assert latin_system("Qazaqstan tili óte ádemi") == "2018"
    assert latin_system("Qazaq tili o'te a'demi") == "2017"
    assert latin_system("Qazaq tılı öte ädemı") == "2021"
    assert latin_system("zhaqsy, raqmet") == "informal"
    assert to_cyrillic("Qazaqstan tili óte ádemi, ańshy shapty") == "Қазақстан тілі өте әдемі, аңшы шапты"
    assert to_cyrillic("Qazaq tili o’te a’demi, s’ai’") == "Қазақ тілі өте әдемі, шай"
    assert to_cyrillic("Zhaqsy kun, bul kitap") == "Жақсы күн, бұл кітап"
    assert to_cyrillic("Windows tılı") == "Windows тілі"


def test_arabic_script_is_read():
    assert to_cyrillic("قازاق ءتىلى، كىتاپ؟") == "қазақ тілі, кітап?"
    assert to_cyrillic("مەكتەپ، ءۇي، ۇلت، ءسوز، قويان") == "мектеп, үй, ұлт, сөз, қоян"
    assert check_kazakh("بۇل قازاق تىلىندە جازىلعان ءماتىن", "arabic")[0]


def test_scripts():
    expected = {"Сәлем": "cyrillic", "Sälem": "latin", "سالەم": "arabic", "שלום": "other", "12 😀": "none", "": "none", "аб a": "cyrillic"}
    assert {text: script_of(text) for text in expected} == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Я тебя очень люблю, спасибо.", "Russian"), ("Көчөдө үчүн балдар жүрөт, жана өөн.", "Kyrgyz"),
        ("Ўзбекистон мустақил давлат.", "letters that Kazakh doesn't: ў"), ("Hello, how are you?", "0% of its letters in the cyrillic"),
        ("Ол � деді", "a character was lost"), ("12:30", "no letters"), ("Привет, как дела?", "Russian"),
    ],
)  # fmt: skip
def test_what_is_not_kazakh(text, why):
    ok, reasons = check_kazakh(text)
    assert not ok and why in "; ".join(reasons)


@pytest.mark.parametrize("text", ["Рахмет!", "Иә.", "Сау бол!", "Мен Google мен Facebook туралы айттым.", "Бiз келдiк.", "Қайырлы таң, 5-сынып!"])
def test_what_is_kazakh(text):
    assert check_kazakh(text) == (True, [])


# ---- sentences


def test_sentences_lose_nothing():
    draw = random.Random(1)
    pieces = ["Ол келді.", "А. Байтұрсынұлы", "т.б.", "«Кел!»", "– деді ол.", "Қайда?", "2.5", "1991 ж.", "\n", "\n\n", "…", "Иә!", "😀", '"Бар."']
    for _ in range(300):
        text = " ".join(draw.choices(pieces, k=9))
        assert re.sub(r"\s", "", "".join(sentences(text))) == re.sub(r"\s", "", text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Бір. Екі! Үш? Төрт…", 4), ("Ә.Н. Нұршайықов пен Ғ. Мүсірепов келді.", 1), ("Құны 3.5 млн. теңге болды.", 1),
        ("Алма, т.б. Содан кетті.", 2), ("Алма, т.б. жемістер.", 1), ("– Кел! – деді ол. – Отыр!", 2), ("«Кел. Отыр.» Ол айтты.", 2),
        ("Ол… келді.", 1), ("Не?! Жоқ!!!", 2), ("1. Кіріспе. 2. Негізгі бөлім.", 2), ("бір.екі", 1), ("Сайт: www.a.kz. Кіріңіз.", 2),
        ("Сәлем 😀 Қалың қалай?", 1), ("Бәрі жақсы! 😀😀 Рахмет.", 2), ("– Бар.\n– Жоқ.", 2), ("Ұзын\nжол.", 1), ('"Ашық тырнақша. Тағы.', 2),
    ],
)  # fmt: skip
def test_sentences_are_counted(text, count):
    assert len(sentences(text)) == count, sentences(text)


# ---- real text


def test_real_text_is_said_without_digits():
    left = [text for text in parallel("ntrex.ru-kk", "tgt") if re.search(r"\d", re.sub(r"\S+@\S+|https?\S+|www\.\S+", "", spoken(text)))]
    assert not left


def test_real_words_come_back_from_latin():
    share, lost = round_trip(parallel("flores200_devtest.ru-kk", "tgt"))
    assert share > 0.985
    assert lost.most_common(1)[0][1] < 20


def test_real_languages_are_told_apart():
    kazakh, russian = parallel("ntrex.ru-kk", "tgt"), parallel("ntrex.ru-kk", "src")
    assert sum(check_kazakh(text)[0] for text in kazakh) > 0.98 * len(kazakh)
    assert sum(check_kazakh(text)[0] for text in russian) < 0.01 * len(russian)
    assert sum(check_kazakh(to_latin(text), "latin")[0] for text in kazakh) > 0.97 * len(kazakh)


def test_a_thousand_sentences_a_second(cases):
    texts = [case["spoken"] + ". " + case["written"] for case in cases] * 4
    start = time.perf_counter()
    for text in texts:
        spoken(normalise(text))
    assert len(texts) / (time.perf_counter() - start) > 1000
