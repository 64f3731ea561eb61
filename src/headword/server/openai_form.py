"""Embeddings in the form of OpenAI's API, for programs that speak it: texts, and pictures as data: addresses.

Whatever key they send is taken, since a request without one is, too; `guard` keeps other sites out.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from headword.encoders.prompts import check_templates
from headword.errors import HeadwordError
from headword.server.handing_out import Served
from headword.server.schemas import MAX_IMAGES, MAX_TEXTS, MAX_UPLOAD, Text, Upload

NAME = "headword"
"""The model of an index, as it is called here."""

router = APIRouter(prefix="/v1")

_MOST = MAX_UPLOAD * 4 // 3 + 100  # characters of a picture's data: address
_Item = Annotated[str, Field(min_length=1, max_length=_MOST)]
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_UPLOAD: TypeAdapter[bytes] = TypeAdapter(Upload)


class EmbeddingsRequest(BaseModel):
    """Texts and pictures; other fields of OpenAI's are passed over."""

    input: _Item | Annotated[list[_Item], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description="A text, or data:image/…;base64,… for a picture; or a list of them."
    )
    model: str = Field(default=NAME, max_length=200, description="There is one; any name is taken.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="No other than the model's own.")


class Embedding(BaseModel):
    """A unit vector in the shared space: numbers, or as base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens are not counted."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsResponse(BaseModel):
    """A vector for each input, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = NAME
    usage: Usage = Usage()


class Reason(BaseModel):
    """What is wrong, in one line, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """Why there is no answer; a request that was never read is refused as on all other routes."""

    error: Reason | str


@router.get("/models")
async def models() -> dict[str, Any]:
    """The index's model."""
    row = {"id": NAME, "object": "model", "created": 0, "owned_by": NAME}
    return {"object": "list", "data": [row]}


@router.post("/embeddings")
async def embeddings(service: Served, request: EmbeddingsRequest) -> EmbeddingsResponse:
    """Bring texts and pictures into the shared space, as /embed does."""
    model = (await service.newest()).model
    if request.dimensions not in (None, model.dim):
        raise HeadwordError(f"vectors have {model.dim} numbers here, not {request.dimensions}")
    items = [request.input] if isinstance(request.input, str) else request.input
    pictures = {n: _picture(item) for n, item in enumerate(items) if item.startswith("data:")}
    texts = {n: _text(item) for n, item in enumerate(items) if n not in pictures}
    if len(pictures) > MAX_IMAGES:
        raise HeadwordError(f"{len(pictures)} pictures in one request; {MAX_IMAGES} are taken at most")
    vectors = torch.empty(len(items), model.dim)
    if texts:
        encoded = await service.encode_text(model, list(texts.values()), check_templates("{}"))
        vectors[list(texts)] = encoded
    pixels = service.each_pixels(model, list(pictures.values()))
    for n in pictures:
        vectors[n] = (await service.run(model.encode_image, await anext(pixels)))[0]
    whole = request.encoding_format == "float"
    rows = vectors.tolist() if whole else [_base64(row) for row in vectors]
    return EmbeddingsResponse(data=[Embedding(index=n, embedding=row) for n, row in enumerate(rows)])


def _text(item: str) -> str:
    try:
        return _TEXT.validate_python(item)
    except ValidationError as error:
        raise HeadwordError(f"a text to embed: {error.errors()[0]['msg']}") from error


def _picture(item: str) -> bytes:
    try:
        return _UPLOAD.validate_python(item)
    except ValidationError as error:
        raise HeadwordError(f"a picture to embed: {error.errors()[0]['msg']}") from error


def _base64(row: torch.Tensor) -> str:
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode()
