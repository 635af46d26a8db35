"""HTTP/2 conformance of both listeners, frame by frame: what RFC 9113 and RFC 7541 say a server must do, must refuse and
with which code. Case names begin with the section. Each case has a connection of its own.
"""

from __future__ import annotations

import socket
import struct

import gomicro
import sidecar
from h2frames import *  # noqa: F403 - the vocabulary of this file
from h2frames import Closed, Peer, block, frame, indexed, integer, literal, settings, text

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "localhost:1")]
CASES = []


def case(name, **options):
    def register(work):
        CASES.append((name, work, options))
        return work

    return register


def request(stream=1, fields=REQUEST, flags=END_STREAM | END_HEADERS, more=()):
    return frame(HEADERS, flags, stream, block(list(fields) + list(more)))


OPEN = END_HEADERS

# --- 3.4: starting HTTP/2 ------------------------------------------------------------------------------------------


@case("3.4 sends its SETTINGS first, and acknowledges the client's", greet=False)
def _(peer):
    peer.send(PREFACE + settings())
    first = peer.receive()
    assert first.kind == SETTINGS and not first.flags & ACK, first
    peer.expect(lambda f: f.kind == SETTINGS and f.flags & ACK, "the acknowledgement")


@case("3.4 takes a preface that comes byte by byte", greet=False)
def _(peer):
    for byte in PREFACE + settings():
        peer.send(bytes([byte]))
    peer.expect(lambda f: f.kind == SETTINGS and f.flags & ACK, "the acknowledgement")


@case("3.4 takes a preface and a request in one segment", greet=False)
def _(peer):
    peer.send(PREFACE + settings() + request())
    peer.expect_headers(1)


@case("3.4 ends a connection whose preface goes wrong after a good start", greet=False)
def _(peer):
    peer.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings())
    peer.expect_end()


@case("3.4 ends a connection whose first frame is not SETTINGS", greet=False)
def _(peer):
    peer.send(PREFACE + frame(PING, 0, 0, b"12345678"))
    peer.expect_connection_error(PROTOCOL_ERROR)


# --- 4.1, 4.2: frames ----------------------------------------------------------------------------------------------


@case("4.1 ignores frames of types it does not know")
def _(peer):
    peer.send(frame(0x16, 0, 0, b"12345678"))
    peer.expect_alive()


@case("4.1 ignores flags it does not know")
def _(peer):
    peer.send(frame(PING, 0x16, 0, b"flagged!"))
    peer.expect(lambda f: f.kind == PING and f.flags == ACK, "the answer to PING")


@case("4.1 ignores the reserved bit of a stream id")
def _(peer):
    peer.send(frame(PING, 0, 0x80000000, b"reserved"))
    peer.expect(lambda f: f.kind == PING and f.flags & ACK, "the answer to PING")


@case("4.2 takes a DATA frame of 2^14 bytes")
def _(peer):
    peer.send(request(flags=OPEN), frame(DATA, END_STREAM, 1, b"x" * 16384))
    peer.expect_headers(1)
    peer.expect_alive()


@case("4.2 refuses a DATA frame larger than SETTINGS_MAX_FRAME_SIZE")
def _(peer):
    peer.send(request(flags=OPEN), frame(DATA, END_STREAM, 1, b"x" * 16385))
    peer.expect_stream_error(1, FRAME_SIZE_ERROR)


@case("4.2 refuses a HEADERS frame larger than SETTINGS_MAX_FRAME_SIZE")
def _(peer):
    peer.send(request(more=[("x", "y" * 17000)]))
    peer.expect_connection_error(FRAME_SIZE_ERROR)


# --- 4.3: field blocks ---------------------------------------------------------------------------------------------


@case("4.3 refuses a field block that cannot be decoded")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x83\x86\x84\x41\x8a\x08\x9d\x5c\x0b"))
    peer.expect_connection_error(COMPRESSION_ERROR)


@case("4.3 refuses a frame of another stream inside a field block")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM, 1, block(REQUEST)), frame(PRIORITY, 0, 3, b"\0\0\0\0\x0f"))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("4.3 refuses a HEADERS frame of another stream inside a field block")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM, 1, block(REQUEST)), request(3))
    peer.expect_connection_error(PROTOCOL_ERROR)


# --- 5.1: stream states --------------------------------------------------------------------------------------------

for name, bad in (
    ("DATA", frame(DATA, END_STREAM, 1, b"test")),
    ("RST_STREAM", frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL))),
    ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100))),
    ("CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, block(REQUEST))),
):

    @case("5.1 idle: refuses " + name)
    def _(peer, bad=bad):
        peer.send(bad)
        peer.expect_connection_error(PROTOCOL_ERROR)


@case("5.1 idle: takes PRIORITY")
def _(peer):
    peer.send(frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f"))
    peer.expect_alive()


for name, bad, codes in (
    ("DATA", frame(DATA, END_STREAM, 1, b"test"), (STREAM_CLOSED,)),
    ("HEADERS", request(1), (STREAM_CLOSED,)),
    ("CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, block(REQUEST)), (PROTOCOL_ERROR, STREAM_CLOSED)),
):

    @case("5.1 half-closed (remote): refuses " + name)
    def _(peer, bad=bad, codes=codes):
        # In one segment: the request cannot have been answered yet.
        peer.send(request(1), bad)
        peer.expect_stream_error(1, *codes)

    @case("5.1 closed by both ends: refuses " + name)
    def _(peer, bad=bad, codes=codes):
        peer.send(request(1))
        peer.expect(lambda f: f.stream == 1 and f.kind in (DATA, HEADERS) and f.flags & END_STREAM, "the whole answer")
        peer.send(bad)
        peer.expect_stream_error(1, *codes)

    @case("5.1 closed by the client's RST_STREAM: refuses " + name)
    def _(peer, bad=bad, codes=codes):
        peer.send(request(1, flags=OPEN), frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))
        peer.expect_alive()
        peer.send(bad)
        peer.expect_stream_error(1, *codes)


@case("5.1 half-closed (remote): takes WINDOW_UPDATE, PRIORITY and RST_STREAM")
def _(peer):
    peer.send(
        request(1),
        frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)),
        frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f"),
        frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)),
    )
    peer.expect_alive()


@case("5.1 closed: takes PRIORITY, and for a while WINDOW_UPDATE and RST_STREAM")
def _(peer):
    peer.send(request(1))
    peer.expect(lambda f: f.stream == 1 and f.flags & END_STREAM and f.kind in (DATA, HEADERS), "the whole answer")
    peer.send(
        frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f"),
        frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)),
        frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)),
    )
    peer.expect_alive()


@case("5.1 answers an unfinished request whole, and then ignores what was on its way")
def _(peer):
    peer.send(request(1, flags=OPEN))
    peer.expect(lambda f: f.kind == RST_STREAM and f.stream == 1 and f.code == NO_ERROR, "RST_STREAM after the answer")
    peer.send(frame(DATA, 0, 1, b"late"), frame(DATA, END_STREAM, 1, b"later"))
    peer.expect_alive()


@case("5.1.1 refuses an even stream id from a client")
def _(peer):
    peer.send(request(2))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("5.1.1 refuses a stream id below one that was used")
def _(peer):
    peer.send(request(5), request(3))
    peer.expect_connection_error(PROTOCOL_ERROR, STREAM_CLOSED)


@case("5.1.2 refuses streams beyond SETTINGS_MAX_CONCURRENT_STREAMS")
def _(peer):
    # None of them can be answered before all are there: they are in one segment, and unfinished.
    peer.send(b"".join(request(1 + 2 * n, flags=OPEN) for n in range(101)))
    peer.expect(
        lambda f: f.kind == RST_STREAM and f.code in (REFUSED_STREAM, PROTOCOL_ERROR) or f.kind == GOAWAY and f.code == PROTOCOL_ERROR,
        "the refusal of stream 201",
    )


@case("5.3.1 refuses a PRIORITY frame that makes a stream depend on itself")
def _(peer):
    peer.send(frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 15)))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("5.3.1 refuses a HEADERS frame that makes a stream depend on itself")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS | HAS_PRIORITY, 1, struct.pack(">IB", 1, 15) + block(REQUEST)))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("5.4.1 closes the connection after a connection error")
def _(peer):
    peer.send(frame(DATA, END_STREAM, 0, b"test"))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("5.5 ignores unknown extension frames, not inside a field block")
def _(peer):
    peer.send(frame(0xFF, 0xFF, 0, b"anything"), frame(0xF0, 1, 1, b""))
    peer.expect_alive()


@case("5.5 refuses an unknown extension frame inside a field block")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM, 1, block(REQUEST)), frame(0xFF, 0, 0, b"x"))
    peer.expect_connection_error(PROTOCOL_ERROR)


# --- 6.1: DATA -----------------------------------------------------------------------------------------------------


@case("6.1 refuses DATA on stream 0")
def _(peer):
    peer.send(frame(DATA, 0, 0, b"x"))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.1 refuses padding as long as the payload")
def _(peer):
    peer.send(request(flags=OPEN), frame(DATA, END_STREAM | PADDED, 1, b"\x06Test\0"))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.1 takes padding up to the end of the payload")
def _(peer):
    peer.send(request(flags=OPEN), frame(DATA, END_STREAM | PADDED, 1, b"\x05\0\0\0\0\0"))
    peer.expect_headers(1)
    peer.expect_alive()


@case("6.1 gives the window of padding back")
def _(peer):
    peer.send(request(flags=OPEN, fields=GRPC))
    # More than the stream's and the connection's windows, were they not given back.
    for _ in range(300):
        peer.send(frame(DATA, PADDED, 1, b"\xff" + b"\0" * 255))
    peer.expect_alive()


# --- 6.2: HEADERS --------------------------------------------------------------------------------------------------


@case("6.2 takes HEADERS with padding and priority")
def _(peer):
    payload = b"\x03" + struct.pack(">IB", 0, 15) + block(REQUEST) + b"\0\0\0"
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS | PADDED | HAS_PRIORITY, 1, payload))
    peer.expect_headers(1)


@case("6.2 refuses HEADERS on stream 0")
def _(peer):
    peer.send(request(0))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.2 refuses padding as long as the field block")
def _(peer):
    fields = block(REQUEST)
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, bytes([len(fields) + 1]) + fields))
    peer.expect_connection_error(PROTOCOL_ERROR)


# --- 6.3, 6.4: PRIORITY, RST_STREAM --------------------------------------------------------------------------------


@case("6.3 refuses PRIORITY on stream 0")
def _(peer):
    peer.send(frame(PRIORITY, 0, 0, b"\0\0\0\0\x0f"))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.3 refuses PRIORITY of another length than 5")
def _(peer):
    peer.send(request(flags=OPEN), frame(PRIORITY, 0, 1, b"\0\0\0\0"))
    peer.expect_stream_error(1, FRAME_SIZE_ERROR)


@case("6.4 refuses RST_STREAM on stream 0")
def _(peer):
    peer.send(frame(RST_STREAM, 0, 0, struct.pack(">I", CANCEL)))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.4 refuses RST_STREAM of another length than 4")
def _(peer):
    peer.send(request(flags=OPEN), frame(RST_STREAM, 0, 1, b"\0\0\0"))
    peer.expect_connection_error(FRAME_SIZE_ERROR)


# --- 6.5: SETTINGS -------------------------------------------------------------------------------------------------

for name, bad, code in (
    ("an acknowledgement with a payload", frame(SETTINGS, ACK, 0, struct.pack(">HI", 1, 1)), FRAME_SIZE_ERROR),
    ("SETTINGS on a stream", frame(SETTINGS, 0, 1, struct.pack(">HI", 3, 100)), PROTOCOL_ERROR),
    ("a length that is no multiple of 6", frame(SETTINGS, 0, 0, b"\0\3\0"), FRAME_SIZE_ERROR),
    ("ENABLE_PUSH other than 0 and 1", settings((ENABLE_PUSH, 2)), PROTOCOL_ERROR),
    ("an initial window above 2^31-1", settings((INITIAL_WINDOW_SIZE, 0x80000000)), FLOW_CONTROL_ERROR),
    ("a frame size below 2^14", settings((MAX_FRAME_SIZE, 16383)), PROTOCOL_ERROR),
    ("a frame size above 2^24-1", settings((MAX_FRAME_SIZE, 16777216)), PROTOCOL_ERROR),
):

    @case("6.5 refuses " + name)
    def _(peer, bad=bad, code=code):
        peer.send(bad)
        peer.expect_connection_error(code)


@case("6.5 ignores settings it does not know")
def _(peer):
    peer.send(settings((0xFF, 1)))
    peer.expect(lambda f: f.kind == SETTINGS and f.flags & ACK, "the acknowledgement")


@case("6.5 takes the last of several values, and acknowledges each frame")
def _(peer):
    peer.send(settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)), settings())
    for _ in range(2):
        peer.expect(lambda f: f.kind == SETTINGS and f.flags & ACK, "an acknowledgement")
    peer.send(request())
    peer.expect_data(1, 1)


@case("6.5 tells its limits: 100 streams, 64 KiB of fields, windows of 64 KiB", greet=False)
def _(peer):
    peer.send(PREFACE + settings())
    got = peer.receive()
    told = dict(struct.iter_unpack(">HI", got.payload))
    assert told[MAX_CONCURRENT_STREAMS] == 100, told
    assert told[MAX_HEADER_LIST_SIZE] == 65536, told
    assert told.get(INITIAL_WINDOW_SIZE, 65535) == 65535, told


# --- 6.7, 6.8: PING, GOAWAY ----------------------------------------------------------------------------------------


@case("6.7 answers PING with the same bytes")
def _(peer):
    peer.expect_alive(b"\x01\x02\x03\x04\x05\x06\x07\x08")


@case("6.7 does not answer an answer")
def _(peer):
    before = len(peer.seen)
    peer.send(frame(PING, ACK, 0, b"invalid!"))
    peer.expect_alive()
    assert not [f for f in peer.seen[before:] if f.payload == b"invalid!"], peer.seen


@case("6.7 refuses PING on a stream")
def _(peer):
    peer.send(frame(PING, 0, 1, b"12345678"))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.7 refuses PING of another length than 8")
def _(peer):
    peer.send(frame(PING, 0, 0, b"123456"))
    peer.expect_connection_error(FRAME_SIZE_ERROR)


@case("6.8 refuses GOAWAY on a stream")
def _(peer):
    peer.send(frame(GOAWAY, 0, 1, struct.pack(">II", 0, NO_ERROR)))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.8 lets open streams end after the client's GOAWAY")
def _(peer):
    peer.send(request(flags=OPEN), frame(GOAWAY, 0, 0, struct.pack(">II", 0, NO_ERROR)), frame(DATA, END_STREAM, 1))
    peer.expect_headers(1)


# --- 6.9: WINDOW_UPDATE and flow control ---------------------------------------------------------------------------


@case("6.9 refuses an increment of 0 for the connection")
def _(peer):
    peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.9 refuses an increment of 0 for a stream")
def _(peer):
    peer.send(request(flags=OPEN), frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0)))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("6.9 refuses WINDOW_UPDATE of another length than 4")
def _(peer):
    peer.send(frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"))
    peer.expect_connection_error(FRAME_SIZE_ERROR)


@case("6.9.1 sends no more than the stream's window", initial=((INITIAL_WINDOW_SIZE, 1),))
def _(peer):
    peer.send(request())
    peer.expect_data(1, 1)
    peer.expect_no_data(1)
    peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 2)))
    peer.expect_data(1, 2)


@case("6.9.1 refuses a connection's window above 2^31-1")
def _(peer):
    peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2)
    peer.expect_connection_error(FLOW_CONTROL_ERROR)


@case("6.9.1 refuses a stream's window above 2^31-1")
def _(peer):
    peer.send(request(flags=OPEN), frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFFFFFF)) * 2)
    peer.expect_stream_error(1, FLOW_CONTROL_ERROR)


@case("6.9.1 refuses DATA beyond the stream's window")
def _(peer):
    # An unfinished message is kept, and its window given back; a call of nobody keeps nothing: so the callee must hold it
    # up. What goes over the window in one go is refused whoever reads it.
    peer.send(request(flags=OPEN, fields=GRPC), *[frame(DATA, 0, 1, b"\0" * 16384)] * 8)
    peer.expect(
        lambda f: f.kind in (RST_STREAM, GOAWAY) or f.kind == WINDOW_UPDATE and f.stream == 1 or f.kind == HEADERS,
        "a window given back, or an error",
    )


@case("6.9.2 applies a changed initial window to open streams", initial=((INITIAL_WINDOW_SIZE, 0),))
def _(peer):
    peer.send(request())
    peer.expect_headers(1)
    peer.expect_no_data(1)
    peer.send(settings((INITIAL_WINDOW_SIZE, 1)))
    peer.expect_data(1, 1)


@case("6.9.2 keeps a window that has become negative", initial=((INITIAL_WINDOW_SIZE, 3),))
def _(peer):
    peer.send(request())
    peer.expect_data(1, 3)
    peer.send(settings((INITIAL_WINDOW_SIZE, 2)), frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
    peer.expect_no_data(1)
    peer.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
    peer.expect_data(1, 1)


@case("6.9.2 refuses an initial window that takes an open stream's above 2^31-1")
def _(peer):
    peer.send(
        request(flags=OPEN),
        frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFFFFFF - 65535)),
        settings((INITIAL_WINDOW_SIZE, 0x7FFFFFFF)),
    )
    peer.expect_connection_error(FLOW_CONTROL_ERROR)


@case("6.9.2 takes an initial window that only a stream of the past would have carried above 2^31-1")
def _(peer):
    peer.send(request(flags=OPEN), frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0x7FFFFFFF - 65535)))
    peer.send(frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))
    peer.send(settings((INITIAL_WINDOW_SIZE, 0x7FFFFFFF)))
    peer.expect_alive()


# --- 6.10: CONTINUATION --------------------------------------------------------------------------------------------


@case("6.10 takes a field block in several frames")
def _(peer):
    fields = block(REQUEST)
    peer.send(
        frame(HEADERS, END_STREAM, 1, fields[:5]),
        frame(CONTINUATION, 0, 1, fields[5:20]),
        frame(CONTINUATION, END_HEADERS, 1, fields[20:]),
    )
    peer.expect_headers(1)


for name, bad in (
    ("another type", frame(DATA, END_STREAM, 1, b"test")),
    ("another stream", frame(CONTINUATION, END_HEADERS, 3, block([("x", "y")]))),
    ("stream 0", frame(CONTINUATION, END_HEADERS, 0, block([("x", "y")]))),
):

    @case("6.10 refuses a frame of %s where CONTINUATION is due" % name)
    def _(peer, bad=bad):
        peer.send(frame(HEADERS, END_STREAM, 1, block(REQUEST)), bad)
        peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.10 refuses CONTINUATION after a field block's end")
def _(peer):
    peer.send(request(flags=OPEN), frame(CONTINUATION, END_HEADERS, 1, block([("x", "y")])))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.10 refuses CONTINUATION after DATA")
def _(peer):
    peer.send(request(flags=OPEN), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, block([("x", "y")])))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("6.6 refuses PUSH_PROMISE from a client")
def _(peer):
    peer.send(request(flags=OPEN), frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + block(REQUEST)))
    peer.expect_connection_error(PROTOCOL_ERROR)


@case("7 takes error codes it does not know")
def _(peer):
    peer.send(request(flags=OPEN), frame(RST_STREAM, 0, 1, struct.pack(">I", 0xFF)))
    peer.expect_alive()


# --- 8: HTTP -------------------------------------------------------------------------------------------------------


def malformed(name, fields, **options):
    @case("8 " + name)
    def _(peer):
        peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields)))
        peer.expect_stream_error(1, PROTOCOL_ERROR)
        # A stream's fault ends the stream alone.
        peer.send(request(3))
        peer.expect_headers(3)


malformed("refuses upper case in a field name", REQUEST + [("X-Test", "ok")])
malformed("refuses a blank in a field name", REQUEST + [("x test", "ok")])
malformed("refuses an empty field name", REQUEST + [("", "ok")])
malformed("refuses a line break in a value", REQUEST + [("x-test", "a\r\nb: c")])
malformed("refuses a NUL in a value", REQUEST + [("x-test", "a\0b")])
malformed("refuses a blank before a value", REQUEST + [("x-test", " a")])
malformed("refuses a blank after a value", REQUEST + [("x-test", "a\t")])
malformed("refuses an unknown pseudo-header", REQUEST + [(":test", "ok")])
malformed("refuses a response's pseudo-header", REQUEST + [(":status", "200")])
malformed("refuses a pseudo-header after a field", [REQUEST[0], REQUEST[1], ("x-test", "ok"), REQUEST[2], REQUEST[3]])
malformed("refuses Connection", REQUEST + [("connection", "keep-alive")])
malformed("refuses Keep-Alive", REQUEST + [("keep-alive", "1")])
malformed("refuses Proxy-Connection", REQUEST + [("proxy-connection", "keep-alive")])
malformed("refuses Transfer-Encoding", REQUEST + [("transfer-encoding", "chunked")])
malformed("refuses Upgrade", REQUEST + [("upgrade", "h2c")])
malformed("refuses TE other than trailers", REQUEST + [("te", "trailers, deflate;q=0.5")])
malformed("refuses an empty path", [(n, "" if n == ":path" else v) for n, v in REQUEST])
malformed("refuses a relative path", [(n, "x/y" if n == ":path" else v) for n, v in REQUEST])
for missing in (":method", ":scheme", ":path"):
    malformed("refuses a request without " + missing, [(n, v) for n, v in REQUEST if n != missing])
    malformed("refuses %s twice" % missing, [(n, v) for n, v in REQUEST if n == missing] + REQUEST)
malformed("refuses :authority twice", REQUEST[3:] + REQUEST)
malformed("refuses a content-length that is no number", REQUEST + [("content-length", "x1")])
malformed("refuses two content-lengths", REQUEST + [("content-length", "1"), ("content-length", "2")])
malformed("refuses a content-length without a body", REQUEST + [("content-length", "1")])
malformed("refuses CONNECT with a path", [(":method", "CONNECT")] + REQUEST[1:])


@case("8 takes TE: trailers")
def _(peer):
    peer.send(request(more=[("te", "trailers")]))
    peer.expect_headers(1)


@case("8 takes cookies in several fields")
def _(peer):
    peer.send(request(more=[("cookie", "a=b"), ("cookie", "c=d")]))
    peer.expect_headers(1)


@case("8.1.1 refuses a body longer than its content-length")
def _(peer):
    peer.send(request(flags=OPEN, more=[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"test"))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("8.1.1 refuses a body shorter than its content-length")
def _(peer):
    peer.send(request(flags=OPEN, more=[("content-length", "9")]), frame(DATA, 0, 1, b"te"), frame(DATA, END_STREAM, 1, b"st"))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("8.1 refuses a second HEADERS without END_STREAM")
def _(peer):
    peer.send(request(flags=OPEN), frame(HEADERS, END_HEADERS, 1, block([("x-test", "ok")])))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("8.1 takes trailers")
def _(peer):
    peer.send(
        request(flags=OPEN), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_STREAM | END_HEADERS, 1, block([("x-test", "ok")]))
    )
    peer.expect_headers(1)
    peer.expect_alive()


@case("8.1 refuses a pseudo-header in trailers")
def _(peer):
    trailers = block([(":method", "POST")])
    peer.send(request(flags=OPEN), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_STREAM | END_HEADERS, 1, trailers))
    peer.expect_stream_error(1, PROTOCOL_ERROR)


@case("8 answers HEAD, GET and a path of *")
def _(peer):
    for stream, (method, path) in enumerate([("HEAD", "/"), ("GET", "/a"), ("OPTIONS", "*")]):
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")]
        peer.send(request(1 + 2 * stream, fields=fields))
        peer.expect_headers(1 + 2 * stream)


# --- RFC 7541 ------------------------------------------------------------------------------------------------------


def undecodable(name, payload):
    @case("HPACK " + name)
    def _(peer):
        peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, payload))
        peer.expect_connection_error(COMPRESSION_ERROR)


undecodable("2.3.3 refuses an index beyond the tables", block(REQUEST) + indexed(70))
undecodable("2.3.3 refuses a name index beyond the tables", block(REQUEST) + integer(70, 4) + text("x"))
undecodable("4.2 refuses a table size update in the middle of a block", block(REQUEST) + integer(1, 5, 0x20) + indexed(2))
undecodable("5.1 refuses an integer that does not end", block(REQUEST) + b"\xff" + b"\xff" * 12)
undecodable("5.2 refuses Huffman padding longer than 7 bits", block(REQUEST) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")
undecodable("5.2 refuses Huffman padding with zeros", block(REQUEST) + b"\x00\x85\xf2\xb2\x4a\x87\xff\x83\x49\x50\x90")
undecodable("5.2 refuses the Huffman symbol EOS", block(REQUEST) + b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x50\x93\xff\xff\xff\xfa\x7f")
undecodable("6.1 refuses index 0", block(REQUEST) + b"\x80")
undecodable("6.3 refuses a table larger than announced", integer(4097, 5, 0x20) + block(REQUEST))
undecodable("6 refuses a block that ends inside a field", block(REQUEST) + b"\x00\x05ab")


@case("HPACK 4.2 takes a smaller table size at the start of a block")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, integer(0, 5, 0x20) + integer(100, 5, 0x20) + block(REQUEST)))
    peer.expect_headers(1)


@case("HPACK remembers fields from one request to the next")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block(REQUEST) + literal("x-kept", "v", 0x40)))
    peer.expect_headers(1)
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, block(REQUEST) + indexed(62)))
    peer.expect_headers(3)


@case("HPACK keeps its table through a request that was refused")
def _(peer):
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block(REQUEST + [("Bad", "x")]) + literal("x-kept", "v", 0x40)))
    peer.expect_stream_error(1, PROTOCOL_ERROR)
    peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, block(REQUEST) + indexed(62)))
    peer.expect_headers(3)


# --- floods: every one ends with ENHANCE_YOUR_CALM -----------------------------------------------------------------

GRPC = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/grpc.health.v1.Health/Check"),
    (":authority", "localhost:1"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def flood(name, make, count=30000, batch=200, paced=False):
    """Sends until the server has had enough. `paced`: each batch is answered before the next, so that no more streams are
    open than may be, which would be another fault.
    """

    @case("flood of " + name)
    def _(peer):
        peer.socket.settimeout(REACTION_SECONDS_MAX)
        try:
            for start in range(0, count, batch):
                peer.socket.sendall(b"".join(make(number) for number in range(start, start + batch)))
                if paced:
                    peer.expect_alive()
        except (socket.timeout, BrokenPipeError, ConnectionResetError, AssertionError):
            pass  # the server has had enough
        if not [f for f in peer.seen if f.kind == GOAWAY]:
            try:
                peer.expect(lambda f: f.kind == GOAWAY, "GOAWAY")
            except AssertionError:
                pass  # a reset may overtake it when we go on sending; but the end must be there
        peer.expect_end()
        codes = [f.code for f in peer.seen if f.kind == GOAWAY]
        assert codes in ([], [ENHANCE_YOUR_CALM]), codes


flood("PING", lambda n: frame(PING, 0, 0, b"12345678"))
flood("SETTINGS", lambda n: settings())
flood("PRIORITY", lambda n: frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f"))
flood("WINDOW_UPDATE", lambda n: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)))
flood("frames of unknown types", lambda n: frame(0xBB, 0, 0, b""))
flood("empty DATA", lambda n: request(1, fields=GRPC, flags=OPEN) if n == 0 else frame(DATA, 0, 1, b""))
flood(
    "streams that are reset at once (CVE-2023-44487)",
    lambda n: request(1 + 2 * n, fields=GRPC, flags=OPEN) + frame(RST_STREAM, 0, 1 + 2 * n, struct.pack(">I", CANCEL)),
    count=4000,
)
flood(
    "streams that the server must reset (CVE-2025-8671)",
    lambda n: request(1 + 2 * n, flags=OPEN, fields=GRPC) + frame(WINDOW_UPDATE, 0, 1 + 2 * n, struct.pack(">I", 0x7FFFFFFF)),
    count=4000,
    batch=40,
    paced=True,
)
flood(
    "malformed requests",
    lambda n: request(1 + 2 * n, fields=REQUEST + [("connection", "close")]),
    count=4000,
    batch=40,
    paced=True,
)
flood(
    "header lists that unfold (HPACK bomb)",
    lambda n: frame(HEADERS, END_STREAM | END_HEADERS, 1, block(REQUEST) + literal("x", "y" * 4000, 0x40))
    if n == 0
    else frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, block(REQUEST) + indexed(62) * 16000),
    count=200,
    batch=1,
    paced=True,
)
flood(
    "CONTINUATION",
    lambda n: frame(HEADERS, END_STREAM, 1, block(REQUEST)) if n == 0 else frame(CONTINUATION, 0, 1, literal("x", "y")),
    count=2000,
)


@case("a header list over 64 KiB is refused, and the connection goes on")
def _(peer):
    fields = REQUEST + [("x-%d" % n, "y" * 8000) for n in range(9)]
    whole = block(fields)
    parts = [whole[at : at + 16384] for at in range(0, len(whole), 16384)]
    peer.send(frame(HEADERS, END_STREAM, 1, parts[0]))
    for part in parts[1:-1]:
        peer.send(frame(CONTINUATION, 0, 1, part))
    peer.send(frame(CONTINUATION, END_HEADERS, 1, parts[-1]))
    peer.expect_stream_error(1, ENHANCE_YOUR_CALM)
    peer.send(request(3))
    peer.expect_headers(3)


class HTTP2Conformance(sidecar.BlackBox):
    def run_cases(self, port, side):
        for name, work, options in CASES:
            with self.subTest(side=side, case=name), Peer(port, **options) as peer:
                try:
                    work(peer)
                except Closed:
                    raise AssertionError("the connection ended too early; came: %r" % peer.seen) from None
                except socket.timeout:
                    raise AssertionError("nothing more came after %r" % peer.seen[-5:]) from None

    def test_every_rule_holds_on_the_apps_side(self):
        one = self.start(name="go.micro.srv.conformance")
        self.run_cases(one.port, "app")
        self.assertGreater(len(CASES), 130)

    def test_every_rule_holds_on_the_frameworks_side(self):
        app = self.start_server(gomicro.App())
        one = self.start(name="go.micro.srv.conformance", app=app.port)
        self.run_cases(one.server_port, "framework")


if __name__ == "__main__":
    import unittest

    unittest.main()
