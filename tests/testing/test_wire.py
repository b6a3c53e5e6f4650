"""What the framing promises: groups depend on what is said, never on how TCP delivers it."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.testing.wire import LARGEST_GROUP, Conversation, Direction, Group

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def messages(kinds: str) -> bytes:
    """Messages of these types, with bodies of the right shape."""
    return b"".join(message(kind, BODIES.get(kind, kind.encode() * 3)) for kind in kinds)


def packet(code: int, rest: bytes = b"") -> bytes:
    """One that opens a connection, and has no type byte."""
    return struct.pack("!II", len(rest) + 8, code) + rest


def authentication(code: int) -> bytes:
    return message("R", struct.pack("!I", code))


# C and D mean other things in each direction; these bodies do for both
BODIES = {
    "Q": b"select 1\0",
    "P": b"name\0select 2\0\0\0",
    "B": b"\0name\0\0\0",
    "C": b"Sname\0",
    "D": b"Sname\0",
    "K": struct.pack("!II", 4711, 1),
    "Z": b"I",
    "R": struct.pack("!I", 0),
}
SSL_REQUEST = packet(80877103)
GSSENC_REQUEST = packet(80877104)
CANCEL_REQUEST = packet(80877102, struct.pack("!II", 4711, 1))
STARTUP = packet(3 << 16, b"user\0me\0\0")

STARTUPS = [
    [(STARTUP, messages("RSSKZ"), ["StartupMessage"], ["RSSKZ"])],
    [
        (SSL_REQUEST, b"N", ["SSLRequest"], ["EncryptionAnswer"]),
        (STARTUP, authentication(10), ["StartupMessage"], ["R"]),
        (messages("p"), authentication(11), ["p"], ["R"]),
        (messages("p"), authentication(12) + messages("RSKZ"), ["p"], ["RRSKZ"]),
    ],
    [
        (GSSENC_REQUEST, b"N", ["GSSENCRequest"], ["EncryptionAnswer"]),
        (SSL_REQUEST, b"N", ["SSLRequest"], ["EncryptionAnswer"]),
        (STARTUP, messages("v") + authentication(5), ["StartupMessage"], ["vR"]),
        (messages("p"), messages("RKNZ"), ["p"], ["RKNZ"]),
    ],
]
# what the client says, what the server answers, and the groups of each
EXCHANGES = {
    "query": [("Q", "TDDCZ", ["Q"], ["TDDCZ"])],
    "several statements": [("Q", "TDCCNTCZ", ["Q"], ["TDCCNTCZ"])],
    "empty query": [("Q", "IZ", ["Q"], ["IZ"])],
    "failing query": [("Q", "TDEZ", ["Q"], ["TDEZ"])],
    "function call": [("F", "VZ", ["F"], ["VZ"])],
    "extended": [("PBDES", "12TDDCZ", ["PBDES"], ["12TDDCZ"])],
    "extended without rows": [("PBDES", "12nCZ", ["PBDES"], ["12nCZ"])],
    "failing parse": [("PBDES", "EZ", ["PBDES"], ["EZ"])],
    "failing execute": [("PBES", "12DEZ", ["PBES"], ["12DEZ"])],
    "many": [("BEBEBES", "2C2C2CZ", ["BEBEBES"], ["2C2C2CZ"])],
    "prepare and flush": [
        ("PDH", "1tT", ["PDH"], ["1tT"]),
        ("BES", "2DDsZ", ["BES"], ["2DDsZ"]),
        ("ES", "DCZ", ["ES"], ["DCZ"]),
        ("CS", "3Z", ["CS"], ["3Z"]),
    ],
    "failing prepare and flush": [("PDH", "E", ["PDH"], ["E"]), ("S", "Z", ["S"], ["Z"])],
    "flush after the error": [
        ("PD", "", [], []),
        ("H", "E", ["PDH"], ["E"]),
        ("PDH", "", ["PDH"], []),
        ("S", "Z", ["S"], ["Z"]),
    ],
    "error before the flush": [
        ("PD", "E", [], []),
        ("PDH", "", ["PDPDH"], ["E"]),
        ("S", "Z", ["S"], ["Z"]),
    ],
    "sync and flush": [("PBDESH", "12TDCZ", ["PBDES", "H"], ["12TDCZ"])],
    "two at once": [("PBESPBESQ", "12CZ12CZCZ", ["PBES", "PBES", "Q"], ["12CZ", "12CZ", "CZ"])],
    "two at once, the first fails": [("PBESPBES", "1EZ12CZ", ["PBES"] * 2, ["1EZ", "12CZ"])],
    "copy in": [("Q", "G", ["Q"], ["G"]), ("ddc", "CZ", ["d", "d", "c"], ["CZ"])],
    "copy in given up": [("Q", "G", ["Q"], ["G"]), ("df", "EZ", ["d", "f"], ["EZ"])],
    "copy in without waiting": [("Qddc", "GCZ", ["Q", "d", "d", "c"], ["G", "CZ"])],
    "copy in, extended": [
        ("PBES", "12G", ["PBES"], ["12G"]),
        ("dcS", "CZ", ["d", "c", "S"], ["CZ"]),
    ],
    "copy in, extended, failing": [
        ("PBES", "12G", ["PBES"], ["12G"]),
        ("ddcS", "EZ", ["d", "d", "c", "S"], ["EZ"]),
    ],
    "copy out": [("Q", "HddcCZ", ["Q"], ["H", "ddcCZ"])],
    "copy out, extended": [("PBES", "12HdcCZ", ["PBES"], ["12H", "dcCZ"])],
    "replication": [("Q", "Wdd", ["Q"], ["W", "d", "d"]),
                    ("dc", "dcCZ", ["d", "c"], ["d", "c", "C", "Z"])],
    "unasked": [("", "ANS", [], ["A", "N", "S"])],
    "unasked after a flush": [("PH", "1", ["PH"], ["1"]), ("", "A", [], ["A"]),
                              ("S", "Z", ["S"], ["Z"])],
    "last words": [("", "E", [], ["E"])],
}  # fmt: skip
# without the free choice of who speaks first
PIPELINED = [
    "query", "failing query", "extended", "failing parse", "failing execute", "many",
    "two at once", "two at once, the first fails", "copy out", "sync and flush",
]  # fmt: skip


def types(groups: list[Group], direction: Direction) -> list[str]:
    return [
        "".join(found.type for found in group.messages)
        for group in groups
        if group.direction is direction
    ]


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


CUTS = st.lists(st.integers(0, 10_000), max_size=6) | st.just(list(range(10_000)))


@given(st.data())
def test_any_chunking_gives_the_same_groups(data) -> None:
    """Each byte alone, all at once, or anything between."""
    script = list(data.draw(st.sampled_from(STARTUPS)))
    for name in data.draw(st.lists(st.sampled_from(sorted(EXCHANGES)), max_size=5)):
        script += [
            (messages(asked), messages(answered), *expected)
            for asked, answered, *expected in EXCHANGES[name]
        ]
    conversation = Conversation()
    groups: list[Group] = []
    sent = {TO_SERVER: b"", TO_CLIENT: b""}
    for asked, answered, to_server, to_client in script:
        before = len(groups)
        for chunk in chunks(asked, data.draw(CUTS)):
            groups += conversation.from_client(chunk)
        for chunk in chunks(answered, data.draw(CUTS)):
            groups += conversation.from_server(chunk)
        assert types(groups[before:], TO_SERVER) == to_server
        assert types(groups[before:], TO_CLIENT) == to_client
        sent[TO_SERVER] += asked
        sent[TO_CLIENT] += answered
    for direction, bytes_sent in sent.items():
        groups += conversation.end_of(direction)
        passed = b"".join(group.data for group in groups if group.direction is direction)
        assert passed == bytes_sent


@given(st.data())
def test_answers_may_come_while_the_client_goes_on(data) -> None:
    """Requests sent ahead change no group, however the directions interleave."""
    names = data.draw(st.lists(st.sampled_from(PIPELINED), min_size=1, max_size=4))
    exchanges = [exchange for name in names for exchange in EXCHANGES[name]]
    conversation = Conversation()
    conversation.from_client(STARTUP)
    conversation.from_server(messages("RKZ"))
    waiting = b""
    groups: list[Group] = []
    for asked, answered, *_ in exchanges:
        for chunk in chunks(messages(asked), data.draw(CUTS)):
            groups += conversation.from_client(chunk)
            ready = data.draw(st.integers(0, len(waiting)))
            groups += conversation.from_server(waiting[:ready])
            waiting = waiting[ready:]
        waiting += messages(answered)
    groups += conversation.from_server(waiting)
    assert types(groups, TO_SERVER) == [group for _, _, told, _ in exchanges for group in told]
    assert types(groups, TO_CLIENT) == [group for *_, heard in exchanges for group in heard]


def begun() -> Conversation:
    conversation = Conversation()
    conversation.from_client(STARTUP)
    conversation.from_server(messages("RKZ"))
    return conversation


def test_the_server_process_is_known_from_its_key() -> None:
    """As soon as the group with it is there, not before."""
    conversation = Conversation()
    assert conversation.backend_pid is None
    conversation.from_client(STARTUP)
    conversation.from_server(messages("RKZ"))
    assert conversation.backend_pid == 4711


def test_a_cancel_request_is_a_group() -> None:
    """It has no startup before it and nothing after it."""
    conversation = Conversation()
    (group,) = conversation.from_client(CANCEL_REQUEST)
    assert types([group], TO_SERVER) == ["CancelRequest"]
    assert group.data == CANCEL_REQUEST
    assert not conversation.awaits_answer


def test_an_error_may_answer_a_request_to_encrypt() -> None:
    """As very old servers and full ones do."""
    conversation = Conversation()
    conversation.from_client(SSL_REQUEST)
    assert types(conversation.from_server(messages("E")), TO_CLIENT) == ["E"]
    assert conversation.unreadable is None


def test_the_text_is_that_of_the_query_or_of_the_statement_bound() -> None:
    """Also where it was prepared long ago, until it is closed."""
    conversation = begun()
    unnamed = message("P", b"\0select 3\0\0\0") + message("B", b"\0\0\0\0") + messages("ES")
    asked = [*map(messages, ("Q", "PDH", "S", "BES", "CS", "BES", "S")), unnamed]
    texts = [group.text for data in asked for group in conversation.from_client(data)]
    assert texts == ["select 1", "select 2", None, "select 2", None, None, None, "select 3"]


def test_bytes_that_are_no_text_do_not_stop_the_framing() -> None:
    """A client encoding other than UTF-8 is none of its business."""
    (group,) = begun().from_client(message("Q", b"select '\xe9'\0"))
    assert group.text == "select '\N{REPLACEMENT CHARACTER}'"


@pytest.mark.parametrize("answer", [b"S", b"G"])
def test_encryption_ends_the_reading(answer) -> None:
    """It says so; every byte still passes, in the order it came."""
    conversation = Conversation()
    conversation.from_client(SSL_REQUEST if answer == b"S" else GSSENC_REQUEST)
    (group, rest) = conversation.from_server(answer + b"Z\0")
    assert group.data == answer
    assert rest == Group(TO_CLIENT, (), b"Z\0")
    assert conversation.unreadable is not None
    assert ("TLS" if answer == b"S" else "GSSAPI") in conversation.unreadable
    assert conversation.from_client(b"\x16\x03") == [Group(TO_SERVER, (), b"\x16\x03")]
    assert conversation.from_server(b"x") == [Group(TO_CLIENT, (), b"x")]


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\0hello", b"\0\0\0\3abcd", b"\0\0\0\0\0\0\0\0"],
)
def test_another_protocol_passes_unread(data) -> None:
    """HTTP, TLS from the first byte, nonsense: nothing is kept back waiting for more."""
    conversation = Conversation()
    passed = b"".join(
        group.data for byte in data for group in conversation.from_client(bytes([byte]))
    )
    assert passed == data
    assert conversation.unreadable is not None


@pytest.mark.parametrize(
    "data", [b"Q\0\0\0\1", b"\xff\0\0\0\4", message("P", b"no end"), message("B", b"")]
)
def test_nonsense_in_the_middle_passes_unread(data) -> None:
    """With whatever was there before it."""
    conversation = begun()
    groups = conversation.from_client(messages("C") + data)
    assert groups == [Group(TO_SERVER, (), messages("C") + data)]
    assert conversation.unreadable is not None


def test_the_end_of_a_stream_gives_what_is_left() -> None:
    """Whole messages as messages, the rest as bytes."""
    conversation = begun()
    conversation.from_client(messages("Q"))
    data = messages("TDD") + b"D\0\0"
    assert conversation.from_server(data) == []
    (group,) = conversation.end_of(TO_CLIENT)
    assert types([group], TO_CLIENT) == ["TDD"]
    assert group.data == data
    assert conversation.end_of(TO_CLIENT) == []
    assert conversation.end_of(TO_SERVER) == []


@pytest.mark.parametrize("chunk", [1 << 16, 100_003, 1 << 24])
def test_a_long_result_comes_in_groups_of_about_a_mebibyte(chunk) -> None:
    """Cut after a message, at the same places whatever the chunks."""
    row = message("D", b"x" * 1000)
    data = messages("T") + row * 3000 + message("D", b"y" * 3 * LARGEST_GROUP) + messages("CZ")
    conversation = begun()
    conversation.from_client(messages("Q"))
    groups = [
        group
        for start in range(0, len(data), chunk)
        for group in conversation.from_server(data[start : start + chunk])
    ]
    assert b"".join(group.data for group in groups) == data
    assert [len(group.messages) for group in groups] == [1045, 1044, 913, 2]
    assert all(len(group.data) < LARGEST_GROUP + 1005 for group in groups[:2])
