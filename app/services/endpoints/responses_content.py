"""Translates the contents of Responses input items into contents of chat messages."""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import unquote_to_bytes

from app.errors import BadRequest
from app.services.endpoints.endpoint import make_parameter_error

_TEXT_TYPES = frozenset({"input_text", "output_text", "text"})

# Levels of image detail; OpenAI's newest models know more.
_DETAILS = frozenset({"auto", "low", "high"})


def make_content(content: Any, place: str, dropped: dict[str, None]) -> Any:
    """Returns the content of a message: its text, or the list of its parts if there is more than text.

    Args:
        content: a string, or a list of parts.
        place: its path in the request, for error messages.
        dropped: gets the names of the removed fields.

    Raises:
        BadRequest: a part is malformed, or its type has no counterpart in chat.
    """
    if isinstance(content, str):
        return content
    parts = [
        _make_part(part, f"{place}[{position}]", dropped)
        for position, part in enumerate(_validate_list(content, place))
    ]
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def read_texts(content: Any, place: str) -> list[str]:
    """Returns the texts of a model message: a single one, because its parts form one text; none if it is empty.

    Raises:
        BadRequest: it has a part that is not text.
    """
    if isinstance(content, str):
        return [content] if content else []
    texts = []
    for position, part in enumerate(_validate_list(content, place)):
        text = _read_text(part)
        if text is None:
            raise make_parameter_error(f"{place}[{position}]", "be text, because it is of the role `assistant`")
        texts.append(text)
    text = "".join(texts)
    return [text] if text else []


def read_output(output: Any, place: str, dropped: dict[str, None]) -> tuple[str, list[dict[str, Any]]]:
    """Returns the text of a tool's output, and its other parts, which a tool message of chat cannot have.

    Raises:
        BadRequest: a part is malformed, or its type has no counterpart in chat.
    """
    content = make_content(output, place, dropped)
    if isinstance(content, str):
        return content, []
    texts = [part["text"] for part in content if part["type"] == "text"]
    return "\n\n".join(texts), [part for part in content if part["type"] != "text"]


def read_reasoning(item: dict[str, Any]) -> str:
    """Returns the text of a reasoning item: the reasoning itself, or else its summary."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if text := "\n\n".join(text for text in texts if isinstance(text, str) and text):
            return text
    return ""


def _validate_list(content: Any, place: str) -> list[Any]:
    if not isinstance(content, list):
        raise make_parameter_error(place, "be a string or a list of parts", is_missing=content is None)
    return content


def _read_text(part: Any) -> str | None:
    if not isinstance(part, dict):
        return None
    kind = part.get("type")
    text = part.get("text") if isinstance(kind, str) and kind in _TEXT_TYPES else None
    if kind == "refusal":
        text = part.get("refusal")
    return text if isinstance(text, str) else None


def _make_part(part: Any, place: str, dropped: dict[str, None]) -> dict[str, Any]:
    text = _read_text(part)
    if text is not None:
        return {"type": "text", "text": text}
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        return _make_image(part, place, dropped)
    if kind == "input_file":
        return {"type": "text", "text": _read_file(part, place)}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise BadRequest(
        f"`{place}` must be an object whose `type` is input_text, input_image, input_audio or input_file, with its "
        "content.",
        param=place,
        code="invalid_parameter",
    )


def _make_image(part: dict[str, Any], place: str, dropped: dict[str, None]) -> dict[str, Any]:
    url, detail = part.get("image_url"), part.get("detail")
    if not isinstance(url, str) or not url:
        raise BadRequest(
            f"`{place}` must have the image in `image_url`, as a URL or a data URL; the gateway keeps no files.",
            param=f"{place}.image_url",
            code="invalid_parameter",
        )
    image = {"url": url}
    if isinstance(detail, str) and detail in _DETAILS:
        image["detail"] = detail
    elif detail is not None:
        dropped["input[].content[].detail"] = None
    return {"type": "image_url", "image_url": image}


def _read_file(part: dict[str, Any], place: str) -> str:
    """Returns the text of a file that is sent as a data URL of text.

    Raises:
        BadRequest: it is sent in another way, or is not text.
    """
    url = part.get("file_data")
    text = _decode_text(url) if isinstance(url, str) else None
    if text is None:
        raise BadRequest(
            f"`{place}` must have the file in `file_data`, as a data URL of the type text/*. Send the text of other "
            "files as input_text, and their pages as input_image.",
            param=f"{place}.file_data",
            code="invalid_parameter",
        )
    name = part.get("filename")
    return f"{name}:\n\n{text}" if isinstance(name, str) and name else text


def _decode_text(url: str) -> str | None:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:text/"):
        return None
    try:
        is_base64 = head.lower().endswith(";base64")
        return (base64.b64decode(data, validate=True) if is_base64 else unquote_to_bytes(data)).decode()
    except (binascii.Error, ValueError):
        return None
