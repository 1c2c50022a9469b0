#!/usr/bin/env python3
"""Lets writes and flushes fail with EIO under `quorate outbox append`: what was acknowledged all the same must be there.

usage: tests/rigs/eio.py --binary target/release/quorate [--points N] [--device-faults N] [--records N] [--seed N]
           [--scenario NAME]
needs: strace that may trace; for the second part root, /dev/fuse, a loop device and mkfs.ext4. Python's own library only.

Part 1: strace fails one system call of the process (once at its K-th, or from there on), --points places for each call.
No panic, signal or hang; status 0, or 1 with words. Between a failed sync and the next acknowledgement the trace must
show data written again and a sync that succeeds: to sync once more proves nothing, Linux forgets what it could not write.
Afterwards list, append, list must show every acknowledged record. The same with opens and reads that fail, for append
and for list.
Part 2: the device itself (disk.py, under ext4) fails --device-faults times at a random write or flush, for one request,
for a few or for ever, and keeps nothing of what a failed flush should have kept; then the power is cut and nothing that
was not flushed stays. Every acknowledged record must be there.

Prints one line per failure, a table, and a summary in JSON. Exit 1 on a failure; 77, after part 1, where part 2 cannot run.
"""
import argparse, collections, os, random, re, select, shutil, tempfile, time

import disk, rig

WRITES = ("pwrite64", "write", "fsync", "fdatasync", "sync_file_range", "ftruncate", "rename")
READS = ("pread64", "read", "openat")
SCENARIOS = {"append new": WRITES, "append killed": WRITES + READS, "list killed": READS + WRITES}
TRACED = "pwrite64,write,fsync,fdatasync,sync_file_range,ftruncate,rename,renameat,renameat2,pread64,read,openat"


def bears_no_record(path):
    """A file that is written in place and holds no body (a store's own progress, say): records do not hang on it. What is
    renamed later, and a directory, may matter."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return not rig.BODY.search(file.read())


def trusting(log):
    """The first acknowledgement that followed a failed sync or write without data written and synced again."""
    owed, unfinished = None, {}
    with open(log, errors="replace") as lines:
        for line in lines:
            thread, _, rest = line.partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                unfinished[thread] = rest
                continue
            resumed = re.match(r"<\.\.\. \w+ resumed>", rest)
            if resumed:
                rest = unfinished.pop(thread, "") + rest
            call, on = re.match(r"(\w*)(?:\(\d+<([^>]*)>)?", rest).groups()
            if call in ("fsync", "fdatasync", "sync_file_range", "pwrite64") and "(INJECTED)" in rest:
                owed = owed if on and bears_no_record(on) else "write"
            elif rest.startswith("write(1<") and "(INJECTED)" not in rest:
                if owed:
                    return rest[:80]
            elif owed == "write" and call in ("write", "pwrite64") and "(INJECTED)" not in rest:
                owed = "sync"
            elif owed == "sync" and call in ("fsync", "fdatasync") and "(INJECTED)" not in rest and rest.endswith("= 0"):
                owed = None
    return None


class Process:
    """Part 1: one process whose system calls fail."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.base, self.promised = f"{folder}/base", rig.History()
        append = rig.Append(options.binary, self.base)
        append.feed(options.bodies.take(options.records))
        append.settle()
        append.end(kill=True)
        self.promised.acknowledge(append.acked)
        self.table, self.failures = collections.Counter(), 0

    def trial(self, name, call, when):
        store, log = f"{self.folder}/store", f"{self.folder}/trace"
        shutil.rmtree(self.folder + "/work", ignore_errors=True)
        store = f"{self.folder}/work/outbox"
        history = rig.History()
        os.mkdir(f"{self.folder}/work")
        if name != "append new":
            shutil.copytree(self.base, store)
            history = rig.History(self.promised)
        verb = name.split()[0]
        lines = self.options.bodies.take(self.options.records) if verb == "append" else ()
        inject = ["-e", f"inject={call}:error=EIO:when={when}"] if call else []
        ran = rig.outbox(self.options.binary, verb, store, lines,
                         ["strace", "-f", "-y", "-qqq", "-e", "signal=none", "-o", log, "-e", f"trace={TRACED}", *inject])
        if verb == "append":
            history.acknowledge(rig.acknowledged(ran, lines))
        if not call:
            return self.count(log)
        with open(log, errors="replace") as trace:
            reached = "(INJECTED)" in trace.read()
        wrong = [ran.bad] if ran.bad else []
        if ran.status not in (0, 1, "hangs") and not ran.bad or ran.status == 1 and not ran.stderr.strip():
            # Words are written too; and a loader that may not open a library ends the process with 127, before main.
            excused = call == "write" or call in READS and ran.status == 127
            wrong += [] if excused else [f"status {ran.status} without words"]
        trusted = trusting(log) if verb == "append" else None
        wrong += [f"acknowledged after a failed {call} that nothing made good: {trusted}"] if trusted else []
        if os.path.exists(store) or history.acked:
            wrong += rig.verify(self.options.binary, store, history, self.options.bodies)
        outcome = "broken" if wrong else "not reached" if not reached else "went on" if ran.status == 0 else "ended with an error"
        self.table[name, call, outcome] += 1
        if wrong:
            self.failures += 1
            print(f"{name}: EIO at {call} {when}: {'; '.join(wrong)}", flush=True)

    @staticmethod
    def count(log):
        by_thread, most = collections.Counter(), collections.Counter()
        with open(log, errors="replace") as trace:
            for line in trace:
                entered = re.match(r"(\d+) +(\w+)\(", line)
                if entered:
                    by_thread[entered[1], entered[2]] += 1
        for (_, call), count in by_thread.items():
            most[call] = max(most[call], count)
        return most

    def run(self):
        for name, calls in SCENARIOS.items():
            if self.options.scenario not in (None, name):
                continue
            most = self.trial(name, None, None)
            for call in calls:
                places = range(1, most[call] + 1)
                for k in sorted(self.options.rng.sample(places, min(len(places), self.options.points))):
                    self.trial(name, call, k)
                    self.trial(name, call, f"{k}+")


class Device:
    """Part 2: the disk fails."""

    def __init__(self, options, folder):
        self.options, self.folder, self.rng = options, folder, options.rng
        self.fuse = disk.FuseDisk(folder, disk.SIZES_MIB["ext4"] << 20)
        disk.make_file_system(self.fuse.path, "ext4")
        self.fuse.disk.flush()
        self.empty = self.fuse.disk.image("everything", self.rng)
        self.table, self.failures = collections.Counter(), 0

    def on_request(self, kind):
        self.left -= 1
        if self.left > 0 or self.lasting <= 0:
            return 0
        self.lasting -= 1
        self.failed[kind] += 1
        return disk.EIO

    def feed(self, append):
        """Until the store ends, or went on for a good while after the fault."""
        while append.process.poll() is None and len(append.sent) < 20_000:
            try:
                if not append.settle(20):
                    break
            except TimeoutError as hangs:
                # A store may wait for better times, but not without a word.
                return [] if select.select([append.process.stderr], [], [], 0)[0] else [str(hangs)]
            if self.failed and append.numbers > 3_000:
                break
            append.feed(self.options.bodies.take(self.rng.choice((1, 10, 60))))
        return []

    def trial(self, number):
        self.fuse.on_request = lambda kind: None
        self.fuse.disk.load(self.empty)
        self.failed = collections.Counter()
        history, wrong = rig.History(), []
        with disk.Mounted(self.fuse.path, f"{self.folder}/live", "ext4") as mounted:
            append = rig.Append(self.options.binary, f"{mounted}/outbox")
            append.feed(self.options.bodies.take(20))
            append.settle()
            # Only now: what fails is to be a commit, not the making of the store alone.
            self.left, self.lasting = int(2 ** self.rng.uniform(0, 9)), self.rng.choice((1, 1, 3, 20, 1 << 30))
            forever = self.lasting == 1 << 30
            self.fuse.on_request = self.on_request
            wrong += self.feed(append)
            with self.fuse.lock:
                append.drain()
                image = self.fuse.disk.image("nothing", self.rng)
                self.lasting = 0
                history.acknowledge(append.acked)
            status, stderr = append.end(kill=append.process.poll() is None)
        bad = rig.ended_badly(status, stderr) if status != -9 else None
        wrong += [f"append: {bad}"] if bad else []
        wrong += self.verify(image, history)
        outcome = "broken" if wrong else "not reached" if not self.failed else "went on" if status == -9 else "ended with an error"
        self.table["device", "for ever" if forever else "for a while", outcome] += 1
        if wrong:
            self.failures += 1
            print(f"device fault {number} ({dict(self.failed)}): {'; '.join(wrong)}", flush=True)

    def verify(self, image, history):
        path = f"{self.folder}/cut"
        disk.save(image, self.fuse.disk.size, path)
        # A journal that met an error wants a check, as at any boot.
        disk.repair(path, "ext4")
        with disk.Mounted(path, f"{self.folder}/after", "ext4") as mounted:
            return rig.verify(self.options.binary, f"{mounted}/outbox", history, self.options.bodies)

    def run(self):
        for number in range(self.options.device_faults):
            self.trial(number)
        self.fuse.on_request = lambda kind: None
        self.fuse.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--points", type=int, default=2)
    arguments.add_argument("--device-faults", type=int, default=40)
    arguments.add_argument("--records", type=int, default=400)
    arguments.add_argument("--scenario", choices=SCENARIOS, help="only this one of part 1")
    arguments.add_argument("--seed", type=int, default=1)
    a = arguments.parse_args()
    rig.need("strace")
    if rig.Ran(["strace", "-o", "/dev/null", "true"]).status != 0:
        rig.skip("strace may not trace here")
    a.rng = random.Random(a.seed)
    a.bodies = rig.Bodies(a.rng, f"e{a.seed}", 0.002)
    print(f"seed {a.seed}", flush=True)
    started, root = time.monotonic(), os.geteuid() == 0
    if root:
        rig.own_mounts()
    with (rig.Scratch if root else tempfile.TemporaryDirectory)() as folder:
        parts = [Process(a, folder)]
        parts[0].run()
        if a.device_faults and not (root and shutil.which("mkfs.ext4")):
            print(f"part 1: {parts[0].failures} failures", flush=True)
            parts[0].failures and rig.summary("eio", parts[0].failures)
            rig.skip("the part with a failing device needs root and mkfs.ext4")
        if a.device_faults:
            parts.append(Device(a, folder))
            parts[1].run()
    totals = collections.Counter()
    for part in parts:
        for (name, call, outcome), count in sorted(part.table.items()):
            print(f"{name:14} {call:16} {outcome:20} {count}")
            totals[outcome] += count
    rig.summary("eio", sum(part.failures for part in parts), seed=a.seed, outcomes=totals,
                seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
