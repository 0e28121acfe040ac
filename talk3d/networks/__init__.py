"""Trained networks that judge: who a face is, and whether lips move as the sound says.

Others published them, and only their weights make them worth anything; each keeps the names of its published state
dict. Training makes losses of some, evaluation metrics of others.
"""

from talk3d.networks.expert import LipSyncExpert
from talk3d.networks.faces import ArcFace, CurricularFace
from talk3d.networks.perceptual import load_lpips
from talk3d.networks.reading import load_network
from talk3d.networks.syncnet import SyncNet

__all__ = ["ArcFace", "CurricularFace", "LipSyncExpert", "SyncNet", "load_lpips", "load_network"]
