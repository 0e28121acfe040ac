"""What the tensors of released Talk3D drivers are called here."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Place", "published_encoder_keys", "published_keys"]

_PLANES = ("xy", "yz", "zx")  # labels of planes 0, 1 and 2; the planes themselves are (x, y), (x, z), (z, y)
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_AFFINE = ("weight", "bias")


class Place(NamedTuple):
    """Where a tensor belongs in our state dict.

    Attributes:
        key: The name of our tensor.
        part: Which part of it the published one is: ours hold the layers of all planes.
    """

    key: str
    part: tuple[int, ...] = ()


def published_keys() -> dict[str, Place | None]:
    """Every entry of a released ``deltaplane_predictor`` (383), and its place in ``DeltaUNet``'s state dict.

    None is for ``resample_filter``, which is a constant here: the outer product of ``[1, 3, 3, 1] / 8`` with itself.
    Shapes are the same but for ``pos_emb``, ``[1, N, 3 * D]`` for our ``[N, 3, D]``: the numbers are in one order.
    """
    keys: dict[str, Place | None] = {"transformer.0.pos_emb": Place("transformer.position")}
    for plane, label in enumerate(_PLANES):
        for level in range(3):
            for theirs, ours in (("Downnet", "down"), ("Upnet", "up")):
                source, target = f"{theirs}.{theirs}{level + 1}_{label}", f"{ours}.{level}"
                keys[f"{source}.resample_filter"] = None
                for layer in range(2):
                    for name in _AFFINE:
                        keys[f"{source}.conv{layer}.{name}"] = Place(f"{target}.conv{layer}.{name}", (plane,))
                    for name in _NORM:
                        keys[f"{source}.bn{layer}.{name}"] = Place(f"{target}.norm{layer}.{name}", (plane,))
        for name in _AFFINE:
            keys[f"transformer.0.norm.GN_{label}.{name}"] = Place(f"transformer.norm.{name}", (plane,))
            keys[f"transformer.0.proj_in.lin_{label}.{name}"] = Place(f"transformer.project.{name}", (plane,))
    for block in range(2):
        keys |= _block_keys(f"transformer.0.transformer_blocks.{block}", f"transformer.blocks.{block}")
    return keys


def _block_keys(source: str, target: str) -> dict[str, Place]:
    cross = f"{target}.cross_attention"
    keys = {
        f"{source}.attn2.to_q.weight": Place(f"{cross}.query"),
        f"{source}.attn2.to_k.weight": Place(f"{cross}.key"),
        f"{source}.attn2.to_v.weight": Place(f"{cross}.value"),
        f"{source}.attn2.to_out.0.weight": Place(f"{cross}.out"),
        f"{source}.attn2.to_out.0.bias": Place(f"{cross}.out_bias"),
    }
    for plane, label in enumerate(_PLANES):
        attention = f"{source}.attn1.att_{label}"
        for index, name in enumerate("qkv"):
            keys[f"{attention}.to_{name}.weight"] = Place(f"{target}.self_attention.qkv", (plane, index))
        keys[f"{source}.norm2.norm_{label}.weight"] = Place(f"{cross}.norm", (plane,))
        keys[f"{source}.norm2.norm_{label}.bias"] = Place(f"{cross}.norm_bias", (plane,))
        for name in _AFFINE:
            keys[f"{source}.norm1.norm_{label}.{name}"] = Place(f"{target}.self_norm.{name}", (plane,))
            keys[f"{attention}.to_out.0.{name}"] = Place(f"{target}.self_attention.out.{name}", (plane,))
            keys[f"{source}.norm3.norm_{label}.{name}"] = Place(f"{target}.feed_norm.{name}", (plane,))
            feed = f"{source}.ff.ff_{label}.net"
            keys[f"{feed}.0.proj.{name}"] = Place(f"{target}.feed_forward.expand.{name}", (plane,))
            keys[f"{feed}.2.{name}"] = Place(f"{target}.feed_forward.contract.{name}", (plane,))
    return keys


def published_encoder_keys() -> dict[str, Place]:
    """Every entry of a released driver's other state dicts, and its place in ``ConditionEncoder``'s.

    A published name is that of the state dict in the checkpoint, a dot, and the key in it; ``null_vector``, a tensor
    ``[1, 1, 64]`` by itself, is our ``[64]``.
    """
    layers = {f"audio_net.encoder_conv.{2 * index}": f"audio.convs.{2 * index}" for index in range(4)}
    layers |= {f"audio_net.encoder_fc1.{index}": f"audio.project.{index}" for index in (0, 2)}
    layers |= {f"audio_att_net.attentionConvNet.{2 * index}": f"audio.attention.{2 * index}" for index in range(5)}
    layers["audio_att_net.attentionNet.0"] = "audio.mix"
    mlps = (("blink_encoder.simplemlp", "blink"), ("camera_encoder.encoder1", "angles"),
            ("camera_encoder.encoder2", "landmarks"))  # fmt: skip
    for theirs, ours in mlps:
        layers[f"{theirs}.in_layer"] = f"{ours}.layers.0"
        layers |= {f"{theirs}.mlp_layers.{index}": f"{ours}.layers.{2 * index + 2}" for index in range(2)}
    keys = {f"{t}.{name}": Place(f"{o}.{name}") for t, o in layers.items() for name in _AFFINE}
    return keys | {"null_vector": Place("null")}
