"""The only place that opens sockets to providers: a lean HTTP/1.1 client for the hot path.

General clients cost more than everything else that a gateway does to a request, because they build objects for uses
that we do not have. This one knows one kind of exchange: a request that is whole, an answer whose head is looked at and
whose body goes from one socket's read straight to another's write.

Read `client.py` first (what a caller sees and the rule for stale connections), then `connection.py` (one exchange),
`response.py` (the body), `pool.py` (who gets which connection), `dial.py` (how one is opened) with its helpers
`guard`, `resolve`, `tls` and `proxy`. `mock.py` plays an answer without any upstream.
"""

from gateway.upstreams.client import Prepared, Upstreams
from gateway.upstreams.mock import MockResponse, mock_answer
from gateway.upstreams.proxy import Proxies, proxies_from_environment
from gateway.upstreams.response import UpstreamResponse
from gateway.upstreams.tls import tls_context

__all__ = [
    "MockResponse",
    "Prepared",
    "Proxies",
    "UpstreamResponse",
    "Upstreams",
    "mock_answer",
    "proxies_from_environment",
    "tls_context",
]
