"""The fields of a client's JSON: a wrong type is refused with its place, as `messages[2].content[0].type`, and so is what
a provider does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from adapters.base import leaves_out
from adapters.envelope import seal
from adapters.errors import BadRequest, MalformedJson
from adapters.types import Target

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

_PLACE = re.compile(r"^(?P<text>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>.*)`")


def read_fields(envelope: Mapping[str, Raw], decoder: msgspec.json.Decoder[S]) -> S:
    """The fields that the decoder's struct has. Raises `BadRequest` with `param` naming the place."""
    known = _fields_of(decoder)
    return _decode(seal({name: raw for name, raw in envelope.items() if name in known}), decoder, "")


def other_fields(envelope: Mapping[str, Raw], decoder: msgspec.json.Decoder[S]) -> dict[str, Raw]:
    """The fields that it does not have."""
    known = _fields_of(decoder)
    return {name: raw for name, raw in envelope.items() if name not in known}


@cache
def _fields_of(decoder: msgspec.json.Decoder[S]) -> frozenset[str]:
    return frozenset(decoder.type.__struct_fields__)


def read_value(raw: Raw, decoder: msgspec.json.Decoder[T], name: str) -> T:
    """The value of the field `name`. Raises `BadRequest` with `param` naming the place."""
    return _decode(raw, decoder, name)


def allowed_fields(request: Struct, target: Target, *names: str) -> dict[str, Any]:
    """Fields that the provider has no word for: refused (`Unsupported`), dropped, or as they are where the operator
    allows them.
    """
    given = {name: getattr(request, name) for name in names}
    return {
        name: value for name, value in given.items() if value is not None and not leaves_out(target, name)
    }


def _decode(data: bytes | Raw, decoder: msgspec.json.Decoder[T], name: str) -> T:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise bad_value(error, name) from None
    except msgspec.DecodeError as error:
        raise MalformedJson(f"Invalid JSON payload: {error}", param="request_body") from None
    except RecursionError:
        raise MalformedJson("Invalid JSON payload: nested too deeply", param="request_body") from None


def bad_value(error: msgspec.ValidationError, name: str) -> BadRequest:
    """A complaint of msgspec (``Expected `str`, got `int` - at `$.voice.id` ``) as an error with its place."""
    found = _PLACE.match(str(error))
    text, path = (found["text"], found["path"] or "") if found else (str(error), "")
    missing = _MISSING.search(text)
    if missing:
        param = ".".join(each for each in (name, path, missing["field"]) if each)
        return BadRequest(f"Missing required parameter: '{param}'.", param=param)
    param = name + path if path.startswith("[") else ".".join(each for each in (name, path) if each)
    return BadRequest(f"Invalid value ({text.replace('`', '')}) for '{param}'.", param=param or None)
