"""A broker for rigs: takes MQTT 5 publishes of QoS 1, keeps every record that it acknowledges, and can be told to stop.

It knows exactly what was acknowledged, which no subscriber of a real broker does; kill_mosquitto.py is the rig against a
real one. One thread, any number of connections, loopback only.
"""
import json, selectors, socket, struct, threading

CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, PINGREQ = 1, 3, 8, 10, 12


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


class Broker:
    """`received`: (epoch, seq) -> body of every record that was acknowledged; `conflicts`: numbers with two bodies."""

    def __init__(self, port=0):
        self.received, self.conflicts, self.closing = {}, [], False
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.buffers = {}
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while not self.closing:
            for key, _ in self.selector.select(0.05):
                if key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    self.buffers[connection] = b""
                    self.selector.register(connection, selectors.EVENT_READ)
                else:
                    self.read(key.fileobj)
        for connection in (*self.buffers, self.listener):
            connection.close()

    def read(self, connection):
        try:
            got = connection.recv(1 << 18)
            if got:
                data, at = self.buffers[connection] + got, 0
                while at < len(data):
                    try:
                        length, start = varint(data, at + 1)
                    except IndexError:
                        break
                    if len(data) < start + length:
                        break
                    self.packet(connection, data[at] >> 4, data[at] & 15, data[start:start + length])
                    at = start + length
                self.buffers[connection] = data[at:]
                return
        except OSError:
            pass
        self.selector.unregister(connection)
        del self.buffers[connection]
        connection.close()

    def packet(self, connection, kind, flags, body):
        if kind == CONNECT:
            connection.sendall(b"\x20\x03\x00\x00\x00")
        elif kind == PINGREQ:
            connection.sendall(b"\xd0\x00")
        elif kind in (SUBSCRIBE, UNSUBSCRIBE):
            connection.sendall(bytes([(kind + 1) << 4, 4]) + body[:2] + b"\x00\x00")
        elif kind == PUBLISH:
            topic_end = 2 + struct.unpack_from(">H", body)[0]
            if not flags & 6:
                return
            properties, at = varint(body, topic_end + 2)
            if body[:topic_end].endswith(b"/data"):
                self.keep(json.loads(body[at + properties:]))
            connection.sendall(b"\x40\x02" + body[topic_end:topic_end + 2])

    def keep(self, batch):
        for record in batch["records"]:
            name, body = (batch["epoch"], record["seq"]), record["body"]
            body = body if isinstance(body, str) else json.dumps(body)
            if self.received.setdefault(name, body) != body:
                self.conflicts.append(name)

    def close(self):
        self.closing = True
        self.thread.join()


def configuration(folder, broker_port, http_port, more="", outbox=None):
    """The agent as a rig runs it: retries at once, nothing compressed."""
    path, outbox = f"{folder}/quorate.toml", outbox or f"{folder}/outbox"
    with open(path, "w") as file:
        file.write(f'[device]\nid = "rig"\n[outbox]\npath = "{outbox}"\n[http]\nlisten = "127.0.0.1:{http_port}"\n'
                   f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker_port}"\ncompression = "none"\nkeep_alive_s = 5\n'
                   'ack_timeout_ms = 5000\nfirst_retry_ms_max = 1\nbackoff_ms_min = 100\nbackoff_ms_max = 500\nlinger_ms = 10\n'
                   + more)
    return path
