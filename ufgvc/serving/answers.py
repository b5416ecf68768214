"""The answers of the service, for its OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ufgvc.serving.uploads import FORM, JSON


class Candidate(BaseModel):
    """A cultivar and its probability."""

    cultivar: str
    probability: float = Field(ge=0, le=1)


class Neighbour(BaseModel):
    """A training leaf."""

    cultivar: str
    distance: float = Field(ge=0, le=2, description="1 - cos of the embeddings")
    image_id: str
    thumbnail: str | None = Field(None, description="data URI, with `pictures=true`")


class Prediction(BaseModel):
    """What the model says of one photograph: the keys of predictions.json, and pictures where they were asked for."""

    path: str = Field(description="name of the file that was sent")
    cultivar: str
    probability: float = Field(ge=0, le=1, description="of the likeliest cultivar; calibrated if the model is")
    known: bool
    ood_score: float | None
    why_unknown: str | None
    candidates: list[Candidate]
    nearest: list[Neighbour] = Field(description="training leaves, the nearest first")
    picture: str | None = Field(
        None, description="data URI of the photograph as the network sees it and, to its right, the map over it"
    )
    width: int | None = Field(None, description="of one photograph in the picture, in pixels")
    height: int | None = None
    has_map: bool | None = None


class ServedModel(BaseModel):
    """The model that answered."""

    model: str
    version: str = Field(description="in the registry; empty for a model that is not registered")
    method: str
    cultivars: int
    calibrated: bool
    unknown: str = Field(description="the name of unknown leaves")


class Answer(BaseModel):
    """The answer of `POST /predict`."""

    model: ServedModel
    predictions: list[Prediction] = Field(description="in the order of the photographs")


class Health(BaseModel):
    """The answer of `GET /health`."""

    status: str = Field(description="`ready`, or what is wrong")
    model: ServedModel | None = None
    registry: str = Field("", description="why the last look at the registry failed; empty if it did not")


class Problem(BaseModel):
    """The answer to a request that was refused."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        401: "the token is missing or wrong",
        408: "the request did not arrive in time",
        413: "the request is too large",
        415: "neither form nor JSON, or a file that is no photograph",
        422: "no photograph, too many, or one that cannot be read",
        429: "too many requests; the header Retry-After says when to try again",
        503: "no process of the model can answer now",
    }.items()
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {
                                "oneOf": [
                                    {"type": "string", "format": "byte"},
                                    {
                                        "type": "object",
                                        "required": ["image"],
                                        "properties": {
                                            "name": {"type": "string"},
                                            "image": {"type": "string", "format": "byte"},
                                        },
                                    },
                                ]
                            },
                        }
                    },
                }
            },
        },
    }
}
