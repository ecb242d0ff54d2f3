"""What is too dense for prose in 03_media: every kind of bad file, odd formats, and the voice in other processes."""

import hashlib
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtep import media
from mtep.core import InputError, MediaError, MtepError, PackageError
from mtep.media import Sound, Utterance, check_sound, probe, read_sound, resample, speak, speak_all, write_sound

RATE = 16_000
TONE = (0.4 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)).astype(np.float32)


def wav(path: Path, samples=TONE, rate=RATE, subtype="PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def container(
    path: Path, audio: bool = True, video: bool = False, codec: str = "aac", seconds: int = 2, **options
) -> Path:
    "A file made by FFmpeg, with a tone and a moving grey picture."
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as out:
        sound = out.add_stream(codec, rate=44_100, layout="mono") if audio else None
        picture = out.add_stream("mpeg4", rate=25) if video else None
        if picture:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for number in range(25 * seconds):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 255, np.uint8), format="rgb24")
                out.mux(picture.encode(frame))
            out.mux(picture.encode(None))
        if sound:
            t = np.arange(44_100 * seconds) / 44_100
            samples = (0.4 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 0
            out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return path


# ------------------------------------------------------------------ bad files


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = wav(folder / "whole.wav").read_bytes()
    flac = wav(folder / "whole.flac", np.random.default_rng(0).normal(0, 0.1, 3 * RATE)).read_bytes()
    mp3 = wav(folder / "whole.mp3", np.tile(TONE, 5), subtype="MPEG_LAYER_III").read_bytes()
    aiff = wav(folder / "whole.aiff").read_bytes()
    spoilt = TONE.copy()
    spoilt[100], spoilt[200] = np.nan, np.inf
    files = {
        "missing.wav": (None, "does not exist"),
        "empty.wav": (b"", "is empty (0 bytes)"),
        "empty.flac": (b"", "is empty (0 bytes)"),
        "cut.wav": (whole[:9000], "is truncated"),
        "cut-in-header.wav": (whole[:20], "is not a sound or video file"),
        "header-only.wav": (whole[:44], "is truncated"),
        "cut.flac": (flac[: len(flac) // 2], "is truncated or damaged"),
        "cut-in-header.flac": (flac[:30], "is not a sound or video file"),
        "cut.mp3": (mp3[: len(mp3) // 2], "is truncated"),
        "cut.aiff": (aiff[: len(aiff) // 2], "is truncated"),
        "notes.wav": ("Remember the milk. ".encode() * 200, "is not a sound or video file"),
        "random.wav": (np.random.default_rng(0).bytes(20_000), "is not a sound or video file"),
        "page.mp3": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20, "is not a sound or video file"),
        "picture.wav": (b"\x89PNG\r\n\x1a\n" + bytes(500), "is not a sound or video file"),
    }
    made = {}
    for name, (content, reason) in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
        made[name] = (folder / name, reason)
    soundfile.write(folder / "nan.wav", spoilt, RATE, subtype="FLOAT")
    made["nan.wav"] = (folder / "nan.wav", "holds 2 samples that are not numbers")
    return made


def test_every_bad_file_is_refused_with_name_reason_and_remedy(tmp_path, capfd):
    for name, (path, reason) in bad_files(tmp_path).items():
        with pytest.raises(MediaError) as caught:
            read_sound(path)
        assert reason in str(caught.value), name
        assert name in str(caught.value) and "; " in str(caught.value), name
        assert "\n" not in str(caught.value), name
    assert capfd.readouterr().err == ""


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(MediaError, match="is a folder"):
        read_sound(tmp_path)
    with pytest.raises(MediaError, match="is a folder"):
        probe(tmp_path)


def test_header_without_samples(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    with pytest.raises(MediaError, match="holds no sound, only a header"):
        read_sound(tmp_path / "none.wav")


def test_probe_refuses_what_its_header_shows(tmp_path):
    for name, (path, reason) in bad_files(tmp_path).items():
        if name in {"cut.flac", "cut.mp3", "nan.wav"}:  # only decoding tells
            continue
        with pytest.raises(MediaError) as caught:
            probe(path)
        assert reason in str(caught.value), name


@pytest.mark.parametrize("seconds", [0.05, 0.0999])
def test_too_short(seconds, tmp_path):
    path = wav(tmp_path / "short.wav", TONE[: int(seconds * RATE)])
    with pytest.raises(MediaError, match="short.wav is too short"):
        check_sound(read_sound(path), path)


def test_silent_and_nearly_silent(tmp_path):
    for samples in (np.zeros(RATE), np.full(RATE, 1 / 32768)):
        path = wav(tmp_path / "off.wav", samples)
        with pytest.raises(MediaError, match="off.wav is silent"):
            check_sound(read_sound(path), path)
    quiet = wav(tmp_path / "quiet.wav", 1e-3 * TONE)
    assert check_sound(read_sound(quiet), quiet).level < -60


def test_channels_that_cancel_are_told(tmp_path):
    path = wav(tmp_path / "opposite.wav", np.stack([TONE, -TONE], axis=1))
    with pytest.raises(MediaError, match="opposite sign"):
        check_sound(read_sound(path), path)


def test_video_without_sound(tmp_path):
    path = container(tmp_path / "mute.mp4", audio=False, video=True)
    with pytest.raises(MediaError, match="is a video without a sound track"):
        read_sound(path)
    assert probe(path).rate is None and probe(path).size == (64, 48)


def test_truncated_video_is_not_read_as_a_shorter_one(tmp_path):
    whole = container(tmp_path / "whole.mp4", video=True, movflags="faststart", seconds=4)
    assert read_sound(whole).seconds == pytest.approx(4, abs=0.1)
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(0.6 * len(content))])
    with pytest.raises(MediaError):
        read_sound(tmp_path / "cut.mp4")


def test_playlists_do_not_open_other_files(tmp_path):
    secret = container(tmp_path / "secret.ts", codec="aac")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\n{secret.name}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist, encoding="utf-8")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {secret.name}\n", encoding="utf-8")
    assert read_sound(secret).seconds > 1
    for name in ("list.m3u8", "list.ffconcat"):
        with pytest.raises(MediaError, match="is not a sound or video file"):
            read_sound(tmp_path / name)


def test_addresses_are_not_fetched():
    with pytest.raises(MediaError, match="does not exist"):
        read_sound("http://127.0.0.1:9/clip.wav")


# ------------------------------------------------------------------ good files


FORMATS = [
    ("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.wav", "PCM_U8"), ("a.wav", "ULAW"),
    ("a.flac", "PCM_24"), ("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III"), ("a.aiff", "PCM_16"), ("a.AU", "PCM_16"),
]  # fmt: skip
CASES = [(*kind, channels) for kind in FORMATS for channels in (1, 2, 6) if channels < 3 or kind[0] != "a.mp3"]


@pytest.mark.parametrize(("name", "subtype", "channels"), CASES)
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_any_format_rate_and_channels(tmp_path, name, subtype, rate, channels):
    tone = 0.4 * np.sin(2 * np.pi * 220 * np.arange(rate) / rate)
    path = wav(tmp_path / name, np.tile(tone[:, None], channels), rate, subtype)
    sound = read_sound(path)
    assert sound.rate == 16_000 and sound.samples.dtype == np.float32 and sound.samples.ndim == 1
    assert sound.seconds == pytest.approx(1, abs=0.08)
    assert np.sqrt(2) * sound.samples[2000:12000].std() == pytest.approx(0.4, abs=0.03)
    info = probe(path)
    assert (info.rate, info.channels) == (rate, channels) and info.seconds == pytest.approx(1, abs=0.08)


CONTAINERS = {"a.mp4": "aac", "a.mkv": "aac", "a.m4a": "aac", "a.mpg": "mp2", "a.avi": "mp3", "a.mov": "aac"}


@pytest.mark.parametrize(("name", "codec"), CONTAINERS.items())
def test_sound_of_videos_and_other_containers(tmp_path, name, codec):
    video = not name.endswith("m4a")
    path = container(tmp_path / name, video=video, codec=codec)
    sound = read_sound(path)
    assert sound.rate == 16_000 and sound.seconds == pytest.approx(2, abs=0.1)
    info = probe(path)
    assert info.rate == 44_100 and info.channels == 1 and info.seconds == pytest.approx(2, abs=0.2)
    assert (info.size, info.fps) == (((64, 48), 25.0) if video else (None, None))


def test_wav_written_to_a_pipe_has_no_length(tmp_path):
    content = bytearray(wav(tmp_path / "whole.wav").read_bytes())
    content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "piped.wav").write_bytes(content)
    assert read_sound(tmp_path / "piped.wav").seconds == pytest.approx(1, abs=0.01)


def test_names_do_not_decide_and_may_be_kazakh(tmp_path):
    path = wav(tmp_path / "whole.flac")
    path = path.rename(tmp_path / "дыбыс жазбасы.wav")
    assert read_sound(str(path)).seconds == 1
    assert probe(path).format == "FLAC"


def test_real_videos():
    folder = Path(os.environ.get("MTEP_DATA", "")) / "video_clips"
    if not os.environ.get("MTEP_DATA") or not folder.is_dir():
        pytest.skip("MTEP_DATA holds no video_clips")
    for path in sorted(folder.rglob("*.mp*")):
        info = probe(path)
        assert info.size and info.fps
        if info.rate:
            assert read_sound(path).seconds == pytest.approx(info.seconds, abs=0.5)


# ------------------------------------------------------------------ writing and resampling


def test_write_then_read(tmp_path):
    for name in ("a.wav", "b/c.flac"):
        path = write_sound(tmp_path / name, TONE, RATE)
        assert np.abs(read_sound(path, rate=None).samples - TONE).max() < 1e-4
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.wav", "c.flac"]


def test_write_refusals_leave_nothing(tmp_path):
    for name, samples, rate in [
        ("a.txt", TONE, RATE),
        ("a.wav", TONE, None),
        ("a.wav", TONE[:0], RATE),
        ("a.wav", TONE * np.nan, RATE),
    ]:
        with pytest.raises(InputError):
            write_sound(tmp_path / name, samples, rate)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MtepError, match="part of its path is a file"):
        write_sound(tmp_path / "file" / "a.wav", TONE, RATE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("rate", [0, -1, 16_000.5, True, "16000"])
def test_rates_that_are_none(rate):
    with pytest.raises(InputError):
        resample(TONE, RATE, rate)


def test_resample_keeps_channels_and_length():
    assert resample(np.stack([TONE, TONE], axis=1), RATE, 48_000).shape == (48_000, 2)
    assert resample(TONE, RATE, RATE).shape == TONE.shape


# ------------------------------------------------------------------ the voice

espeak = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("espeakng_loader") is None, reason="extra speech is not installed"
)
LINE = "Kids are talking by the door."


def fingerprint(speech) -> str:
    return hashlib.sha256(speech.samples.tobytes()).hexdigest()


def spoken(seed: int) -> str:
    return fingerprint(speak(LINE, variant="f2", seed=seed))


@espeak
def test_the_same_whatever_was_said_before():
    first = [spoken(1), spoken(2)]
    for text in ("Dogs are sitting by the door.", "Балалар"):
        speak(text, language="kk", variant="f3", rate=300)
    assert [spoken(1), spoken(2)] == first and first[0] != first[1]


@espeak
def test_the_same_in_threads_and_spawned_processes():
    expected = [spoken(seed) for seed in range(4)]
    found = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: spoken(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == expected
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(spoken, reversed(range(4)))) == expected[::-1]


@espeak
def test_a_list_is_what_its_parts_are_in_any_order():
    wanted = [Utterance(LINE, seed=seed, variant=variant) for seed in range(3) for variant in ("", "f1", "m7")]
    said = speak_all(wanted)
    assert [fingerprint(s) for s in said] == [fingerprint(media.say(u)) for u in wanted]
    assert [fingerprint(s) for s in speak_all(wanted[::-1])][::-1] == [fingerprint(s) for s in said]
    assert said[0].words == media.say(wanted[0]).words
    assert speak_all([]) == []


@espeak
def test_orders_are_obeyed():
    plain = speak(LINE, seed=1)
    assert speak(LINE, seed=1, rate=300).sound.seconds < 0.7 * plain.sound.seconds
    assert speak(LINE, seed=1, volume=50).sound.level < plain.sound.level - 4
    assert speak(LINE, seed=1, volume=0).samples.any() == np.False_
    assert plain.samples.dtype == np.float32 and np.abs(plain.samples).max() <= 1


@espeak
def test_words_cover_the_text():
    text = "In 2026, well: the children sing; loudly!"
    words = speak(text).words
    assert [word.text for word in words] == ["In", "2026", "well", "the", "children", "sing", "loudly"]
    assert all(a.start < a.end <= b.start + 1e-9 for a, b in zip(words, words[1:]))
    assert words[-1].end <= speak(text).sound.seconds + 1e-9


@espeak
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"language": "kz"}, "language 'kz' is not known"),
        ({"variant": "nobody"}, "voice variant 'nobody' is not known"),
        ({"rate": 79}, "rate=79"),
        ({"rate": 451}, "rate=451"),
        ({"rate": 100.0}, "rate=100.0"),
        ({"pitch": 100}, "pitch=100"),
        ({"pitch_range": -1}, "pitch_range=-1"),
        ({"volume": 201}, "volume=201"),
        ({"seed": -1}, "seed=-1"),
        ({"pich": 5}, "did you mean 'pitch'"),
    ],
)
def test_orders_that_cannot_be_obeyed(how, message):
    with pytest.raises(InputError) as caught:
        speak(LINE, **how)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "  \n", "a\0b", None])
def test_nothing_to_say(text):
    with pytest.raises(InputError, match="holds nothing to say"):
        speak(text)


@pytest.mark.parametrize("codes", [("en-gb", "en"), ("fr-fr", "fr"), ("pt-pt", "pt"), ("zh", "cmn"), ("no", "nb")])
def test_every_code_of_a_language_speaks(codes):
    one, other = (speak("1, 2", language=code).samples for code in codes)
    assert len(one) > 8_000 and np.array_equal(one, other)


def test_languages_without_a_dictionary_are_not_offered():
    assert not {"fo", "kaa", "xex"} & set(media.espeak_languages())
    assert all((media.espeak_data() / f"{voice.dictionary}_dict").is_file() for voice in media.espeak_voices().values())


def test_framing_and_gain_leave_no_trace():
    line = speak(LINE)
    still = np.zeros(line.rate, np.float32)
    framed = np.concatenate([still, 0.05 * line.samples, still])
    one, other = media.even(line.samples, line.rate), media.even(framed, line.rate)
    middle = (len(other) - len(one)) // 2
    assert 0 <= middle <= 0.2 * line.rate
    assert np.sqrt(np.mean(one**2)) == pytest.approx(10 ** (media.EVEN_DB / 20), rel=1e-3)
    assert np.sqrt(np.mean(other**2)) == pytest.approx(10 ** (media.EVEN_DB / 20), rel=1e-3)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    media.espeak_voices.cache_clear()
    with pytest.raises(PackageError, match=r"mtep\[speech\]"):
        speak(LINE)
    with pytest.raises(PackageError, match=r"mtep\[speech\]"):
        speak_all([Utterance(LINE)])


def test_importing_media_loads_no_decoder():
    heavy = ("av", "soundfile", "soxr", "espeakng_loader", "torch")
    code = f"import sys, mtep.media; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_sound_shows_itself():
    assert repr(Sound(TONE, RATE)) == "Sound(1.00 s at 16000 Hz, -11.0 dB)"
    assert Sound(TONE[:0], RATE).level == float("-inf")


def test_a_gap_between_words_takes_time_and_nothing_else():
    quick, slow = speak(LINE), speak(LINE, gap=10)
    assert slow.samples.size / slow.rate - quick.samples.size / quick.rate > 0.05 * (len(LINE.split()) - 1)
    assert [word.text for word in slow.words] == [word.text for word in quick.words]
    assert np.array_equal(speak(LINE).samples, quick.samples)  # the next one has none
