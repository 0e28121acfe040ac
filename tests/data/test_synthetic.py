"""The synthetic clip: what is written, and whether the truth beside it is true."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from talk3d import cameras
from talk3d.audio import decode_sound
from talk3d.data import synthetic
from talk3d.data.synthetic import motion, speech
from talk3d.data.synthetic.truth import LANDMARKS

SIZE, SECONDS, FPS = 64, 3.4, 10


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> synthetic.SyntheticClip:
    folder = tmp_path_factory.mktemp("synthetic") / "clip"
    return synthetic.write(folder, track="wide", size=SIZE, seconds=SECONDS, fps=FPS)


def frames(clip: synthetic.SyntheticClip) -> np.ndarray:
    with av.open(str(clip.video)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_clip_is_as_long_and_large_as_asked(clip):
    assert frames(clip).shape == (len(clip.truth), SIZE, SIZE, 3)
    assert len(clip.truth) == round(SECONDS * FPS)
    with av.open(str(clip.video)) as file:
        assert file.streams.video[0].average_rate == FPS
        assert abs(float(file.duration) / av.time_base - SECONDS) < 0.15
        assert file.streams.audio[0].codec_context.name == "aac"
    samples, rate = soundfile.read(clip.speech)
    assert (len(samples), rate) == (round(SECONDS * 16000), 16000)


def test_the_sound_of_the_clip_is_in_time(clip, tmp_path):
    decode_sound(clip.video, tmp_path / "decoded.wav")
    decoded, exact = (soundfile.read(path)[0] for path in (tmp_path / "decoded.wav", clip.speech))
    length = min(len(decoded), len(exact))
    spectra = [np.fft.rfft(sound[:length], 2 * length) for sound in (decoded, exact)]
    shift = int(np.fft.irfft(spectra[0] * spectra[1].conj()).argmax())
    assert abs((shift + length) % (2 * length) - length) <= 16  # a millisecond


def test_same_arguments_give_the_same_pictures_and_truth(clip, tmp_path):
    again = synthetic.write(tmp_path / "again", track="wide", size=SIZE, seconds=SECONDS, fps=FPS)
    assert np.array_equal(frames(clip), frames(again))
    for name in ("motion.npz", "frames.npz", "views.npz", "truth.json"):
        assert (clip.folder / "truth" / name).read_bytes() == (again.folder / "truth" / name).read_bytes()


def test_angles_are_those_of_the_camera_in_the_heads_frame(clip):
    truth = clip.truth
    poses, intrinsics = cameras.unpack(torch.from_numpy(truth.cameras))
    np.testing.assert_allclose(torch.stack(cameras.angles(poses), 1), truth.angles, atol=1e-9)
    np.testing.assert_allclose(truth.cam2head, np.linalg.inv(truth.head_to_world) @ truth.cam2world, atol=1e-9)
    np.testing.assert_allclose(intrinsics[0], truth.intrinsics)
    units = 0.027 * truth.cam2head[:, :3, 3] + [0, 0.020, 0.107]
    np.testing.assert_allclose(poses[:, :3, 3], units, atol=1e-9)


def test_landmarks_are_where_the_depth_says(clip):
    truth = clip.truth
    for frame in range(len(truth)):
        world = truth.landmarks[frame] @ truth.head_to_world[frame, :3, :3].T + truth.head_to_world[frame, :3, 3]
        depth = ((world - truth.cam2world[:3, 3]) @ truth.cam2world[:3, :3])[:, 2]
        x, y = (truth.landmarks_2d[frame] * SIZE).astype(int).T
        assert truth.mask(frame, "face")[y, x][[LANDMARKS.index(name) for name in ("nose_tip", "mouth_left")]].all()
        # a pixel is 0.6 cm wide, and the chin is steep
        away = np.abs(truth.depth(frame)[y, x] - depth)
        assert away[LANDMARKS.index("nose_tip")] < 0.6
        assert np.median(away) < 0.6


def test_depth_of_a_view_agrees_with_the_depth_of_its_frame(clip):
    truth = clip.truth
    views = [view for view in truth.views if abs(view.yaw) == 30]
    assert {view.yaw for view in truth.views} == {-45, -30, 30, 45}
    for view in views[:2]:
        pose = view.camera[:16].reshape(4, 4)
        points = unproject(view.depth, view.mask("face"), pose, truth.intrinsics)
        own = truth.cameras[view.frame, :16].reshape(4, 4)
        seen = (points - own[:3, 3]) @ own[:3, :3]
        u, v = (truth.intrinsics[0, 0] * seen[:, :2] / seen[:, 2:] + 0.5).T
        inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
        depth = truth.depth(view.frame)[(v[inside] * SIZE).astype(int), (u[inside] * SIZE).astype(int)] * 0.027
        assert np.median(np.abs(depth - seen[inside, 2])) < 0.27 * 0.027 * 2
        assert 10 < np.abs(cameras.angles(torch.from_numpy(pose))[0] - truth.angles[view.frame, 0]) < 50


def unproject(depth: np.ndarray, mask: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points ``[N, 3]`` in generator units."""
    v, u = np.nonzero(mask)
    z = depth[mask] * 0.027
    xy = (np.stack([u, v], 1) + 0.5) / len(depth) - 0.5
    return np.concatenate([xy / intrinsics[0, 0] * z[:, None], z[:, None]], 1) @ pose[:3, :3].T + pose[:3, 3]


def test_masks_alpha_and_plate_explain_the_pictures(clip):
    pictures, truth = frames(clip), clip.truth
    for frame in (0, len(truth) - 1):
        person = truth.mask(frame, "person")
        assert 0.25 < person.mean() < 0.6
        assert np.array_equal(person, truth.depth(frame) > 0)
        sure = truth.alpha(frame) == 0
        assert np.abs(pictures[frame][sure].astype(int) - truth.plate[sure]).mean() < 4  # what the codec loses
        for name in ("face", "hair", "torso", "mouth", "eyes"):
            assert truth.mask(frame, name).any()
            assert not (truth.mask(frame, name) & ~person).any()
    with pytest.raises(ValueError, match="mask must be one of person, head"):
        truth.mask(0, "hat")


def test_blinks_close_the_eyes():
    performance = motion.perform("talk", speech.load("talk"), 25)
    first, last, middle = performance.blinks.T
    assert len(first) >= 6
    assert (performance.face[np.round(middle * 25).astype(int), 4] < 0.1).all()
    open_between = np.ones(len(performance.times), bool)
    for a, b in zip(first.astype(int), last.astype(int), strict=True):
        open_between[max(a - 3, 0) : b + 4] = False
    assert (performance.face[open_between, 4] == 1).all()


def test_a_blink_covers_the_eyeball(clip):
    truth = clip.truth
    shut = int(truth.eye_opening.min(1).argmin())
    assert truth.eye_opening[shut].max() < 0.2
    assert truth.mask(shut, "eye").sum() < 0.4 * truth.mask(0, "eye").sum()


@pytest.mark.parametrize("name", ["talk", "held_out"])
def test_lips_meet_at_p_b_and_m(name):
    utterance = speech.load(name)
    times = np.arange(0, utterance.seconds, 0.04)
    opening, _ = speech.mouth(utterance, times)
    ends = np.append(utterance.starts[1:], utterance.seconds)
    closures = [
        opening[np.argmin(np.abs(times - (start + end) / 2))]
        for phoneme, start, end in zip(utterance.phonemes, utterance.starts, ends, strict=True)
        if phoneme[:1] in ("p", "b", "m")
    ]
    assert len(closures) > 8
    assert max(closures) < 0.05
    assert opening.max() > 0.7


def test_lips_round_at_u_and_spread_at_i():
    utterance = speech.load("talk")
    ends = np.append(utterance.starts[1:], utterance.seconds)
    _, width = speech.mouth(utterance, (utterance.starts + ends) / 2)
    of = {vowel: [w for p, w in zip(utterance.phonemes, width, strict=True) if p == vowel] for vowel in ("u:", "i:")}
    assert max(of["u:"]) < -0.3 < 0.2 < min(of["i:"])


@pytest.mark.parametrize("track", ["talk", "wide", "still"])
def test_head_turns_as_far_as_it_should_rests_and_is_swift(track):
    angles = motion.perform(track, speech.load("talk"), 25).angles
    np.testing.assert_allclose(np.abs(angles).max(0), motion.LIMITS[track], rtol=0.02)
    speed = 25 * np.linalg.norm(np.diff(angles, axis=0), axis=1)
    assert speed.max() < 60
    assert speed.max() > 40 or track == "still"
    resting = "".join("r" if still else " " for still in speed < 1e-9).split()
    assert sum(len(rest) >= 20 for rest in resting) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"track": "run"}, "track must be one of talk, wide, still, got 'run'"),
        ({"size": 65}, "size must be an even whole number"),
        ({"size": 64.0}, "size must be an even whole number"),
        ({"seconds": 0.0}, "seconds must be between"),
        ({"fps": 0}, "fps must be between"),
    ],
)
def test_impossible_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        synthetic.write(tmp_path / "clip", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name a new folder"):
        synthetic.write(tmp_path, size=16, seconds=0.2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_cache_writes_once_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TALK3D_CACHE", str(tmp_path))
    from talk3d.data.synthetic import record

    film = record.film
    with monkeypatch.context() as broken:
        broken.setattr(record, "film", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synthetic.cached(size=16, seconds=0.2, fps=5)
    assert not list((tmp_path / "synthetic").iterdir())
    calls: list[Path] = []
    monkeypatch.setattr(record, "film", lambda folder, *rest: (calls.append(folder), film(folder, *rest)))
    first, second = (synthetic.cached(size=16, seconds=0.2, fps=5) for _ in range(2))
    assert first == second
    assert len(calls) == 1
    assert len(first.truth) == 1


def test_speech_is_repeated_or_cut_to_length():
    utterance = speech.load("talk")
    assert utterance.fit(50).samples.shape == (50 * 16000,)
    assert utterance.fit(50).starts.max() > 48
    assert utterance.fit(1).starts.max() < 1
    with pytest.raises(ValueError, match="speech must be 'talk' or 'held_out', got 'song'"):
        speech.load("song")


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe (extra prepare) is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_tracker_finds_the_face_and_its_turns(tmp_path):
    from mediapipe.python.solutions.face_mesh import FaceMesh

    clip = synthetic.write(tmp_path / "clip", track="wide", size=256, seconds=6, fps=2)
    yaw, ratio = [], []
    with FaceMesh(refine_landmarks=True, max_num_faces=1, static_image_mode=True) as tracker:
        for frame, picture in enumerate(frames(clip)):
            found = tracker.process(picture).multi_face_landmarks
            assert found, f"no face in frame {frame}"
            nose, right, left = (found[0].landmark[index] for index in (1, 33, 263))
            assert abs(nose.x - clip.truth.landmarks_2d[frame, 0, 0]) < 0.025
            yaw.append(clip.truth.angles[frame, 0])
            ratio.append((nose.x - right.x) / (left.x - right.x))
    assert abs(np.corrcoef(yaw, ratio)[0, 1]) > 0.97
