"""MediaPipe's networks, without their chatter: it writes to stderr from C++, whatever its options say."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["quiet", "start"]


def start(make: Callable[[Any], Any]) -> Any:
    """Make one of MediaPipe's solutions and run it once, so that its threads have said what they have to say.

    Args:
        make: Called with ``mediapipe.solutions``.

    Raises:
        ImportError: If MediaPipe is not installed, with what to do.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its dependencies will not have any more
        try:
            import mediapipe
        except ImportError as error:
            if error.name != "mediapipe":
                raise
            raise ImportError("tracking needs MediaPipe: pip install 'talk3d[prepare]'") from None
        solution = make(mediapipe.solutions)
        solution.process(np.zeros((64, 64, 3), np.uint8))
    return solution


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what native code writes to stderr, and show it only if there is an error."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except ImportError:
            raise
        except Exception:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
