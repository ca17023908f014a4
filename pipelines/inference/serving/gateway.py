"""The gateway: HTTP for people and machines. It checks what comes in and counts what goes out; scorers do the work."""

# Ray sends the endpoints to the replica as they are when their class is made: annotations must be objects, and what
# they use must stand before them.
import asyncio
import base64
import io
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

from fastapi import HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from clflow.config.schema import Serving
from clflow.data.images import pixel_count
from clflow.errors import DataError
from clflow.regions import Region
from pipelines.inference.serving.messages import Answer, Asked, Refusal, State
from pipelines.inference.serving.metrics import Metrics

_PATIENCE = 3.0  # seconds for a scorer to say what it holds

# Its page at /docs brings its own scripts: FastAPI's loads them from another host.
app = FastAPIOffline(
    redoc_url=None,
    title="clflow",
    description="Visual anomaly detection: an image in, its score, its verdict and where it is anomalous out.",
)


class Index(BaseModel):
    """What this is, and where to go on."""

    service: str
    dataset: str
    categories: tuple[str, ...]
    predict: str
    docs: str


class Prediction(BaseModel):
    """The judgement of an image at the threshold that was applied. What was not asked for is null: ``heat_map``, a PNG
    in base64; ``regions``, the highest peak first; and ``raw_map``, the score map as a NumPy file in base64."""

    dataset: str
    category: str
    model: str
    version: int
    score: float
    threshold: float
    anomalous: bool
    pixel_threshold: float
    heat_map: str | None
    regions: tuple[Region, ...] | None
    raw_map: str | None


class Served(BaseModel):
    """The model of a category; ``problem`` says why it is not the registry's champion, if it is not."""

    model: str
    version: int | None
    loaded_since: datetime | None
    problem: str | None


class Status(BaseModel):
    """That the endpoint is well."""

    status: str


class Problem(BaseModel):
    """What is wrong, and what to do."""

    detail: str


def _problems(sentences: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": sentence} for status, sentence in sentences.items()}


_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}
_BODY = {"content": {"image/*": {"schema": _FILE}, "multipart/form-data": {"schema": _FORM}}, "required": True}
_REFUSALS = _problems(
    {
        404: "The category is not served.",
        413: "The body or the image is too large.",
        415: "The body is no image of a known format, or a form without exactly one file.",
        422: "The image is damaged, or a parameter is wrong.",
        503: "Not ready yet, or not for a moment.",
    }
)
_NOT_READY = _problems({503: "Not ready yet, or not for a moment."})


def _text(content: bytes | None) -> str | None:
    """A file in base64."""
    return None if content is None else base64.b64encode(content).decode()


@app.exception_handler(RequestValidationError)
async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]} is not valid: {first['msg']}."}, 422)


@serve.ingress(app)
class Gateway:
    """The only replica of its kind, so that its counters are those of the endpoint.

    Args:
        scorer: the scorers.
        dataset, categories: what they hold.
        serving: the limits of a request.
    """

    def __init__(self, scorer: DeploymentHandle, dataset: str, categories: tuple[str, ...], serving: Serving):
        Image.MAX_IMAGE_PIXELS = None  # the limit of the parameters counts, not Pillow's
        self._scorer = scorer
        self._dataset, self._categories, self._limits = dataset, categories, serving
        self._was_ready = False
        self._metrics = Metrics(dataset)

    @app.get("/")
    async def index(self) -> Index:
        """What is served."""
        return Index(
            service="clflow",
            dataset=self._dataset,
            categories=self._categories,
            predict="POST /predict/{category}",
            docs="/docs",
        )

    @app.post("/predict/{category}", openapi_extra={"requestBody": _BODY}, responses=_REFUSALS)
    async def predict(self, category: str, request: Request, asked: Annotated[Asked, Query()]) -> Prediction:
        """Score an image: PNG, JPEG, BMP, TIFF or WebP as the raw body, or as the only file of a form."""
        known = category in self._categories
        with self._metrics.request(category if known else "unknown"):
            if not known:
                raise HTTPException(404, f"{category!r} is not served; there are {', '.join(self._categories)}.")
            await self._require_ready()
            image = await self._image(request)
            self._check(image)
            answer = await self._answer(category, image, asked)
        self._metrics.answer(category, answer)
        return Prediction(
            dataset=self._dataset,
            category=category,
            model=answer.model,
            version=answer.version,
            score=answer.score,
            threshold=answer.threshold,
            anomalous=answer.anomalous,
            pixel_threshold=answer.pixel_threshold,
            heat_map=_text(answer.added.heat_map),
            regions=answer.added.regions,
            raw_map=_text(answer.added.raw_map),
        )

    @app.get("/models", responses=_NOT_READY)
    async def models(self) -> dict[str, Served]:
        """What is served, by category; with several replicas, one of them tells."""
        return {
            category: Served(model=state.model, version=state.version, loaded_since=state.since, problem=state.problem)
            for category, state in (await self._states()).items()
        }

    @app.get("/health")
    async def health(self) -> Status:
        """Whether the endpoint lives."""
        return Status(status="alive")

    @app.get("/ready", responses=_NOT_READY)
    async def ready(self) -> Status:
        """Whether every category has a champion."""
        missing = [
            f"{category} ({state.problem or 'loading'})"
            for category, state in (await self._states()).items()
            if state.version is None
        ]
        if missing:
            raise HTTPException(503, f"not loaded yet: {', '.join(missing)}.")
        self._was_ready = True
        return Status(status="ready")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(self) -> Response:
        """For Prometheus."""
        try:
            states = await self._states()
        except HTTPException:  # what was counted is worth reading all the more
            states = {}
        return Response(self._metrics.text(states), media_type=CONTENT_TYPE_LATEST)

    async def _states(self) -> dict[str, State]:
        try:
            return await asyncio.wait_for(self._scorer.state.remote(), _PATIENCE)
        except (TimeoutError, RayActorError, RayServeException):
            raise HTTPException(503, "no scorer answers; it is starting, or under heavy load.") from None

    async def _require_ready(self) -> None:
        """Refuse while the endpoint starts; a scorer that is replaced later is waited for."""
        if not self._was_ready:
            await self.ready()

    async def _body(self, request: Request) -> bytes:
        limit = int(self._limits.body_mb * 1e6)
        too_large = HTTPException(413, f"the body is larger than {self._limits.body_mb:g} MB (serving.body_mb).")
        if int(request.headers.get("content-length", 0)) > limit:
            raise too_large
        body = bytearray()
        async for part in request.stream():  # a chunked body does not say how long it will be
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)

    async def _image(self, request: Request) -> bytes:
        """The image file of a request."""
        body = await self._body(request)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return body

        async def parts() -> AsyncGenerator[bytes]:
            yield body

        try:
            form = await MultiPartParser(request.headers, parts()).parse()
        except MultiPartException as error:
            raise HTTPException(415, f"the form cannot be read ({error.message}); send it again.") from None
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise HTTPException(415, f"the form holds {len(files)} files; send one image, as curl -F image=@part.png.")
        return await files[0].read()

    def _check(self, body: bytes) -> None:
        """Look at an image's header: decoding it could fill the memory."""
        try:
            pixels = pixel_count(io.BytesIO(body))
        except DataError as error:
            raise HTTPException(415, str(error)) from None
        if pixels > self._limits.megapixels * 1e6:
            raise HTTPException(
                413,
                f"the image has {pixels / 1e6:.1f} megapixels, more than {self._limits.megapixels:g} "
                "(serving.megapixels).",
            )

    async def _answer(self, category: str, body: bytes, asked: Asked) -> Answer:
        try:
            answer: Answer | Refusal = await self._scorer.score.remote(category, body, asked)
        except (RayActorError, RayServeException):
            raise HTTPException(503, "the scorer was lost while it worked on this image; try again.") from None
        if isinstance(answer, Refusal):
            raise HTTPException(answer.status, answer.detail)
        return answer
