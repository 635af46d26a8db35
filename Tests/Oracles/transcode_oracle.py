"""The JSON transcoder against Python's protobuf (upb), message by message.

For each random message m of a random type:
  1. our canonical JSON of m, read by Python, is m
  2. our go-micro JSON of m, read by ourselves, is m
  3. Python's JSON of m in a random style, read by ourselves, is m
  4. m with its fields in another order, repeated or merged with a second message: our JSON of it, read by Python, is what
     Python makes of the bytes
  5. Python's JSON with a few characters changed: where both accept it, both mean the same
  6. where only one accepts it, the reason is one that is known

Run by Tests/Oracles/run, which builds the harness."""

import argparse
import collections
import decimal
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import threading
import time

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor as F

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "Fixtures" / "protobuf"
SETS = ["everything.binpb", "legacy.binpb", "order.binpb", "greeter.binpb"]
TYPES = [
    "sidecar.test.Everything",
    "sidecar.test.Everything",
    "sidecar.test.Everything",
    "sidecar.legacy.Legacy",
    "sidecar.legacy.Relaxed",
    "shop.Order",
]
TO_PROTOBUF, TO_JSON, TO_GO_MICRO, IGNORE = 0, 1, 2, 16


class Harness:
    """Requests go out in bursts, as the harness answers when it has read all there is."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [path, *(str(FIXTURES / name) for name in SETS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def all(self, requests):
        """(operation, type, bytes) → (worked, bytes)"""
        burst = bytearray()
        for operation, name, payload in requests:
            encoded = name.encode()
            body = struct.pack("<BH", operation, len(encoded)) + encoded + payload
            burst += struct.pack("<I", len(body)) + body
        # On a thread, or with both pipes full both ends would wait for each other.
        writing = threading.Thread(target=self._write, args=(burst,))
        writing.start()
        replies = []
        for _ in requests:
            (length,) = struct.unpack("<I", self._read(4))
            reply = self._read(length)
            replies.append((reply[0] == 0, reply[1:]))
        writing.join()
        return replies

    def _write(self, burst):
        self.process.stdin.write(burst)
        self.process.stdin.flush()

    def _read(self, count):
        data = self.process.stdout.read(count)
        if len(data) < count:
            raise SystemExit("the harness has died")
        return data


def load_types():
    pool = descriptor_pool.DescriptorPool()
    for name in SETS:
        files = descriptor_pb2.FileDescriptorSet.FromString((FIXTURES / name).read_bytes())
        for file in files.file:
            try:
                pool.FindFileByName(file.name)
            except KeyError:
                pool.Add(file)
    return pool


class Generator:
    def __init__(self, rng, pool, small):
        self.small = small
        self.rng = rng
        self.pool = pool

    def message(self, name, depth=0):
        message = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))()
        self.fill(message, depth)
        return message

    def fill(self, message, depth):
        rng = self.rng
        name = message.DESCRIPTOR.full_name
        if name.startswith("google.protobuf."):
            return self.fill_well_known(message, name[16:], depth)
        fields = [f for f in message.DESCRIPTOR.fields if f.type != F.TYPE_GROUP]
        if self.small:
            count = rng.choice([0, 0, 1, 2]) if depth else rng.choice([1, 1, 2, 3, 4, 8])
        else:
            count = rng.choice([0, 1, 2, 3, 5, 8]) if depth else rng.choice([1, 2, 4, 8, 12, 20])
        for field in rng.sample(fields, min(count, len(fields))):
            self.set(message, field, depth)
        for field in fields:
            if field.is_required and not message.HasField(field.name):
                self.set(message, field, depth)
        if name == "sidecar.legacy.Legacy" and rng.random() < 0.3:
            extensions = self.pool.FindAllExtensions(message.DESCRIPTOR)
            for extension in rng.sample(extensions, 1):
                if extension.is_repeated:
                    message.Extensions[extension].extend(self.scalar(extension) for _ in range(rng.randint(1, 3)))
                elif extension.message_type:
                    message.Extensions[extension].SetInParent()
                    if depth < 2:
                        self.fill(message.Extensions[extension], depth + 1)
                    else:
                        message.Extensions[extension].id = 1
                else:
                    message.Extensions[extension] = self.scalar(extension)

    def set(self, message, field, depth):
        rng = self.rng
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.message_type is not None and depth >= 3 and not is_map and not self.is_leaf(field.message_type):
            return
        if is_map:
            key, value = field.message_type.fields
            for _ in range(rng.choice([1, 2, 3, 20])):
                target = getattr(message, field.name)
                if value.message_type:
                    if depth >= 2 and not self.is_leaf(value.message_type):
                        return
                    self.fill(target[self.scalar(key)], depth + 1)
                else:
                    target[self.scalar(key)] = self.scalar(value)
        elif field.is_repeated:
            for _ in range(rng.choice([1, 1, 2, 3, 30]) if not field.message_type else rng.randint(1, 2)):
                if field.message_type:
                    self.fill(getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).append(self.scalar(field))
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            self.fill(getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, self.scalar(field))

    @staticmethod
    def is_leaf(descriptor):
        return descriptor.full_name.startswith("google.protobuf.") and descriptor.name not in (
            "Any",
            "Struct",
            "Value",
            "ListValue",
        )

    def fill_well_known(self, message, name, depth):
        rng = self.rng
        if name == "Timestamp":
            message.seconds = rng.choice([0, 1, -1, -62135596800, 253402300799, rng.randint(-62135596800, 253402300799)])
            message.nanos = self.nanos()
        elif name == "Duration":
            message.seconds = rng.choice([0, 1, 315576000000, rng.randint(0, 315576000000)])
            message.nanos = self.nanos() if message.seconds < 315576000000 else 0
            if rng.random() < 0.5:
                message.seconds, message.nanos = -message.seconds, -message.nanos
        elif name == "FieldMask":
            for _ in range(rng.randint(0, 4)):
                message.paths.append(rng.choice(["a", "foo_bar", "user.display_name", "x.y.z", "a_b_c"]))
        elif name == "Struct":
            for _ in range(rng.randint(0, 3)):
                self.fill_well_known(message.fields[self.text()], "Value", depth + 1)
        elif name == "ListValue":
            for _ in range(rng.randint(0, 3)):
                self.fill_well_known(message.values.add(), "Value", depth + 1)
        elif name == "Value":
            kind = rng.randrange(6 if depth < 5 else 4)
            if kind == 0:
                message.null_value = 0
            elif kind == 1:
                message.number_value = self.finite()
            elif kind == 2:
                message.string_value = self.text()
            elif kind == 3:
                message.bool_value = rng.random() < 0.5
            elif kind == 4:
                message.struct_value.SetInParent()
                self.fill_well_known(message.struct_value, "Struct", depth + 1)
            else:
                message.list_value.SetInParent()
                self.fill_well_known(message.list_value, "ListValue", depth + 1)
        elif name == "Any":
            if rng.random() < 0.1:
                return
            inner = rng.choice(
                ["sidecar.test.Everything", "go.micro.srv.greeter.Request", "google.protobuf.Duration"]
                + ["google.protobuf.Int64Value", "google.protobuf.Struct", "google.protobuf.Any", "shop.Address"]
                + ["google.protobuf.Value", "google.protobuf.Empty"]
            )
            packed = self.message(inner, depth + 1)
            if inner == "google.protobuf.Any" and not packed.type_url:
                return
            message.Pack(packed, rng.choice(["type.googleapis.com/", "example.com/types/"]))
        elif name != "Empty":
            field = message.DESCRIPTOR.fields[0]
            setattr(message, field.name, self.scalar(field))

    def nanos(self):
        return self.rng.choice([0, 0, 1, 999999999, 500000000, 120000, self.rng.randrange(10**9)])

    def finite(self):
        rng = self.rng
        while True:
            value = rng.choice(
                [0.0, 1.0, -1.5, 0.1, 1e21, 1e-7, 5e-324, 1.7976931348623157e308, float(rng.randrange(-(2**53), 2**53))]
                + [rng.uniform(-1000, 1000), struct.unpack("<d", rng.randbytes(8))[0]]
            )
            if value == value and abs(value) != float("inf"):
                return value

    def text(self):
        rng = self.rng
        kind = rng.randrange(7)
        if kind == 0:
            return ""
        if kind == 1:
            return "".join(chr(rng.randrange(0x80)) for _ in range(rng.randrange(40)))
        if kind == 2:
            return "".join(
                chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(rng.randrange(20))
            )
        if kind == 3:
            return "x" * rng.choice([1, 7, 8, 9, 15, 16, 17, 126, 127, 128, 129, 300])
        return "".join(rng.choice("abcdefghij \"\\/é€😀\n") for _ in range(rng.randrange(30)))

    def scalar(self, field):
        rng = self.rng
        kind = field.type
        if kind in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
            value = rng.choice([self.finite(), 0.0, -0.0, float("nan"), float("inf"), float("-inf"), 2.5])
            if kind == F.TYPE_FLOAT:
                bits = struct.unpack("<f", rng.randbytes(4))[0]
                # JSON has one NaN; and Python refuses the shortest form of the largest float, which it writes itself.
                bits = bits if bits == bits and abs(bits) < 3.4028234e38 else 1.0
                value = rng.choice([bits, 0.0, -0.0, 1.5, 0.1, 3.402823e38, 1e-45, float("nan"), float("inf")])
            return value
        if kind == F.TYPE_BOOL:
            return rng.random() < 0.5
        if kind == F.TYPE_STRING:
            return self.text()
        if kind == F.TYPE_BYTES:
            return rng.randbytes(rng.choice([0, 1, 2, 3, 4, 5, 17, 100, 200]))
        if kind == F.TYPE_ENUM:
            if field.enum_type.full_name == "google.protobuf.NullValue":
                return 0
            if not field.enum_type.is_closed and rng.random() < 0.2:
                return rng.choice([3, 77, -1, -(2**31)])
            return rng.choice(field.enum_type.values).number
        wide = kind in (F.TYPE_INT64, F.TYPE_UINT64, F.TYPE_SINT64, F.TYPE_FIXED64, F.TYPE_SFIXED64)
        signed = kind in (F.TYPE_INT32, F.TYPE_INT64, F.TYPE_SINT32, F.TYPE_SINT64, F.TYPE_SFIXED32, F.TYPE_SFIXED64)
        bits = (64 if wide else 32) - (1 if signed else 0)
        value = rng.choice([0, 1, 127, 128, 2**bits - 1, rng.getrandbits(bits), rng.getrandbits(rng.randint(1, bits))])
        if signed and rng.random() < 0.5:
            value = -value - 1
        return value


def shuffled(rng, data):
    """The fields of a serialized message in another order."""
    fields, offset = [], 0

    def varint():
        nonlocal offset
        value = shift = 0
        while True:
            byte = data[offset]
            offset += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while offset < len(data):
        start = offset
        wire = varint() & 7
        if wire == 0:
            varint()
        elif wire == 1:
            offset += 8
        elif wire == 2:
            length = varint()
            offset += length
        else:
            offset += 4
        fields.append(data[start:offset])
    rng.shuffle(fields)
    return b"".join(fields)


def mutated(rng, text):
    data = list(text)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        piece = rng.choice(['"', "\\", ",", "0", "1", ".", "e", "-", "{}", "[]", "null", "true", " ", "\\u0041", "\u00e9"])
        if action == 0:
            data[place:place] = list(piece)
        elif action == 1:
            del data[place : place + rng.randint(1, 4)]
        elif action == 2 and place < len(data):
            data[place] = piece
        else:
            other = rng.randrange(len(data) + 1)
            data[place:place] = data[min(other, place) : max(other, place)][:40]
    return "".join(data)


TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+\w.]+')
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?|NaN|-?Infinity", re.ASCII)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[-+]\d\d:\d\d)", re.ASCII)
DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s", re.ASCII)
BASE64 = re.compile(r"([\w+/-]{4})*([\w+/-]{2}(==)?|[\w+/-]{3}=?)?", re.ASCII)


def python_is_lax(data, error):
    """Why Python takes what the specification of JSON or of protobuf's JSON refuses; None when it is we who are wrong."""
    found = re.search(r" at byte (\d+)$", error)
    if not found:
        return None
    offset = int(found[1])
    if "an object is expected" in error and data[offset:].split()[0].startswith((b"[", b'""')):
        return "Python takes an empty list or string for an empty message"
    tokens = [match for match in TOKEN.finditer(data) if match.start() <= offset <= match.end()]
    if not tokens:
        return None
    token = tokens[-1][0].decode()
    text = json.loads(token, strict=False) if token.startswith('"') else token
    if "base64" in error:
        return None if BASE64.fullmatch(text) else "Python passes over what is not base64"
    if "a time of the years" in error:
        return None if TIME.fullmatch(text) else "Python takes times without leading zeros"
    if "a required field cannot be null" in error and text == "null":
        return "Python takes null for a required field"
    if "a path of a field mask is empty" in error and "" in text.split(","):
        return "Python passes over empty paths in a field mask"
    if "has no value" in error and not NUMBER.fullmatch(text) and NUMBER.fullmatch(text.strip()):
        return "Python takes numbers that JSON cannot write, in strings"
    if "seconds of at most" in error:
        return None if DURATION.fullmatch(text) else "Python takes durations of more than nine digits of a second"
    if "has no field" in error:
        return "Python finds an extension without the last part of its name" if text.startswith("[") else None
    if 'beside @type only "value" is expected' in error:
        return "Python passes over what is beside the value of an Any"
    if "number" in error:
        if text in ("true", "false"):
            return "Python takes true for 1"
        if not NUMBER.fullmatch(text):
            return "Python takes numbers that JSON cannot write, in strings"
        if float(text) in (float("inf"), float("-inf")):
            return "Python makes infinity of what exceeds a double"
        if "32 bits" in error and abs(decimal.Decimal(text)) > 2**31:
            return "Python takes numbers beyond 32 bits for an enum"
        if decimal.Decimal(text) != decimal.Decimal(text).to_integral_value():
            return "Python rounds what is no whole number"
    return None


def loses_digits(text):
    """Whether it has a whole number beyond a double's digits, with a point or an exponent."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?", text)
    return any(abs(decimal.Decimal(n)) > 2**53 for n in numbers if re.search("[.eE]", n))


def we_are_lax(text):
    if not text.strip():
        return "we take an empty document for an empty message"
    # As go-micro writes them up to v5.13, `{"value": 3}`.
    return "we take well-known types as objects of their fields" if re.search(r":\s*\{", text) else None


class Oracle:
    def __init__(self, harness, seed, small):
        self.rng = random.Random(seed)
        self.harness = Harness(harness)
        self.pool = load_types()
        self.generator = Generator(self.rng, self.pool, small)
        self.failures = []
        self.verdicts = collections.Counter()

    def fail(self, rule, name, *facts):
        self.failures.append((rule, name, *facts))
        if len(self.failures) <= 10:
            print(f"rule {rule}, {name}:", *(repr(fact)[:1500] for fact in facts), sep="\n  ")

    def cls(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    @staticmethod
    def canon(message):
        return message.SerializeToString(deterministic=True)

    def same(self, left, right):
        """Equal, but for the order of what is packed into an Any. Bytes, so that NaN equals itself."""
        if self.canon(left) == self.canon(right):
            return True
        return self.canon(self.repacked(left)) == self.canon(self.repacked(right))

    def repacked(self, message):
        copy = type(message)()
        copy.CopyFrom(message)
        self.repack(copy)
        return copy

    def repack(self, message):
        if message.DESCRIPTOR.full_name == "google.protobuf.Any" and message.type_url:
            inner = self.cls(message.type_url.rsplit("/")[-1])()
            inner.ParseFromString(message.value)
            # Merging two Anys may give one's type and the other's value, of which nothing is known then.
            inner.DiscardUnknownFields()
            self.repack(inner)
            message.value = self.canon(inner)
            return
        for field, value in message.ListFields():
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                if field.message_type.fields_by_name["value"].message_type:
                    for key in value:
                        self.repack(value[key])
            elif field.is_repeated:
                for element in value:
                    self.repack(element)
            else:
                self.repack(value)

    def parse_json(self, name, text):
        return json_format.Parse(text, self.cls(name)(), descriptor_pool=self.pool)

    def batch(self, count):
        rng = self.rng
        cases, first = [], []
        for _ in range(count):
            name = rng.choice(TYPES)
            message = self.generator.message(name)
            data = message.SerializeToString()
            other = self.generator.message(name) if rng.random() < 0.3 else None
            messy = shuffled(rng, data) + (shuffled(rng, other.SerializeToString()) if other else b"")
            text = json_format.MessageToJson(
                message,
                preserving_proto_field_name=rng.random() < 0.5,
                use_integers_for_enums=rng.random() < 0.5,
                indent=rng.choice([None, 0, 2]),
                ensure_ascii=rng.random() < 0.5,
                always_print_fields_with_no_presence=rng.random() < 0.1,
                descriptor_pool=self.pool,
            )
            changed = mutated(rng, text)
            cases.append((name, message, messy, text, changed))
            first += [
                (TO_JSON, name, data),
                (TO_GO_MICRO, name, data),
                (TO_PROTOBUF, name, text.encode()),
                (TO_JSON | IGNORE, name, messy),
                (TO_PROTOBUF, name, changed.encode()),
            ]
        replies = self.harness.all(first)
        again = self.harness.all(
            [(TO_PROTOBUF, name, replies[index * 5 + 1][1]) for index, (name, *_) in enumerate(cases)]
        )
        for index, (name, message, messy, text, changed) in enumerate(cases):
            self.judge(name, message, messy, text, changed, replies[index * 5 : index * 5 + 5], again[index])

    def judge(self, name, message, messy, text, changed, replies, again):
        (worked, ours), (plain_worked, plain), (back_worked, back), (messy_worked, messy_json), mutant = replies
        try:
            if not worked or not self.same(self.parse_json(name, ours), message):
                self.fail(1, name, message, ours)
        except json_format.ParseError as error:
            self.fail(1, name, message, ours, str(error))
        if not plain_worked or not again[0] or not self.same(self.cls(name).FromString(again[1]), message):
            self.fail(2, name, message, plain, again)
        if not back_worked or not self.same(self.cls(name).FromString(back), message):
            self.fail(3, name, message, text, back)
        try:
            meant = self.cls(name).FromString(messy)
            # What Python cannot write has no JSON for us either: a merged Any or time may be none.
            try:
                json_format.MessageToJson(meant, descriptor_pool=self.pool)
                speakable = True
            except Exception:
                speakable = False
            if not messy_worked and speakable and b"wire type" in messy_json:
                # Merged Anys of different types: Python takes a field of the wrong wire type for an unknown one.
                self.verdicts["wrong wire type"] += 1
            elif messy_worked != speakable:
                self.fail(4, name, messy, messy_json, "Python writes it" if speakable else "Python does not")
            elif messy_worked and not self.same(self.parse_json(name, messy_json), meant):
                self.fail(4, name, messy, messy_json)
        except json_format.ParseError as error:
            self.fail(4, name, messy, messy_json, str(error))
        self.judge_mutant(name, changed, mutant)

    def judge_mutant(self, name, changed, mutant):
        try:
            theirs = self.parse_json(name, changed)
        except Exception:
            theirs = None
        ours = self.cls(name).FromString(mutant[1]) if mutant[0] else None
        if theirs is not None and ours is not None:
            self.verdicts["both accept"] += 1
            # Python reads `-0` as an integer, which has no negative zero, and whole numbers that are not written as such
            # by way of a double.
            if not self.same(theirs, ours) and not re.search(r"-0\s*[],}]", changed) and not loses_digits(changed):
                self.fail(5, name, changed, mutant[1])
        elif theirs is None and ours is None:
            self.verdicts["both refuse"] += 1
        else:
            known = python_is_lax(changed.encode(), mutant[1].decode()) if ours is None else we_are_lax(changed)
            if not known:
                return self.fail(6, name, changed, mutant, "only Python accepts" if ours is None else "only we accept")
            self.verdicts[known] += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("messages", nargs="?", type=int, default=5000)
    parser.add_argument("seed", nargs="?", type=int, default=random.randrange(2**32))
    parser.add_argument("--harness", required=True)
    parser.add_argument("--small", action="store_true", help="messages of few fields: more of them in the same time")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    oracle = Oracle(options.harness, options.seed, options.small)
    done, started = 0, time.monotonic()
    while done < options.messages and len(oracle.failures) < 100:
        count = min(20, options.messages - done)
        oracle.batch(count)
        done += count
        if done % 50_000 == 0:
            print(f"{done} messages, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{done} messages, {len(oracle.failures)} failures; {dict(oracle.verdicts)}")
    return 1 if oracle.failures else 0


if __name__ == "__main__":
    sys.exit(main())
