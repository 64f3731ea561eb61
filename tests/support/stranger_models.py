"""Tiny models of every library, and payloads that write a file where a loader runs what they bring."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PYTHON = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import BertModel, BertTokenizer, PretrainedConfig
from transformers import ViTForImageClassification, ViTImageProcessor
class Evil(PretrainedConfig): model_type = "evil"
class EvilModel(BertModel): pass
class EvilVision(ViTForImageClassification): pass
class EvilProcessor(ViTImageProcessor): pass
class EvilTokenizer(BertTokenizer): pass
def generate(*_, **__): pass
"""
AUTO_MAP = {
    "AutoConfig": "evil.Evil",
    "AutoModel": "evil.EvilModel",
    "AutoModelForImageClassification": "evil.EvilVision",
    "AutoImageProcessor": "evil.EvilProcessor",
    "AutoProcessor": "evil.EvilProcessor",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
}
NAMES = ("cat", "dog", "car", "tree")


class Pickle:
    """Makes a file when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def edit(file: Path, **entries: Any) -> None:
    """Set entries of a JSON object in a file."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **entries}))


def bring_code(folder: Path, mark: Path) -> None:
    """A module that writes `mark`, under the names by which libraries look for one."""
    for name in ("evil.py", "custom_generate/generate.py", "modeling_evil.py"):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(PYTHON.format(mark=str(mark)))


def transformers_vision(folder: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=16, id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def tokenizer(folder: Path) -> None:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", *NAMES, *"bcdefghijklmnopqrst"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def transformers_text(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=40, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder


def sentence_transformers(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    bare = transformers_text(folder.with_name(f"{folder.name}-bare"))
    parts = [Transformer(str(bare)), Pooling(16), Dense(16, 8)]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
    return folder


def timm_folder(folder: Path, name: str = "mobilenetv3_small_050") -> Path:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(NAMES))
    timm.models.save_for_hf(model, folder, model_config={"label_names": list(NAMES)}, safe_serialization=True)
    return folder


def open_clip_folder(folder: Path, *, theirs: bool = True) -> Path:
    """As open_clip lays one out; with `theirs`, with a tokenizer of transformers'."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    if theirs:
        tokenizer(folder)
        text["hf_tokenizer_name"] = "me/x"
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
            "text_cfg": text,
        },
        "preprocess_cfg": {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    edit(folder / "open_clip_config.json", **config)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def clip_settings(folder: Path, part: str, **entries: Any) -> None:
    """Set entries of `model_cfg` (part "") or of one of its parts."""
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    (config["model_cfg"][part] if part else config["model_cfg"]).update(entries)
    file.write_text(json.dumps(config))


def pickled(file: Path, mark: Path, *, remove: str = "") -> None:
    """A pickle with a payload as `file`, and no safetensors beside it."""
    torch.save({"weight": torch.zeros(1), "payload": Pickle(mark)}, file)
    for other in file.parent.glob(remove) if remove else ():
        other.unlink()


def numpy_pickled(file: Path, mark: Path) -> None:
    """An array of objects, which NumPy pickles."""
    payload = np.array([Pickle(mark)], dtype=object)
    if file.suffix == ".npy":
        np.save(file, payload, allow_pickle=True)
    else:
        np.savez(file, **{"embedding": payload, "opt/target/embedding/kernel": payload})


Attack = Callable[[Path, Path], None]
