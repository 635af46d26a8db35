"""HTTP/2 by hand: frames and header blocks as bytes, so that every rule of RFC 9113 and RFC 7541 can be broken on purpose.

Nothing here knows what is allowed. `Peer` is one connection to a server; its `expect_…` methods read frames until they
have seen what they wait for, and fail with what came instead.
"""

from __future__ import annotations

import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NAMES = "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION".split()
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 1, 1, 4, 8, 32
(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
) = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
# Seconds in which a server must have reacted to what it was sent.
REACTION_SECONDS_MAX = 5


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in pairs))


def integer(value, prefix_bits, first=0):
    """RFC 7541 §5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([first | value])
    out = [first | most]
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + [value])


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return integer(len(value), 7) + value


def literal(name, value, first=0x00):
    """A field with a new name; `first` 0x40 puts it into the peer's table."""
    return bytes([first]) + text(name) + text(value)


def indexed(index):
    return integer(index, 7, 0x80)


def block(fields):
    return b"".join(literal(name, value) for name, value in fields)


class Frame:
    def __init__(self, kind, flags, stream, payload):
        self.kind, self.flags, self.stream, self.payload = kind, flags, stream, payload

    @property
    def code(self):
        """The error code of RST_STREAM or GOAWAY."""
        offset = 0 if self.kind == RST_STREAM else 4
        return struct.unpack_from(">I", self.payload, offset)[0]

    def __repr__(self):
        name = NAMES[self.kind] if self.kind < len(NAMES) else "type %d" % self.kind
        note = " code %d" % self.code if self.kind in (RST_STREAM, GOAWAY) else ""
        return "%s(stream %d, flags %d, %d bytes%s)" % (name, self.stream, self.flags, len(self.payload), note)


class Closed(Exception):
    """The server has ended the connection."""


class Peer:
    """One connection. `greet=False` sends nothing at first."""

    def __init__(self, port, greet=True, initial=()):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=REACTION_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.seen = []
        if greet:
            self.send(PREFACE + settings(*initial))
            self.expect(lambda f: f.kind == SETTINGS and not f.flags & ACK, "the server's SETTINGS")
            self.send(frame(SETTINGS, ACK))
            self.expect(lambda f: f.kind == SETTINGS and f.flags & ACK, "the acknowledgement of SETTINGS")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *parts):
        """A server that is already closing may refuse it; what it said is still read."""
        try:
            self.socket.sendall(b"".join(parts))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self, seconds=REACTION_SECONDS_MAX):
        """The next frame. Raises `Closed` at the end and socket.timeout when none comes."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self.buffer) >= 9:
                length = int.from_bytes(self.buffer[:3], "big")
                if len(self.buffer) >= 9 + length:
                    head, payload = self.buffer[:9], self.buffer[9 : 9 + length]
                    self.buffer = self.buffer[9 + length :]
                    got = Frame(head[3], head[4], struct.unpack(">I", head[5:])[0] & 0x7FFFFFFF, payload)
                    self.seen.append(got)
                    return got
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                raise Closed from None
            if not more:
                raise Closed
            self.buffer += more

    def expect(self, wanted, what):
        """Reads until a frame is as wanted."""
        before = len(self.seen)
        try:
            while True:
                got = self.receive()
                if wanted(got):
                    return got
        except (Closed, socket.timeout) as end:
            raise AssertionError(
                "%s did not come: %s after %r" % (what, type(end).__name__, self.seen[before:])
            ) from None

    def expect_connection_error(self, *codes):
        """GOAWAY with one of the codes, then the end of the connection."""
        self.expect(lambda f: f.kind == GOAWAY and f.code in codes, "GOAWAY with code %r" % (codes,))
        self.expect_end()

    def expect_end(self):
        try:
            while True:
                self.receive()
        except Closed:
            return
        except socket.timeout:
            raise AssertionError("the connection was not closed; came: %r" % self.seen) from None

    def expect_stream_error(self, stream, *codes):
        """RST_STREAM, or the connection's end with the same code, which is always allowed (RFC 9113 §5.4.2)."""
        self.expect(
            lambda f: f.kind == RST_STREAM and f.stream == stream and f.code in codes or f.kind == GOAWAY and f.code in codes,
            "an error of stream %d with code %r" % (stream, codes),
        )

    def expect_headers(self, stream):
        return self.expect(lambda f: f.kind == HEADERS and f.stream == stream, "HEADERS of stream %d" % stream)

    def expect_data(self, stream, length=None):
        got = self.expect(lambda f: f.kind == DATA and f.stream == stream, "DATA of stream %d" % stream)
        if length is not None and len(got.payload) != length:
            raise AssertionError("DATA of stream %d has %d bytes rather than %d" % (stream, len(got.payload), length))
        return got

    def expect_alive(self, opaque=b"still up"):
        """The connection still answers, and so has read all that was sent before."""
        self.send(frame(PING, 0, 0, opaque))
        return self.expect(lambda f: f.kind == PING and f.flags & ACK and f.payload == opaque, "the answer to PING")

    def expect_no_data(self, stream):
        """Nothing of that stream's body comes before the answer to a ping sent now."""
        before = len(self.seen)
        self.expect_alive(b"no data?")
        bad = [f for f in self.seen[before:] if f.kind == DATA and f.stream == stream]
        if bad:
            raise AssertionError("DATA came too early: %r" % bad)
