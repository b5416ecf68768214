"""What answers HTTP: limits first, then the model's replicas. It knows no Ray, so tests call it directly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from ufgvc import __version__
from ufgvc.serving.answers import BODY, REFUSALS, Answer, Health
from ufgvc.serving.limits import Places, RateLimit, check_token
from ufgvc.serving.measures import Measures
from ufgvc.serving.page import compose_page
from ufgvc.serving.refused import Refused
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.uploads import Body, Photograph, check_content_type, parse

# Nothing of the page comes from elsewhere, and it is shown in no other page.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TOP = 5  # candidates
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Replicas(Protocol):
    """What holds the model."""

    async def classify(self, photographs: list[Photograph], pictures: bool, top: int) -> dict[str, Any]:
        """{"model", "predictions"} of `Answer`. Refused for a photograph that cannot be read, or if none answers."""

    async def describe(self) -> dict[str, Any]:
        """{"model", "registry"} of `Health`. Refused (503) if no replica answers."""


@dataclass(frozen=True)
class Gateway:
    """token: digest of the token that a request must bring; None: it needs none."""

    replicas: Replicas
    settings: ServiceSettings
    token: bytes | None
    rate: RateLimit
    places: Places
    measures: Measures = field(default_factory=Measures)

    @classmethod
    def of(cls, replicas: Replicas, settings: ServiceSettings, token: bytes | None) -> Gateway:
        """With the limits of the settings."""
        return cls(replicas, settings, token, RateLimit(settings.rate), Places(settings.queue))

    async def answer(self, request: Request, pictures: bool, top: int) -> dict[str, Any]:
        """The answer to `POST /predict`. Refused, after the rest of the request was read, for one of REFUSALS."""
        body = Body(request, self.settings.max_bytes)
        try:
            with self.measures.answering():
                return await self._answer(request, body, pictures, top)
        except Refused as refused:
            self.measures.refuse(refused.status)
            await self._drain(body)
            raise

    async def _answer(self, request: Request, body: Body, pictures: bool, top: int) -> dict[str, Any]:
        check_token(request.headers.get("authorization"), self.token)
        self.rate.take(request.client.host if request.client else "")
        kind = check_content_type(request)
        with self.places.take(body.announced()):
            photographs = await parse(kind, request.headers, await body.read(), self.settings.max_files)
            answer = await self.replicas.classify(photographs, pictures, top)
        self.measures.photographs.inc(len(photographs))
        return answer

    async def _drain(self, body: Body) -> None:
        try:
            await body.drain()
        except Refused:  # the sender has left
            return


def make_app(gateway: Gateway) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(
        title="ufgvc",
        version=__version__,
        description="Names the plant cultivar on a photograph of one leaf.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    page = compose_page(gateway.settings, gateway.token is not None)

    @app.get("/", response_class=HTMLResponse, summary="A page to drop a photograph on")
    async def show_page() -> Response:
        return HTMLResponse(page, headers=HEADERS | {"Content-Security-Policy": POLICY})

    @app.post(
        "/predict", summary="Names the cultivar", responses={200: {"model": Answer}, **REFUSALS}, openapi_extra=BODY
    )
    async def predict(
        request: Request,
        pictures: bool = Query(False, description="also the picture with its map, and thumbnails of training leaves"),
        top: int = Query(TOP, ge=1, le=1000, description="candidates"),
    ) -> Response:
        return JSONResponse(await gateway.answer(request, pictures, top), headers=HEADERS)

    @app.get("/health", summary="Whether the model answers, and which", responses={200: {"model": Health}})
    async def health() -> Response:
        try:
            return JSONResponse({"status": "ready", **await gateway.replicas.describe()}, headers=HEADERS)
        except Refused as refused:
            return JSONResponse({"status": refused.message}, refused.status, headers=HEADERS)

    @app.get("/metrics", summary="Counters in Prometheus' text format")
    async def metrics(request: Request) -> Response:
        check_token(request.headers.get("authorization"), gateway.token)
        return Response(gateway.measures.to_text(), media_type="text/plain; version=0.0.4", headers=HEADERS)

    _explain_errors(app)
    return app


def _explain_errors(app: FastAPI) -> None:
    """Every error is JSON with one message."""
    from fastapi.exceptions import RequestValidationError

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Refused) -> Response:
        headers = dict(HEADERS)
        if refused.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refused.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(refused.retry_after))
        return JSONResponse({"error": refused.message}, refused.status, headers=headers)

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": f"{request.url.path}: {error.detail}"}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def explain_query(request: Request, error: RequestValidationError) -> Response:
        problems = (f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        return JSONResponse({"error": "; ".join(problems)}, 422)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "an error in the service; its log has the traceback"}, 500)
