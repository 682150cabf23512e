"""Amazon Bedrock's Converse: one format for the models of many vendors.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html. Only providers speak it. `bedrock_questions`
asks, `bedrock_answers` reads; what is no chat is in `bedrock_tasks`, and models that Converse does not serve, or whose own
words are wanted, are asked through `bedrock_invoke`.
"""

from __future__ import annotations

from adapters import eventstream
from adapters.bedrock_answers import read_error, read_response, read_stream
from adapters.bedrock_questions import address, write_request

__all__ = ["STREAM_TYPE", "address", "cut", "read_error", "read_response", "read_stream", "write_request"]

STREAM_TYPE: str = eventstream.TYPE
cut = eventstream.FrameCutter
