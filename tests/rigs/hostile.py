"""A broker without mercy for hostile_broker.py: durable in what it takes, and faulty in every way on the wire.

It answers MQTT 5 publishes of QoS 1. What it takes is entered before its acknowledgement leaves, so that a cut in between
is a repeat and never a loss; what it refuses it does not take. Each connection draws one fault and the message at which
it strikes. One thread, loopback only.
"""
import json, random, selectors, socket, struct, threading, time, zlib

from broker import CONNECT, PINGREQ, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, varint

# What a connection may draw, and how often beside the others.
FAULTS = {
    "fin": 10, "rst": 10, "cut-before-ack": 16, "cut-in-ack": 8, "no-connack": 2, "cut-in-connack": 4, "refused-connect": 3,
    "lost-ack": 1, "late-acks": 6, "shuffled-acks": 8, "doubled-ack": 8, "receive-maximum-1": 4, "small-packets": 6,
    "freeze": 1, "slow-reader": 3, "garbage": 8, "no-subscribers": 0.3, "quota": 0.3, "not-authorised": 0.3,
    "payload-refused": 3,
}
REASONS = {"no-subscribers": 0x10, "quota": 0x97, "not-authorised": 0x87, "payload-refused": 0x99}
ENDING = {"fin", "rst", "cut-before-ack", "cut-in-ack", "no-connack", "cut-in-connack", "refused-connect", "garbage"}
FREEZE_S = 2.0
WINDOW = 8 * 100    # records: inflight_batches_max x batch_records_max, the defaults


class Ledger:
    """What was taken: `count` records with numbers up to `dense` and the body {"n":seq}, and any others by number."""

    def __init__(self, dense):
        self.seen, self.dense, self.other, self.epochs = bytearray(dense + 1), dense, {}, set()
        self.taken, self.repeats, self.wrong, self.base = 0, 0, [], 0
        self.absent = set()

    def enter(self, batch):
        self.epochs.add(batch["epoch"])
        before = batch.get("after")
        for seq in (record["seq"] for record in batch["records"]):
            # What the device says holds no record: given up, and named by an event of its own.
            if before is not None and 0 < seq - before - 1 < 100_000:
                self.absent.update(range(before + 1, seq))
            before = seq
        for record in batch["records"]:
            seq, body = record["seq"], record["body"]
            if seq <= self.dense:
                if body != {"n": seq}:
                    self.wrong.append((seq, body))
                known = self.seen[seq]
                self.seen[seq] = 1
            else:
                text = json.dumps(record, sort_keys=True)
                known = seq in self.other
                if self.other.setdefault(seq, text) != text:
                    self.wrong.append((seq, body))
            self.taken += not known
            self.repeats += bool(known)

    def through(self):
        """Everything up to here was taken."""
        while True:
            following = self.base + 1
            here = self.seen[following] if following <= self.dense else following in self.other
            if not here and following not in self.absent:
                return self.base
            self.absent.discard(following)
            self.base = following


class Peer:
    def __init__(self, connection, rng):
        self.connection, self.data, self.out = connection, b"", b""
        self.fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        self.strikes_at, self.messages, self.struck, self.records = rng.choice((0, 0, 1, 2, 4, 8, 12)), 0, False, 0
        self.held, self.subscribed, self.thawed, self.window_max = [], [], 0.0, 0


class Hostile:
    def __init__(self, dense, seed, poison=(), lossy=0.0):
        self.rng, self.ledger, self.poison, self.lossy = random.Random(seed), Ledger(dense), set(poison), lossy
        self.closers = set()    # records at which the connection is reset instead of answered
        self.faults, self.connections, self.corrupt, self.dropped, self.repeats_most = dict.fromkeys(FAULTS, 0), 0, 0, 0, 0
        self.peaceful = self.closing = False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.selector, self.peers = selectors.DefaultSelector(), {}
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def close(self):
        self.closing = True
        self.thread.join()

    def serve(self):
        while not self.closing:
            for key, _ in self.selector.select(0.01):
                if key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    peer = self.peers[connection] = Peer(connection, self.rng)
                    if self.peaceful:
                        peer.struck = True
                    self.connections += 1
                    self.selector.register(connection, selectors.EVENT_READ)
                elif key.fileobj in self.peers:
                    self.read(self.peers[key.fileobj])
            now = time.monotonic()
            for peer in list(self.peers.values()):
                due = [answer for at, answer in peer.held if at <= now]
                peer.held = [(at, answer) for at, answer in peer.held if at > now]
                self.send(peer, b"".join(due))

    def end(self, peer, reset=False):
        if self.peers.pop(peer.connection, None):
            # No more than its window can be unknown to the agent, and no more than was sent.
            self.repeats_most += min(WINDOW, peer.records)
            self.selector.unregister(peer.connection)
            if reset:
                peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.connection.close()

    def send(self, peer, data):
        try:
            peer.connection.sendall(data)
        except OSError:
            self.end(peer)

    def strike(self, peer):
        """Whether the fault of this connection comes now; it comes once."""
        now = not peer.struck and peer.messages >= peer.strikes_at
        if now:
            peer.struck = True
            self.faults[peer.fault] += 1
        return now

    def read(self, peer):
        if time.monotonic() < peer.thawed:
            time.sleep(0.001)
            return
        try:
            got = peer.connection.recv(4096 if peer.fault == "slow-reader" else 1 << 18)
        except OSError:
            got = b""
        if not got:
            return self.end(peer)
        if peer.fault == "slow-reader" and not self.peaceful:
            peer.thawed = time.monotonic() + 0.005
        peer.data += got
        at = 0
        while peer.connection in self.peers and at < len(peer.data):
            try:
                length, start = varint(peer.data, at + 1)
            except IndexError:
                break
            if len(peer.data) < start + length:
                # A cut in the middle of a packet, for those that are to be cut.
                if peer.fault in ("fin", "rst") and peer.messages and self.strike(peer):
                    return self.end(peer, peer.fault == "rst")
                break
            body = peer.data[start:start + length]
            self.packet(peer, peer.data[at] >> 4, peer.data[at] & 15, body)
            at = start + length
        peer.data = peer.data[at:]

    def packet(self, peer, kind, flags, body):
        if kind == CONNECT:
            self.connack(peer)
        elif kind == PINGREQ:
            self.send(peer, b"\xd0\x00")
        elif kind == SUBSCRIBE:
            count, at = 0, 2
            skip, at = varint(body, at)
            at += skip
            while at < len(body):
                size = struct.unpack_from(">H", body, at)[0]
                peer.subscribed.append(body[at + 2:at + 2 + size].decode())
                at, count = at + 3 + size, count + 1
            self.send(peer, bytes([0x90, 3 + count]) + body[:2] + b"\x00" + b"\x01" * count)
        elif kind == UNSUBSCRIBE:
            self.send(peer, bytes([0xb0, 4]) + body[:2] + b"\x00\x00")
        elif kind == PUBLISH and flags & 6:
            self.publish(peer, body)

    def connack(self, peer):
        if not peer.struck and peer.fault in ("no-connack", "cut-in-connack", "refused-connect"):
            peer.struck = True
            self.faults[peer.fault] += 1
            if peer.fault == "cut-in-connack":
                self.send(peer, b"\x20\x03")
                self.end(peer)
            elif peer.fault == "refused-connect":
                self.send(peer, b"\x20\x03\x00\x88\x00")
                self.end(peer)
            return
        properties = b""
        if not peer.struck and peer.fault == "receive-maximum-1":
            properties = b"\x21\x00\x01"
            peer.struck = True
            self.faults[peer.fault] += 1
        elif not peer.struck and peer.fault == "small-packets":
            properties = b"\x27" + struct.pack(">I", self.rng.randint(4_000, 20_000))
            peer.struck = True
            self.faults[peer.fault] += 1
        self.send(peer, bytes([0x20, 3 + len(properties), 0, 0, len(properties)]) + properties)

    def publish(self, peer, body):
        topic_end = 2 + struct.unpack_from(">H", body)[0]
        identifier, topic = body[topic_end:topic_end + 2], body[2:topic_end].decode()
        length, at = varint(body, topic_end + 2)
        payload = body[at + length:]
        if not topic.endswith("/data"):
            return self.send(peer, b"\x40\x02" + identifier)
        peer.messages += 1
        batch = json.loads(payload)
        # Of a record alone the agent has to believe it: it would be given up for what it is not.
        believed = peer.fault == "payload-refused" and len(batch["records"]) == 1
        strikes = not believed and self.strike(peer)
        self.check(batch, payload, body[at:at + length])
        peer.records += len(batch["records"])
        if self.closers and any(record["seq"] in self.closers for record in batch["records"]):
            return self.end(peer, True)
        poisoned = self.poison and any(record["seq"] in self.poison for record in batch["records"])
        if poisoned or strikes and peer.fault in REASONS:
            reason = 0x99 if poisoned else REASONS[peer.fault]
            return self.send(peer, b"\x40\x03" + identifier + bytes([reason]))
        if strikes and peer.fault in ("fin", "rst"):
            return self.end(peer, peer.fault == "rst")
        if self.rng.random() < self.lossy:
            self.dropped += len(batch["records"])      # acknowledged, and lost: what a broker does that dies
        else:
            self.ledger.enter(batch)
        self.answer(peer, b"\x40\x02" + identifier, strikes)
        watermark = topic[:-len("data")] + "watermark"
        if watermark in peer.subscribed and peer.connection in self.peers:
            text = json.dumps({"epoch": batch["epoch"], "through": self.ledger.through()}).encode()
            packet = struct.pack(">H", len(watermark)) + watermark.encode() + b"\x00" + text
            self.send(peer, bytes([0x30, len(packet)]) + packet)

    def check(self, batch, payload, properties):
        """The user properties say what the payload holds."""
        said, at = {}, 0
        while at < len(properties):
            kind, at = properties[at], at + 1
            size = struct.unpack_from(">H", properties, at)[0]
            name, at = properties[at + 2:at + 2 + size], at + 2 + size
            if kind == 0x26:
                size = struct.unpack_from(">H", properties, at)[0]
                said[name.decode()], at = properties[at + 2:at + 2 + size].decode(), at + 2 + size
        true = {"device": batch["device"], "epoch": str(batch["epoch"]), "first-seq": str(batch["records"][0]["seq"]),
                "count": str(len(batch["records"])), "crc32": f"{zlib.crc32(payload):08x}"}
        self.corrupt += any(said.get(name) != value for name, value in true.items())

    def answer(self, peer, ack, strikes):
        fault = peer.fault if strikes else None
        now = time.monotonic()
        if fault == "cut-before-ack":
            self.end(peer, self.rng.random() < 0.5)
        elif fault == "cut-in-ack":
            self.send(peer, ack[:self.rng.randint(1, 3)])
            self.end(peer)
        elif fault == "lost-ack":
            pass
        elif fault == "doubled-ack":
            self.send(peer, ack + ack)
        elif fault == "garbage":
            self.send(peer, ack + self.rng.randbytes(self.rng.randint(1, 64)))
            self.end(peer)
        elif fault == "freeze":
            peer.thawed = now + FREEZE_S
        elif peer.fault == "late-acks" and peer.struck and not self.peaceful:
            peer.held.append((now + self.rng.uniform(0.02, 0.3), ack))
        elif peer.fault == "shuffled-acks" and peer.struck and not self.peaceful:
            peer.held.append((now + self.rng.choice((0.0, 0.01, 0.03, 0.05)), ack))
        else:
            self.send(peer, ack)
