"""Models that others publish: found in a folder or on the Hugging Face hub, loaded without their code.

A branch, a tag or a commit is resolved once. What is loaded is the commit's folder in the hub's cache, by the
same loader that reads a user's own folder, so that no library asks the hub for anything itself. No pickles,
no minutes of retries without a network, errors in one line.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headword.errors import HeadwordError, near
from headword.files import check_tensors, expand, read_json

_MODEL_HUB = "the model hub"
_LOCAL = (
    "what works offline: 'embedded', a folder ('local-dir:FOLDER' for timm, a transformers or "
    "sentence-transformers folder by its path), or a model already in the cache"
)
_CUT_OFF = (
    r"RemoteProtocolError|ReadError|ReadTimeout|IncompleteRead|ChunkedEncoding|Consistency check failed"
    r"|peer closed|IncompleteSnapshot"
)
CHECKPOINTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")

_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Settings, vocabularies and tokenizers; never Python."""
_LAYERS = ("[1-9]*/model.safetensors", "[1-9]*/pytorch_model.bin")
"""What follows the encoder in a sentence-transformers model."""
_OTHERS = ["onnx/*", "openvino/*"]
"""The same weights for engines that are not used here."""
_WEIGHTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "headword": (("*.safetensors", "*.jsonl", "*.md"),),
    "timm": (("model.safetensors",), ("pytorch_model.bin",)),
    "transformers": (("model*.safetensors",), ("pytorch_model*.bin",)),
    "sentence-transformers": (
        ("model*.safetensors", "0_*/model*.safetensors"),
        ("pytorch_model*.bin", "0_*/pytorch_model*.bin"),
    ),
    "open_clip": (
        ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        ("open_clip_pytorch_model.bin",),
    ),
}
"""By library, the files that hold a model's weights: the first kind that a repository has is taken."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model lies, and what to call it."""

    folder: Path
    id: str
    """The folder, absolute, or the repository; with the scheme that it was given with."""
    revision: str | None = None
    """The commit of a repository."""


def find(library: str, name: str, what: str) -> Place:
    """The folder that a user means: one on disk, else a repository of the hub's that `library` reads.

    A name is a path, "USER/NAME" or "USER/NAME@REVISION"; "local-dir:PATH", of which the caller looks whether
    it is there, and "hf-hub:NAME" say which. `what` is what it should be, for messages ("a classifier").
    """
    scheme, _, rest = name.partition(":")
    if scheme == "local-dir":
        folder = expand(rest).resolve()
        return Place(folder, f"local-dir:{folder}")
    if scheme in ("hf-hub", "hf_hub"):
        place = fetch(library, *parse_repository(rest))
        return replace(place, id=f"hf-hub:{place.id}")
    folder = expand(name)
    if folder.is_dir():
        return Place(folder.resolve(), str(folder.resolve()))
    refuse_path(name, what)
    return fetch(library, *parse_repository(name))


def parse_repository(name: str) -> tuple[str, str | None]:
    """The repository and the branch, tag or commit that "USER/NAME" or "USER/NAME@REVISION" names."""
    parts = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", name)
    if parts is None:
        raise HeadwordError(
            f"{name!r} is no model's name on the hub; write USER/NAME, or USER/NAME@REVISION with a branch, "
            "a tag or a commit"
        )
    return parts[1], parts[2]


def fetch(library: str, repo: str, revision: str | None = None) -> Place:
    """A repository's folder, at the commit that a revision (else the main branch) is, downloaded where need
    be; refused, with the reason, if the repository, the revision or its weights cannot be had.
    """
    from huggingface_hub import snapshot_download

    name = f"{repo}@{revision}" if revision else repo
    with loading(name):
        for weights in _WEIGHTS[library]:
            wanted = [*_TEXTS, *_LAYERS, *weights]
            folder = Path(
                snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=_OTHERS)
            )
            revision = folder.name  # the commit
            if any(any(folder.glob(pattern)) for pattern in weights):
                return Place(folder, repo, revision)
    files = " or ".join(patterns[0] for patterns in _WEIGHTS[library])
    raise HeadwordError(f"the hub's {name} has no weights that {library} reads: no {files}")


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a saved model: itself, or the repository's that "hf:USER/NAME[@REVISION]" names."""
    scheme, _, repo = os.fspath(name).partition(":")
    return fetch("headword", *parse_repository(repo)).folder if scheme == "hf" else expand(name)


def refuse_path(name: str, what: str) -> None:
    """Refuse a name that means a file or a folder, of which no folder is there; `what` as in `find`."""
    path = expand(name)
    if path.is_file():
        raise HeadwordError(
            f"{path} is a file; a checkpoint alone does not say what model it is of, and it may be a pickle: "
            f"give a folder with {what}, or build the model, load the file into it and pass the module"
        )
    if name.startswith((".", "/", "~", "\\")) or name.lower().endswith(CHECKPOINTS):
        raise HeadwordError(f"there is no file or folder {name!r}; give a folder with {what}")


def check_tag(library: str, architecture: str, tag: str, tags: Sequence[str]) -> None:
    """Refuse weights that a library does not have for an architecture."""
    if tag not in tags:
        hint = near(tag, tags)
        has = f"{hint} It has" if hint else "; it has"
        raise HeadwordError(
            f"{library} has no weights {tag!r} for {architecture}{has}: {', '.join(tags) or 'none'}"
        )


def check_folder(folder: Path) -> dict[str, Any]:
    """`config.json` of a model's folder, which names no code and whose safetensors files are whole."""
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


def pretrained(
    place: Place, model_class: str, reader_class: str, copy: str, *, allowed: str = "\0"
) -> tuple[Any, Any, Callable[[Path], str]]:
    """A transformers model, its tokenizer or image processor, and what saves both in a folder named `copy`;
    refused if tensors were not in its files but drawn at random, unless `allowed` is in their names.
    """
    import transformers  # before `loading`, which keeps it from asking

    with loading(place.id, local=True):
        check_folder(place.folder)
        reader = getattr(transformers, reader_class).from_pretrained(place.folder, trust_remote_code=False)
        model, info = getattr(transformers, model_class).from_pretrained(
            place.folder, output_loading_info=True, trust_remote_code=False
        )
    misfits = [entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]]
    drawn = sorted(key for key in map(str, (*info["missing_keys"], *misfits)) if allowed not in key)
    if drawn:
        shown = ", ".join(drawn[:4]) + (", …" if len(drawn) > 4 else "")
        raise HeadwordError(
            f"{place.id!r} lacks trained weights for {shown}; a backbone without its head, perhaps: give a "
            "model that was trained whole"
        )

    def save(target: Path) -> str:
        with silent():
            model.save_pretrained(target / copy)
            reader.save_pretrained(target / copy)
        return copy

    return model, reader, save


# What `loading` changes holds for the whole process, so one thread at a time may.
_LOCK = threading.RLock()


@contextmanager
def loading(what: str, *, local: bool = False, host: str = _MODEL_HUB) -> Iterator[None]:
    """Load a model in here: nothing is unpickled freely, no code that comes with a model is run, and a hub
    that cannot be reached is not retried. Whatever a hub's client or a loader raises becomes one line.

    A `local` model is on disk, so that the hub is not asked at all. `what` and `host` are for messages.
    """
    from huggingface_hub import constants

    with _LOCK, ExitStack() as restored:
        why_offline = "" if local or host != _MODEL_HUB else hub_unreachable()
        restored.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)  # open_clip logs on the root logger what it then raises
        offline = local or constants.HF_HUB_OFFLINE or bool(why_offline)
        restored.enter_context(_changed(vars(constants), HF_HUB_OFFLINE=offline))
        restored.enter_context(_changed(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"))
        if "transformers" in sys.modules:
            from transformers import dynamic_module_utils

            # It refuses a model that brings code, and does not ask on standard input whether to run it.
            restored.enter_context(_changed(vars(dynamic_module_utils), TIME_OUT_REMOTE_CODE=0))
        try:
            with silent():
                yield
        except HeadwordError:
            raise
        except Exception as error:  # tokenizers and safetensors raise kinds of their own, or a bare Exception
            if host != _MODEL_HUB and isinstance(error, OSError):
                why_offline = f"{host} cannot be reached"
            line = f"cannot load {what!r}: {_reason(error)}"
            if why_offline:
                line = f"cannot download {what!r}: {why_offline}, and it is not in the cache; {_LOCAL}"
            raise HeadwordError((not local and _answer(what, error)) or line) from error


@contextmanager
def _changed(settings: Any, **values: Any) -> Iterator[None]:
    """Settings of the process, other ones in here."""
    before = {name: settings[name] for name in values if name in settings}
    try:
        settings.update(values)
        yield
    finally:
        for name in values.keys() - before.keys():
            del settings[name]
        settings.update(before)


@contextmanager
def silent() -> Iterator[None]:
    """No progress bars of the hub's client and of transformers in here, but for watched downloads."""
    from huggingface_hub import constants

    hub = importlib.import_module("huggingface_hub.utils.tqdm")  # the package names its class likewise

    with _LOCK:
        hub_bars = not hub.are_progress_bars_disabled()
        users_choice = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
        library: Any = sys.modules.get("transformers.utils.logging")
        bars = library._tqdm_active if library is not None else hub_bars
        if library is not None:
            library._tqdm_active = False
        if hub_bars and not users_choice and not sys.stderr.isatty():
            hub.disable_progress_bars()
        try:
            yield
        finally:
            if hub_bars and not users_choice:
                hub.enable_progress_bars()
            library = sys.modules.get("transformers.utils.logging")  # which may be imported by now
            if library is not None:
                library._tqdm_active = bars


@contextmanager
def data_sets() -> Iterator[None]:
    """Open a data set of the hub's in here: its client does not ask a hub that cannot be reached for half a
    minute, and the cache serves.
    """
    import datasets
    from huggingface_hub import constants

    offline = {"HF_HUB_OFFLINE": constants.HF_HUB_OFFLINE or bool(hub_unreachable())}
    with _changed(vars(constants), **offline), _changed(vars(datasets.config), **offline):
        yield


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


def _answer(what: str, error: BaseException) -> str | None:
    """What the hub answered, in one line; None where it is not at fault."""
    from huggingface_hub import constants, errors, get_token

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    refusals = [one for one in causes if isinstance(one, errors.HfHubHTTPError)]
    if not refusals:
        cut_off = any(re.search(_CUT_OFF, f"{type(one).__name__}: {one}") for one in causes)
        return (
            f"the download of {what!r} was cut off; run it again, it goes on where it stopped"
            if cut_off
            else None
        )
    login = "" if get_token() else "log in with `hf auth login`"
    repo, _, revision = what.partition("@")
    kinds = {kind for one in refusals for kind in type(one).__mro__}
    if errors.GatedRepoError in kinds:
        return (
            f"{what!r} is gated: ask for access at {constants.ENDPOINT}/{repo}{login and f', then {login}'}"
        )
    if errors.RevisionNotFoundError in kinds:
        return f"the hub's {repo!r} has no branch, tag or commit {revision or 'main'!r}"
    if errors.RepositoryNotFoundError in kinds:
        private = f": {login}" if login else " and your account may not read it"
        return f"the hub has no model {what!r}, or it is private{private}"
    return f"cannot download {what!r}: {refusal(refusals[0], 'read it')}"


def refusal(error: BaseException, purpose: str) -> str:
    """What the hub's status means for a purpose ("read it"), or why there is none, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if not status:
        return _reason(error)
    if status >= 500:
        return f"the hub itself is at fault ({status}); try again later"
    return {
        401: "the hub does not accept your token (401); log in again with `hf auth login`",
        403: f"your account or token may not {purpose} (403)",
        404: "the hub has no such place (404)",
        429: "the hub was asked too often (429); wait some minutes, or log in with `hf auth login`",
    }.get(status, f"the hub answers with status {status}")


def _reason(error: BaseException) -> str:
    """The error's own words in one line; of a long list the start."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return "it needs code that comes with it, which is never run here; give a model of the library's own"
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    return (text if len(text) <= 400 else f"{text[:400]} …") or type(error).__name__
