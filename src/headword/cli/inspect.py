"""`headword inspect`: what a classifier's head is, or what a saved model was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from headword.cli import options
from headword.cli.app import command
from headword.cli.common import Output, flags, quoted

if TYPE_CHECKING:
    from headword.encoders.vision import VisionEncoder
    from headword.head.names import ClassName
    from headword.model import DualEncoder

_UNKNOWN = "unknown: see the model's page"
_YOURS = "yours: trained here"


@command("inspect resnet50.a1_in1k", "inspect model --names 3")
def inspect(
    output: Output,
    model: Annotated[
        str,
        Argument(
            help="A saved model, an index or a store of features, or a classifier as for recycle --vision."
        ),
    ],
    class_names: options.ClassNames = None,
    head: options.Head = None,
    names: Annotated[int, Option(min=0, help="How many class names to show.")] = 10,
    vision: options.Vision = None,
    device: options.Device = "auto",
) -> None:
    """Show a head, its classes and licence, or what a model is.

    For a classifier: what would be recycled.
    """
    from headword.extract.store import HEADER
    from headword.files import expand
    from headword.saved import CONFIG
    from headword.search.manifest import NAME as MANIFEST

    folder = expand(model)
    if (folder / CONFIG).is_file():
        if vision is not None:  # to see that it fits
            from headword.model import load

            load(folder, vision=vision, device=device)
        _show_model(output, model, names, vision)
    elif (folder / MANIFEST).is_file():
        _show_index(output, model)
    elif (folder / HEADER).is_file():
        _show_store(output, model)
    else:
        from headword.encoders import load_vision
        from headword.encoders.own_module import resolve_vision

        encoder = load_vision(resolve_vision(model), names=class_names, head=head, device=device)
        _show_classifier(output, model, encoder, names)


def _show_model(output: Output, model: str, names: int, vision: str | None) -> None:
    """Nothing is loaded: this also works for a module of one's own, and where an extra is missing."""
    from headword.files import expand
    from headword.head.names import class_names
    from headword.saved import CLASSES, check_files, read_config

    folder = expand(model)
    config = read_config(folder)
    named = [CLASSES] if CLASSES in config["files"] else []
    check_files(folder, config, named)
    classes = class_names(folder / CLASSES) if named else ()
    output.facts(f"Saved model {model}", _model_facts(config))
    if "doubt" in config:
        output.say(expectation(config["doubt"]))
    if classes:
        _show_classes(output, classes, names)
    output.next_step(f'headword classify {quoted(model)} IMAGE --labels "a cat,a dog"{flags(vision=vision)}')
    content = {name: value for name, value in config.items() if name not in {"format", "files", "sha256"}}
    output.result(model=content, classes=[c.as_json() for c in classes])


def _show_index(output: Output, folder: str) -> None:
    from headword.search import Index

    about = Index.open(folder).about()
    provenance = about["model"]["provenance"]
    facts = [
        ("images", f"{about['images']:,} of {about['root']}"),
        ("centred on", "the collection" if about["centre"]["kind"] == "collection" else "as the model is"),
        ("tags", ", ".join(about["tags"]["labels"]) if about["tags"] else "none"),
        ("updated", about["updated"]),
        *((side, f"{provenance[side]['kind']}:{provenance[side]['id']}") for side in ("vision", "text")),
    ]
    output.facts(f"Index {folder}", facts)
    output.next_step(f"headword search {quoted(folder)} WORDS")
    output.result(model=provenance, index=about)


def _show_store(output: Output, folder: str) -> None:
    from headword.extract.store import read_header

    header = read_header(folder)
    facts = {name: value for name, value in header.items() if isinstance(value, str | int | float)}
    output.facts(f"Feature store {folder}", [(name, str(value)) for name, value in facts.items()])
    output.next_step("in Python: from headword.extract.vectors import read_vectors")
    output.result(store=header)


def _show_classifier(output: Output, model: str, encoder: VisionEncoder, names: int) -> None:
    rows, labels = encoder.named_head()
    provenance = encoder.provenance()
    facts = _vision_facts({**provenance, "input_size": encoder.source.input_size})
    output.facts(f"Classifier {encoder.name}", facts)
    _show_classes(output, labels.classes, names)
    shape = f"{rows.n_classes:,} rows of width {encoder.dim:,}"
    output.say(f"Recycling would pair {shape} with the names of their classes.")
    output.next_step(f"headword recycle --vision {quoted(model)} --out model")
    output.result(model={"vision": provenance}, classes=[c.as_json() for c in labels.classes])


def model_facts(model: DualEncoder) -> list[tuple[str, str]]:
    """A dual encoder in names and values."""
    provenance = model.provenance()
    provenance["vision"]["input_size"] = model.vision.source.input_size
    return _model_facts(provenance)


def _vision_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the provenance of an image encoder says."""
    settings = record["transform"]
    height, width = record["input_size"]
    library = "each part" if settings["library"] == "joint" else settings["library"]
    by = f"{library}'s own transform" if library != "user" else "your transform"
    how = f"{settings['interpolation']} ({by})" if "interpolation" in settings else by
    return [
        ("classifier" if record["head"] else "image tower", f"{record['kind']}:{record['id']}"),
        ("weights' licence", record["licence"] or (_YOURS if record["kind"] == "trained" else _UNKNOWN)),
        *(_head_facts(record["head"], record["labels"]) if record["head"] else ()),
        ("input", f"{height}×{width} px, {how}"),
    ]


def _head_facts(head: Mapping[str, Any], labels: Mapping[str, Any]) -> list[tuple[str, str]]:
    twice = [f"{name} ×{n}" for name, n in labels["duplicates"].items()]
    shown = ", ".join([*twice[:5], "…"] if len(twice) > 5 else twice)
    error = f"{head['self_check_error']:.1e}"
    return [
        ("head", f"{' + '.join(head['modules'])}: {head['classes']:,} classes × {head['dim']:,} features"),
        ("self-check", f"features @ W.T + b differs from the logits by {error} of their scale"),
        ("class names", labels["origin"]),
        ("duplicate names", f"{len(twice)} names, kept apart: {shown}" if twice else "none"),
    ]


def _model_facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the provenance of a dual encoder says."""
    from headword.scoring.centring import Centre

    text, pairs, aligner, scores = record["text"], record["pairs"], record["aligner"], record["scores"]
    sources = ", ".join(f"{n:,} from {source}" for source, n in pairs["sources"].items())
    settings = ", ".join(f"{name}={value}" for name, value in aligner["settings"].items())
    trained = "training" in record
    return [
        *_vision_facts(record["vision"]),
        ("text encoder", f"{text['kind']}:{text['id']} ({text['dim']} wide)"),
        ("text licence", text["licence"] or (_YOURS if trained else _UNKNOWN)),
        ("pairs", f"{pairs['number']:,} ({sources})" if pairs["number"] else "none: trained in one space"),
        ("templates", " | ".join(record["templates"])),
        ("aligner", f"{aligner['name']} ({settings})" if settings else aligner["name"]),
        ("image centre", str(Centre(**record["centre"]))),
        ("score scale", f"{scores['scale']:.1f}, {'learnt in training' if trained else _fit(scores)}"),
    ]


def _fit(scores: Mapping[str, Any]) -> str:
    """Where a recycled model's scale comes from."""
    if not scores["fitted_on"]:
        return "the prior for so few classes: none could be left out"
    counts = ""
    if "first" in scores:
        counts = f", of which {scores['first']:,} found their name ({scores['by_chance']:.0f} by chance)"
    return f"fitted on {scores['fitted_on']:,} held-out classes{counts}"


def expectation(doubt: str) -> str:
    """One line: what to expect of a model that there is a doubt about, and what would help."""
    return (
        f"Expect little beyond its own classes: {doubt}. Labels are marked * and probabilities kept modest. "
        "What helps: --captions FILE (50 captions or more), pairs= of examples in Python, or a classifier "
        "with more classes."
    )


def _show_classes(output: Output, classes: Sequence[ClassName], n: int) -> None:
    rows = [(str(i), c.name, ", ".join(c.synonyms), c.definition or "") for i, c in enumerate(classes[:n])]
    title = f"Classes ({min(n, len(classes)):,} of {len(classes):,})"
    output.table(title, ("row", "name", "synonyms", "definition"), rows)
