"""Numbers as clients write them, and every place that takes one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.s3.numbers import parse_number
from tests.s3.world import World, in_world

NOT_NUMBERS = ["", "-1", "+1", "1_0", " 1", "\N{SUPERSCRIPT TWO}", "\u0663", "0x1", "9" * 5000]
WRITTEN = ["%C2%B2", "9" * 5000]
"""Digits to `str.isdigit` that `int` refuses."""


@given(st.integers(0, 10**12))
def test_a_number_is_read_up_to_the_most(number: int) -> None:
    assert parse_number(str(number), most=number) == number
    assert parse_number(str(number), most=number - 1) is None


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_is_no_number_is_none(text: str) -> None:
    assert parse_number(text, most=10**12) is None


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/", "max-buckets={}"),
        ("GET", "/bucket", "max-keys={}"),
        ("GET", "/bucket/k", "partNumber={}"),
        ("PUT", "/bucket/k", "partNumber={}&uploadId=00"),
    ],
)
def test_a_parameter_that_is_no_number_is_refused(
    method: str, path: str, query: str, text: str
) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket")
        await world.call("PUT", "/bucket/k", body=b"x")
        answer = await world.call(method, path, query=query.format(text))
        assert (answer.status, answer.code) == (400, "InvalidArgument")

    in_world(test)


@pytest.mark.parametrize("text", ["\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_number_in_a_document_that_is_none_is_refused(text: str) -> None:
    async def test(world: World) -> None:
        await world.call("PUT", "/bucket")
        body = f"<Delete><Object><Key>k</Key><Size>{text}</Size></Object></Delete>".encode()
        answer = await world.call("POST", "/bucket", query="delete=", body=body)
        assert answer.texts("Error/Code") == ["InvalidArgument"]
        part = f"<Part><PartNumber>{text}</PartNumber><ETag>x</ETag></Part>"
        body = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
        created = await world.call("POST", "/bucket/k", query="uploads=")
        upload = created.xml.findtext("UploadId")
        answer = await world.call("POST", "/bucket/k", query=f"uploadId={upload}", body=body)
        assert answer.code == "MalformedXML"

    in_world(test)
