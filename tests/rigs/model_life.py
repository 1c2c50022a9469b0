#!/usr/bin/env python3
"""The life of models as an operator sees it: staged beside a running agent, shadow, canary, active, rolled back; without a
restart, over kills, and delivered over HTTP and MQTT.

usage: tests/rigs/model_life.py --binary target/debug/quorate [--keep] [--no-delivery]
needs: mosquitto and paho-mqtt for the part about delivery (skipped where they are not there).

1. Release 2 is staged and goes through shadow and canary to active by itself; no restart.
2. Release 3, whose alarm is always raised, is rolled back from its shadow; its alarm is never the device's.
3. Release 4 is on trial while the agent is killed: it is on trial again after the start, and active in the end.
4. Release 5 in shadow is killed at each start: given up at the fourth.
5. `rollback` goes back without a restart.
6. Delivery: `model-stage` from a server that cuts the transfer, `model-chunk` over a restart of the agent, `model-promote`
   and `model-rollback`, and a downgrade without and with its permission.
Throughout: no tick has two inferences that count.

Prints a line per step and a summary in JSON. Exit 1 on a failure.
"""
import argparse, base64, hashlib, http.server, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.join(HERE, "../../models/store/bearing-anomaly-v1")
UNITS = {"t": ("celsius", "35.3"), "v": ("mm/s", "1.64"), "a": ("A", "10.0")}
PERIOD_MS = 50


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Rig:
    def __init__(self, binary, folder, delivery):
        self.binary, self.folder, self.failures = os.path.abspath(binary), folder, []
        self.config, self.http = f"{folder}/q.toml", free_port()
        self.agent, self.broker, self.mqtt = None, None, free_port()
        public = self.do("model", "keygen", "--output", f"{folder}/key.pem", "--key-id", "plant-1")
        ops = self.do("command", "keygen", "--out", f"{folder}/ops.pem", "--id", "ops-1")
        few = self.do("command", "keygen", "--out", f"{folder}/few.pem", "--id", "ops-2")
        allow = '"model-stage", "model-chunk", "model-promote", "model-rollback"'
        ops = re.sub(r"allow = .*", f'allow = [{allow}, "model-downgrade", "model-force"]', ops)
        few = re.sub(r"allow = .*", f"allow = [{allow}]", few)
        parts = ["[device]\nid = 'press-07'\n"]
        for name, (unit, base) in UNITS.items():
            parts.append(f"[[sensors]]\nid = '{name}'\nsource = {{ kind = 'simulated', base = {base} }}\n"
                         f"[[quantities]]\nid = '{name}-q'\nunit = '{unit}'\nsensors = ['{name}']\nperiod_ms = {PERIOD_MS}\n")
        parts.append(f"[[models]]\nid = 'bearing-anomaly'\nbundle = '{folder}/configured'\ninputs = ['t-q', 'v-q', 'a-q']\n"
                     "[models.trial]\nshadow_s = 3\ncanary_s = 3\nanswers_min = 20\nauto = 'promote'\nerrors_max_share = 0.2\n"
                     f"{public}[outbox]\npath = '{folder}/outbox'\nretain_acked = true\n[http]\nlisten = '127.0.0.1:{self.http}'\n")
        if delivery:
            parts.append(f"{ops}{few}[mqtt]\nurl = 'mqtt://127.0.0.1:{self.mqtt}'\nallow_plaintext = true\ncompression = 'none'\n")
            self.broker = subprocess.Popen(["mosquitto", "-p", str(self.mqtt)], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)
        open(self.config, "w").write("".join(parts))
        self.bundle("configured", 1)

    def bundle(self, name, release, threshold=None):
        shutil.rmtree(f"{self.folder}/{name}", ignore_errors=True)
        shutil.copytree(SHIPPED, f"{self.folder}/{name}")
        path = f"{self.folder}/{name}/manifest.toml"
        text = re.sub(r"release = \d+", f"release = {release}", open(path).read())
        text = text.replace('version = "1"', f'version = "{release}"').replace("period_ms = 1000", f"period_ms = {PERIOD_MS}")
        if threshold:
            text = re.sub(r"threshold = .*", f"threshold = {threshold}", text)
        open(path, "w").write(text)

    def pack(self, release, threshold=None):
        self.bundle("folder", release, threshold)
        file = f"{self.folder}/{release}.qmodel"
        self.do("model", "pack", "--folder", f"{self.folder}/folder", "--key", f"{self.folder}/key.pem", "--key-id", "plant-1",
                "--output", file)
        return file

    def ran(self, *arguments):
        return subprocess.run([self.binary, *arguments], capture_output=True, text=True)

    def do(self, *arguments):
        ran = self.ran(*arguments)
        if ran.returncode:
            sys.exit(f"{arguments}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def stage(self, file):
        self.do("model", "stage", file, "--config", self.config)

    def status(self):
        return json.loads(self.do("model", "status", "--config", self.config, "--json"))

    def start(self):
        self.agent = subprocess.Popen([self.binary, "run", "--config", self.config], stderr=open(f"{self.folder}/log", "a"))

    def kill(self, how=signal.SIGKILL):
        self.agent.send_signal(how)
        self.agent.wait()

    def fail(self, text):
        self.failures.append(text)
        print("FAILURE", text, flush=True)

    def wait(self, what, condition, limit_s=60):
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > limit_s:
                self.fail(f"waited {limit_s} s for {what}: {self.status()}")
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def until_active(self, release, limit_s=60):
        is_active = lambda: (self.status()["active"] or {}).get("release") == release
        return self.wait(f"release {release} to be active", is_active, limit_s)

    def phase(self):
        return (self.status().get("trial") or {}).get("phase")

    def records(self):
        # A running agent holds its store: this is asked after its end.
        return [json.loads(line) for line in self.do("outbox", "export", "--path", f"{self.folder}/outbox").splitlines()]

    def check(self, what, holds):
        print(("ok     " if holds else "FAILED ") + what, flush=True)
        if not holds:
            self.fail(what)


def steps(rig):
    rig.start()
    rig.wait("the agent", lambda: rig.ran("status", "--address", f"127.0.0.1:{rig.http}").returncode == 0)
    pid = rig.agent.pid
    rig.stage(rig.pack(2))
    rig.wait("the shadow", lambda: rig.phase() == "shadow")
    rig.wait("evidence", lambda: rig.status().get("evidence", {}).get("answers", 0) > 0)
    print(rig.do("model", "status", "--config", rig.config), end="")
    print(rig.do("status", "--address", f"127.0.0.1:{rig.http}"), end="")
    rig.wait("the canary", lambda: rig.phase() == "canary")
    rig.until_active(2)
    rig.check("release 2 went from shadow over canary to active without a restart", rig.agent.poll() is None)
    rig.stage(rig.pack(3, threshold=0.0001))
    rig.wait("release 3 to be given up", lambda: rig.status()["change"]["cause"] == "disagreement")
    rig.check("release 3 was rolled back for its alarms", rig.status()["active"]["release"] == 2)

    rig.stage(rig.pack(4))
    rig.wait("the shadow of release 4", lambda: rig.phase() == "shadow")
    rig.kill()
    rig.start()
    rig.wait("the trial to go on", lambda: rig.status().get("evidence", {}).get("answers", 0) > 0)
    rig.wait("the canary of release 4", lambda: rig.phase() == "canary")
    rig.kill()
    rig.start()
    rig.until_active(4)
    rig.check("release 4 became active over two kills", rig.status()["previous"]["release"] == 2)

    rig.stage(rig.pack(5))
    rig.wait("the shadow of release 5", lambda: rig.phase() == "shadow")
    starts = 0
    while rig.status()["staged"] and starts < 8:
        rig.kill()
        before = (rig.status()["trial"] or {}).get("attempts")
        rig.start()
        starts += 1
        rig.wait("the attempt", lambda: (rig.status().get("trial") or {}).get("attempts") != before)
    rig.check(f"release 5 was given up at start {starts} after a kill", starts == 3 and rig.status()["change"]["cause"] == "crashed")
    rig.wait("the agent", lambda: rig.ran("status", "--address", f"127.0.0.1:{rig.http}").returncode == 0)
    pid = rig.agent.pid
    rig.do("model", "rollback", "--config", rig.config)
    version = lambda: json.loads(rig.do("status", "--json", "--address", f"127.0.0.1:{rig.http}"))["models"][0]["version"]
    took = rig.wait("the rollback", lambda: version() == "2", 10)
    rig.check(f"rolled back to release 2 in {took or 10:.1f} s without a restart", rig.agent.pid == pid and rig.agent.poll() is None)


class Server(http.server.BaseHTTPRequestHandler):
    """Cuts the first transfer in the middle; goes on where it is asked to."""
    files, cuts, ranges = {}, set(), []

    def do_GET(self):
        data = self.files[self.path]
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        Server.ranges.append(begin)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.path not in self.cuts:
            Server.cuts.add(self.path)
            self.wfile.write(data[begin:begin + len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data[begin:])

    def log_message(self, *_):
        pass


class Caller:
    def __init__(self, rig):
        import paho.mqtt.client as paho
        from paho.mqtt.properties import Properties
        from paho.mqtt.packettypes import PacketTypes
        self.rig, self.answers, self.events, self.count = rig, {}, [], 0
        self.properties = lambda: Properties(PacketTypes.PUBLISH)
        version = getattr(paho, "CallbackAPIVersion", None)
        extra = (version.VERSION2,) if version else ()
        self.client = paho.Client(*extra, protocol=paho.MQTTv5)
        self.client.on_message = self.take
        self.client.connect("127.0.0.1", rig.mqtt)
        self.client.subscribe("ops/answers")
        self.client.subscribe("quorate/press-07/data", qos=1)
        self.client.loop_start()

    def take(self, _client, _data, message):
        if message.topic == "ops/answers":
            self.answers[bytes(message.properties.CorrelationData)] = json.loads(message.payload)
            return
        for record in json.loads(message.payload).get("records", []):
            if record["kind"] == "event" and record["body"]["what"].startswith("model-"):
                self.events.append(record["body"])

    def ask(self, command, key="ops", **arguments):
        key_id = {"ops": "ops-1", "few": "ops-2"}[key]
        payload = self.rig.do("command", "sign", "--key", f"{self.rig.folder}/{key}.pem", "--id", key_id, "--device",
                              "press-07", "--command", command, "--arguments", json.dumps(arguments))
        for _ in range(20):
            self.count += 1
            properties, correlation = self.properties(), str(self.count).encode()
            properties.ResponseTopic, properties.CorrelationData = "ops/answers", correlation
            self.client.publish(f"quorate/press-07/cmd/{command}", payload.strip(), qos=1, properties=properties)
            for _ in range(60):
                if correlation in self.answers:
                    return self.answers[correlation]
                time.sleep(0.05)
        self.rig.fail(f"no answer to {command}")
        return {}

    def told(self, what, cause=None):
        return any(event["what"] == what and cause in (None, event["reason"]) for event in self.events)


def delivery(rig):
    caller = Caller(rig)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    about = lambda data: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    data = open(rig.pack(6), "rb").read()
    Server.files["/6"] = data
    answer = caller.ask("model-stage", url=f"{url}/6", **about(data))
    rig.check(f"model-stage is taken: {answer.get('outcome')}", answer.get("outcome") == "done")
    rig.until_active(6, 90)
    rig.check(f"release 6 came over HTTP, cut and resumed at {Server.ranges}", len(Server.ranges) > 1 and Server.ranges[-1] > 0)

    data = open(rig.pack(7), "rb").read()
    half, offset, size = len(data) // 2, 0, 6000
    restarted = False
    while offset < len(data):
        piece = base64.b64encode(data[offset:offset + size]).decode()
        answer = caller.ask("model-chunk", offset=offset, data=piece, **about(data))
        if answer.get("outcome") != "done":
            rig.fail(f"model-chunk at {offset}: {answer}")
            break
        offset = answer["result"]["received"]
        if offset > half and not restarted:
            restarted = True
            rig.kill(signal.SIGTERM)
            rig.start()
    rig.until_active(7, 90)
    rig.check("release 7 came in pieces, over a restart", rig.status()["active"]["release"] == 7)

    answer = caller.ask("model-rollback")
    rig.check(f"model-rollback: {answer.get('result')}", answer.get("result", {}).get("active") == 6)
    older = open(f"{rig.folder}/2.qmodel", "rb").read()
    Server.files["/2"], _ = older, Server.cuts.add("/2")
    caller.ask("model-stage", key="few", url=f"{url}/2", **about(older))
    rig.wait("the refusal", lambda: caller.told("model-refused", "downgrade"), 30)
    refused = caller.ask("model-stage", key="few", url=f"{url}/2", allow_downgrade=True, **about(older))
    rig.check(f"a downgrade needs its permission: {refused.get('reason')}", refused.get("reason") == "not-allowed")
    caller.ask("model-stage", url=f"{url}/2", allow_downgrade=True, **about(older))
    rig.wait("release 2 on trial", lambda: rig.phase() == "shadow", 30)
    early = caller.ask("model-promote", key="few")
    rig.check(f"model-promote before the evidence: {early.get('reason')}", early.get("reason") == "not-passed")
    forced = caller.ask("model-promote", force=True)
    rig.check(f"model-promote with force: {forced.get('result')}", forced.get("result", {}).get("active") == 2)
    rig.wait("the events at the broker", lambda: caller.told("model-promoted", "promoted"), 30)
    for event in caller.events:
        print("event  ", event["what"], event["reason"], event["detail"][:150], flush=True)
    for what in ("model-staged", "model-refused", "model-shadow", "model-canary", "model-promoted", "model-rolled-back"):
        rig.check(f"the broker got {what}", caller.told(what))


def judge(rig):
    records = rig.records()
    inferences = [record for record in records if record["kind"] == "inference"]
    counting = [record for record in inferences if record["body"].get("counts", True)]
    beside = [record for record in inferences if not record["body"].get("counts", True)]
    ticks = [(record["boot"], record["mono_ms"]) for record in counting]
    roles = sorted({record["body"].get("role", "active") for record in inferences})
    rig.check(f"{len(counting)} inferences counted and {len(beside)} ran beside, roles {roles}",
              {"active", "shadow", "canary", "reference"} <= set(roles))
    rig.check("no tick has two that count", len(ticks) == len(set(ticks)))
    alarms = [record for record in records if record["kind"] == "event" and record["body"]["what"] == "alarm"]
    rig.check("a shadow never raised the alarm", not alarms)
    return {"counting": len(counting), "beside": len(beside)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--no-delivery", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        import paho.mqtt.client  # noqa: F401
        can = shutil.which("mosquitto") is not None
    except ImportError:
        can = False
    deliver = can and not options.no_delivery
    folder = tempfile.mkdtemp()
    rig = Rig(options.binary, folder, deliver)
    try:
        steps(rig)
        if deliver:
            delivery(rig)
        elif not options.no_delivery:
            print("SKIPPED: delivery, for want of mosquitto or paho-mqtt")
        rig.kill(signal.SIGTERM)
        figures = judge(rig)
    finally:
        for process in (rig.agent, rig.broker):
            if process and process.poll() is None:
                process.kill()
    print(json.dumps({"rig": "model_life", **figures, "failures": len(rig.failures), "delivery": deliver,
                      "seconds": round(time.monotonic() - began)}))
    if options.keep:
        print(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if rig.failures else 0)


main()
