"""Loading what others publish: no pickles, no minutes of retries without a network, errors in one line."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import logging
import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headword.errors import HeadwordError
from headword.files import check_tensors, expand, read_json

LOCAL_ALTERNATIVES = (
    "what works offline: 'embedded', a folder ('local-dir:FOLDER' for timm, a transformers or "
    "sentence-transformers folder by its path), or a model already in the cache"
)


# What `loading` changes holds for the whole process, so one thread at a time may.
_LOCK = threading.RLock()


@contextmanager
def loading(what: str, *, local: bool = False, host: str = "the model hub") -> Iterator[None]:
    """Load a model in here: weights are never unpickled, and a hub that cannot be reached is not retried.

    Args:
        what: the model's name, for messages.
        local: it is on disk, so the hub is not asked at all.
        host: where it is downloaded from, for messages.

    Raises:
        HeadwordError: in place of whatever a hub's client or a loader raises when `what` cannot be had.
    """
    from huggingface_hub import constants, errors

    with _LOCK:
        was_offline = constants.HF_HUB_OFFLINE
        on_hub = host == "the model hub"
        offline = local or was_offline or (on_hub and not hub_reachable())
        force = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        constants.HF_HUB_OFFLINE = offline
        loggers_off = logging.root.manager.disable
        logging.disable(logging.ERROR)  # open_clip logs on the root logger what it then raises
        try:
            with silent():
                yield
        except HeadwordError:
            raise
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise HeadwordError(
                f"the hub has no model {what!r} (or it is private: log in with `hf auth login`)"
            ) from error
        except Exception as error:  # tokenizers and safetensors raise kinds of their own, or a bare Exception
            if not local and (offline if on_hub else isinstance(error, OSError)):
                raise HeadwordError(
                    f"cannot download {what!r}: {host} cannot be reached and it is not in the cache; "
                    f"{LOCAL_ALTERNATIVES}"
                ) from error
            raise HeadwordError(f"cannot load {what!r}: {_reason(error)}") from error
        finally:
            logging.disable(loggers_off)
            constants.HF_HUB_OFFLINE = was_offline
            if force is None:
                del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
            else:
                os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = force


@contextmanager
def silent() -> Iterator[None]:
    """No progress bars of the hub's client and of transformers in here, but for watched downloads."""
    from huggingface_hub import constants

    hub = importlib.import_module("huggingface_hub.utils.tqdm")  # the package names its class likewise

    with _LOCK:
        hub_bars = not hub.are_progress_bars_disabled()
        said = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # the user's own word stands
        library: Any = sys.modules.get("transformers.utils.logging")
        bars = library._tqdm_active if library is not None else hub_bars
        if library is not None:
            library._tqdm_active = False
        if hub_bars and not said and not sys.stderr.isatty():
            hub.disable_progress_bars()
        try:
            yield
        finally:
            if hub_bars and not said:
                hub.enable_progress_bars()
            library = sys.modules.get("transformers.utils.logging")
            if library is not None:
                library._tqdm_active = bars


def check_folder(folder: Path) -> dict[str, Any]:
    """`config.json` of a model's folder whose safetensors files are whole.

    Raises:
        HeadwordError: if the configuration is missing or no JSON object, or a file of weights is damaged.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not config:
        raise HeadwordError(f"{folder / 'config.json'} is damaged: it holds no settings")
    for file in sorted(folder.rglob("*.safetensors")):
        check_tensors(file)
    return config


CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


def refuse_path(name: str, what: str) -> None:
    """Refuse a name that means a file or a folder, of which no folder is there.

    Args:
        name: what the user gave.
        what: what it should be, for the message ("a classifier").
    """
    path = expand(name)
    if path.is_file():
        raise HeadwordError(
            f"{path} is a file; a checkpoint alone does not say what model it is of, and it may be a pickle: "
            f"give a folder with {what}, or build the model, load the file into it and pass the module"
        )
    if name.startswith((".", "/", "~", "\\")) or name.lower().endswith(CHECKPOINTS):
        raise HeadwordError(f"there is no file or folder {name!r}; give a folder with {what}")


def split_revision(name: str) -> tuple[str, str | None]:
    """ "ID@COMMIT" → its two parts; without a commit, None for it."""
    found = re.fullmatch(r"(.+)@([0-9a-f]{7,40})", name)
    return (found[1], found[2]) if found else (name, None)


def refuse_new_weights(what: str, info: dict[str, Any], allowed: Sequence[str] = ()) -> None:
    """Refuse a transformers model in which tensors that the checkpoint lacks were drawn at random.

    Args:
        what: the model's name.
        info: what `from_pretrained(..., output_loading_info=True)` says.
        allowed: parts of names of tensors that may be missing.
    """
    missing = [str(key) for key in info.get("missing_keys", ())]
    misfits = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"]]
    drawn = sorted(key for key in (*missing, *misfits) if not any(part in key for part in allowed))
    if drawn:
        shown = ", ".join(drawn[:4]) + (", …" if len(drawn) > 4 else "")
        raise HeadwordError(
            f"{what!r} lacks trained weights for {shown}; a backbone without its head, perhaps: give a model "
            "that was trained whole"
        )


def token_fingerprint(ids: Sequence[Sequence[int]], **settings: Any) -> str:
    """sha256 over the tokens of `PROBES` and what else says how texts become vectors."""
    said = json.dumps([[list(map(int, row)) for row in ids], settings], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


PROBES = (
    "a photo of a cat",
    "",
    "Ünïcödé, CamelCase and 東京 🐈",
    "don't stop: 3.14 × 2 = 6.28 (hand-made)\n\ttench, Tinca tinca",
    "The quick brown fox jumps over the lazy dog; Jackdaws love my big sphinx of quartz.",
    "word " * 1000,
)
"""Texts whose tokens tell tokenizers, and their maximal lengths, apart."""


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


def _reason(error: BaseException) -> str:
    """The error's own words in one line; of a long list the start."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    return (text if len(text) <= 400 else f"{text[:400]} …") if text else type(error).__name__
