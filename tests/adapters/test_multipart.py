"""Forms: ours are read by others, others' by us, and nothing breaks out of its place."""

from __future__ import annotations

import asyncio
import re
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from aiohttp import FormData, MultipartReader, StreamReader, hdrs
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import BadRequest
from adapters.multipart import LONGEST_HEADERS, MOST_PARTS, Form, read_form, write_form
from adapters.types import Call, File
from tests.recorded import Recording, recordings

TYPE = "multipart/form-data; boundary=xyz"
RECORDED = [
    each for each in recordings("openai", "xai", kinds=("audio",)) if (each.path / "request.bin").exists()
]


def form(*parts: str, end: str = "--xyz--\r\n") -> bytes:
    return ("".join(f"--xyz\r\n{part}\r\n" for part in parts) + end).encode()


def field(name: str, value: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'


def as_email(call: Call) -> list[Message]:
    """The form as the standard library reads it."""
    head = f"Content-Type: {call.content_type}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + call.body)
    assert message.is_multipart()
    assert not message.defects
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


async def as_aiohttp(content_type: str, body: bytes) -> list[tuple[str | None, str | None, bytes]]:
    """Name, filename and content of each part as aiohttp reads them."""
    stream = StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**24, loop=asyncio.get_running_loop())
    stream.feed_data(body)
    stream.feed_eof()
    reader = MultipartReader({hdrs.CONTENT_TYPE: content_type}, stream)
    found = []
    while (part := await reader.next()) is not None:
        assert not isinstance(part, MultipartReader)
        found.append((part.name, part.filename, bytes(await part.read())))
    return found


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_form_is_read() -> None:
    """Fields, lists and files; what stands before and after the parts is nobody's."""
    body = (
        b"preamble\r\n"
        + form(
            field("model", "whisper-1"),
            field("include[]", "a"),
            field("include[]", "b"),
            field("twice", "c"),
            field("twice", "d"),
            field("empty", ""),
            'content-disposition: FORM-DATA; filename="a \\"b\\".wav" ; name=file\r\n'
            "Content-Type: audio/wav\r\nContent-Transfer-Encoding: binary\r\n\r\n--xy\r\n--xyzz\r\n",
        )
        + b"epilogue"
    )
    assert read_form('Multipart/Form-Data ; charset=utf-8; boundary="xyz"', body) == Form(
        fields={"model": "whisper-1", "empty": ""},
        lists={"include": ("a", "b"), "twice": ("c", "d")},
        files={"file": File('a "b".wav', "audio/wav", b"--xy\r\n--xyzz\r\n")},
    )


def test_delimiters_may_have_spaces_and_the_last_no_end_of_line() -> None:
    """As RFC 2046 allows."""
    body = b"--xyz \t\r\n" + field("a", "1").encode() + b"\r\n--xyz--"
    assert read_form(TYPE, body).fields == {"a": "1"}
    assert read_form(TYPE, b"--xyz--").fields == {}


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ('filename="na%C3%AFve.wav"', "na%C3%AFve.wav"),
        ('filename="%22a%0d%0A.wav"', '"a\r\n.wav'),
        ("filename*=UTF-8''na%C3%AFve.wav", "naïve.wav"),
        ('filename="C:\\\\a.wav"', "C:\\a.wav"),
        ('filename="naïve.wav"', "naïve.wav"),
        ('filename="";', ""),
    ],
)
def test_file_names_as_they_come(filename: str, name: str) -> None:
    """Escaped by browsers, by others, or in the way that has been forbidden since."""
    part = f'Content-Disposition: form-data; name="file"; {filename}\r\n\r\nx'
    assert read_form(TYPE, form(part)).files["file"] == File(name, "application/octet-stream", b"x")


@pytest.mark.parametrize(
    ("content_type", "body", "why"),
    [
        ("application/json", b"{}", "must be multipart/form-data"),
        ("", b"", "must be multipart/form-data"),
        ("multipart/form-data", b"", "has no boundary"),
        ("multipart/form-data; boundary=", b"", "has no boundary"),
        ("multipart/form-data; boundary=" + "x" * 71, b"", "boundary is not allowed"),
        ('multipart/form-data; boundary="x "', b"", "boundary is not allowed"),
        (TYPE, b"", "its end is missing"),
        (TYPE, b"--xyz", "its end is missing"),
        (TYPE, form(field("a", "1"), end=""), "its end is missing"),
        (TYPE, form(field("a", "1"), end="--xyz-\r\n"), "its end is missing"),
        (TYPE, form("no headers"), "headers of part 1 do not end"),
        (TYPE, form(""), "headers of part 1 do not end"),
        (TYPE, form("X: y\r\n\r\n"), "is no form-data"),
        (TYPE, form("Content-Disposition: attachment; name=a\r\n\r\n"), "is no form-data"),
        (TYPE, form("Content-Disposition: form-data\r\n\r\n"), "has no name"),
        (TYPE, form(field("", "1")), "has no name"),
        (TYPE, form("Content-Disposition form-data\r\n\r\n"), "header that cannot be read"),
        (TYPE, form("Content-Disposition: form-data; name=a; name=b\r\n\r\n"), "cannot be read"),
        (TYPE, form('Content-Disposition: form-data; name=a; filename="b\\"\r\n\r\n'), "cannot be read"),
        ("multipart/form-data; boundary", b"", "cannot be read"),
        (TYPE, form("Content-Disposition: form-data; name=a\nX: y\r\n\r\n"), "header that cannot be read"),
        (TYPE, form(f"{field('a', '')[:-4]}\r\n{field('b', '')}"), "the header 'content-disposition' twice"),
        (TYPE, form(f"X: {'y' * LONGEST_HEADERS}\r\n\r\n"), "headers of part 1 are too long"),
        (TYPE, form(f"Content-Transfer-Encoding: base64\r\n{field('a', '')}"), "transfer encoding 'base64'"),
        (TYPE, form(field("a", "1")).replace(b"1", b"\xff"), "'a' is not UTF-8"),
        (TYPE, form(field("a", "1")).replace(b'"a"', b'"\xff"'), "header that is not UTF-8"),
        (TYPE, form(*(field("a", "") for _ in range(MOST_PARTS + 1))), "more than 1000 parts"),
        (
            TYPE,
            form(*['Content-Disposition: form-data; name=f; filename=""\r\n\r\n'] * 2),
            "'f' is there twice",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(content_type: str, body: bytes, why: str) -> None:
    """A caller's mistake, never a crash."""
    with pytest.raises(BadRequest, match=re.escape(why)):
        read_form(content_type, body)


def test_time_grows_with_the_body_alone() -> None:
    """Megabytes of what nearly is a delimiter are looked at once; quadratic, they would run into the test's timeout."""
    nearly = b"\r\n--xyz \t \t-" * 400_000
    assert read_form(TYPE, form(field("a", "?")).replace(b"?", nearly)).fields["a"].encode() == nearly
    with pytest.raises(BadRequest, match="its end is missing"):
        read_form(TYPE, b"\r\n--xyz-" * 400_000 + b"\r\n--xyz" + b" " * 4_000_000 + b"-")


@pytest.mark.parametrize("recording", RECORDED, ids=str)
def test_recorded_forms_are_read(recording: Recording) -> None:
    """As real clients write them, with the headers of the old days; read as aiohttp reads them."""
    body = (recording.path / "request.bin").read_bytes()
    content_type = recording.meta["request_headers"]["content-type"]
    read = read_form(content_type, body)
    (name, file), *others = read.files.items()
    assert not others
    assert file.data
    theirs = asyncio.run(as_aiohttp(content_type, body))
    assert (name, file.name, file.data) in theirs
    assert {key: text.encode() for key, text in read.fields.items()} == {
        key: data for key, filename, data in theirs if filename is None
    }


# -- writing ---------------------------------------------------------------------------------------------------------


def test_a_form_is_written() -> None:
    """Fields first, a tuple as several, files last; the same form always the same bytes."""
    fields: dict[str, str | tuple[str, ...]] = {
        "model": "whisper-1",
        "granularities[]": ("word", "segment"),
        "none": (),
    }
    call = write_form(fields, {"file": File('a"b\r\n.wav', "audio/wav", b"\x00\xff\r\n")})
    boundary = call.content_type.removeprefix("multipart/form-data; boundary=")
    assert re.fullmatch("[0-9a-f]{64}", boundary)
    assert call.body.decode("latin-1").replace(boundary, "B") == (
        '--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        '--B\r\nContent-Disposition: form-data; name="granularities[]"\r\n\r\nword\r\n'
        '--B\r\nContent-Disposition: form-data; name="granularities[]"\r\n\r\nsegment\r\n'
        '--B\r\nContent-Disposition: form-data; name="file"; filename="a%22b%0D%0A.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n\x00\xff\r\n\r\n--B--\r\n"
    )
    assert write_form(fields, {"file": File('a"b\r\n.wav', "audio/wav", b"\x00\xff\r\n")}) == call


@pytest.mark.parametrize("kind", ["", "audio", "a/b\r\nX: y", "audio/wäv", "a/b\0"])
def test_a_media_type_cannot_break_out_of_its_header(kind: str) -> None:
    """What is no media type is not repeated."""
    (part,) = as_email(write_form({}, {"file": File("a", kind, b"")}))
    assert part.get_content_type() == "application/octet-stream"
    assert part.keys() == ["Content-Disposition", "Content-Type"]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
NAMES = TEXTS.filter(bool)
FILES = st.builds(File, TEXTS, st.just("audio/wav"), st.binary(max_size=200) | st.just(b"\r\n--\r\n"))


@given(st.dictionaries(NAMES, TEXTS, max_size=4), st.dictionaries(NAMES, FILES, max_size=3))
def test_what_is_written_is_read(fields: dict[str, str], files: dict[str, File]) -> None:
    """By us the same, and by the standard library the same contents, whatever is in them."""
    call = write_form(fields, files)
    read = read_form(call.content_type, call.body)
    fields = {unescaped(name): text for name, text in fields.items()}
    if len(fields) == len({name.removesuffix("[]") for name in fields}):
        single = {name: text for name, text in fields.items() if not name.endswith("[]")}
        assert read.fields == single
        assert read.lists == {k[:-2]: (v,) for k, v in fields.items() if k.endswith("[]")}
    assert [file.data for file in read.files.values()] == [file.data for file in files.values()]
    assert [file.name for file in read.files.values()] == [unescaped(file.name) for file in files.values()]
    payloads = [part.get_payload(decode=True) for part in as_email(call)] if fields or files else []
    assert payloads == [
        *(text.encode() for text in fields.values()),
        *(file.data for file in files.values()),
    ]


def unescaped(name: str) -> str:
    """A name in which somebody wrote what browsers write for a quote comes back as one with the quote."""
    return re.sub(
        "%0d", "\r", re.sub("%0a", "\n", name.replace("%22", '"'), flags=re.IGNORECASE), flags=re.IGNORECASE
    )


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 40))
def test_a_broken_form_is_a_bad_request(noise: bytes, at: int, cut: int) -> None:
    """Whatever is put in or taken away: it is read, or refused."""
    whole = form(field("model", "m"), 'Content-Disposition: form-data; name="f"; filename="x"\r\n\r\ndata')
    for body in (noise, whole[:at] + noise + whole[at + cut :], whole[: len(whole) - cut]):
        try:
            read_form(TYPE, body)
        except BadRequest as error:
            assert error.message  # noqa: PT017 - either way is right


async def test_aiohttp_writes_and_reads_the_same() -> None:
    """Another library's form is read by us, and ours by it."""
    data = FormData()
    data.add_field("model", "whisper-1")
    data.add_field("file", b"\x00\r\n--", filename="a b.wav", content_type="audio/wav")
    payload = data()
    read = read_form(payload.content_type, await payload.as_bytes())
    assert read.fields == {"model": "whisper-1"}
    assert read.files["file"].data == b"\x00\r\n--"
    call = write_form({"model": "m", "l[]": ("1", "2")}, {"file": File("ä.wav", "audio/wav", b"\x00")})
    assert await as_aiohttp(call.content_type, call.body) == [
        ("model", None, b"m"),
        ("l[]", None, b"1"),
        ("l[]", None, b"2"),
        ("file", "ä.wav", b"\x00"),
    ]
