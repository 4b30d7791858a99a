"""The parser passes messages to sinks complete, in order and unchanged, wherever the reads are split."""

from inspect import signature

from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from consumers.client import WHOLE_BYTES_MAX, TolerantClient

WITH_SINK, WITHOUT_SINK = 7, 8
"""Subscription ids."""
Delivery = tuple[bytes, bytes, bytes, bytes | None]

tokens = st.binary(min_size=1, max_size=30).map(lambda raw: raw.translate(None, b" \r\n\t\f\v") or b"x")
bodies = st.binary(max_size=60) | st.sampled_from([b"MSG a 7 b 3\r\nxyz\r\n", b"\r\n", b"x" * (WHOLE_BYTES_MAX + 1)])


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[bytes, Delivery | None]:
    """Draw the bytes the server sends, and the delivery that the sink should receive, if any."""
    subject, reply, body = draw(tokens), draw(tokens), draw(bodies)
    kind = draw(st.sampled_from(["MSG", "HMSG", "no sink", "no reply", "+OK"]))
    if kind == "+OK":
        return b"+OK\r\n", None
    if kind == "no sink":
        return b"MSG %b %d %b %d\r\n%b\r\n" % (subject, WITHOUT_SINK, reply, len(body), body), None
    if kind == "no reply":
        return b"MSG %b %d %d\r\n%b\r\n" % (subject, WITH_SINK, len(body), body), (subject, b"", body, None)
    if kind == "MSG":
        return b"MSG %b %d %b %d\r\n%b\r\n" % (subject, WITH_SINK, reply, len(body), body), (subject, reply, body, None)
    headers = b"NATS/1.0\r\nk: %b\r\n\r\n" % draw(tokens)
    line = b"HMSG %b %d %b %d %d\r\n" % (subject, WITH_SINK, reply, len(headers), len(headers) + len(body))
    return line + headers + body + b"\r\n", (subject, reply, body, headers)


@given(sent=st.lists(deliveries(), max_size=8), data=st.data())
@settings(max_examples=300, deadline=None)
async def test_a_sink_receives_every_message_wherever_reads_are_split(
    sent: list[tuple[bytes, Delivery | None]], data: st.DataObject
) -> None:
    wire = b"".join(raw for raw, _ in sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=10)))
    client = TolerantClient()
    received: list[Delivery] = []

    def sink(subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> bool:
        received.append((subject, reply, body, headers))
        return True

    client._sinks[WITH_SINK] = sink
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        await client._ps.parse(wire[start:end])
    assert received == [delivery for _, delivery in sent if delivery is not None]


async def test_nats_py_has_the_private_members_the_client_relies_on() -> None:
    client = Client()

    assert isinstance(client._ps, Parser)
    assert {"buf", "state"} <= vars(client._ps).keys()
    assert client._ps.state == AWAITING_CONTROL_LINE
    assert "_id" in vars(Subscription(client, 7))
    assert list(signature(Client._process_msg).parameters) == ["self", "sid", "subject", "reply", "data", "headers"]
    assert list(signature(Client._build_message).parameters) == ["self", "sid", "subject", "reply", "data", "headers"]
    assert list(signature(Client._process_info).parameters) == ["self", "info", "initial_connection"]
    assert list(signature(Client._process_connect_init).parameters) == ["self"]
    assert "ssl_context" in vars(Client)
    assert "_public_nkey" in vars(client)
    assert list(signature(Client._process_headers).parameters) == ["self", "headers"]
    assert Client._parse_header_lines(b"a: b\r\n\r\n") == {"a": "b"}
