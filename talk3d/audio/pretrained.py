"""Speech features from a trained encoder of the transformers library: wav2vec 2.0 or HuBERT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from talk3d.audio.files import read_blocks

__all__ = ["DEFAULT_MODELS", "encode"]

DEFAULT_MODELS = {"wav2vec2": "facebook/wav2vec2-base-960h", "hubert": "facebook/hubert-base-ls960"}
_HOP = 320  # samples of a step, as the encoders were built: 50 steps a second
_BLOCK = 500  # steps at a time: attention is quadratic
_CONTEXT = 50  # steps on both sides that a block sees beside its own


def encode(path: Path, kind: str, model: str | None) -> Iterator[NDArray[np.float32]]:
    """Encode speech in blocks of ten seconds, each with a second of context on both sides.

    Args:
        path: A wav of 16 kHz, one channel.
        kind: ``"wav2vec2"`` or ``"hubert"``.
        model: A folder, or a name that transformers can download; by default the base model of its kind. Where the
            model has a head for letters, its logits are the features, as AD-NeRF's successors have it; otherwise its
            last hidden states.

    Yields:
        Pieces ``[steps, F]``, 50 steps a second.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: If the model cannot be loaded, or is of another kind.
    """
    network = _load(kind, model or DEFAULT_MODELS[kind])
    side = _CONTEXT * _HOP
    for block in read_blocks(path, block=_BLOCK * _HOP, context=side):
        steps = -(-(len(block) - 2 * side) // _HOP)
        # as the published feature extractors do; the last step's window is longer than its hop
        heard = np.pad((block - block.mean()) / np.sqrt(block.var() + 1e-7), (0, 2 * _HOP))
        with torch.inference_mode():
            found = network(torch.from_numpy(heard.astype(np.float32))[None])
        features = found.logits if hasattr(found, "logits") else found.last_hidden_state
        yield features[0, _CONTEXT : _CONTEXT + steps].float().numpy()


def _load(kind: str, name: str) -> torch.nn.Module:
    try:
        from transformers import AutoConfig, AutoModel, AutoModelForCTC
    except ImportError:
        raise ImportError(f"{kind} features need transformers: pip install 'talk3d[speech]', or use logmel") from None
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type != kind:
            raise ValueError(f"{name} holds a {config.model_type} model, not {kind}")
        spells = any("ForCTC" in architecture for architecture in config.architectures or ())
        network: torch.nn.Module = (AutoModelForCTC if spells else AutoModel).from_pretrained(name)
    except (OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} cannot be loaded as a {kind} model: {reason}") from None
    return network.eval()
