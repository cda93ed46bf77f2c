"""The codec: both directions from one literal, every input in any pieces, and another implementation (wsproto) on the other side."""
from __future__ import annotations

import random

import pytest
import wsproto
import wsproto.frame_protocol as fp
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionType

from ws_bridge import (
    BinaryMessage, BridgeError, Closed, Codec, Ping, Pong, Role, State, TextMessage, apply_mask, encode_close, encode_frame)

MASK = bytes.fromhex("37fa213d")  # the RFC's own examples (5.7) use it
LIMIT = 1 << 20


def make(role: Role, limit: int = LIMIT) -> Codec:
    return Codec(role, limit, new_mask=lambda: MASK)


def feed_in_bytes(codec: Codec, data: bytes) -> list:
    return [event for index in range(len(data)) for event in codec.feed(data[index:index + 1])]


# ---- Both directions from one literal (5.7 of the RFC, and the borders of the length encoding). ----

def send_text(text):
    return lambda codec: codec.send_text(text)


FRAMES = [
    ("text", send_text("Hello"), "810548656c6c6f", "818537fa213d7f9f4d5158", TextMessage("Hello")),
    ("text from bytes", send_text(b"Hello"), "810548656c6c6f", "818537fa213d7f9f4d5158", TextMessage("Hello")),
    ("empty text", send_text(""), "8100", "818037fa213d", TextMessage("")),
    ("two-byte character", send_text("é"), "8102c3a9", "818237fa213df453", TextMessage("é")),
    ("binary", lambda c: c.send_binary(b"\x00\xff"), "820200ff", "828237fa213d3705", BinaryMessage(b"\x00\xff")),
    ("ping", lambda c: c.send_ping(b"Hello"), "890548656c6c6f", "898537fa213d7f9f4d5158", Ping(b"Hello")),
    ("close with code", lambda c: c.send_close(1000), "880203e8", "888237fa213d3412", Closed(1000, "")),
    ("close with reason", lambda c: c.send_close(4999, "ok"), "880413876f6b", "888437fa213d247d4e56", Closed(4999, "ok")),
    ("close without code", lambda c: c.send_close(1005), "8800", "888037fa213d", Closed(1005, "")),
]


@pytest.mark.parametrize("feed", [Codec.feed, feed_in_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name, send, from_server, from_client, event", FRAMES, ids=[row[0] for row in FRAMES])
def test_one_literal_serves_both_directions(name, send, from_server, from_client, event, feed):
    for sender, receiver, literal in ((Role.SERVER, Role.CLIENT, from_server), (Role.CLIENT, Role.SERVER, from_client)):
        assert send(make(sender)).hex() == literal
        assert feed(make(receiver), bytes.fromhex(literal)) == [event]


@pytest.mark.parametrize("length, head", [(125, "827d"), (126, "827e007e"), (65535, "827effff"), (65536, "827f0000000000010000")])
def test_lengths_are_encoded_in_as_few_bytes_as_possible(length, head):
    frame = make(Role.SERVER).send_binary(b"x" * length)
    assert frame[:len(head) // 2].hex() == head
    assert make(Role.CLIENT).feed(frame) == [BinaryMessage(b"x" * length)]


# ---- What comes in: fragments, control frames between them, violations. Heads as a server sends them. ----

def frames(*parts: tuple[int, bytes]) -> bytes:
    """Frames from (first byte, payload)."""
    return b"".join(bytes((first,)) + encode_frame(0, payload)[1:] for first, payload in parts)


GOOD = [
    ("fragments", frames((0x01, b"Hel"), (0x80, b"lo")), [TextMessage("Hello")]),
    ("a ping between fragments", frames((0x01, b"Hel"), (0x89, b"p"), (0x80, b"lo")), [Ping(b"p"), TextMessage("Hello")]),
    ("empty fragments", frames((0x01, b""), (0x00, b""), (0x80, b"")), [TextMessage("")]),
    ("a character over two fragments", frames((0x01, b"\xc3"), (0x80, b"\xa9")), [TextMessage("é")]),
    ("binary fragments that are no UTF-8", frames((0x02, b"\xff"), (0x80, b"\xfe")), [BinaryMessage(b"\xff\xfe")]),
    ("two messages at once", frames((0x81, b"a"), (0x81, b"b")), [TextMessage("a"), TextMessage("b")]),
    ("an unasked pong", frames((0x8A, b"x")), [Pong(b"x")]),
    ("nothing after a close", frames((0x88, b"\x03\xe8"), (0x81, b"late")), [Closed(1000, "")]),
    ("the highest code point", frames((0x81, "\U0010ffff".encode())), [TextMessage("\U0010ffff")]),
    ("a ping of 125 bytes", frames((0x89, b"x" * 125)), [Ping(b"x" * 125)]),
]


@pytest.mark.parametrize("feed", [Codec.feed, feed_in_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name, data, events", GOOD, ids=[row[0] for row in GOOD])
def test_what_is_right_is_taken(name, data, events, feed):
    assert feed(make(Role.CLIENT), data) == events


BAD = [
    *((f"reserved bit {bit:#x}", bytes((0x81 | bit, 0)), 1002) for bit in (0x40, 0x20, 0x10)),
    *((f"opcode {opcode}", bytes((0x80 | opcode, 0)), 1002) for opcode in (3, 7, 11, 15)),
    ("a masked frame from a server", bytes.fromhex("818037fa213d"), 1002),
    ("a fragmented ping", bytes((0x09, 0)), 1002),
    ("a ping of 126 bytes", bytes((0x89, 126, 0, 126)), 1002),
    ("a length in two bytes that fits in one", bytes((0x82, 126, 0, 125)), 1002),
    ("a length in eight bytes that fits in two", bytes((0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF)), 1002),
    ("a length with the highest bit", bytes((0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0)), 1002),
    ("a continuation of nothing", frames((0x80, b"x")), 1002),
    ("a new message inside another", frames((0x01, b"x"), (0x81, b"y")), 1002),
    ("a close of one byte", frames((0x88, b"\x03")), 1002),
    *((f"close code {code}", frames((0x88, code.to_bytes(2, "big"))), 1002)
      for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
    ("a close reason that is no UTF-8", frames((0x88, b"\x03\xe8\xff")), 1007),
    ("text that is no UTF-8", frames((0x81, b"\xc0\xaf")), 1007),
    ("text that ends inside a character", frames((0x81, b"\xc3")), 1007),
    ("text with a surrogate", frames((0x81, b"\xed\xa0\x80")), 1007),
    ("text beyond the highest code point", frames((0x01, b"\xf4\x90")), 1007),
    ("the first wrong byte of a text that is not whole", bytes((0x81, 100)) + b"good \xff", 1007),
    ("a message over the limit, from its head alone", bytes((0x82, 127)) + (LIMIT + 1).to_bytes(8, "big"), 1009),
    ("fragments that are over the limit together", frames((0x02, b"x" * LIMIT), (0x00, b"y")), 1009),
]


@pytest.mark.parametrize("feed", [Codec.feed, feed_in_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name, data, code", BAD, ids=[row[0] for row in BAD])
def test_what_is_wrong_ends_the_connection_with_the_right_code(name, data, code, feed):
    if feed is feed_in_bytes and len(data) > LIMIT:
        codec = make(Role.CLIENT, limit=14)
        data = frames((0x02, b"x" * 14), (0x00, b"y"))
    else:
        codec = make(Role.CLIENT)
    (closed,) = feed(codec, data)
    assert closed.code == code and closed.reason
    (told,) = make(Role.SERVER).feed(codec.owed())
    assert told == closed, "the peer is told the same code and reason"
    assert codec.state is State.CLOSED
    assert codec.feed(frames((0x81, b"late"))) == [] and codec.owed() == b""


def test_a_frame_from_a_client_must_be_masked():
    assert make(Role.SERVER).feed(bytes.fromhex("8100"))[0].code == 1002


def test_a_message_of_exactly_the_limit_is_taken():
    assert make(Role.CLIENT, 10).feed(frames((0x02, b"x" * 4), (0x80, b"y" * 6))) == [BinaryMessage(b"xxxxyyyyyy")]


# ---- What is owed, and the states. ----

def test_pings_are_answered_in_order():
    codec = make(Role.SERVER)
    client = make(Role.CLIENT)
    codec.feed(client.send_ping(b"1") + client.send_ping(b"2"))
    assert client.feed(codec.owed()) == [Pong(b"1"), Pong(b"2")]
    assert codec.owed() == b""


def test_a_close_is_answered_with_its_own_code():
    client, server = make(Role.CLIENT), make(Role.SERVER)
    assert server.feed(client.send_close(3000, "bye")) == [Closed(3000, "bye")]
    assert client.state is State.CLOSING
    assert client.feed(server.owed()) == [Closed(3000, "")]
    assert (client.state, server.state) == (State.CLOSED, State.CLOSED)
    assert client.owed() == b""


def test_messages_that_cross_our_close_frame_still_arrive():
    client, server = make(Role.CLIENT), make(Role.SERVER)
    client.send_close()
    assert client.feed(server.send_text("late")) == [TextMessage("late")]
    assert client.feed(server.send_ping()) == [Ping(b"")] and client.owed() == b"", "nothing follows a close frame"


@pytest.mark.parametrize("send", [
    lambda c: c.send_text("x"), lambda c: c.send_binary(b"x"), lambda c: c.send_ping(), lambda c: c.send_close()])
def test_nothing_can_be_sent_after_a_close_frame(send):
    codec = make(Role.CLIENT)
    codec.send_close()
    with pytest.raises(BridgeError, match="closing"):
        send(codec)


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2999, 5000])
def test_a_code_that_must_not_be_sent_is_refused(code):
    with pytest.raises(BridgeError, match=str(code)):
        make(Role.CLIENT).send_close(code)


def test_a_ping_is_at_most_125_bytes():
    with pytest.raises(BridgeError, match="126"):
        make(Role.CLIENT).send_ping(b"x" * 126)


def test_a_long_close_reason_is_cut_between_characters():
    payload = encode_close(1000, "é" * 100)
    assert len(payload) <= 125 and payload[2:].decode() == "é" * 61


def test_masks_differ_from_frame_to_frame():
    codec = Codec(Role.CLIENT, LIMIT)
    assert len({codec.send_text("x")[2:6] for _ in range(50)}) > 40


# ---- Any message in any pieces. ----

MESSAGES = st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300), st.integers(65530, 65540).map(bytes)), max_size=5)


def split(data: bytes, seed: int, pieces: int) -> list[bytes]:
    cuts = sorted(random.Random(seed).randrange(len(data) + 1) for _ in range(pieces))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)])]


@given(MESSAGES, st.integers(), st.integers(0, 20), st.sampled_from([Role.CLIENT, Role.SERVER]))
def test_pieces_do_not_matter(messages, seed, pieces, role):
    other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
    sender, receiver = Codec(role, LIMIT), Codec(other, LIMIT)
    data = b"".join(sender.send_text(m) if isinstance(m, str) else sender.send_binary(m) for m in messages)
    events = [event for piece in split(data, seed, pieces) for event in receiver.feed(piece)]
    assert events == [TextMessage(m) if isinstance(m, str) else BinaryMessage(m) for m in messages]


@given(st.binary(max_size=200), st.integers(), st.integers(0, 20))
def test_pieces_do_not_matter_for_rubbish_either(data, seed, pieces):
    whole, cut = make(Role.CLIENT), make(Role.CLIENT)
    events = whole.feed(data)
    assert [event for piece in split(data, seed, pieces) for event in cut.feed(piece)] == events
    assert whole.owed() == cut.owed()


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4), st.integers(0, 100))
def test_masking_is_the_rfc_s_formula(data, mask, offset):
    assert apply_mask(data, mask, offset) == bytes(octet ^ mask[(index + offset) % 4] for index, octet in enumerate(data))


# ---- Another implementation on the other side. ----

@given(MESSAGES, st.booleans())
@settings(max_examples=50)
def test_wsproto_understands_us_and_we_it(messages, we_are_client):
    ours = Codec(Role.CLIENT if we_are_client else Role.SERVER, LIMIT)
    theirs = WsprotoConnection(ConnectionType.SERVER if we_are_client else ConnectionType.CLIENT)
    theirs.receive_data(b"".join(ours.send_text(m) if isinstance(m, str) else ours.send_binary(m) for m in messages))
    assert joined(theirs.events()) == messages
    data = b"".join(theirs.send(wsproto.events.Message(data=m)) for m in messages)
    assert [event[0] for event in ours.feed(data)] == messages
    theirs.receive_data(ours.send_close(1001, "away"))
    (closed,) = theirs.events()
    assert (closed.code, closed.reason) == (fp.CloseReason.GOING_AWAY, "away")
    assert ours.feed(theirs.send(closed.response())) == [Closed(1001, "away")]


def joined(events) -> list:
    """wsproto hands out a message in pieces."""
    messages, parts = [], []
    for event in events:
        parts.append(event.data)
        if event.message_finished:
            messages.append(parts[0][:0].join(parts))
            parts = []
    return messages
