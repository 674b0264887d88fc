"""The speech tokenizer's training tool on tones: it trains, goes on where it ended, exports what stock loads, and encodes as stock does."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tests.support import ties  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "research" / "mini_base"))

pytestmark = pytest.mark.slow


class Lazy:
    """A module of the tool, imported where it is first used: it imports qwen_tts, which takes seconds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks every object whether it is a test
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.name), attribute)


codec, codec_data, codec_losses, codec_model, codec_train = map(Lazy, ("codec", "codec_data", "codec_losses", "codec_model", "codec_train"))
FRAME, RATE = 1920, 24000
SMALL = {
    "hidden": 32,
    "heads": 1,
    "head_dim": 32,
    "intermediate": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "filters": 2,
    "decoder_dim": 32,
    "code_dim": 8,
    "codes": 16,
}


def write_shard(path: Path, clips: list[tuple[int, int]], seed: int) -> None:
    """Tones with noise: for each clip its frames and its voice."""
    random = np.random.default_rng(seed)
    audio = []
    for frames, voice in clips:
        time = np.arange(frames * FRAME) / RATE
        tone = np.sin(2 * np.pi * (150 + 100 * voice) * time * (1 + 0.1 * random.random())) * np.abs(np.sin(5 * time))
        audio.append(((0.3 * tone + 0.02 * random.standard_normal(len(time))) * 32767).astype(np.int16))
    samples = np.array([len(row) for row in audio], dtype=np.int64)
    voices = np.array([voice for _, voice in clips], dtype=np.int16)
    np.savez(path, audio=np.concatenate(audio), samples=samples, voice=voices, phoneme=labels(samples))


def labels(samples: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two phonemes a frame: 1, 2, 3, ... within each clip."""
    return np.concatenate([1 + np.arange(2 * count // FRAME).reshape(-1, 2) for count in samples]).astype(np.uint8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "shard-00000.npz", [(12, 0), (30, 0), (20, 1)], seed=0)
    write_shard(folder / "shard-00001.npz", [(16, 2), (45, 0)], seed=1)
    write_shard(folder / "held-00000.npz", [(14, 0), (40, 1), (9, 2)], seed=2)
    return folder


def run_train(shards: Path, out: Path, steps: int) -> Any:
    budget = [f"--steps={steps}", "--total-steps=8", "--warmup-steps=2", "--adversarial-share=0.3", "--average-share=0.5"]
    data = ["--batch=2", "--frames=8", "--adversarial-frames=2", "--first-hours=0.0001", "--buffer-hours=0.01", "--report-every=2"]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    return codec.main(["train", f"--data={shards}", f"--out={out}", *budget, *data, *sizes])


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two calls of four steps, in a process that imported the tool long before: time counts from each call."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "STARTED", codec.STARTED - 10_000)
        assert run_train(shards, out, 4) == 0
    assert run_train(shards, out, 4) == 0
    return out


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speech_tokenizer")
    assert codec.main(["export", f"--run={run}", f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    from qwen_tts import Qwen3TTSTokenizer

    return Qwen3TTSTokenizer.from_pretrained(str(folder), dtype=torch.float32)


def test_two_calls_are_one_schedule(run: Path) -> None:
    log = (run / "train.log").read_text(encoding="utf-8")
    assert "step 0 after 0 s" in log
    assert "step 4 after" in log
    assert re.findall(r"step (\d+) [0-9.]+ (\w+)", log) == [
        ("2", "continuous"),
        ("4", "quantised"),
        ("6", "quantised"),
        ("8", "adversarial"),
    ]
    assert "books set by k-means at step 2" in log
    assert "100.0% of the schedule" in log
    assert "voices 0: 0." in log
    assert "with averaged weights" in log
    state = codec.read_checkpoint(run, torch.device("cpu"))
    assert state is not None
    assert state["step"] == 8
    assert float(state["optimizer"]["state"][0]["step"]) == 8


def test_going_on_keeps_weights_optimizer_books_and_the_link_to_the_rate(shards: Path, run: Path) -> None:
    state = codec.read_checkpoint(run, torch.device("cpu"))
    assert state is not None
    trainer = codec_train.Trainer(
        codec_train.Settings(total_steps=16, buffer_hours=0.01), codec_model.Sizes(**SMALL), shards, run, lambda line: None, 0.0
    )
    assert trainer.quantised
    assert all(torch.equal(value, state["codec"][name]) for name, value in trainer.codec.state_dict().items())
    trainer._schedule(0.5)
    for optimizer in (trainer.optimizer, trainer.discriminator_optimizer, trainer.recogniser_optimizer):
        assert float(optimizer.param_groups[0]["lr"]) > 0
    moments = trainer.optimizer.state[trainer.parameters[0]]["exp_avg"]
    assert torch.equal(moments, state["optimizer"]["state"][0]["exp_avg"])


class NeverWaits(TorchDispatchMode):
    """Fails on what a CUDA graph cannot hold: values that the CPU reads, shapes that depend on values, constants copied over."""

    FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "masked_select", "bincount", "multinomial", "unique", "lift_fresh", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").split(".")[0]
        assert name not in self.FORBIDDEN, f"{func} waits for the GPU"
        if name in ("index", "index_put", "index_put_"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), f"{func} by a mask waits for the GPU"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("phase", ["continuous", "quantised", "adversarial"])
def test_a_step_never_waits_for_the_gpu(shards: Path, tmp_path: Path, phase: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = codec_train.Settings(batch=2, frames=4, adversarial_frames=1, buffer_hours=0.01)
    trainer = codec_train.Trainer(settings, codec_model.Sizes(**SMALL), shards, tmp_path, lambda line: None, 0.0)
    trainer.buffer.add(codec_data.read_shard(shards / "shard-00000.npz"))
    trainer._start_books()
    for optimizer in (trainer.optimizer, trainer.discriminator_optimizer, trainer.recogniser_optimizer):  # on a GPU these are capturable
        monkeypatch.setattr(optimizer, "step", lambda: None)
    trainer._train_step(phase)  # makes the tables
    with NeverWaits():
        trainer._train_step(phase)
    assert int(trainer.sums[-1]) == 2


def test_the_forward_pass_is_that_of_stock(stock: Any) -> None:
    clip = torch.randn(1, 40 * FRAME) * 0.1
    forward = codec_model.Forward(stock.model)
    with torch.inference_mode():
        embedding = forward.embed(clip)
        codes = stock.model.encoder.quantizer.encode(embedding)
        ties.assert_encoded(codes[:, 0].T, stock, clip[0].numpy())
        quantizer = stock.model.decoder.quantizer
        table = [layer.codebook.embed for layer in stock.model.encoder.quantizer.acoustic_residual_vector_quantizer.layers]
        semantic = stock.model.encoder.quantizer.semantic_residual_vector_quantizer.layers[0].codebook.embed[codes[0, 0]]
        acoustic = torch.stack([rows[book] for rows, book in zip(table, codes[1:, 0], strict=True)]).sum(dim=0)
        latent = forward.latent(semantic, acoustic, 1)
        torch.testing.assert_close(latent, quantizer.decode(codes.transpose(0, 1)))
        torch.testing.assert_close(
            forward.decode(latent).clamp(-1, 1), stock.model.decoder(codes.transpose(0, 1))[:, 0], atol=1e-5, rtol=1e-4
        )


def test_encoding_agrees_with_stock_and_is_not_repeated(shards: Path, folder: Path, stock: Any, tmp_path: Path) -> None:
    command = ["encode", f"--shards={shards}", f"--model={folder}", f"--out={tmp_path}"]
    assert codec.main(command) == 0
    for path in sorted(shards.glob("*.npz")):
        shard = codec_data.read_shard(path)
        with np.load(tmp_path / f"codes-{path.name}") as content:
            codes, frames = content["codes"], content["frames"]
        assert (codes.dtype, frames.dtype) == (np.uint16, np.int32)
        assert frames.tolist() == (shard.samples // FRAME).tolist()
        clips = np.split(shard.audio.astype(np.float32) / 32768, np.cumsum(shard.samples)[:-1])
        for clip, mine in zip(clips, np.split(codes, np.cumsum(frames)[:-1]), strict=True):
            ties.assert_encoded(torch.from_numpy(mine.astype(np.int64)), stock, clip)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("codes-*")}
    assert codec.main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("codes-*")} == before


def test_the_shipped_sizes_fit(tmp_path: Path) -> None:
    sizes = codec_model.Sizes()
    trained = codec_model.Codec(sizes)
    codec_model.export(trained, [parameter.detach().clone() for parameter in trained.trained()], tmp_path)
    weights = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(weights) == 1
    assert weights[0] <= 13_000_000


def test_larger_weights_are_one_file_too(tmp_path: Path) -> None:
    from qwen_tts import Qwen3TTSTokenizer

    trained = codec_model.Codec(codec_model.Sizes(filters=32, encoder_layers=4))
    codec_model.export(trained, [parameter.detach().clone() for parameter in trained.trained()], tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    loaded = Qwen3TTSTokenizer.from_pretrained(str(tmp_path), dtype=torch.float16).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.stock.state_dict().items())


def test_draws_follow_the_root_of_hours_and_stay_inside_their_clip() -> None:
    buffer = codec_data.Buffer(0.1, torch.device("cpu"))
    for voice, clips in ((0, 9), (1, 1)):
        audio = np.full(clips * 10 * FRAME, (voice + 1) * 1000, dtype=np.int16)
        samples = np.full(clips, 10 * FRAME, dtype=np.int64)
        buffer.add(codec_data.Shard("x", audio, samples, np.full(clips, voice, dtype=np.int16), labels(samples)))
    torch.manual_seed(0)
    picks = torch.searchsorted(buffer._cumulative, torch.rand(20000, dtype=torch.float64) * buffer._cumulative[-1], right=True)
    assert int(picks.max()) == 9
    assert float((picks == 9).double().mean()) == pytest.approx(1 / 4, abs=0.01)  # roots 3 and 1
    heard, crops, phonemes = buffer.draw(64, 12 * FRAME)
    assert torch.equal(heard, crops)
    assert crops.shape == (64, 12 * FRAME)
    assert (phonemes.flatten(1) == torch.tensor([*range(1, 21), 0, 0, 0, 0])).all()
    assert not crops[:, 10 * FRAME :].any()
    assert (crops[:, : 10 * FRAME] == crops[:, :1]).all()
    level = torch.where(crops[:, 0] > 0, crops[:, 0] * 32768, 1)
    assert float(level.max()) <= 2000 * 10 ** (3 / 20) * 1.001
    assert float(level.min()) >= 1000 * 10 ** (-9 / 20) * 0.999


def test_phonemes_stay_with_the_audio_wherever_a_crop_begins() -> None:
    buffer = codec_data.Buffer(0.1, torch.device("cpu"))
    samples = np.array([3 * FRAME, 30 * FRAME, 20 * FRAME])
    audio = np.repeat(labels(samples).reshape(-1).astype(np.int16), FRAME // 2) * 100  # as loud as the label is high
    buffer.add(codec_data.Shard("x", audio, samples, np.zeros(3, np.int16), labels(samples)))
    _, crops, phonemes = buffer.draw(64, 8 * FRAME)
    loud = crops[:, FRAME // 4 :: FRAME // 2]
    heard = phonemes.flatten(1)
    assert ((loud > 0) == (heard > 0)).all()
    gain = loud.amax(1) / heard.amax(1)
    assert torch.allclose(loud, heard * gain[:, None], rtol=1e-4)


def test_passing_voices_are_varied_and_labels_go_with_them() -> None:
    torch.manual_seed(0)
    buffer = codec_data.Buffer(0.1, torch.device("cpu"))
    samples = np.array([40 * FRAME] * 2)
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(80 * FRAME) / RATE)
    buffer.add(codec_data.Shard("x", tone.astype(np.int16), samples, np.array([codec_data.PASSING, 0], np.int16), labels(samples)))
    heard, audio, phonemes = buffer.draw(200, 20 * FRAME)
    spectrum = torch.fft.rfft(audio * torch.hann_window(20 * FRAME)).abs()
    pitch = spectrum.argmax(1) * RATE / (20 * FRAME) / 440
    plain = (pitch - 1).abs() < 0.01
    assert 0.6 < float(plain.float().mean()) < 0.9  # half of one of two voices
    assert 0.84 < float(pitch.min()) < 0.9
    assert 1.1 < float(pitch.max()) < 1.18
    noisy = (heard - audio).abs().amax(1) > 0
    assert 0.15 < float(noisy.float().mean()) < 0.4
    ratio = (audio.square().mean(1) / (heard - audio).square().mean(1))[noisy].log10() * 10
    assert 14 < float(ratio.min()) < 25 < 35 < float(ratio.max()) < 46
    pace = (phonemes.flatten(1)[:, -1] - phonemes.flatten(1)[:, 0]) / 39
    assert torch.allclose(pace.double(), pitch.double(), atol=0.03)  # what plays faster names its sounds faster


def test_filters_and_noise_keep_their_bounds() -> None:
    from codec_vary import FILTER_DB, filtered, noise

    torch.manual_seed(0)
    audio = torch.randn(3, 8 * FRAME) * 0.1
    ratio = (torch.fft.rfft(filtered(audio)).abs() / torch.fft.rfft(audio).abs()).log10() * 20
    assert float(ratio.abs().max()) < FILTER_DB + 0.1
    assert float(ratio.std()) > 1
    assert torch.isfinite(noise(torch.zeros(2, FRAME))).all()
    assert not noise(torch.zeros(2, FRAME)).any()


def test_sounds_without_a_name_teach_no_names() -> None:
    scores = torch.randn(2, 2 * codec_model.PHONEMES, 5, requires_grad=True)
    phonemes = torch.full((2, 5, 2), codec_model.UNKNOWN)
    codec_model.phoneme_loss(scores, phonemes).backward()
    assert not scores.grad.any()
    phonemes[0] = 3
    alone = codec_model.phoneme_loss(scores[:1], phonemes[:1])
    torch.testing.assert_close(codec_model.phoneme_loss(scores, phonemes), alone)


def test_training_goes_on_from_an_exported_folder(folder: Path, shards: Path, tmp_path: Path, stock: Any) -> None:
    fresh = codec_model.Codec(codec_model.Sizes(**SMALL))
    codec_model.take(fresh, folder, 100)
    with np.load(shards / "held-00000.npz") as content:
        audio = content["audio"][: 14 * FRAME].astype(np.float32) / 32768
    forward = codec_model.Forward(fresh.eval().stock)
    with torch.no_grad():
        semantic, acoustic = forward.project(forward.embed(torch.from_numpy(audio)[None]))
        made = forward.decode(forward.latent(fresh.semantic(semantic)[0], fresh.acoustic(acoustic)[0], 1))
    wanted, _ = stock.decode(stock.encode([audio], sr=RATE))
    assert np.abs(made[0].clamp(-1, 1).numpy() - wanted[0]).max() < 1e-4
    data = [f"--data={shards}", f"--out={tmp_path}", f"--start={folder}", "--steps=1", "--total-steps=2", "--batch=2", "--frames=8"]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert codec.main(["train", *data, "--first-hours=0.0001", "--buffer-hours=0.01", *sizes]) == 0
    assert "quantised" in (tmp_path / "train.log").read_text()
    assert codec.main(["train", *data, f"--out={tmp_path / 'x'}", *sizes[1:]]) == 1


def test_a_decoder_that_learns_alone_keeps_all_codes(folder: Path, shards: Path, tmp_path: Path, stock: Any, capsys: Any) -> None:
    from qwen_tts import Qwen3TTSTokenizer

    data = [f"--data={shards}", "--only=decoder", "--steps=2", "--total-steps=2", "--batch=2", "--frames=8", "--adversarial-frames=2"]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    rest = ["--first-hours=0.0001", "--buffer-hours=0.01", *sizes]
    assert codec.main(["train", *data, f"--out={tmp_path / 'run'}", f"--start={folder}", *rest]) == 0
    assert codec.main(["export", f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
    with np.load(shards / "held-00000.npz") as content:
        audio = content["audio"][: 14 * FRAME].astype(np.float32) / 32768
    other = Qwen3TTSTokenizer.from_pretrained(str(tmp_path / "out"), dtype=torch.float32)
    codes = stock.encode([audio], sr=RATE)
    assert torch.equal(codes.audio_codes[0], other.encode([audio], sr=RATE).audio_codes[0])
    assert np.abs(stock.decode(codes)[0][0] - other.decode(codes)[0][0]).max() > 1e-5
    capsys.readouterr()
    assert codec.main(["train", *data, f"--out={tmp_path / 'none'}", *rest]) == 1
    assert "give it as start" in capsys.readouterr().err


def test_a_larger_encoder_begins_as_a_copy_and_then_everything_learns(folder: Path, shards: Path, tmp_path: Path, stock: Any) -> None:
    chosen = {**SMALL, "filters": 2 * SMALL["filters"], "encoder_layers": 2}
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    data = [f"--data={shards}", f"--out={tmp_path / 'run'}", f"--start={folder}", "--batch=2", "--frames=8", "--adversarial-share=0"]
    rest = ["--first-hours=0.0001", "--buffer-hours=0.01", "--warmup-steps=2", "--report-every=1", *sizes]
    for _ in range(2):
        assert codec.main(["train", *data, "--steps=2", "--total-steps=4", *rest]) == 0
    said = (tmp_path / "run" / "train.log").read_text()
    assert [float(value) > 0 for value in re.findall(r"copied ([\d.]+)", said)] == [True, True, False, False]
    assert "k-means" not in said, "the books are the folder's, and move from there"
    before = torch.stack([layer.codebook.embed for layer in stock.model.encoder.quantizer.acoustic_residual_vector_quantizer.layers])
    state = codec_train.read_checkpoint(tmp_path / "run", torch.device("cpu"))
    moved = (state["codec"]["acoustic.table"] - before).abs().max()
    assert 0 < moved < before.abs().max()


@pytest.mark.parametrize("larger", [False, True])
def test_an_encoder_that_learns_alone_keeps_what_codes_sound_like(
    larger: bool, folder: Path, shards: Path, tmp_path: Path, stock: Any, capsys: Any
) -> None:
    """One of other sizes begins by copying, without quantising; the books are never made again."""
    from qwen_tts import Qwen3TTSTokenizer

    data = [f"--data={shards}", "--only=encoder", "--steps=1", "--total-steps=3", "--batch=2", "--frames=8", "--adversarial-share=0"]
    chosen = {**SMALL, "filters": 2 * SMALL["filters"], "encoder_layers": 2} if larger else SMALL
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    rest = ["--first-hours=0.0001", "--buffer-hours=0.01", "--warmup-steps=2", "--report-every=1", *sizes]
    for _ in range(3):
        assert codec.main(["train", *data, f"--out={tmp_path / 'run'}", f"--start={folder}", *rest]) == 0
    said = (tmp_path / "run" / "train.log").read_text()
    assert [phase in said for phase in (" continuous ", " quantised ", "k-means")] == [larger, True, False]
    copied = [float(value) for value in re.findall(r"copied ([\d.]+)", said)]
    assert [value > 0 for value in copied] == [larger, larger, False], "as long as nothing is quantised, also in a second call"
    assert codec.main(["export", f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
    with np.load(shards / "held-00000.npz") as content:
        audio = content["audio"][: 14 * FRAME].astype(np.float32) / 32768
    other = Qwen3TTSTokenizer.from_pretrained(str(tmp_path / "out"), dtype=torch.float32)
    codes = stock.encode([audio], sr=RATE)
    np.testing.assert_array_equal(stock.decode(codes)[0][0], other.decode(codes)[0][0])
    encoded = [t.model.encoder.encoder(torch.from_numpy(audio)[None, None]) for t in (stock, other)]
    assert (encoded[0] - encoded[1]).abs().max() > 1e-5, "it did learn"
    capsys.readouterr()
    assert codec.main(["train", *data, f"--out={tmp_path / 'none'}", *rest]) == 1
    assert "give it as start" in capsys.readouterr().err
    assert codec.main(["train", f"--data={shards}", "--only=half", f"--out={tmp_path / 'half'}", *rest]) == 1
    assert "neither `encoder` nor `decoder`" in capsys.readouterr().err


def test_a_full_buffer_takes_what_fits() -> None:
    buffer = codec_data.Buffer(1 / 3600, torch.device("cpu"))  # one second: 12 frames and a half
    samples = np.full(3, 5 * FRAME, dtype=np.int64)
    buffer.add(codec_data.Shard("x", np.ones(15 * FRAME, dtype=np.int16), samples, np.zeros(3, dtype=np.int16), labels(samples)))
    assert buffer.full
    assert buffer.clips == 1  # one clip a second at most
    assert buffer.filled == 5 * FRAME


def test_books_find_clusters_and_revive_the_dead() -> None:
    torch.manual_seed(0)
    centres = torch.randn(16, 4) * 5
    vectors = centres.repeat(50, 1) + torch.randn(800, 4) * 0.01
    books = codec_model.ResidualBooks(2, 16, 4)
    books.start(vectors, 800)
    books.table[0, 3], books.use[0, 3] = 1000.0, 1e-3
    books(vectors)
    assert float(books.table[0, 3].norm()) < 100
    quantised, _ = books.eval()(vectors)
    assert float((quantised - vectors).norm() / vectors.norm()) < 0.3
    kept, _ = books(vectors, torch.zeros(800, dtype=torch.long))
    assert not kept.any()
    assert all(1 <= value <= 16 for value in books.perplexity())


def test_losses_are_zero_where_nothing_differs() -> None:
    audio = torch.randn(2, 8 * FRAME) * 0.1
    mel = codec_losses.MelLoss()
    assert float(mel(audio, audio)) == 0
    assert float(mel(audio * 0.5, audio)) > 0.1
    assert mel.distance(audio * 0.5, audio).shape == (2,)
    assert codec_losses.FrameMel()(audio).shape == (2, 8, codec_model.MELS_A_FRAME)
    with torch.no_grad():
        judged = codec_losses.Discriminator(8)(audio)
    assert float(codec_losses.feature_loss(judged, judged)) == 0
    spectra = codec_losses.FrameMel()(audio)
    with torch.no_grad():
        heard, other = (codec_losses.Recogniser(16)(x) for x in (spectra, spectra + 1))
    assert heard[0].shape == (2, codec_model.PHONEMES, 16)
    assert float(codec_losses.hearing_loss(heard, heard)) == pytest.approx(0, abs=1e-6)
    assert float(codec_losses.hearing_loss(heard, other)) > 0.1


def test_a_recogniser_learns_names_and_tells_what_no_longer_sounds_like_them() -> None:
    """Four sounds, each a band of the spectrum: named after sixty steps; a sound in place of another is heard, one that only got louder hardly."""
    torch.manual_seed(0)
    recogniser = codec_losses.Recogniser(32)
    optimizer = torch.optim.AdamW(recogniser.parameters(), lr=3e-3)
    names = torch.randint(0, 4, (8, 6, 2))

    def spectra(sounds: Any) -> Any:
        bands = torch.nn.functional.one_hot(sounds, 4).float().repeat_interleave(20, -1)
        return bands.repeat_interleave(4, 2).reshape(8, 6, codec_model.MELS_A_FRAME)

    for _ in range(60):
        loss = codec_losses.naming_loss(recogniser(spectra(names)), names)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unknown = names.clone()
    unknown[4:] = codec_model.UNKNOWN
    assert float(loss.detach()) < 0.1
    with torch.no_grad():
        assert float(codec_losses.naming_loss(recogniser(spectra(names)), unknown)) < 0.1
    others, louder = spectra((names + 1) % 4), (spectra(names) * 1.2).requires_grad_()
    recogniser.zero_grad()
    recogniser.requires_grad_(False)
    real = recogniser(spectra(names))
    near, far = (codec_losses.hearing_loss(real, recogniser(x)) for x in (louder, others))
    assert float(far) > 5 * float(near.detach())
    near.backward()
    assert louder.grad is not None
    assert float(louder.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in recogniser.parameters())


def test_a_recogniser_of_no_weight_is_not_trained(shards: Path, tmp_path: Path) -> None:
    found = []
    for weight in (0.0, 1.0):
        settings = codec_train.Settings(batch=2, frames=4, buffer_hours=0.01, hearing_weight=weight)
        trainer = codec_train.Trainer(settings, codec_model.Sizes(**SMALL), shards, tmp_path, lambda line: None, 0.0)
        trainer.buffer.add(codec_data.read_shard(shards / "shard-00000.npz"))
        before = trainer.recogniser.names.weight.detach().clone()
        trainer.step = 500
        trainer._schedule(0.5)
        trainer._train_step("continuous")
        found.append(not torch.equal(before, trainer.recogniser.names.weight))
        assert float(trainer.hearing_weight) == weight / 2
    assert found == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.zeros(FRAME, np.float32)}, "int16"),
        ({"samples": np.array([FRAME + 1])}, "lengths"),
        ({"audio": np.zeros(FRAME + 1, np.int16), "samples": np.array([FRAME + 1])}, "whole number of frames"),
        ({"voice": np.zeros(2, np.int16)}, "voices"),
        ({"phoneme": np.zeros((2, 2), np.uint8)}, "two uint8 a frame"),
    ],
)
def test_a_broken_shard_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {"audio": np.zeros(FRAME, np.int16), "samples": np.array([FRAME]), "voice": np.zeros(1, np.int16)}
    content = content | {"phoneme": np.zeros((1, 2), np.uint8)} | change
    np.savez(tmp_path / "shard-1.npz", **content)
    with pytest.raises(ValueError, match=message) as error:
        codec_data.read_shard(tmp_path / "shard-1.npz")
    assert "shard-1.npz" in str(error.value)


def test_nothing_to_export_or_encode_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codec.main(["export", f"--run={tmp_path}", f"--out={tmp_path}"]) == 1
    assert "train first" in capsys.readouterr().err
    assert codec.main(["encode", f"--shards={tmp_path}", f"--model={tmp_path}", f"--out={tmp_path / 'x'}"]) == 1
    assert "no shard" in capsys.readouterr().err
