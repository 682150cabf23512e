"""Forms with files, `multipart/form-data`, read and written.

https://www.rfc-editor.org/rfc/rfc7578, and https://html.spec.whatwg.org/multipage/form-control-infrastructure.html
(section "Multipart form data") for how names are escaped. The reader is strict: a form that two readers could
understand in two ways is refused. Its time grows with the length of the body alone, and files are cut out of it once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from msgspec import Struct

from adapters.errors import BadRequest
from adapters.types import Call, File

MOST_PARTS = 1_000
LONGEST_HEADERS = 16_384
"""Bytes of the headers of one part."""

_BOUNDARY = re.compile(r"[ -~]{0,69}[!-~]")
_PARAMETER = re.compile(r';[ \t]*([^\s;="]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))[ \t]*')
_ESCAPED = re.compile(r'\\(["\\])')
_BROWSERS = {"%22": '"', "%0D": "\r", "%0A": "\n"}
_BROWSER = re.compile("|".join(_BROWSERS), re.IGNORECASE)
_ENDS_LINE = re.compile(rb"(--)?[ \t]*+(?:\r\n|\Z)")
_MEDIA_TYPE = re.compile(r"[!-.0-~]+/(?:[ -~]*[!-~])?")  # one way to match it: clients choose how long it is


class Form(Struct, frozen=True):
    """A form. A field that is there several times, or whose name ends in `[]`, is in `lists`, without the `[]`."""

    fields: dict[str, str]
    lists: dict[str, tuple[str, ...]]
    files: dict[str, File]


# -- reading ---------------------------------------------------------------------------------------------------------


def read_form(content_type: str, body: bytes) -> Form:
    """Read a form. Raises `BadRequest` that says what is wrong with it."""
    texts: dict[str, list[str]] = {}
    files: dict[str, File] = {}
    for headers, content in _parts(_boundary(content_type), body):
        name, file = _read_part(headers, content)
        if file is None:
            texts.setdefault(name, []).append(_text(content, name))
        elif name in files:
            raise _bad(f"the file {name[:100]!r} is there twice", name)
        else:
            files[name] = file
    fields: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for name, values in texts.items():
        if len(values) == 1 and not name.endswith("[]"):
            fields[name] = values[0]
        else:
            plain = name.removesuffix("[]")
            lists[plain] = (*lists.get(plain, ()), *values)
    return Form(fields, lists, files)


def _bad(why: str, param: str | None = None) -> BadRequest:
    return BadRequest(f"Invalid multipart/form-data: {why}.", param=param or "request_body")


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _bad(f"the field {name[:100]!r} is not UTF-8", name) from None


def _boundary(content_type: str) -> bytes:
    kind, parameters = _read_value(content_type)
    if kind != "multipart/form-data":
        raise BadRequest("The content type must be multipart/form-data, with a boundary.")
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _bad("its content type has no boundary" if not boundary else "its boundary is not allowed")
    return boundary.encode()


def _read_value(header: str) -> tuple[str, dict[str, str]]:
    """`kind; name="value"; other=value`, all but the values in lower case."""
    kind, _, _ = header.partition(";")
    end = len(header.rstrip(" \t;"))
    at = len(kind)
    parameters: dict[str, str] = {}
    while at < end:
        found = _PARAMETER.match(header, at)
        if found is None or found[1].lower() in parameters:
            raise _bad(f"the header {header[:100]!r} cannot be read")
        parameters[found[1].lower()] = found[3] if found[2] is None else _ESCAPED.sub(r"\1", found[2])
        at = found.end()
    return kind.strip().lower(), parameters


def _parts(boundary: bytes, body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The headers and the content of each part. What stands before the first and after the last is nobody's."""
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):
        at = len(delimiter) - 2
        line = _ENDS_LINE.match(body, at)
    else:
        at, line = 0, None
    if line is None:
        _, line = _find_delimiter(body, delimiter, at)
    count = 0
    while not line[1]:
        count += 1
        if count > MOST_PARTS:
            raise _bad(f"it has more than {MOST_PARTS} parts")
        start = line.end()
        end, line = _find_delimiter(body, delimiter, start)
        headers_end = body.find(b"\r\n\r\n", start, min(end, start + LONGEST_HEADERS + 4))
        if headers_end < 0:
            long = end - start > LONGEST_HEADERS
            raise _bad(f"the headers of part {count} {'are too long' if long else 'do not end'}")
        yield body[start:headers_end], body[headers_end + 4 : end]


def _find_delimiter(body: bytes, delimiter: bytes, start: int) -> tuple[int, re.Match[bytes]]:
    """Where the next line that is a delimiter begins, and what follows the boundary in that line."""
    at = start
    while (at := body.find(delimiter, at)) >= 0:
        if line := _ENDS_LINE.match(body, at + len(delimiter)):
            return at, line
        at += len(delimiter)
    raise _bad("its end is missing")


def _read_part(headers: bytes, content: bytes) -> tuple[str, File | None]:
    """A part's name, and the file that it is, if it is one."""
    found = _read_headers(headers)
    kind, parameters = _read_value(found.get("content-disposition", ""))
    if kind != "form-data":
        raise _bad("a part is no form-data")
    name = _unescape(parameters.get("name", ""))
    if not name:
        raise _bad("a part has no name")
    encoding = found.get("content-transfer-encoding", "binary").lower()
    if encoding not in {"binary", "8bit", "7bit"}:
        raise _bad(f"the field {name[:100]!r} has the transfer encoding {encoding[:40]!r}", name)
    if "filename*" in parameters:  # forbidden since 2015, and still sent: UTF-8''na%C3%AFve.wav
        filename = unquote(parameters["filename*"].rpartition("'")[2])
    elif "filename" in parameters:
        filename = _unescape(parameters["filename"])
    else:
        return name, None
    return name, File(filename, found.get("content-type", "application/octet-stream"), content)


def _read_headers(headers: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in headers.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or b"\r" in line or b"\n" in line or b"\0" in line:
            raise _bad("a part has a header that cannot be read")
        try:
            key, text = name.decode("ascii").lower(), value.decode().strip()
        except UnicodeDecodeError:
            raise _bad("a part has a header that is not UTF-8") from None
        if key in found:
            raise _bad(f"a part has the header {key[:100]!r} twice")
        found[key] = text
    return found


def _unescape(text: str) -> str:
    return _BROWSER.sub(lambda found: _BROWSERS[found[0].upper()], text)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_form(fields: Mapping[str, str | tuple[str, ...]], files: Mapping[str, File]) -> Call:
    """A form: the fields first, a tuple as one field for each of its values, then the files.

    The boundary comes from a hash of all that is in the form, so that nothing in the form can contain it.
    """
    parts = [
        (f'name="{_escape(name)}"', each.encode())
        for name, value in fields.items()
        for each in ((value,) if isinstance(value, str) else value)
    ]
    for name, file in files.items():
        kind = file.media_type if _MEDIA_TYPE.fullmatch(file.media_type) else "application/octet-stream"
        head = f'name="{_escape(name)}"; filename="{_escape(file.name)}"\r\nContent-Type: {kind}'
        parts.append((head, file.data))
    digest = hashlib.sha256()
    for head, content in parts:
        digest.update(b"%d %d " % (len(head), len(content)))
        digest.update(head.encode())
        digest.update(content)
    boundary = digest.hexdigest()
    body: list[bytes] = []
    for head, content in parts:
        body += (f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode(), content, b"\r\n")
    body.append(f"--{boundary}--\r\n".encode())
    return Call(b"".join(body), f"multipart/form-data; boundary={boundary}")


def _escape(name: str) -> str:
    """A name between quotes as browsers write it, but for backslashes, which many servers read as the begin of an escape.
    It cannot end the quotes, the line or the header.
    """
    plain = name.replace("\\", "\\\\").replace("\0", "")
    return plain.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
