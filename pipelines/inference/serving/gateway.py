"""The gateway: HTTP for people and machines. It checks what comes in and counts what goes out; scorers do the work."""

# Annotations must be objects here: Ray sends the endpoints to the replica, where FastAPI could not look up their names.
import asyncio
import base64
import io
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from clflow.config.schema import Serving
from clflow.data.images import pixel_count
from clflow.errors import DataError
from pipelines.inference.serving.messages import Answer, Refusal, State
from pipelines.inference.serving.metrics import Metrics

_PATIENCE = 3.0  # seconds for a scorer to say what it holds

app = FastAPI(
    title="clflow", description="Visual anomaly detection: an image in, its score, its verdict and its heat map out."
)


class Prediction(BaseModel):
    """The judgement of an image at the threshold that was applied; ``heat_map`` is a PNG in base64, null if it was not
    asked for."""

    dataset: str
    category: str
    model: str
    version: int
    score: float
    threshold: float
    anomalous: bool
    heat_map: str | None


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


_BODY = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "required": True}
_REFUSALS = _problems(
    {
        404: "The category is not served.",
        413: "The body or the image is too large.",
        415: "The body is no image of a known format.",
        422: "The image is damaged, or a parameter is wrong.",
        503: "Not ready yet, or not for a moment.",
    }
)
_NOT_READY = _problems({503: "Not ready yet, or not for a moment."})


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

    @app.post("/predict/{category}", openapi_extra={"requestBody": _BODY}, responses=_REFUSALS)
    async def predict(
        self,
        category: str,
        request: Request,
        heat_map: Annotated[bool, Query(alias="map")] = False,
        threshold: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        false_alarm_rate: Annotated[float | None, Query(gt=0, lt=1)] = None,
    ) -> Prediction:
        """Score an image: PNG, JPEG, BMP, TIFF or WebP as the raw body. ``map=true`` adds its heat map, and
        ``threshold=<score>`` judges it at this threshold of the image score instead of the stored one, as does
        ``false_alarm_rate=<rate>`` at the one that keeps this rate on normal images."""
        known = category in self._categories
        with self._metrics.request(category if known else "unknown"):
            if not known:
                raise HTTPException(404, f"{category!r} is not served; there are {', '.join(self._categories)}.")
            await self._require_ready()
            body = await self._body(request)
            self._check(body)
            answer = await self._answer(category, body, heat_map, threshold, false_alarm_rate)
        self._metrics.answer(category, answer)
        return Prediction(
            dataset=self._dataset,
            category=category,
            model=answer.model,
            version=answer.version,
            score=answer.score,
            threshold=answer.threshold,
            anomalous=answer.anomalous,
            heat_map=None if answer.heat_map is None else base64.b64encode(answer.heat_map).decode(),
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

    async def _answer(self, category: str, body: bytes, heat_map: bool, *limit: float | None) -> Answer:
        try:
            answer: Answer | Refusal = await self._scorer.score.remote(category, body, heat_map, *limit)
        except (RayActorError, RayServeException):
            raise HTTPException(503, "the scorer was lost while it worked on this image; try again.") from None
        if isinstance(answer, Refusal):
            raise HTTPException(answer.status, answer.detail)
        return answer
