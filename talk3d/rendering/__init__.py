"""Frames in bulk: a job is cut into chunks, which are rendered, encoded, and joined."""

from talk3d.rendering.job import RenderJob
from talk3d.rendering.render import render, render_chunk

__all__ = ["RenderJob", "render", "render_chunk"]
