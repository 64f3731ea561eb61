"""Class names: what a head's rows are called, from a label, a model's configuration, a file or a list."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headword.errors import HeadwordError
from headword.files import read_text
from headword.head.wordnet import wordnet

# "Cyanocitta cristata (Blue Jay)": a genus, lower-case epithets, then brackets (perhaps empty) at the end.
_LATIN_WITH_COMMON = re.compile(r"(?P<latin>[A-Z][^\s,()]*(?: [^A-Z\s(][^\s(]*)*) \((?P<common>.*)\)")
_WNID = re.compile(r"[nvars]\d{8}")
_NOUN = re.compile(r"n\d{8}")
_SENSE = re.compile(r"(?P<lemma>\S+)\.[nvasr]\.\d{2}")
_PLACEHOLDER = re.compile(r"(label|class)?[_ ]?\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ClassName:
    """One class's words."""

    name: str
    """What prompts use: the first lemma ("tench"), or the common name of "Latin (Common)"."""
    synonyms: tuple[str, ...] = ()
    """Other words for the class: the other lemmas, or the Latin name."""
    definition: str | None = None
    """A sentence that explains the class, where the label set has one."""
    id: str | None = None
    """The label set's own key, such as a WordNet id ("n01440764")."""

    def as_json(self) -> dict[str, object]:
        """The class as one line of `classes.jsonl`; empty fields are left out."""
        rest = {"synonyms": list(self.synonyms), "definition": self.definition, "id": self.id}
        return {"name": self.name, **{key: value for key, value in rest.items() if value}}

    @property
    def synset(self) -> str:
        """Name and synonyms joined by commas: the text the paper pairs with the rows of 21k heads."""
        return ", ".join((self.name, *self.synonyms))


def parse_labels(labels: Sequence[str]) -> tuple[ClassName, ...]:
    """Read label strings as they stand in models' configurations and class-name files.

    Commas part synonyms ("tench, Tinca tinca"), underscores are spaces, a leading WordNet id is the class's
    id. Where at least half the labels read "Latin name (Common name)", the common name is the name and the
    Latin one a synonym, and empty brackets drop; elsewhere brackets are part of the name ("crane (bird)").
    """
    cleaned = [" ".join(label.replace("_", " ").split()) for label in labels]
    latin = [_LATIN_WITH_COMMON.fullmatch(label) for label in cleaned]
    taxonomic = 2 * sum(match is not None for match in latin) >= max(len(cleaned), 1)
    classes = []
    for position, (label, match) in enumerate(zip(cleaned, latin, strict=True), start=1):
        first, _, rest = label.partition(" ")
        wnid = first if _WNID.fullmatch(first) and rest else None
        if taxonomic and match:
            lemmas = [match["common"].strip(), match["latin"].strip()]
        else:
            lemmas = (rest if wnid else label).split(", ")
        lemmas = [lemma.strip() for lemma in lemmas if lemma.strip(" ,")]
        if not lemmas:
            raise HeadwordError(f"class name {position} of {len(labels)} is empty; every class needs a name")
        classes.append(ClassName(lemmas[0], tuple(dict.fromkeys(lemmas[1:])), id=wnid))
    return tuple(classes)


def placeholders(labels: Sequence[str]) -> bool:
    """Whether labels say nothing ("LABEL_0", "class 7", "12"), as untouched configurations have them."""
    return all(_PLACEHOLDER.fullmatch(label.strip()) for label in labels)


def duplicate_names(classes: Iterable[ClassName]) -> dict[str, int]:
    """Names that more than one class has ("crane" twice in ImageNet-1k), with how many have it."""
    return {name: n for name, n in Counter(c.name for c in classes).items() if n > 1}


def class_names(source: str | Path | Sequence[str | ClassName]) -> tuple[ClassName, ...]:
    """Class names from a list of labels or `ClassName`s, or from a file.

    The file has one label a line, or JSONL with `name`, `synonyms`, `definition`, `id`, or is a JSON list of
    labels, or a JSON object whose keys are synsets (as CatLIP's vocabularies are). Where all labels are
    WordNet's ids or senses ("hot_dog.n.02"), the names are its lemmas. An empty or malformed name is refused
    with its line or place.
    """
    if isinstance(source, str | Path):
        return _from_file(source)
    if isinstance(source, Mapping):
        raise HeadwordError("class names must be a list in the order of the head's rows, not a dictionary")
    items = list(source)
    if not items:
        raise HeadwordError("the list of class names is empty; give one name for each row of the head")
    for place, item in enumerate(items, start=1):
        if not isinstance(item, str | ClassName):
            raise HeadwordError(f"class name {place} of {len(items)} is {type(item).__name__}, not a string")
        if isinstance(item, ClassName) and not item.name.strip():
            raise HeadwordError(f"class name {place} of {len(items)} is empty; every class needs a name")
    parsed = iter(parse_labels([item for item in items if isinstance(item, str)]))
    return tuple(item if isinstance(item, ClassName) else next(parsed) for item in items)


def _from_file(path: str | Path) -> tuple[ClassName, ...]:
    text = read_text(path)
    if (keys := _vocabulary(text)) is not None:
        return _of_synsets(keys) or parse_labels(keys)
    lines = [line.removesuffix("\r") for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise HeadwordError(f"{path} has no class names; write one a line, in the order of the head's rows")
    empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
    if empty:
        raise HeadwordError(
            f"{path}:{empty}: empty line; every line names a class, in the order of the head's rows"
        )
    if not lines[0].lstrip().startswith("{"):
        return _of_synsets([line.strip() for line in lines]) or parse_labels(lines)
    return tuple(_from_json(line, f"{path}:{number}") for number, line in enumerate(lines, start=1))


def _vocabulary(text: str) -> list[str] | None:
    """The labels of a JSON list, or the synsets of a JSON object of counts, as CatLIP's vocabularies are."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        content = json.loads(text)
    except json.JSONDecodeError:  # JSONL, a class a line
        return None
    keys = list(content)
    if isinstance(content, list):
        return keys if keys and all(isinstance(key, str) for key in keys) else None
    return keys if keys and all(_NOUN.fullmatch(key) or _SENSE.fullmatch(key) for key in keys) else None


def _of_synsets(keys: Sequence[str]) -> tuple[ClassName, ...] | None:
    """Classes by WordNet's ids ("n02084071") or by senses ("hot_dog.n.02"); None where a label is neither."""
    if all(_NOUN.fullmatch(key) for key in keys):
        nouns = wordnet()
        if unknown := [key for key in keys if key not in nouns]:
            raise HeadwordError(
                f"{unknown[0]} is none of the {len(nouns):,} nouns of the WordNet at hand; name the folder "
                "of a whole one in HEADWORD_WORDNET, or give names in place of ids"
            )
        return tuple(ClassName(nouns[k].names[0], nouns[k].names[1:], id=k) for k in keys)
    senses = [_SENSE.fullmatch(key) for key in keys]
    if not all(senses):
        return None
    return tuple(ClassName(sense["lemma"].replace("_", " ")) for sense in senses if sense)


def imagenet_classes(n_classes: int) -> tuple[str, tuple[ClassName, ...]] | None:
    """The ImageNet label set that has exactly `n_classes` classes, as timm ships it: (its name, its classes).

    Lemmas and definitions are WordNet's. None if no set has that size.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": n_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    classes = []
    for wnid in info.label_names():
        lemmas = info.label_name_to_description(wnid)
        definition = info.label_name_to_description(wnid, detailed=True)[len(lemmas) + 2 :]
        name, *synonyms = lemmas.split(", ")
        classes.append(ClassName(name, tuple(synonyms), definition or None, wnid))
    if len(classes) != n_classes:
        raise HeadwordError(
            f"timm's {subset} has {len(classes)} classes, the head {n_classes}; give class_names"
        )
    return subset, tuple(classes)


def spoken(names: Sequence[str]) -> tuple[str, ...]:
    """Names of folders and labels as words: WordNet ids become names, underscores spaces."""
    if all(_NOUN.fullmatch(name) for name in names):
        if all(name in (nouns := wordnet()) for name in names):
            return tuple(nouns[name].names[0] for name in names)
        raise HeadwordError("the class folders are WordNet ids that ImageNet does not have; give class names")
    return tuple(" ".join(name.replace("_", " ").split()) for name in names)


def _from_json(line: str, where: str) -> ClassName:
    known = ("name", "synonyms", "definition", "id")
    try:
        fields = json.loads(line)
        if unknown := sorted(set(fields).difference(known)):
            raise HeadwordError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        name, synonyms = fields["name"], fields.get("synonyms", [])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise HeadwordError(
            f'{where}: not a class; write {{"name": "tench", "synonyms": ["Tinca tinca"]}}'
        ) from None
    if not isinstance(name, str) or not name.strip():
        raise HeadwordError(f"{where}: the name is empty")
    if not isinstance(synonyms, list) or not all(isinstance(word, str) for word in synonyms):
        raise HeadwordError(f"{where}: synonyms must be a list of strings")
    for key in ("definition", "id"):
        if not isinstance(fields.get(key), str | None):
            raise HeadwordError(f"{where}: {key} must be a string")
    return ClassName(**{**fields, "synonyms": tuple(synonyms)})
