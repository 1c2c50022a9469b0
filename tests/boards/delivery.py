"""The host's side of a board: a real mosquitto, a subscriber that keeps every record, and the agent's endpoint.

Owns: the ledger. A record is (epoch, seq); the ledger keeps its payload's digest, and for votes the payload itself.
"""
import atexit, hashlib, json, os, signal, subprocess, sys, threading, urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "rigs"))
import rig


class Broker:
    """mosquitto on loopback, with no limit on what it queues."""

    def __init__(self, folder, access="allow_anonymous true\n"):
        self.port = rig.free_port()
        path = f"{folder}/mosquitto.conf"
        with open(path, "w") as file:
            file.write(f"listener {self.port} 127.0.0.1\n{access}max_queued_messages 0\n")
        self.log = open(f"{folder}/mosquitto.log", "w")
        self.process = subprocess.Popen(["mosquitto", "-c", path], stdout=self.log, stderr=self.log)
        atexit.register(self.end)
        rig.wait("the broker", lambda: rig.listens(self.port))

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.process.kill()
        self.process.wait()


class Ledger:
    """What a subscriber received, in its order."""

    def __init__(self, port, topic, access=()):
        self.seen, self.votes, self.events, self.inferences = {}, [], [], 0
        self.repeats, self.conflicts, self.lock = 0, 0, threading.Lock()
        self.process = subprocess.Popen(
            ["mosquitto_sub", "-p", str(port), "-V", "mqttv5", "-q", "1", "-c", "-i", "ledger", "-x", "4000000", "-k", "600", *access,
             "-t", f"{topic}/data", "-F", "%p"], stdout=subprocess.PIPE, text=True)
        atexit.register(self.end)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            batch = json.loads(line)
            with self.lock:
                for record in batch["records"]:
                    self.take(batch["epoch"], record)

    def take(self, epoch, record):
        key = (epoch, record["seq"])
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
        if key in self.seen:
            self.repeats += 1
            self.conflicts += self.seen[key] != digest
            return
        self.seen[key] = digest
        if record["kind"] == "vote":
            self.votes.append(record)
        elif record["kind"] == "event":
            self.events.append(record)
        elif record["kind"] == "inference":
            self.inferences += 1

    def of(self, quantity, after=0):
        """The votes of a quantity with at least this index in `votes`: bodies with their mono_ms."""
        with self.lock:
            return [dict(vote["body"], mono_ms=vote["mono_ms"], seq=vote["seq"]) for vote in self.votes[after:]
                    if vote["body"]["quantity"] == quantity]

    def mark(self):
        with self.lock:
            return len(self.votes)

    def received(self):
        with self.lock:
            return len(self.seen)

    def missing(self, through):
        """Numbers up to `through` that never came, whatever the epoch; and the epochs that were seen."""
        with self.lock:
            epochs = {epoch for epoch, _ in self.seen}
            numbers = {seq for _, seq in self.seen}
        return [seq for seq in range(1, through + 1) if seq not in numbers], epochs

    def end(self):
        self.process.kill()
        self.process.wait()


class Endpoint:
    """The agent's own account, through a forwarded port."""

    def __init__(self):
        self.port = rig.free_port()

    def forward(self):
        return f",hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:8870"

    def status(self):
        """`/api/v1/status`, or None while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/status", timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def durable_through(status):
    """The highest number of which the agent said that it is on the medium."""
    return status["store"]["seq_next"] - 1 - status["store"]["storing_records"]


def channel(status, quantity, sensor):
    """What health says of one sensor of a quantity."""
    for entry in status["quantities"]:
        if entry["id"] == quantity:
            for one in entry["channels"]:
                if one["sensor"] == sensor:
                    return one
    raise KeyError(f"{quantity}/{sensor}")


def excluded(vote, sensor):
    """(state, reason) of a sensor that is left out of a vote, else None."""
    for one in vote.get("excluded", ()):
        if one["sensor"] == sensor:
            return one["state"], one["reason"]
    return None

