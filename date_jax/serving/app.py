"""The routes of the server: JSON in, JSON out, and a page for people.

    POST /ground      {"image": base64, "queries": ["red mug"]}       boxes and scores
    POST /instances   {"image": base64, "title": "red mug and bag"}   the products of a picture
    POST /search      {"words": "red mug", "where": "price < 20"}     offers of an index
    GET  /picture/ID  a JPEG of an offer's picture
    GET  /            the page
    GET  /about       what this run answers
    GET  /healthz /readyz /metrics /docs /openapi.json

Every error is a status and `{"error": one sentence}`.
"""

import asyncio
import base64
import binascii
import contextlib
import io
import itertools
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from date_jax.api import Run
from date_jax.data.files.preprocess import UnreadablePictureError, header, upright_image
from date_jax.data.files.user_pictures import UserPicture, user_picture
from date_jax.errors import UserError
from date_jax.index.exact import Index
from date_jax.seek import BoxedHit, Line, seek
from date_jax.serving.batching import Batcher, BusyError
from date_jax.serving.limits import Gate, Limits
from date_jax.serving.metrics import Metrics
from date_jax.serving.shared import SharedIndex, SharedRun, shared_index, shared_run

PAGE = Path(__file__).parent / "page"
_SIDE = 640  # pixels of an offer's picture, at most
_COUNT = 12  # offers of a search
_SENTENCE = 190  # letters of an error, at most
_LIMITS = Limits()
Text = Annotated[str, Field(max_length=_LIMITS.letters)]
Picture = Annotated[str, Field(description="a JPEG, PNG or WEBP file in base64", min_length=1)]
Box = tuple[float, float, float, float]


class _Question(BaseModel):
    """A request's body: an unknown field is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid")


class GroundQuestion(_Question):
    """What shall be found in a picture."""

    image: Picture
    queries: Annotated[list[Text], Field(min_length=1, max_length=_LIMITS.rows)]


class GroundAnswer(BaseModel):
    """The box of one query, in pixels of the picture, and how likely it is right."""

    query: str
    box: Box
    score: float | None


class GroundAnswers(BaseModel):
    """The boxes of all queries, in their order."""

    width: int
    height: int
    answers: list[GroundAnswer]


class InstancesQuestion(_Question):
    """A picture of several products, and its title."""

    image: Picture
    title: Text = ""


class InstanceAnswer(BaseModel):
    """One product of a picture; its vector has length 1."""

    box: Box
    score: float
    embedding: list[float]


class InstanceAnswers(BaseModel):
    """The products of a picture, best first."""

    width: int
    height: int
    answers: list[InstanceAnswer]


class SearchQuestion(_Question):
    """What shall be found in the index: words, a picture, both, or what is like an offer.

    With `old` and `new` the direction between these words is added: style transfer.
    """

    words: Text = ""
    image: Picture | None = None
    id: Text = Field("", description="of an offer")
    old: Text = ""
    new: Text = ""
    where: Annotated[str, Field(max_length=_LIMITS.letters)] = Field(
        "", description="a filter: category = 'mug' and price < 20"
    )
    count: Annotated[int, Field(ge=1, le=_LIMITS.rows)] = _COUNT


class SearchAnswer(BaseModel):
    """An offer; the box is where the words' product is in its picture of `width` x `height`."""

    id: str
    score: float
    text: str
    fields: dict[str, Any]
    box: Box | None
    box_score: float | None
    width: int | None
    height: int | None


class SearchGroup(BaseModel):
    """The offers for one product of the question, whose place in its picture is `box`."""

    title: str
    box: Box | None
    score: float | None
    answers: list[SearchAnswer]


class SearchAnswers(BaseModel):
    """The offers, by product of the question."""

    groups: list[SearchGroup]


def create_app(
    run: Run, *, index: Index | None = None, token: str = "", limits: Limits = _LIMITS
) -> FastAPI:
    """The application that answers for a run.

    Args:
        run: of `date_jax.open`.
        index: of `open_index`, to be searched; None for none.
        token: that requests have to send; "" for none.
        limits: what a request may cost.
    """
    metrics = Metrics()
    # The network is asked by one thread at a time.
    lock = threading.Lock()
    batchers: dict[str, Batcher] = {}

    def batched(question: str, answers: Callable[..., Sequence[Any]]) -> Batcher:
        """A batcher whose questions are the arguments of one of the run's methods, a row each."""

        def batch_answers(questions: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
            metrics.batch_rows.labels(question).observe(len(questions))
            columns = [list(column) for column in zip(*questions, strict=True)]
            with lock:
                return answers(*columns)

        return Batcher(batch_answers, most=limits.rows, waiting=limits.waiting)

    def inner_batcher(question: str, answers: Callable[..., Sequence[Any]]) -> Batcher:
        """A batcher of what searches ask for; their number is bounded, so that it need not be."""

        def batch_answers(rows: Sequence[Any]) -> Sequence[Any]:
            metrics.batch_rows.labels(f"search: {question}").observe(len(rows))
            with lock:
                return answers(rows)

        inner.append(Batcher(batch_answers, most=limits.rows, waiting=0))
        return inner[-1]

    inner: list[Batcher] = []

    is_closing = threading.Event()

    def warm_up() -> None:
        # One program at a time, so that questions come in between.
        programs = itertools.chain(run.warm_programs(), _warm_searches(index))
        while not is_closing.is_set():
            with lock:
                if next(programs, None) is None:
                    metrics.ready.set(1)
                    app.state.is_ready = True
                    return

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for question in ("ground", "instances"):
            if question in run.questions:
                batchers[question] = batched(question, getattr(run, question))
        if index is not None:
            app.state.search = shared_run(run, inner_batcher), shared_index(index, inner_batcher)
        warm = threading.Thread(target=warm_up, daemon=True)
        warm.start()
        yield
        # What waits is answered before the process ends.
        app.state.is_ready = False
        for batcher in (*batchers.values(), *inner):
            await run_in_threadpool(batcher.close)
        # A process that ends while a thread compiles aborts.
        is_closing.set()
        await run_in_threadpool(warm.join)

    app = FastAPI(title="date_jax", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.is_ready = False
    _add_errors(app)

    @app.middleware("http")
    async def measure(request: Request, answer: Callable[..., Any]) -> Response:
        """Counts a request and its time, by route: a path that is none has no name of its own."""
        start = time.perf_counter()
        response = await answer(request)
        route = getattr(request.scope.get("route"), "path", "none")
        metrics.requests.labels(route, response.status_code).inc()
        metrics.seconds.labels(route).observe(time.perf_counter() - start)
        return response

    app.add_middleware(Gate, token=token, limits=limits)

    async def picture_of(image: str) -> UserPicture:
        """The picture of a request, as the network sees it."""
        data = run.config.data.copy_and_resolve_references()
        with data.unlocked():
            data.max_pixels = min(limits.pixels, data.max_pixels)
        try:
            file = base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            raise HTTPException(422, "image: is no base64") from None
        try:
            return await run_in_threadpool(user_picture, file, data)
        except UnreadablePictureError as error:
            raise HTTPException(422, f"image: {error}") from None

    async def answers(question: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to some rows of a question, however they are batched."""
        futures = [asyncio.wrap_future(batchers[question].submit(row)) for row in rows]
        metrics.waiting.labels(question).set(batchers[question].waiting())
        return await asyncio.gather(*futures)

    if "ground" in run.questions:

        @app.post("/ground")
        async def ground(question: GroundQuestion) -> GroundAnswers:
            """Finds what words ask for in a picture: a box and a score for each query."""
            picture = await picture_of(question.image)
            rows = [(picture, query) for query in question.queries]
            boxes = [
                GroundAnswer(query=query, box=answer.box_xyxy_pixels, score=answer.score)
                for query, answer in zip(
                    question.queries, await answers("ground", rows), strict=True
                )
            ]
            return GroundAnswers(width=picture.size[0], height=picture.size[1], answers=boxes)

    if "instances" in run.questions:

        @app.post("/instances")
        async def instances(question: InstancesQuestion) -> InstanceAnswers:
            """Finds every product of a picture, with its vector."""
            picture = await picture_of(question.image)
            (instances_of_picture,) = await answers("instances", [(picture, question.title)])
            products = [
                InstanceAnswer(
                    box=instance.box_xyxy_pixels,
                    score=instance.score,
                    embedding=instance.embedding.tolist(),
                )
                for instance in instances_of_picture
            ]
            return InstanceAnswers(width=picture.size[0], height=picture.size[1], answers=products)

    if index is not None:
        _add_search(app, index, limits, picture_of)
    _add_state(app, run, metrics, limits, has_index=index is not None)
    _add_page(app)
    return app


def _add_search(
    app: FastAPI,
    index: Index,
    limits: Limits,
    picture_of: Callable[[str], Awaitable[UserPicture]],
) -> None:
    """The routes of an index."""
    app.state.searches = 0

    @app.post("/search")
    async def search(question: SearchQuestion) -> SearchAnswers:
        """Finds offers by words, a picture, both or another offer; a group for each product."""
        if app.state.searches >= limits.waiting:
            raise BusyError(f"{limits.waiting} searches wait; ask again in a second")
        app.state.searches += 1
        try:
            if question.id and question.id not in index:
                raise HTTPException(422, "id: no offer of the index has it")
            picture = None if question.image is None else await picture_of(question.image)
            groups = await run_in_threadpool(_groups, app.state.search, question, picture, limits)
        finally:
            app.state.searches -= 1
        return SearchAnswers(groups=groups)

    @app.get("/picture/{offer_id:path}", response_class=Response)
    def picture(offer_id: str) -> Response:
        """The picture of an offer as a viewer shows it, as a JPEG of 640 pixels at most."""
        if offer_id not in index:
            raise HTTPException(404, "no offer of the index has that id")
        path = index.picture(index.hit(index.row(offer_id), 1.0))
        if path is None:
            raise HTTPException(404, "this offer has no picture")
        try:
            image = upright_image(path, longest=_SIDE, max_pixels=limits.pixels)
        except UnreadablePictureError:
            raise HTTPException(404, "the picture of this offer cannot be read any more") from None
        file = io.BytesIO()
        image.save(file, "JPEG", quality=88)
        return Response(file.getvalue(), media_type="image/jpeg")


def _warm_searches(index: Index | None) -> Iterator[str]:
    """Compiles the search of a batch of one size at each step, and asks a first filter."""
    if index is None:
        return
    for size in (1, 2, 4, 8, 16, 32, 64):
        index.search(np.repeat(index.vectors[:1], size, axis=0), _COUNT)
        yield str(size)
    index.search(index.vectors[:1], _COUNT, "1 = 1")
    yield "where"


def _groups(
    asked: tuple[SharedRun, SharedIndex],
    question: SearchQuestion,
    picture: UserPicture | None,
    limits: Limits,
) -> list[SearchGroup]:
    """The answers of a run and an index to a search."""
    run, index = asked
    lines: list[Line] = seek(
        run,
        index,
        question.words,
        picture,
        offer_id=question.id,
        old=question.old,
        new=question.new,
        count=question.count,
        where=question.where,
    )

    def answer(hit: BoxedHit) -> SearchAnswer:
        fields = dict(hit.fields)
        text = fields.pop("text") or ""
        size = None
        if hit.box_xyxy_pixels is not None:
            with contextlib.suppress(UnreadablePictureError):
                path = index.pictures / fields["path"]
                size = header(path, max_pixels=limits.pixels)
        return SearchAnswer(
            id=hit.id,
            score=hit.score,
            text=text,
            fields=fields,
            box=None if size is None else hit.box_xyxy_pixels,
            box_score=None if size is None else hit.box_score,
            width=None if size is None else size.width,
            height=None if size is None else size.height,
        )

    groups = []
    for number, line in enumerate(lines, 1):
        title = "" if line.box_xyxy_pixels is None else f"product {number}"
        groups.append(
            SearchGroup(
                title=title,
                box=line.box_xyxy_pixels,
                score=line.score,
                answers=[answer(hit) for hit in line.offers],
            )
        )
    return groups


def _add_state(
    app: FastAPI, run: Run, metrics: Metrics, limits: Limits, *, has_index: bool
) -> None:
    """The routes that tell of the server itself."""
    questions = [*run.questions]
    if has_index:
        # Words can be taken from and added to a product's vector where both lie in one space.
        has_style = {"embed_products", "embed_texts"} <= {*run.questions}
        questions += ["search", *(["style"] if has_style else [])]

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Answers as long as the process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz(response: Response) -> dict[str, Any]:
        """Answers 200 once all programs are compiled, 503 before, and names the device."""
        is_ready = app.state.is_ready
        response.status_code = 200 if is_ready else 503
        devices = [device.device_kind for device in run.mesh.devices.flat]
        return {"ready": is_ready, "platform": jax.default_backend(), "devices": devices}

    @app.get("/about")
    def about() -> dict[str, Any]:
        """What this run is and answers."""
        return {
            "task": run.config.task,
            "step": run.step,
            "network": run.fingerprint,
            "questions": questions,
            "has_scores": run.scores is not None,
            "limits": limits._asdict(),
        }

    @app.get("/metrics")
    def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    """The page and what belongs to it: three files and the page of the API, all of the package."""

    def add(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        def file() -> FileResponse:
            return FileResponse(PAGE / name)

    add("/", "index.html")
    add("/docs", "docs.html")
    for name in ("app.js", "docs.js", "style.css"):
        add(f"/page/{name}", name)


def _add_errors(app: FastAPI) -> None:
    """Turns every kind of error into a status and one sentence."""

    def answer(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers=headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The first mistake only: where it is, and what is wrong there; never what was sent.
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(422, f"{place or 'body'}: {first['msg']}")

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return answer(503, str(error), {"retry-after": "1"})

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> JSONResponse:
        return answer(422, str(error).splitlines()[0][:_SENTENCE])

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        print(f"{request.method} {request.url.path}: {error!r}", file=sys.stderr)
        return answer(500, "the server failed; its log says why")
