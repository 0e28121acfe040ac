"""Speech: any sound file to 16 kHz, and features of it in windows of 16 steps at 25 frames a second."""

from talk3d.audio.features import FeaturesInfo, encode_speech, windows
from talk3d.audio.files import RATE, Sound, decode_sound

__all__ = ["RATE", "FeaturesInfo", "Sound", "decode_sound", "encode_speech", "windows"]
