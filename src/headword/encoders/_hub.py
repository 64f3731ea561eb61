"""Loading what others publish: no pickles, no minutes of retries without a network, errors in one line."""

from __future__ import annotations

import functools
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from headword.errors import HeadwordError

LOCAL_ALTERNATIVES = (
    "what works offline: 'embedded', a folder ('local-dir:FOLDER' for timm, a transformers or "
    "sentence-transformers folder by its path), or a model already in the hub's cache"
)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Load a model in here: weights are never unpickled, and a hub that cannot be reached is not retried.

    Raises:
        HeadwordError: in place of what the hub's client or a loader raises when `what` cannot be had.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    offline, was_offline = not hub_reachable(), constants.HF_HUB_OFFLINE
    force = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    constants.HF_HUB_OFFLINE = was_offline or offline
    root = logging.getLogger()
    loggers_off = root.manager.disable
    logging.disable(logging.ERROR)  # open_clip logs on the root logger what it then raises
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise HeadwordError(
            f"the hub has no model {what!r} (or it is private: log in with `hf auth login`)"
        ) from error
    except (OSError, RuntimeError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        if isinstance(error, HeadwordError):
            raise
        if offline or was_offline:
            raise HeadwordError(
                f"cannot download {what!r}: the model hub cannot be reached and it is not in the local cache; "
                f"{LOCAL_ALTERNATIVES}"
            ) from error
        raise HeadwordError(f"cannot load {what!r}: {_first_line(error)}") from error
    finally:
        logging.disable(loggers_off)
        constants.HF_HUB_OFFLINE = was_offline
        if force is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = force


@functools.cache
def hub_reachable() -> bool:
    """Whether the model hub answers, asked once: with a proxy it is taken to, else by a connection of 3 s at most."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies().get(hub.scheme):
        return True
    try:
        with socket.create_connection((hub.hostname or "", hub.port or 443), timeout=3):
            return True
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
