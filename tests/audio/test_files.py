from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from talk3d.audio.files import RATE, decode_sound, has_sound, read_blocks


def tone(rate: int, seconds: float, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    return np.repeat(wave[:, None], channels, 1)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (22050, 1), (44100, 2), (48000, 6)])
def test_any_rate_and_channels_become_16_khz_mono(tmp_path, rate, channels):
    soundfile.write(tmp_path / "in.wav", tone(rate, 2, channels), rate)
    found = decode_sound(tmp_path / "in.wav", tmp_path / "out.wav")
    samples, out_rate = soundfile.read(tmp_path / "out.wav")
    assert (out_rate, samples.ndim) == (RATE, 1)
    assert len(samples) == pytest.approx(2 * RATE, abs=100)
    assert (found.rate, found.channels, found.broken) == (rate, channels, False)
    assert found.loudness == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.3)
    middle = slice(1000, 31000)
    np.testing.assert_allclose(samples[middle], tone(RATE, 2)[: len(samples), 0][middle], atol=0.02)


def test_a_start_and_a_length_are_kept_to_the_sample(tmp_path):
    ramp = np.linspace(-0.9, 0.9, 2 * RATE)
    soundfile.write(tmp_path / "in.wav", ramp, RATE)
    found = decode_sound(tmp_path / "in.wav", tmp_path / "out.wav", start=0.5, seconds=1)
    samples, _ = soundfile.read(tmp_path / "out.wav")
    np.testing.assert_allclose(samples, ramp[RATE // 2 : 3 * RATE // 2], atol=1e-3)
    assert found.more == pytest.approx(0.5, abs=0.01)


def test_what_is_too_short_is_filled_with_silence(tmp_path):
    soundfile.write(tmp_path / "in.wav", tone(RATE, 1), RATE)
    found = decode_sound(tmp_path / "in.wav", tmp_path / "out.wav", start=-0.25, seconds=2)
    samples, _ = soundfile.read(tmp_path / "out.wav")
    assert len(samples) == 2 * RATE
    assert not samples[: RATE // 4].any()
    assert not samples[RATE + RATE // 4 :].any()
    assert found.seconds == pytest.approx(1.25)


def test_sound_of_a_video_that_begins_late(tmp_path):
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        wave = np.round(32767 * tone(RATE, 1)[:, 0]).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, "s16", "mono")
        frame.rate, frame.pts, frame.time_base = RATE, RATE // 2, Fraction(1, RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decode_sound(tmp_path / "clip.mkv", tmp_path / "out.wav")
    samples, _ = soundfile.read(tmp_path / "out.wav")
    assert abs(np.flatnonzero(np.abs(samples) > 0.01)[0] - RATE // 2) < 20


def test_no_sound_and_no_file(tmp_path):
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    assert not has_sound(tmp_path / "mute.mp4")
    assert decode_sound(tmp_path / "mute.mp4", tmp_path / "out.wav") is None
    (tmp_path / "text.wav").write_text("la la la")
    with pytest.raises(ValueError, match=r"text\.wav cannot be read"):
        has_sound(tmp_path / "text.wav")


def test_a_sound_that_breaks_off(tmp_path):
    soundfile.write(tmp_path / "in.flac", tone(RATE, 4), RATE)
    whole = (tmp_path / "in.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    found = decode_sound(tmp_path / "half.flac", tmp_path / "out.wav", seconds=4)
    assert 1 < found.seconds < 3.9
    assert len(soundfile.read(tmp_path / "out.wav")[0]) == 4 * RATE


def test_blocks_overlap_by_their_context(tmp_path):
    wave = np.linspace(-0.5, 0.5, 1000).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", wave, RATE, subtype="FLOAT")
    padded = np.pad(wave, 30)
    blocks = list(read_blocks(tmp_path / "in.wav", block=300, context=30))
    assert [len(block) for block in blocks] == [360, 360, 360, 160]
    for k, block in enumerate(blocks):
        np.testing.assert_array_equal(block, padded[300 * k : 300 * k + 360])
