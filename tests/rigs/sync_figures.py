#!/usr/bin/env python3
"""Measures delivery: time to drain a backlog, bytes on the wire, a thin link, processor time, memory, time to the first record.

usage: tests/rigs/sync_figures.py --binary target/release/quorate [--records N] [--only NAME] [--encoding json|cbor]
needs: mosquitto, openssl. One line of JSON for each figure. Nothing fails here: these are figures, not promises.

drain         a backlog to a local mosquitto, plain TCP: seconds, records/s, processor time of the agent for each record
wire          bytes on the wire for each record, both ways, TLS handshake and acknowledgements included, batches of 100
thin-link     records/s over 256 kbit/s with 100 ms each way
memory        resident memory with and without a backlog, while the broker cannot be reached
first-record  seconds from the start of the process to the first PUBLISH of records, with a backlog

A record is what `quorate outbox append` makes of a vote-like body with eight fields, values as a sensor would give them.
"""
import argparse, asyncio, contextlib, json, os, random, shutil, subprocess, tempfile, time

import rig
from kill_mosquitto import wait


def bodies(count):
    rng, level = random.Random(7), 21.0
    for n in range(count):
        level += rng.gauss(0, 0.05)
        yield json.dumps({"quantity": f"bearing-{n % 4}", "unit": "celsius", "value": round(level, 2), "uncertainty": round(0.2 + rng.random() / 50, 3),
                          "quality": "good" if rng.random() < 0.9 else "degraded", "used": 3, "expected": 3, "sensors": ["a", "b", "c"]}) + "\n"


def fill(binary, outbox, count):
    process = subprocess.Popen([binary, "outbox", "append", "--path", outbox], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in bodies(count):
        process.stdin.write(line)
    process.stdin.close()
    assert process.wait() == 0


class Proxy:
    """Forwards TCP, counts the bytes, and may be slow: a rate in bytes per second and a delay each way."""

    def __init__(self, target, rate=None, delay_s=0.0):
        self.target, self.rate, self.delay_s, self.bytes = target, rate, delay_s, 0

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        with contextlib.suppress(asyncio.CancelledError):     # the rig ends while a connection is open
            await asyncio.gather(self.pump(reader, there_writer), self.pump(there_reader, writer))

    async def pump(self, reader, writer):
        free, waiting, loop = 0.0, asyncio.Queue(64), asyncio.get_running_loop()

        async def out():
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if data is None:
                    return writer.close()
                writer.write(data)
        sender = asyncio.create_task(out())
        try:
            while data := await reader.read(1400 if self.rate else 1 << 16):
                self.bytes += len(data)
                if self.rate:
                    free = max(free, loop.time()) + len(data) / self.rate
                    await asyncio.sleep(max(0.0, free - loop.time()))
                await waiting.put((loop.time() + self.delay_s, data))
            await waiting.put((0, None))
            await sender
        except (OSError, asyncio.CancelledError):
            sender.cancel()


class Rig:
    def __init__(self, arguments, folder):
        self.a, self.folder, self.log = arguments, folder, open(f"{folder}/log", "w")

    def mosquitto(self, tls=False):
        port, text = rig.free_port(), ""
        if tls:
            rig.Authority(self.folder).issue("server")
            for name in ("ca.pem", "server.pem", "server.key"):
                os.chmod(f"{self.folder}/{name}", 0o644)
            os.chmod(self.folder, 0o755)
            text = f"cafile {self.folder}/ca.pem\ncertfile {self.folder}/server.pem\nkeyfile {self.folder}/server.key\n"
        with open(f"{self.folder}/mosquitto.conf", "w") as file:
            file.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n{text}")
        broker = subprocess.Popen(["mosquitto", "-c", f"{self.folder}/mosquitto.conf"], stdout=self.log, stderr=self.log)
        wait("the broker", lambda: rig.listens(port))
        return broker, port

    def listener(self, port, tls=False):
        """Somebody who listens, so that the broker does not say that nobody does."""
        words = ["mosquitto_sub", "-h", "localhost" if tls else "127.0.0.1", "-p", str(port), "-q", "0", "-t", "quorate/rig/#", "-F", "."]
        words += ["--cafile", f"{self.folder}/ca.pem"] if tls else []
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=self.log)

    def agent(self, url, outbox, more=""):
        with open(f"{self.folder}/quorate.toml", "w") as file:
            file.write(f'[device]\nid = "rig"\n[outbox]\npath = "{outbox}"\nsize_max = "8 GiB"\n[http]\nlisten = "127.0.0.1:{rig.free_port()}"\n'
                       f'[mqtt]\nurl = "{url}"\nencoding = "{self.a.encoding}"\nkeep_alive_s = 60\nack_timeout_ms = 60000\n{more}')
        return subprocess.Popen([self.a.binary, "run", "--config", f"{self.folder}/quorate.toml"], stdout=self.log, stderr=self.log)

    def acknowledged(self):
        text = open(f"{self.folder}/quorate.toml").read()
        address = text.split('listen = "')[1].split('"')[0]
        done = subprocess.run([self.a.binary, "status", "--json", "--address", address], capture_output=True, text=True)
        try:
            return json.loads(done.stdout)["counters"]["records_acked"]
        except (ValueError, KeyError):
            return None

    async def drained(self, agent, count, limit_s):
        """Waits until all is acknowledged; gives the seconds since the start of the process, and how much is."""
        began, acknowledged = time.monotonic(), 0
        while time.monotonic() < began + limit_s and acknowledged < count:
            await asyncio.sleep(0.05)
            acknowledged = await asyncio.to_thread(self.acknowledged) or acknowledged
        return time.monotonic() - began, acknowledged


def cpu_s(process):
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_s(process):
    found = {}
    for task in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{task}/stat") as file:
            head, tail = file.read().rsplit(")", 1)
        fields = tail.split()
        name = head.split("(", 1)[1]
        found[name] = round(found.get(name, 0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)
    return {name: seconds for name, seconds in found.items() if seconds >= 0.1}


def resident_kb(process):
    with open(f"/proc/{process.pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS")).split()[1])


def tell(name, **figures):
    print(json.dumps({"figure": name, **figures}), flush=True)


async def drain(rig_, full):
    broker, port = rig_.mosquitto()
    listener = rig_.listener(port)
    agent = rig_.agent(f"mqtt://127.0.0.1:{port}", full)
    seconds, sent = await rig_.drained(agent, rig_.a.records, 600)
    tell("drain", records=sent, seconds=round(seconds, 2), per_s=round(sent / seconds), cpu_us_per_record=round(cpu_s(agent) / sent * 1e6, 2),
         threads_cpu_s=threads_s(agent), broker_cpu_s=cpu_s(broker))
    for process in (agent, listener, broker):
        process.kill(); process.wait()


async def wire(rig_, outbox, count=20_000, rate=None, delay_s=0.0, name="wire"):
    fill(rig_.a.binary, outbox, count)
    broker, port = rig_.mosquitto(tls=True)
    listener = rig_.listener(port, tls=True)
    proxy = Proxy(port, rate, delay_s)
    through = await proxy.start()
    agent = rig_.agent(f"mqtts://localhost:{through}", outbox, f'ca_file = "{rig_.folder}/ca.pem"\n')
    seconds, sent = await rig_.drained(agent, count, 240)
    tell(name, records=sent, seconds=round(seconds, 2), per_s=round(sent / seconds), bytes_per_record=round(proxy.bytes / sent, 2))
    for process in (agent, listener, broker):
        process.kill(); process.wait()


async def memory(rig_, full):
    figures = {}
    for name, outbox in (("none", f"{rig_.folder}/empty"), ("backlog", full)):
        agent = rig_.agent(f"mqtt://127.0.0.1:{rig.free_port()}", outbox)
        wait("the agent", lambda: rig_.acknowledged() is not None)
        await asyncio.sleep(5)      # what it does at the start is over
        figures[name] = resident_kb(agent)
        agent.kill(); agent.wait()
    tell("memory", resident_kb=figures, more_kb=figures["backlog"] - figures["none"])


async def first_record(rig_, full):
    from broker import Broker
    seconds = []
    for _ in range(5):
        broker = Broker()
        broker.keep = lambda batch: setattr(broker, "at", getattr(broker, "at", None) or time.monotonic())
        began = time.monotonic()
        agent = rig_.agent(f"mqtt://127.0.0.1:{broker.port}", full, 'compression = "none"\n')
        wait("the first record", lambda: getattr(broker, "at", None))
        agent.kill(); agent.wait()
        seconds.append(round(broker.at - began, 3))
        broker.close()
    tell("first-record", pending=rig_.a.records, seconds=sorted(seconds))


async def measure(a, folder):
    rig_ = Rig(a, folder)
    wanted = lambda name: a.only in (None, name)
    full = f"{folder}/full"
    if any(wanted(name) for name in ("drain", "memory", "first-record")):
        fill(a.binary, full, a.records)
    if wanted("memory"):
        await memory(rig_, full)
    if wanted("first-record"):
        shutil.copytree(full, f"{folder}/copy")
        saved, a.encoding = a.encoding, "json"
        await first_record(rig_, f"{folder}/copy")
        a.encoding = saved
    if wanted("drain"):
        await drain(rig_, full)
    if wanted("wire"):
        await wire(rig_, f"{folder}/wire")
    if wanted("thin-link"):
        await wire(rig_, f"{folder}/thin", 40_000, 32_000, 0.1, "thin-link")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--encoding", choices=["json", "cbor"], default="json")
    arguments.add_argument("--only", choices=["drain", "wire", "thin-link", "memory", "first-record"])
    a = arguments.parse_args()
    rig.need("mosquitto", "mosquitto_sub", "openssl")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(a, folder))


if __name__ == "__main__":
    main()
