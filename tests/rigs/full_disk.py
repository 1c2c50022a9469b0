#!/usr/bin/env python3
"""Fills the file system under a store to the last byte, at random moments, and gives the space back later.

usage: tests/rigs/full_disk.py --binary target/release/quorate [--rounds N] [--size-mib N] [--seed N] [--part command|agent]
needs: root, for a small tmpfs and a small ext4 on a loop device. Python's own library only.

Each round takes a new file system, tmpfs and ext4 in turn, and one of two parts in turn.
command: `append` runs, another file takes all that is free; append must end with an error in words (or wait and say so),
not hang or panic; with nothing free `list` must show every acknowledged record, and `quorate run` must deliver them to a
broker of the rig; when the space is back append must work again and every record must be listed or delivered.
agent: `quorate run` with simulated sensors meets the full disk; /healthz must say that the store fails within 20 s while
/livez stays well; with nothing free a broker that appears must get all that was stored; when the space is back the same
process must store again within 60 s, and every number that is missing in what arrived must be named by an event record.

Prints one line per round and a summary in JSON. Exit 1 when any of this does not hold.
"""
import argparse, collections, contextlib, json, os, random, select, signal, subprocess, time, urllib.error, urllib.request

import broker, disk, rig

STEP_S = 15


class Failed(Exception):
    """What did not hold, in words."""


class Small:
    """A small file system in a folder; as a context manager."""

    def __init__(self, folder, kind, size_mib):
        self.folder, self.kind, self.size = folder, kind, size_mib << 20
        self.at, self.filler = f"{folder}/small", f"{folder}/small/filler"

    def __enter__(self):
        os.makedirs(self.at, exist_ok=True)
        self.on_loop = None
        if self.kind == "tmpfs":
            rig.mount("tmpfs", self.at, "tmpfs", 0, f"size={self.size}")
        else:
            with open(f"{self.folder}/image", "wb") as file:
                file.truncate(self.size)
            disk.make_file_system(f"{self.folder}/image", self.kind)
            self.on_loop = disk.Mounted(f"{self.folder}/image", self.at, self.kind)
        return self

    def __exit__(self, *failure):
        self.on_loop.close() if self.on_loop else rig.unmount(self.at)

    def fill(self):
        """Takes every byte that is free. What the store gives up while it works is taken again by the next call."""
        with open(self.filler, "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"\xee" * size)
                        if size > 1:
                            os.fsync(file.fileno())
                except OSError:
                    pass

    def free(self):
        os.remove(self.filler)


def require(holds, what):
    if not holds:
        raise Failed(what)


def awaited(what, holds, limit_s=STEP_S):
    try:
        rig.wait(what, holds, limit_s)
    except TimeoutError as late:
        raise Failed(str(late)) from None


class Part:
    """One round. `steps`: name -> None where it held, else what did not, in words."""

    def __init__(self, options, small):
        self.options, self.small, self.steps = options, small, {}

    @contextlib.contextmanager
    def step(self, name):
        """What fails in here is noted; the round goes on, as far as it can."""
        try:
            yield
            self.steps.setdefault(name)
        except Failed as failed:
            self.steps[name] = str(failed)


class CommandPart(Part):
    """append, list and drain against a full disk."""

    def __init__(self, options, small):
        super().__init__(options, small)
        self.history, self.store, self.lines, self.append = rig.History(), f"{small.at}/outbox", options.bodies, None

    def run(self):
        append = self.append = rig.Append(self.options.binary, self.store)
        target = int(10 ** self.options.rng.uniform(0, 4))
        while len(append.sent) < target:
            append.feed(self.lines.take(min(target - len(append.sent), self.options.rng.choice((1, 10, 100)))))
            if not append.settle():
                raise Failed(f"append ended while space was free: {append.end()}")
        full_from, waits = append.drain(), None
        self.small.fill()
        with self.step("append answers when full"):
            waits = self.append_on_full(append)
        if waits is None:
            append.end(kill=True)
        if not waits:
            self.history.acknowledge(append.acked)
            with self.step("list when full"):
                self.list()
            with self.step("drain when full"):
                self.drain()
        self.small.free()
        with self.step("append again with space"):
            if waits:
                require(append.settle(), "append ended when space was back")
                append.end()
                self.history.acknowledge(append.acked)
            wrong = rig.verify(self.options.binary, self.store, self.history, self.lines)
            require(not wrong, "; ".join(wrong))
        return f"{full_from} records before, {append.numbers - full_from} on the full disk, then append {'waited' if waits else 'ended'}"

    def append_on_full(self, append):
        """Feeds until the store gives an error. True: it waits for space, and has said so."""
        end = time.monotonic() + 60
        while append.process.poll() is None:
            append.feed(self.lines.take(50))
            try:
                if not append.settle(STEP_S):
                    break
            except TimeoutError:
                said, _, _ = select.select([append.process.stderr], [], [], 0)
                require(said, "append hangs on a full disk without a word")
                return True
            require(time.monotonic() < end, "append never noticed that the disk is full")
            self.small.fill()
        status, stderr = append.end()
        bad = rig.ended_badly(status, stderr)
        require(not bad, f"append on a full disk: {bad}")
        require(status == 1 and stderr, f"append on a full disk: status {status}: {stderr[-300:]}")
        return False

    def list(self):
        self.small.fill()
        ran = rig.outbox(self.options.binary, "list", self.store, limit_s=STEP_S)
        require(not ran.bad and ran.status == 0, f"list with nothing free: {ran.why()}")
        wrong = self.history.check(rig.listed(ran))
        require(not wrong, f"list with nothing free: {wrong}")

    def drain(self):
        self.small.fill()
        sink = broker.Broker()
        config = broker.configuration(os.path.dirname(self.small.at), sink.port, rig.free_port(), outbox=self.store)
        with open(f"{self.small.folder}/log", "w+") as log:
            agent = subprocess.Popen([self.options.binary, "run", "--config", config], stderr=log, start_new_session=True)
            try:
                bodies = set(self.history.acked)
                awaited("the drain with nothing free",
                        lambda: bodies <= set(sink.received.values()) or agent.poll() is not None)
                require(agent.poll() is None, "quorate run ended with nothing free")
            except Failed as failed:
                log.seek(0)
                raise Failed(f"{failed}; {len(bodies - set(sink.received.values()))} of {len(bodies)} not delivered; "
                             f"{log.read()[-300:].strip()}") from None
            finally:
                agent.poll() is None and agent.send_signal(signal.SIGTERM)
                status = rig.await_end(agent, STEP_S)
                sink.close()
        require(status == 0, f"quorate run ends with status {status} on a full disk")
        wrong = self.history.deliver(sink.received)
        require(not sink.conflicts and not wrong, f"two payloads under one number: {sink.conflicts[:3]} {wrong}")

    def close(self):
        if self.append and self.append.process.poll() is None:
            self.append.end(kill=True)


SENSORS = "".join(
    f'[[sensors]]\nid = "s{q}{c}"\nsource = {{ kind = "simulated", base = 20.0, amplitude = 5.0, noise = 0.1, seed = {q * 3 + ord(c)} }}\n'
    for q in range(10) for c in "abc") + "".join(
    f'[[quantities]]\nid = "q{q}"\nperiod_ms = 20\nsensors = ["s{q}a", "s{q}b", "s{q}c"]\n' for q in range(10))


class AgentPart(Part):
    """The agent, its health, and its way back."""

    def __init__(self, options, small):
        super().__init__(options, small)
        self.sink_port, self.http = rig.free_port(), rig.free_port()
        self.sink = self.agent = None
        self.log = open(f"{small.folder}/log", "w+")

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()
        except OSError:
            return 0, ""

    def store_check(self):
        require(self.agent.poll() is None, f"the agent ended, status {self.agent.poll()}: {self.said()}")
        status, text = self.get("/healthz")
        return json.loads(text)["checks"]["store"][0] if '"store"' in text else {"status": "none", "output": ""}

    def said(self):
        self.log.seek(0)
        return self.log.read()[-300:].strip()

    def stored(self):
        status, text = self.get("/api/v1/status")
        return json.loads(text)["counters"]["records_stored"] if status == 200 else 0

    def run(self):
        config = broker.configuration(self.small.folder, self.sink_port, self.http, SENSORS, f"{self.small.at}/outbox")
        self.agent = subprocess.Popen([self.options.binary, "run", "--config", config], stderr=self.log,
                                      stdout=subprocess.DEVNULL, start_new_session=True)
        target = int(10 ** self.options.rng.uniform(1, 3.5))
        awaited(f"{target} records", lambda: self.agent.poll() is not None or self.stored() >= target, 60)
        started, why, noticed, recovered = time.monotonic(), "", 0, 0
        with self.step("health tells of the full disk"):
            awaited("health to say that the store fails", self.full, 60)
            noticed, why = time.monotonic() - started, self.store_check()["output"]
            require(self.get("/livez")[0] == 200, "/livez fails on a full disk")
        before = self.stored()
        self.sink = broker.Broker(self.sink_port)
        with self.step("drain when full"):
            awaited(f"{before} stored records to be delivered with nothing free", lambda: len(self.sink.received) >= before)
        self.small.free()
        started = time.monotonic()
        with self.step("the same process stores again with space"):
            awaited("health to say that the store is well again", lambda: self.store_check()["status"] == "pass", 60)
            recovered, after = time.monotonic() - started, self.stored()
            awaited("records of after", lambda: self.stored() >= after + 100)
        with self.step("ends in order, every gap named"):
            self.agent.send_signal(signal.SIGTERM)
            status = rig.await_end(self.agent, STEP_S)
            require(status == 0, f"the agent ends with status {status}: {self.said()}")
            named = self.gaps()
            return f"{before} records before; noticed in {noticed:.1f} s ({why[:60]}); well again in {recovered:.1f} s; {named}"
        return f"{before} records before"

    def full(self):
        self.small.fill()
        return self.store_check()["status"] != "pass"

    def gaps(self):
        ran = rig.outbox(self.options.binary, "list", f"{self.small.at}/outbox")
        require(ran.status == 0, f"list at the end: {ran.why()}")
        records = [(epoch, seq, body) for (epoch, seq), body in self.sink.received.items()]
        wrong = rig.History().check(records + rig.listed(ran))
        require(not wrong and not self.sink.conflicts, f"at the end: {wrong} {self.sink.conflicts[:3]}")
        known = collections.defaultdict(dict)
        for epoch, seq, body in records + rig.listed(ran):
            known[epoch][seq] = body
        gone = 0
        for by_seq in known.values():
            ranges = rig.reported(body for body in by_seq.values() if '"what"' in body)
            missing = [seq for seq in range(1, max(by_seq) + 1) if seq not in by_seq]
            silent = [seq for seq in missing if not any(low <= seq <= high for low, high in ranges)]
            require(not silent, f"{len(silent)} of {len(missing)} missing numbers are named nowhere, first {silent[:1]}")
            gone += len(missing)
        return f"{gone} numbers gone and named"

    def close(self):
        if self.agent and self.agent.poll() is None:
            os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
        if self.sink:
            self.sink.close()
        self.log.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--size-mib", type=int, default=32)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--part", choices=("command", "agent"))
    a = arguments.parse_args()
    rig.need("mkfs.ext4", root=True)
    rig.own_mounts()
    a.rng = random.Random(a.seed)
    a.bodies = rig.Bodies(a.rng, f"f{a.seed}")
    print(f"seed {a.seed}", flush=True)
    started, held, failed = time.monotonic(), collections.Counter(), collections.Counter()
    with rig.Scratch() as folder:
        for number in range(a.rounds):
            kind, part = ("tmpfs", "ext4")[number % 2], a.part or ("command", "agent")[number // 2 % 2]
            with Small(folder, kind, a.size_mib) as small:
                trial = {"command": CommandPart, "agent": AgentPart}[part](a, small)
                try:
                    words = trial.run()
                except Failed as failure:
                    words = trial.steps["the whole"] = str(failure)
                finally:
                    trial.close()
            print(f"round {number}: {part} on {kind}: {words}", flush=True)
            for step, why in trial.steps.items():
                (failed if why else held)[f"{part}: {step}"] += 1
                if why:
                    print(f"  FAILED: {step}: {why}", flush=True)
    rig.summary("full_disk", sum(failed.values()), seed=a.seed, rounds=a.rounds, held=held, failed=failed,
                seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
