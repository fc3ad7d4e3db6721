"""Requests of viewers, checked before anything is done with them."""

import asyncio
import json
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from edge.live.view.pictures import DEFAULT_SIZE, SIZES

MAX_BODY_BYTES, BODY_S = 1024, 10.0
"""Size of a body, and longest wait for it."""


class PictureRequest(NamedTuple):
    """A request for the next picture of a source, and thereby the acknowledgement of the one before."""

    source_index: int
    size: int
    attention: bool


def parse_picture_request(text: str, sources: int) -> PictureRequest:
    """Parse a message such as `{"next": 0, "size": 640, "attention": true}`.

    Raises:
        ValueError: it is anything else.
    """
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict) or not fields.keys() <= {"next", "size", "attention"}:
        raise ValueError('not an object with "next", "size" and "attention"')
    source_index, size, attention = fields.get("next"), fields.get("size", DEFAULT_SIZE), fields.get("attention", False)
    if type(source_index) is not int or not 0 <= source_index < sources:
        raise ValueError('"next" is not the index of a source')
    if type(size) is not int or size not in SIZES:
        raise ValueError(f'"size" is not in {SIZES}')
    if type(attention) is not bool:
        raise ValueError('"attention" is neither true nor false')
    return PictureRequest(source_index, size, attention)


def query_picture_request(request: Request, sources: int) -> PictureRequest:
    """Parse the query `source=INDEX&size=PIXELS`; by default the first source.

    Raises:
        HTTPException: it is anything else.
    """
    query = dict(request.query_params)
    try:
        source_index, size = int(query.pop("source", 0)), int(query.pop("size", DEFAULT_SIZE))
    except ValueError:
        source_index = size = -1
    if query or size not in SIZES or source_index < 0:
        raise HTTPException(400, f"give source=INDEX and size=PIXELS, which is one of {SIZES}")
    if source_index >= sources:
        raise HTTPException(404, f"there is no source {source_index}; {sources} gave a frame or a status so far")
    return PictureRequest(source_index, size, attention=False)


async def read_body(request: Request) -> bytes:
    """Return a small body.

    Raises:
        HTTPException: it is larger than `MAX_BODY_BYTES`, or does not come in time.
    """
    try:
        return await asyncio.wait_for(_read_body(request), BODY_S)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the body did not come in {BODY_S:.0f} s") from None


async def _read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    return body


async def read_index(request: Request) -> int:
    """Return the index in a body such as `{"index": 2}`.

    Raises:
        HTTPException: the body is anything else.
    """
    fields: Any
    try:
        fields = json.loads(await read_body(request))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or fields.keys() != {"index"} or type(fields["index"]) is not int:
        raise HTTPException(400, 'send {"index": INDEX}, the index of a candidate')
    return fields["index"]
