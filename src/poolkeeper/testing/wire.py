"""PostgreSQL's protocol (version 3) cut into groups of messages; pure: bytes in, groups out.

A group ends where one side waits for the other, so where the cuts are depends on what is said, not
on how TCP delivers it:

- to the server: after Query, Sync, Flush, FunctionCall, CopyData, CopyDone, CopyFail, Terminate,
  an answer to an authentication request, and each of the packets that open a connection;
- to the client: after ReadyForQuery, an authentication request, CopyInResponse, CopyOutResponse
  and CopyBothResponse, the one-byte answer to SSLRequest, and the last answer asked for by a Flush.
  What comes unasked (a notification, a notice to an idle session), or while both sides copy
  (replication), is a group of its own;
- in both directions at the end of the stream, and after the message with which a group reaches
  `LARGEST_GROUP`: a long result is not kept back until its end.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

LARGEST_GROUP: Final = 1 << 20
"""Bytes at which a group is ended after the message at hand."""

_LARGEST_OPENING: Final = 10_000  # PostgreSQL's own limit for a start-up packet

_CANCEL_REQUEST: Final = 80877102
_SSL_REQUEST: Final = 80877103
_GSSENC_REQUEST: Final = 80877104

_ENDS_REQUEST: Final = frozenset("QSHFdcfXp")
# known messages that others follow before the server says anything
_CONTINUES_REQUEST: Final = frozenset("PBDEC")
_COPY_BEGINS: Final = frozenset("GHW")
_UNASKED: Final = frozenset("ANS")  # notifications, notices, changed parameters
# AuthenticationOk, and SASLFinal which is followed by it, ask for nothing
_ASKS_NOTHING: Final = frozenset({0, 12})

# what answers the parts of an extended query
_ANSWERS: Final = {"P": "1", "B": "2", "C": "3", "D": "Tn", "E": "CIs"}
# requests that ReadyForQuery answers; "startup" is the first of a connection
_STARTUP: Final = "startup"
_READY_ENDS: Final = frozenset({"Q", "F", "S", _STARTUP})

_NAMES: Final = {_CANCEL_REQUEST: "CancelRequest", _SSL_REQUEST: "SSLRequest",
                 _GSSENC_REQUEST: "GSSENCRequest"}  # fmt: skip


class Direction(enum.Flag):
    """Which way bytes go; BOTH where a fault may be for either."""

    TO_SERVER = enum.auto()
    TO_CLIENT = enum.auto()
    BOTH = TO_SERVER | TO_CLIENT


class Message(NamedTuple):
    """A message of the protocol.

    Attributes:
        type: Its type byte as a letter. Where the protocol has none: `StartupMessage`,
            `SSLRequest`, `GSSENCRequest`, `CancelRequest`, and `EncryptionAnswer` for the byte that
            answers.
        body: What follows the length.
    """

    type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that are one unit, or bytes that cannot be read.

    Attributes:
        messages: Whole messages; empty for bytes that cannot be read.
        data: The bytes, including those of a message cut off by the end of the stream.
        text: SQL of the first Query or Parse in it, or of the statement a Bind in it names.
    """

    direction: Direction
    messages: tuple[Message, ...]
    data: bytes
    text: str | None = None


class _Stream:
    """The bytes of one direction that are not in a group yet."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.messages: list[Message] = []
        self.text: str | None = None
        self._buffer = bytearray()
        self._scanned = 0

    @property
    def size(self) -> int:
        """Bytes of the messages taken since the last cut."""
        return self._scanned

    def add(self, data: bytes) -> None:
        self._buffer += data

    def available(self) -> int:
        return len(self._buffer) - self._scanned

    def peek(self, size: int) -> bytes:
        return bytes(self._buffer[self._scanned : self._scanned + size])

    def take(self, kind: str, header: int, length: int) -> Message:
        """Move over `length` bytes, of which `header` are no part of the body."""
        start = self._scanned
        self._scanned += length
        message = Message(kind, bytes(self._buffer[start + header : self._scanned]))
        self.messages.append(message)
        return message

    def take_message(self) -> Message | None:
        """The next message with a type byte, if it is there as a whole."""
        if self.available() < 5:
            return None
        kind, length = struct.unpack_from("!BI", self._buffer, self._scanned)
        if length < 4 or kind > 127:
            raise _Unreadable
        if self.available() <= length:
            return None
        return self.take(chr(kind), 5, 1 + length)

    def cut(self) -> Group:
        data = bytes(self._buffer[: self._scanned])
        del self._buffer[: self._scanned]
        group = Group(self.direction, tuple(self.messages), data, self.text)
        self.messages.clear()
        self.text = None
        self._scanned = 0
        return group

    def cut_all(self) -> Group | None:
        """Everything there is, whole messages or not."""
        self._scanned = len(self._buffer)
        return self.cut() if self._scanned else None


class _Unreadable(Exception):
    """These bytes are not messages of the protocol."""


class Conversation:
    """Both directions of one connection.

    What the client asked for decides where the server's groups end, so a chunk of either side may
    complete a group of the other.

    Attributes:
        unreadable: Why the bytes can no longer be understood (encryption, another protocol), or
            None. From then on every chunk is a group without messages.
        backend_pid: From BackendKeyData, None before.
    """

    def __init__(self) -> None:
        self.unreadable: str | None = None
        self.backend_pid: int | None = None
        self._client = _Stream(Direction.TO_SERVER)
        self._server = _Stream(Direction.TO_CLIENT)
        self._opening = True  # the client's next packet has no type byte
        self._asked_to_encrypt = ""  # the server's next byte answers this request
        self._asked: deque[str] = deque()
        self._skipping = False  # the server ignores all up to the next Sync
        self._copying_in = False  # it ignores Sync and Flush
        self._copied_early = False  # rows were sent before it asked for them
        self._copying_both = False
        self._statements: dict[bytes, str] = {}

    @property
    def awaits_answer(self) -> bool:
        """The server has something to say without being told more."""
        return bool(self._asked or self._asked_to_encrypt) and not self._copying_in

    def from_client(self, data: bytes) -> list[Group]:
        """Groups completed by bytes of the client, in order."""
        return self._feed(self._client, data)

    def from_server(self, data: bytes) -> list[Group]:
        """Groups completed by bytes of the server, in order."""
        return self._feed(self._server, data)

    def end_of(self, direction: Direction) -> list[Group]:
        """What is left of a stream that has ended."""
        stream = self._client if direction is Direction.TO_SERVER else self._server
        group = stream.cut_all()
        return [] if group is None else [group]

    def _feed(self, stream: _Stream, data: bytes) -> list[Group]:
        stream.add(data)
        groups: list[Group] = []
        try:
            self._read_client(groups) if stream is self._client else self._read_server(groups)
        except (_Unreadable, ValueError, IndexError, struct.error):
            self.unreadable = "they are not messages of PostgreSQL's protocol"
        if self.unreadable is not None:
            rests = (self._client.cut_all(), self._server.cut_all())
            groups += [Group(rest.direction, (), rest.data) for rest in rests if rest is not None]
        return groups

    def _read_client(self, groups: list[Group]) -> None:
        stream = self._client
        while self.unreadable is None:
            if self._opening:
                if not self._read_opening():
                    return
                groups.append(stream.cut())
                continue
            message = stream.take_message()
            if message is None:
                return
            self._note_text(message)
            self._note_request(message.type, groups)
            if message.type not in _CONTINUES_REQUEST or stream.size >= LARGEST_GROUP:
                groups.append(stream.cut())

    def _read_opening(self) -> bool:
        stream = self._client
        if stream.available() < 4:
            return False
        (length,) = struct.unpack("!I", stream.peek(4))
        if not 8 <= length <= _LARGEST_OPENING:
            # TLS from the first byte on (sslnegotiation=direct) looks like this, too
            raise _Unreadable
        if stream.available() < length:
            return False
        (code,) = struct.unpack("!4xI", stream.peek(8))
        stream.take(_NAMES.get(code, "StartupMessage"), 4, length)
        if code in {_SSL_REQUEST, _GSSENC_REQUEST}:
            self._asked_to_encrypt = "TLS" if code == _SSL_REQUEST else "GSSAPI"
        elif code != _CANCEL_REQUEST:
            self._opening = False
            self._asked.append(_STARTUP)
        return True

    def _note_text(self, message: Message) -> None:
        text: str | None = None
        if message.type == "Q":
            text = message.body.rstrip(b"\0").decode(errors="replace")
        elif message.type == "P":
            name, sql = message.body.split(b"\0", 2)[:2]
            text = self._statements[name] = sql.decode(errors="replace")
        elif message.type == "B":
            text = self._statements.get(message.body.split(b"\0", 2)[1])
        elif message.type == "C" and message.body[:1] == b"S":
            self._statements.pop(message.body[1:-1], None)
        if self._client.text is None:
            self._client.text = text

    def _note_request(self, kind: str, groups: list[Group]) -> None:
        """Remember what the server has to answer."""
        if kind in "cf":
            # a client may send its rows without waiting for CopyInResponse
            self._copied_early = not self._copying_in
            self._copying_in = False
        elif kind == "S":
            if not self._copying_in:
                self._skipping = False
                self._asked.append(kind)
        elif kind == "H":
            if not self._copying_in:
                self._asked.append(kind)
                self._answer_flushes(groups)
        elif (kind in _ANSWERS or kind in "QF") and not self._skipping:
            self._asked.append(kind)

    def _answer_flushes(self, groups: list[Group]) -> None:
        """End the server's group if a Flush was waiting for no more than what is in it."""
        flushed = False
        while self._asked and self._asked[0] == "H":
            self._asked.popleft()
            flushed = True
        if flushed and self._server.messages:
            groups.append(self._server.cut())

    def _read_server(self, groups: list[Group]) -> None:
        stream = self._server
        while self.unreadable is None:
            if self._asked_to_encrypt and stream.available() and stream.peek(1) != b"E":
                answer = stream.take("EncryptionAnswer", 0, 1)
                groups.append(stream.cut())
                if answer.body != b"N":
                    self.unreadable = f"they are encrypted by {self._asked_to_encrypt}"
                self._asked_to_encrypt = ""
                continue
            message = stream.take_message()
            if message is None:
                return
            if message.type == "K":
                (self.backend_pid,) = struct.unpack("!I", message.body[:4])
            unasked = message.type in _UNASKED and not self._asked
            if self._note_answer(message) or unasked or stream.size >= LARGEST_GROUP:
                groups.append(stream.cut())
            self._answer_flushes(groups)

    def _note_answer(self, message: Message) -> bool:
        """Whether the server waits for the client after this message."""
        kind = message.type
        head = self._asked[0] if self._asked else ""
        if kind == "Z":
            self._ready()
            return True
        if kind == "R":
            return struct.unpack("!I", message.body[:4])[0] not in _ASKS_NOTHING
        if kind in _COPY_BEGINS:
            self._begin_copy(kind)
            return True
        if kind == "E":
            return self._fail(head)
        if kind in _ANSWERS.get(head, ""):
            self._asked.popleft()
        return self._copying_both

    def _ready(self) -> None:
        while self._asked and self._asked.popleft() not in _READY_ENDS:
            pass
        self._skipping = self._copying_in = self._copied_early = self._copying_both = False

    def _begin_copy(self, kind: str) -> None:
        self._copying_both = kind == "W"
        if kind == "G" and not self._copied_early:
            # the Sync sent along with a COPY of the extended protocol is read as part of the copy
            self._copying_in = True
            self._asked = deque(asked for asked in self._asked if asked not in "SH")

    def _fail(self, head: str) -> bool:
        """After an error in an extended query the server skips to the next Sync."""
        self._copying_in = False
        if not head:
            return True  # a last word to an idle session
        if head in _READY_ENDS:
            return self._copying_both
        flushed = False
        while self._asked and self._asked[0] not in _READY_ENDS:
            flushed |= self._asked.popleft() == "H"
        self._skipping = not self._asked
        return flushed or self._copying_both
