"""The HTTP API and the page: what `headword app` answers, a function a route.

Mistakes get `{"error": "one line"}`: 400 for what headword refuses, 404 for a picture that is not in the
index, 409 while something else is under way, 422 for a request that is not of its form.
"""

from __future__ import annotations

import mimetypes
import secrets
import time
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi import Query as FromQuery
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from headword import __version__
from headword.classifier import Classifier
from headword.encoders.prompts import check_labels, check_templates, tidy_labels
from headword.errors import HeadwordError
from headword.model import DualEncoder
from headword.search.filter import ANY_TAG, Condition, parse
from headword.search.index import Index
from headword.search.query import Query
from headword.server import handing_out, lessons, map_routes, openai_form, schemas
from headword.server.guard import without_folders
from headword.server.handing_out import Served, kept_by_browsers
from headword.server.model_thread import Overloaded
from headword.server.schemas import K
from headword.server.service import BusyError, NotInIndexError, Search, Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error, "description": description}
    for status, description in {
        400: "headword refuses this, and says why",
        401: "the token is another server's",
        403: "a page of another site asks",
        404: "not in the index",
        408: "the body took too long",
        409: "under way already, or the index is not the one that was meant",
        413: "too large",
        421: "asked by another name than its own",
        422: "not of the form that is documented",
        503: "too many requests wait, or too much is being sent",
    }.items()
}

STATUSES = {NotInIndexError: 404, HeadwordError: 400, BusyError: 409, Overloaded: 503}
"""Of exceptions whose line is the answer; the first that fits."""


async def _check_token(request: Request) -> None:
    given = request.headers.get("authorization")
    expected = f"Bearer {request.app.state.token}"
    if given is not None and not secrets.compare_digest(given.encode(), expected.encode()):
        raise HTTPException(401, "this server was started by someone else, or anew")


TypedWords = Annotated[schemas.Text, FromQuery(description="-word keeps away from a word.")]
Offset = Annotated[int, FromQuery(ge=0, le=100_000_000)]
Tag = Annotated[schemas.Label | None, FromQuery(description="Only pictures with this tag.")]
Where = Annotated[schemas.Filter | None, FromQuery(description="Only pictures that meet this condition.")]

router = APIRouter(dependencies=[Depends(_check_token)], responses=ERRORS)


def create_app(service: Service, taught: Classifier | None = None, *, token: str = "") -> FastAPI:
    """The API and the page as an ASGI app, around which belongs `guard.Guard`; see `lessons.Teacher`.

    Clients that send an `Authorization` header must have the token in it.
    """
    app = FastAPI(
        title="headword",
        version=__version__,
        description="Search and label a folder of pictures with any words.",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service, app.state.token = service, token
    app.state.teacher, app.state.mapper = lessons.Teacher(service, taught), map_routes.Mapper(service)
    app.include_router(router)
    for other in (handing_out.router, lessons.router, map_routes.router):
        app.include_router(other, dependencies=[Depends(_check_token)], responses=ERRORS)
    others = {status: {**error, "model": openai_form.Refusal} for status, error in ERRORS.items()}
    app.include_router(openai_form.router, responses=others)
    for kind in (*STATUSES, StarletteHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    return app


# ---- searching


@router.get("/search")
async def search_words(
    service: Served, q: TypedWords, k: K = 24, tag: Tag = None, where: Where = None
) -> schemas.SearchResponse:
    """Search with words as they are typed."""
    return await search(service, schemas.SearchRequest(words=q, k=k, tag=tag, where=where))


@router.post("/search")
async def search(service: Served, request: schemas.SearchRequest) -> schemas.SearchResponse:
    """Search with words, a picture, or both."""
    start = time.perf_counter()
    query, where = request.query(), _condition(request.tag, request.where)
    model = None
    if request.image is not None:
        model = service.model
        query = replace(query, image=await service.pixels(model, request.image))
    query.check()
    result = await service.search(Search(query, request.k, where, model, request.offset))
    return schemas.SearchResponse(
        text=query.text,
        negative=list(query.negative),
        hits=[schemas.Picture.model_validate(hit) for hit in result.hits],
        total=result.total,
        least_shown=result.least_shown,
        doubt=result.doubt,
        seconds=time.perf_counter() - start,
        index_version=result.version,
    )


@router.get("/pictures")
async def pictures(
    service: Served, offset: Offset = 0, k: K = 100, tag: Tag = None, where: Where = None
) -> schemas.PicturesResponse:
    """Pictures in the order of their paths."""
    condition = _condition(tag, where)

    def read(index: Index) -> tuple[list[schemas.Picture], int]:
        hits = index.browse(k=k, offset=offset, where=condition)
        rows = [schemas.Picture.model_validate(hit).model_copy(update={"score": None}) for hit in hits]
        return rows, index.count(condition)

    (rows, total), version = await service.read(read)
    return schemas.PicturesResponse(pictures=rows, total=total, index_version=version)


@router.get("/folders")
async def folders(service: Served) -> schemas.FoldersResponse:
    """The folders that pictures lie in."""
    counts, version = await service.read(Index.folders)
    rows = [schemas.FolderCount(folder=folder, count=count) for folder, count in counts.items()]
    return schemas.FoldersResponse(folders=rows, index_version=version)


@router.post("/duplicates")
async def duplicates(service: Served, request: schemas.DuplicatesRequest) -> schemas.DuplicatesResponse:
    """Pictures that are there more than once, or nearly: up to a minute of work, then kept."""
    found, version = await service.duplicates(request.similarity)
    groups = [[schemas.Picture.model_validate(hit) for hit in group] for group in found.groups]
    return schemas.DuplicatesResponse(groups=groups, similarity=found.similarity, index_version=version)


def _condition(tag: str | None, where: str | None) -> Condition | None:
    condition = None if where is None else parse(where)
    if tag is None:
        return condition
    tagged = Condition(ANY_TAG.format("tags.tag = ?"), (tag,))
    return tagged if condition is None else condition & tagged


# ---- labelling


@router.post("/embed")
async def embed(service: Served, request: schemas.EmbedRequest) -> schemas.EmbedResponse:
    """Bring texts and images into the shared space."""
    model = (await service.newest()).model
    texts = await service.encode_text(model, request.texts, check_templates(request.templates))
    pixels = service.each_pixels(model, request.images)
    images = [(await service.run(model.encode_image, picture))[0].tolist() async for picture in pixels]
    return schemas.EmbedResponse(dim=model.dim, texts=texts.tolist(), images=images)


@router.post("/classify")
async def classify(service: Served, request: schemas.ClassifyRequest) -> schemas.ClassifyResponse:
    """Label images with any words.

    They are centred as the index is: a picture's first label is what /tag gives it.
    """
    for path in request.pictures:
        await service.file(path)
    serving = await service.newest()
    index, model = serving.index, serving.model
    labels, templates = _checked(model, request)
    options = {"multi_label": request.multi_label, "none_of_these": request.none_of_these}
    classifier = await service.classifier(model, labels, templates=templates, **options)
    queries = [Query(image=pixels) async for pixels in service.each_pixels(model, request.images)]
    queries += [Query(like=path) for path in request.pictures]
    vectors = [await service.run(index.encode, [query]) for query in queries]
    embeddings = torch.cat([torch.empty(0, model.dim), *vectors])
    chances = classifier.probabilities(classifier.logits(embeddings)).tolist()
    cosines, labels = classifier.cosines(embeddings).tolist(), classifier.classes_.tolist()
    results = []
    for row, known in zip(chances, cosines, strict=True):
        scores = [
            schemas.LabelScore(label=label, probability=chance, cosine=cosine)
            for label, chance, cosine in zip(labels, row, [*known, None], strict=False)
        ]
        results.append(sorted(scores, key=lambda score: -score.probability))
    return schemas.ClassifyResponse(results=results, doubt=model.doubt)


@router.post("/tag")
async def tag(service: Served, teacher: lessons.Taught, request: schemas.TagRequest) -> schemas.TagsResponse:
    """Give every picture of the index the label that fits it best, or all that are likely."""
    _checked(service.model, request)
    service.check_tagging()
    model = (await service.newest()).model
    labels, templates = _checked(model, request)
    options = {"none_of_these": request.none_of_these, "multi_label": request.multi_label}
    classifier = await service.classifier(model, labels, templates=templates, **options)
    try:
        await service.tag(model, classifier)
    except HeadwordError as error:  # labels and templates were found good: it is the index
        raise BusyError(str(error)) from error
    await service.run(teacher.end)
    return await tags(service)


@router.post("/tag/undo")
async def undo_tag(service: Served, teacher: lessons.Taught) -> schemas.TagsResponse:
    """Take the last tagging back: pictures have the tags again that it replaced."""
    try:
        await service.undo_tags()
    except HeadwordError as error:  # the index was changed since
        raise BusyError(str(error)) from error
    await service.run(teacher.end, earlier=True)
    return await tags(service)


@router.post("/tags")
async def correct(service: Served, request: schemas.CorrectRequest) -> schemas.CorrectResponse:
    """Say by hand which tags pictures have, and which not; tagging keeps to it."""
    said = dict.fromkeys(request.add, True) | dict.fromkeys(request.remove, False)
    check_labels(list(said))
    for path in request.pictures:
        await service.file(path)
    await service.correct_tags(dict.fromkeys(request.pictures, said))

    def read(index: Index) -> list[schemas.Picture]:
        return [schemas.Picture.model_validate(index[path]) for path in request.pictures]

    pictures, version = await service.read(read)
    return schemas.CorrectResponse(pictures=pictures, index_version=version)


@router.get("/tags")
async def tags(service: Served) -> schemas.TagsResponse:
    """The tags that pictures have."""
    counts, version = await service.read(Index.tags)
    return schemas.TagsResponse(
        tags=[schemas.TagCount(tag=tag, count=count) for tag, count in counts.items()],
        doubt=service.model.doubt,
        index_version=version,
    )


def _checked(model: DualEncoder, request: schemas.Labelling) -> tuple[list[str], tuple[str, ...]]:
    """Labels and templates that are good; the model's own templates where none are given."""
    templates = model.templates if request.templates is None else request.templates
    return check_labels(tidy_labels(request.labels)), check_templates(templates)


# ---- facts


@router.get("/about")
async def about(service: Served) -> schemas.About:
    """What the index and the model are."""
    return schemas.About(**await service.about())


@router.get("/classes")
async def classes(
    service: Served, find: Annotated[str, FromQuery(max_length=100)] = "", k: K = 100
) -> schemas.ClassesResponse:
    """The classes of the recycled head whose name or synonyms have `find` in them."""
    names = [c.name for c in service.model.classes if find.casefold() in c.synset.casefold()]
    return schemas.ClassesResponse(classes=names[:k], total=len(names))


@router.get("/explain")
async def explain(service: Served, words: schemas.Text, k: K = 5) -> schemas.ExplainResponse:
    """Which classes of the head words are made of; 400 for a model that was trained on captions."""
    model = (await service.newest()).model
    (found,) = await service.run(model.explain, [words], k=k)
    parts = [schemas.WordPart.model_validate(part) for part in found.prototypes]
    return schemas.ExplainResponse(parts=parts, others=found.others)


# ---- the page: a few hand-written files, held in memory


@router.get("/", include_in_schema=False)
@router.get("/static/{name}", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page, and what it is made of."""
    name = request.path_params.get("name", "index.html")
    content = static_files().get(name)
    if content is None:
        raise HTTPException(404, "there is no such file")
    # By name, since what a system thinks of .js differs.
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
    return kept_by_browsers(
        content, request, media_type=kind, cache_control="no-cache"
    )  # asked for each time


@cache
def static_files() -> dict[str, bytes]:
    """The files of the page, by name."""
    folder = files("headword.server") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# ---- mistakes


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, StarletteHTTPException):
        status, line = error.status_code, str(error.detail)
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        status, line = 422, f"{field}: {first['msg']}" if field else str(first["msg"])
    else:
        status = next((number for kind, number in STATUSES.items() if isinstance(error, kind)), 500)
        line = str(error) if status != 500 else "headword failed on this; its terminal says how"
    line = without_folders(" ".join(line.split()), request.app.state.service.folders)
    line = line.encode("utf-8", "backslashreplace").decode()  # an odd name, or what was sent
    said: Any = line
    if request.url.path.startswith(openai_form.router.prefix + "/"):
        said = {"message": line, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": said}, status, getattr(error, "headers", None))
