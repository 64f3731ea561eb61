"""Loading what others publish: no pickles, no minutes of retries without a network, errors in one line."""

from __future__ import annotations

import functools
import logging
import os
import pickle
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
def loading(what: str, *, local: bool = False) -> Iterator[None]:
    """Load a model in here: weights are never unpickled, and a hub that cannot be reached is not retried.

    Args:
        what: the model's name, for messages.
        local: it is on disk, so the hub is not asked at all.

    Raises:
        HeadwordError: in place of what the hub's client or a loader raises when `what` cannot be had.
    """
    from huggingface_hub import constants, errors

    was_offline = constants.HF_HUB_OFFLINE
    offline = local or was_offline or not hub_reachable()
    force = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    constants.HF_HUB_OFFLINE = offline
    loggers_off = logging.root.manager.disable
    logging.disable(logging.ERROR)  # open_clip logs on the root logger what it then raises
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise HeadwordError(
            f"the hub has no model {what!r} (or it is private: log in with `hf auth login`)"
        ) from error
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, errors.HfHubHTTPError) as error:
        if offline and not local:
            raise HeadwordError(
                f"cannot download {what!r}: the model hub cannot be reached and it is not in the cache; "
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
    """Whether the model hub answers; asked once, for 3 s at most. Behind a proxy it is taken to."""
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
