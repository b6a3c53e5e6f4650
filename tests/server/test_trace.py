"""Names of requests."""

import pytest

from poolkeeper.server.trace import names_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def names(**headers):
    raw = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return names_of([(b"host", b"x"), *raw])


def test_a_trace_of_the_client_is_gone_on_with():
    """Its trace id, and the span that called; later versions may say more."""
    for more in (b"00-%b-%b-01", b"00-%b-%b-00", b"cc-%b-%b-01", b"cc-%b-%b-01-what-comes-later"):
        _, trace_id, parent_id = names(traceparent=more % (TRACE.encode(), SPAN.encode()))
        assert (trace_id, parent_id) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"00-%b-%b" % (TRACE.encode(), SPAN.encode()),
        b"ff-%b-%b-01" % (TRACE.encode(), SPAN.encode()),
        b"00-%b-%b-01-more" % (TRACE.encode(), SPAN.encode()),
        b"cc-%b-%b-01.more" % (TRACE.encode(), SPAN.encode()),
        b"00-%b-%b-01" % (b"0" * 32, SPAN.encode()),
        b"00-%b-%b-01" % (TRACE.encode(), b"0" * 16),
        b"00-%b-%b-01" % (TRACE.upper().encode(), SPAN.encode()),
        b"00-%b-%b-01\n" % (TRACE.encode(), SPAN.encode()),
    ],
)
def test_a_trace_that_is_not_valid_is_not_gone_on_with(value):
    """A new one begins, as the recommendation of the W3C asks."""
    _, trace_id, parent_id = names(traceparent=value)
    assert trace_id != TRACE
    assert (len(trace_id), parent_id) == (32, None)
    assert int(trace_id, 16) > 0


def test_a_request_keeps_the_name_its_client_gave_it():
    """Letters, digits and a few signs, up to 128."""
    for value in (b"order-17", b"a", b"A.b_c:d-e", b"x" * 128):
        assert names(x_request_id=value)[0] == value.decode()
    for value in (b"", b"x" * 129, b"a b", b"a\nb", "ü".encode(), b"<script>"):
        assert names(x_request_id=value)[0] != value.decode()


def test_no_two_requests_have_the_same_name():
    """Of those that bring none; the name is that of the trace, written as a UUID."""
    found = [names() for _ in range(1000)]
    assert len({request_id for request_id, _, _ in found}) == 1000
    for request_id, trace_id, _ in found:
        assert request_id.replace("-", "") == trace_id
