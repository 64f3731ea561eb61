"""What the HTTP API takes and gives, with the limits of each field."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from headword.encoders.prompts import MAX_LABEL
from headword.errors import HeadwordError
from headword.search.query import Query

MAX_UPLOAD = 16_000_000
"""Bytes an image sent to the server may have."""

MAX_BODY = 24_000_000
"""Bytes a request may have: one image of `MAX_UPLOAD` as base64, or several smaller ones."""

MAX_PIXELS = 64_000_000
"""Pixels an image sent to the server may have; decoded, 256 MB, and with transparency twice that."""

MAX_K = 500
MAX_OFFSET = 10_000
"""The place of the last hit that is asked for, at most, less `MAX_K`."""

MAX_JUDGED = 100
MAX_TAGS = 50
MAX_TEXTS = 256
MAX_LABELS = 1_000
MAX_IMAGES = 16


def _decoded(value: Any) -> Any:
    """Base64, also as a `data:` address, as bytes."""
    if not isinstance(value, str):
        raise ValueError("an image is sent as base64")
    data = value.split(",", 1)[1] if value.startswith("data:") and "," in value else value
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("an image is sent as base64, and this is not") from error


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LABEL)]
Labels = Annotated[
    list[Annotated[str, StringConstraints(max_length=MAX_LABEL)]], Field(min_length=1, max_length=MAX_LABELS)
]
"""As typed: `headword.encoders.prompts.tidy_labels` reads them."""
Template = Annotated[str, StringConstraints(min_length=2, max_length=200)]
Templates = Annotated[list[Template], Field(min_length=1, max_length=16)]
InIndex = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
"""A picture's path within the indexed folder."""
Upload = Annotated[
    bytes,
    BeforeValidator(_decoded, json_schema_input_type=str),
    Field(min_length=1, max_length=MAX_UPLOAD),
]
# A minus at the start of a word, then a word or something in quotation marks: -people, -"brick wall".
_NEGATIVE = re.compile(r'(?<!\S)-(?:"([^"]*)"?|([^\s"-]\S*))')


def parse_words(typed: str) -> tuple[str | None, tuple[str, ...]]:
    """A typed query → (the words, None if there are none; the negative ones, each once).

    `-word` and `-"several words"` are negative; a minus within a word ("t-shirt") or by itself says nothing.
    """
    negative = [" ".join((quoted or word).split()) for quoted, word in _NEGATIVE.findall(typed)]
    words = " ".join(word for word in _NEGATIVE.sub(" ", typed).split() if word.strip("-"))
    return words or None, tuple(dict.fromkeys(word for word in negative if word))


K = Annotated[int, Field(ge=1, le=MAX_K)]
SearchOffset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]
Filter = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Closed(BaseModel):
    """What is sent, without fields that are none."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(Closed):
    """Words, a picture, or both; with words and pictures to keep away from."""

    words: Text | None = Field(default=None, description="As typed: -word keeps away from a word.")
    text: Text | None = Field(default=None, description="What to look for, instead of words.")
    negative: list[Text] = Field(default=[], max_length=16, description="What to keep away from.")
    image: Upload | None = Field(default=None, description="A picture to find the like of, as base64.")
    like: InIndex | None = Field(default=None, description="A picture of the index to find the like of.")
    right: list[InIndex] = Field(default=[], max_length=MAX_JUDGED, description="Hits that are meant.")
    wrong: list[InIndex] = Field(default=[], max_length=MAX_JUDGED, description="Hits that are not.")
    k: K = Field(default=24, description="How many pictures to return.")
    offset: SearchOffset = Field(default=0, description="How many of the best to leave out before these.")
    tag: Label | None = Field(default=None, description="Only pictures with this tag.")
    where: Filter | None = Field(default=None, description="Only pictures that meet this condition.")

    def query(self) -> Query:
        """What is searched for, without a picture that was sent."""
        text, negative = self.text, tuple(self.negative)
        if self.words is not None:
            if text is not None or negative:
                raise HeadwordError("give words as typed, or text and negative, not both")
            text, negative = parse_words(self.words)
        judged = tuple(self.right), tuple(self.wrong)
        return Query(text=text, like=self.like, negative=negative, right=judged[0], wrong=judged[1])


class PictureTag(BaseModel):
    """A tag of a picture."""

    model_config = ConfigDict(from_attributes=True)

    tag: str
    score: float
    """Its probability; 1 for one that was given by hand."""
    by_hand: bool


class Picture(BaseModel):
    """A picture of the index."""

    model_config = ConfigDict(from_attributes=True)

    path: str
    """Within the indexed folder; the end of its address below /images and /thumbnails."""
    score: float | None = None
    """Cosine with the query, -1 … 1; null where nothing was asked."""
    tag: str | None
    """The first of its tags."""
    tag_score: float | None
    tags: list[PictureTag] = []
    """Those given by hand first, then the likeliest first."""
    relevance: float | None = None
    """The chance that it shows the words, 0 … 1; null where other than words were asked for."""


class SearchResponse(BaseModel):
    """Pictures, best first."""

    text: str | None
    negative: list[str]
    hits: list[Picture]
    total: int = Field(description="Pictures that were searched: all, or those that meet the conditions.")
    least_shown: float | None = Field(
        default=None, description="The relevance below which the answers end; null if hits have none."
    )
    doubt: str | None = Field(default=None, description="Why all of them are to be taken with care, if so.")
    seconds: float = Field(description="From the request to the answer, on the server.")
    index_version: str


class PicturesResponse(BaseModel):
    """Pictures in the order of their paths."""

    pictures: list[Picture]
    total: int
    index_version: str


class PictureFacts(BaseModel):
    """A picture's file, and what it says of itself; null is what it does not say."""

    model_config = ConfigDict(from_attributes=True)

    path: str
    bytes: int
    modified: datetime
    width: int
    height: int
    format: str
    more_frames: bool = Field(description="Whether the first, which is searched, is one of several.")
    taken: datetime | None = Field(description="By the camera's clock, without a zone.")
    camera: str | None
    lens: str | None
    exposure: str | None
    latitude: float | None
    longitude: float | None


class DownloadRequest(Closed):
    """Pictures to hand out together."""

    pictures: list[InIndex] = Field(min_length=1, max_length=MAX_K, description="Pictures of the index.")


class DuplicatesRequest(Closed):
    """How near copies lie."""

    similarity: float | None = Field(
        default=None, ge=-1, le=1, description="The least cosine of features; null: as altered copies keep."
    )


class DuplicatesResponse(BaseModel):
    """Groups of pictures that are copies of each other, or nearly; the largest first."""

    groups: list[list[Picture]] = Field(description="A score is the cosine with the nearest of the group.")
    similarity: float
    index_version: str


class FolderCount(BaseModel):
    """A folder within the indexed one, and how many pictures lie in it itself."""

    folder: str
    count: int


class FoldersResponse(BaseModel):
    """Folders that have pictures, in the order of their paths."""

    folders: list[FolderCount]
    index_version: str


class EmbedRequest(Closed):
    """Texts and images to bring into the shared space."""

    texts: list[Text] = Field(default=[], max_length=MAX_TEXTS)
    images: list[Upload] = Field(default=[], max_length=MAX_IMAGES)
    templates: Templates = Field(default=["{}"], description='Each with one "{}" for the text; averaged.')


class EmbedResponse(BaseModel):
    """Unit vectors, in the order of the request."""

    dim: int
    texts: list[list[float]]
    images: list[list[float]]


class Labelling(Closed):
    """Labels to choose from."""

    labels: Labels
    templates: Templates | None = Field(default=None, description="The model's own where not given.")
    none_of_these: bool = Field(default=False, description="Pictures that no label fits get none.")


class TagRequest(Labelling):
    """Labels for the whole folder."""

    multi_label: bool = Field(default=False, description="Pictures get all labels that are likely.")


class CorrectRequest(Closed):
    """What pictures have, and have not, by hand."""

    pictures: list[InIndex] = Field(min_length=1, max_length=MAX_K)
    add: list[Label] = Field(default=[], max_length=MAX_TAGS)
    remove: list[Label] = Field(default=[], max_length=MAX_TAGS)


class CorrectResponse(BaseModel):
    """The pictures with their tags."""

    pictures: list[Picture]
    index_version: str


class ClassifyRequest(Labelling):
    """Images to label with any words."""

    images: list[Upload] = Field(default=[], max_length=MAX_IMAGES, description="Base64 of the files.")
    pictures: list[InIndex] = Field(default=[], max_length=MAX_IMAGES, description="Pictures of the index.")
    multi_label: bool = False


class LabelScore(BaseModel):
    """A label and how well it fits."""

    label: str
    probability: float
    cosine: float | None
    """Null for "none of these"."""


class ClassifyResponse(BaseModel):
    """For each image, first those sent and then those of the index, its labels, best first."""

    results: list[list[LabelScore]]
    doubt: str | None = Field(default=None, description="Why all of them are to be taken with care, if so.")


class WordPart(BaseModel):
    """A class of the head in what words are made of; see `headword explain`."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    weight: float
    """In the sum that the words' vector is; or its cosine with that, where there is no such sum."""
    share: float | None
    """Its part of the vector; null beside a cosine."""


class ExplainResponse(BaseModel):
    """What words are made of, the heaviest first."""

    parts: list[WordPart]
    others: int = Field(description="How many more there are.")


class TagCount(BaseModel):
    """A tag and how many pictures have it."""

    tag: str
    count: int


class TagsResponse(BaseModel):
    """Tags, the most frequent first."""

    tags: list[TagCount]
    doubt: str | None = Field(default=None, description="Why they are to be taken with care, if so.")
    index_version: str


class ClassesResponse(BaseModel):
    """Classes of the recycled head."""

    classes: list[str]
    total: int
    """How many match, of which at most `k` are returned."""


class About(BaseModel):
    """The index, and the model behind it."""

    headword: str
    folder: str
    images: int
    index_version: str
    index: dict[str, Any] = Field(description="What the index says of itself.")
    model: dict[str, Any] = Field(description="Provenance of every part of the model, licences included.")
    classes: int
    environment: dict[str, Any]


class Error(BaseModel):
    """What is wrong, in one line."""

    error: str


class Size(IntEnum):
    """Longer side of a thumbnail in pixels."""

    TINY = 160
    SMALL = 320
    MIDDLE = 640
    LARGE = 1280
