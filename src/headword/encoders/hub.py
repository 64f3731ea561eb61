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
    """Load a model in here: nothing is unpickled freely, no code that comes with a model is run, and a hub
    that cannot be reached is not retried.

    Args:
        what: the model's name, for messages.
        local: it is on disk, so the hub is not asked at all.
        host: where it is downloaded from, for messages.

    Raises:
        HeadwordError: in place of whatever a hub's client or a loader raises when `what` cannot be had.
    """
    from huggingface_hub import constants

    with _LOCK:
        was_offline = constants.HF_HUB_OFFLINE
        on_hub = host == "the model hub"
        why_offline = "" if local or not on_hub else hub_unreachable()
        force = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        constants.HF_HUB_OFFLINE = local or was_offline or bool(why_offline)
        loggers_off = logging.root.manager.disable
        logging.disable(logging.ERROR)  # open_clip logs on the root logger what it then raises
        try:
            with silent(), _unasked():
                yield
        except HeadwordError:
            raise
        except Exception as error:  # tokenizers and safetensors raise kinds of their own, or a bare Exception
            said = None if local else _why_not_downloaded(what, error)
            if said is not None:
                raise HeadwordError(said) from error
            if not local and (why_offline if on_hub else isinstance(error, OSError)):
                why = why_offline or f"{host} cannot be reached"
                raise HeadwordError(
                    f"cannot download {what!r}: {why}, and it is not in the cache; {LOCAL_ALTERNATIVES}"
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
def _unasked() -> Iterator[None]:
    """transformers refuses a model that brings code, and does not ask on standard input whether to run it."""
    if "transformers" not in sys.modules:
        yield
        return
    from transformers import dynamic_module_utils as custom_code

    seconds, custom_code.TIME_OUT_REMOTE_CODE = custom_code.TIME_OUT_REMOTE_CODE, 0
    try:
        yield
    finally:
        custom_code.TIME_OUT_REMOTE_CODE = seconds


def _why_not_downloaded(what: str, error: BaseException) -> str | None:
    """What the hub answered, in one line; None where it is not at fault."""
    from huggingface_hub import constants, errors, get_token

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)

    def caused(kind: type[BaseException] | tuple[type[BaseException], ...]) -> Any:
        return next((one for one in causes if isinstance(one, kind)), None)

    refusal = caused(errors.HfHubHTTPError)
    if refusal is None:
        if any(re.search(_CUT_OFF, f"{type(one).__name__}: {one}") for one in causes):
            return f"the download of {what!r} was cut off; run it again, it goes on where it stopped"
        return None
    status = getattr(refusal.response, "status_code", 0)
    logged_in = get_token() is not None
    if caused(errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{what.partition('@')[0]}"
        mend = f"ask for access at {page}"
        return f"{what!r} is gated: {mend if logged_in else f'{mend}, then log in with `hf auth login`'}"
    if caused(errors.RevisionNotFoundError):
        repo, _, revision = what.partition("@")
        return f"the hub's {repo!r} has no branch, tag or commit {revision or 'main'!r}"
    if caused(errors.RepositoryNotFoundError):
        if logged_in:
            return f"the hub has no model {what!r}, or it is private and your account may not read it"
        return f"the hub has no model {what!r}, or it is private: log in with `hf auth login`"
    answers = {
        401: "the hub does not accept your token (401); log in again with `hf auth login`",
        403: "the hub forbids it (403); see whether your account or token may read it",
        429: "the hub was asked too often (429); wait some minutes, or log in with `hf auth login`",
    }
    if status >= 500:
        answers[status] = f"the hub itself is at fault ({status}); try again later"
    return f"cannot download {what!r}: {answers.get(status, f'the hub answers with status {status}')}"


_CUT_OFF = (
    r"RemoteProtocolError|ReadError|ReadTimeout|IncompleteRead|ChunkedEncoding|Consistency check failed"
    r"|peer closed|IncompleteSnapshot"
)


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
    kernels = [key for key in ("attn_implementation", "_attn_implementation") if "/" in str(config.get(key))]
    if kernels:
        raise HeadwordError(
            f"{folder / 'config.json'}: {kernels[0]} names code on the hub, which is never run; remove it"
        )
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
def hub_unreachable() -> str:
    """Why the model hub cannot be asked; empty where it can. Tried once, for 3 s at most, and not behind a
    proxy.
    """
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE keeps the hub from being asked"
    if urllib.request.getproxies().get(hub.scheme):
        return ""
    try:
        port = hub.port or (80 if hub.scheme == "http" else 443)
        with socket.create_connection((hub.hostname or "", port), timeout=3):
            return ""
    except socket.gaierror:
        return f"the model hub cannot be reached: its name {hub.hostname} is not found (no network, or DNS)"
    except OSError as error:
        return f"the model hub cannot be reached: {hub.netloc}: {error.strerror or 'no answer within 3 s'}"


@contextmanager
def data_sets() -> Iterator[None]:
    """Open a data set of the hub's in here: its client does not ask a hub that cannot be reached for half a
    minute, and the cache serves.
    """
    import datasets
    from huggingface_hub import constants

    was = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = was[0] or bool(hub_unreachable())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = was


def _reason(error: BaseException) -> str:
    """The error's own words in one line; of a long list the start."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return "it needs code that comes with it, which is never run here; give a model of the library's own"
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    return (text if len(text) <= 400 else f"{text[:400]} …") if text else type(error).__name__
