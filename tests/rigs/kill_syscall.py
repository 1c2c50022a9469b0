#!/usr/bin/env python3
"""Kills `quorate` at system calls that change the disk, one after another, and checks the store after every kill.

usage: tests/rigs/kill_syscall.py --binary target/release/quorate [--points N] [--records N] [--seed N]
           [--scenario NAME] [--syscall NAME]
needs: strace that may trace. Python's own library only.

Scenarios: append to a new store; append to a store whose owner was killed; list of that store; list of that store with a
damaged block, which is salvaged; drain of that store by `quorate run` into a broker of the rig (broker.py). In each, for
each of the system calls, a run is counted once, then killed on entering its K-th call (in the first thread that reaches
K), for every K where --points is 0, else for so many K drawn at random, the first and last among them. After each kill:
list, append, list; every acknowledged record is there (or, drained, at the broker), no number names two payloads.

Prints one line per failure, a table of kills by scenario and system call, and a summary in JSON. Exit 1 on a failure.
"""
import argparse, collections, contextlib, os, random, re, shutil, signal, subprocess, tempfile, time

import broker, rig

SYSCALLS = ("openat", "pwrite64", "write", "fsync", "fdatasync", "sync_file_range", "rename", "unlink", "ftruncate",
            "fallocate", "mkdir", "rmdir", "flock", "close")
# The same deed under another name.
SAME = {"rename": "rename,renameat,renameat2", "unlink": "unlink,unlinkat", "mkdir": "mkdir,mkdirat"}
SCENARIOS = ("append new", "append killed", "list killed", "list damaged", "drain")


def tracing(*more):
    # Not --seccomp-bpf: with it strace 6.1 injects at the first call only, whatever `when` says.
    return ["strace", "-f", "-qqq", "-e", "signal=none", *more]


class Scenario:
    """What is run on which store, and what must be there afterwards."""

    def __init__(self, name, options, folder, base, promised):
        self.name, self.options, self.folder = name, options, folder
        self.base, self.promised, self.runs = base, promised, 0
        self.lines = options.bodies.take(options.records if name == "append new" else options.records // 4)

    def run(self, before):
        """Runs it on a copy. Gives (whether it was killed, what it said, History of what must be there now)."""
        self.runs += 1
        shutil.rmtree(f"{self.folder}/run", ignore_errors=True)
        os.mkdir(f"{self.folder}/run")
        self.store = f"{self.folder}/run/outbox"
        if self.base:
            shutil.copytree(self.base, self.store)
        history = rig.History(self.promised)
        if self.name == "drain":
            return (*self.drain(before, history), history)
        verb = self.name.split()[0]
        lines = self.lines if verb == "append" else ()
        ran = rig.outbox(self.options.binary, verb, self.store, lines, before)
        if verb == "append":
            history.acknowledge(rig.acknowledged(ran, lines))
        return ran.status == -signal.SIGKILL, ran, history

    def drain(self, before, history):
        sink = broker.Broker()
        config = broker.configuration(f"{self.folder}/run", sink.port, rig.free_port())
        error = open(f"{self.folder}/run/log", "w+")
        process = subprocess.Popen([*before, self.options.binary, "run", "--config", config], stderr=error,
                                   stdout=subprocess.DEVNULL, start_new_session=True)
        wanted, ran = len(history.acked), rig.Ran(["true"])
        rig.wait("the drain", lambda: len(sink.received) >= wanted or process.poll() is not None, 60)
        if process.poll() is None:
            # What was delivered is forgotten, and the store closed, on the way out.
            # The call that kills it may come first.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                children = open(f"/proc/{process.pid}/task/{process.pid}/children").read().split() if before else [process.pid]
                for child in children:
                    os.kill(int(child), signal.SIGTERM)
        ran.status = rig.await_end(process, 60)
        sink.close()
        error.seek(0)
        ran.stderr = error.read()
        ran.bad = rig.ended_badly(ran.status, ran.stderr) if ran.status != -signal.SIGKILL else None
        wrong = history.deliver(sink.received)
        if sink.conflicts or wrong:
            ran.bad = f"the broker got two payloads of {sink.conflicts[:3]} {wrong}"
        return ran.status == -signal.SIGKILL, ran

    def counts(self):
        """How often the busiest thread enters each system call in an undisturbed run."""
        log = f"{self.folder}/trace"
        names = ",".join(SAME.get(it, it) for it in SYSCALLS)
        _, ran, history = self.run(tracing("-o", log, "-e", f"trace={names}"))
        if ran.status != 0:
            raise SystemExit(f"rig: {self.name} fails undisturbed: {ran.why()}")
        by_thread, most = collections.Counter(), collections.Counter()
        with open(log, errors="replace") as lines:
            for line in lines:
                entered = re.match(r"(\d+) +(\w+)\(", line)
                if entered:
                    by_thread[entered[1], entered[2]] += 1
        for (thread, call), count in by_thread.items():
            kind = next((it for it in SYSCALLS if call in SAME.get(it, it).split(",")), call)
            most[kind] = max(most[kind], count)
        return most


def points(count, wanted, rng):
    every = range(1, count + 1)
    if not wanted or count <= wanted:
        return every
    return sorted({1, count, *rng.sample(every, max(0, wanted - 2))})


def sweep(scenario, call, count, table, rng):
    """Kills at the points of one system call; gives the failures."""
    failures, options = 0, scenario.options
    for k in points(count, options.points, rng):
        names = SAME.get(call, call)
        killed, ran, history = scenario.run(tracing("-o", "/dev/null", "-e", f"trace={names}",
                                                    "-e", f"inject={names}:signal=KILL:when={k}"))
        if not killed and ran.status == 0 and not ran.bad:
            table[scenario.name, "not reached"] += 1
            continue
        table[scenario.name, call] += 1
        wrong = [ran.bad or f"ended by itself, {ran.why()}"] if not killed else []
        if os.path.exists(scenario.store) or history.acked:
            wrong += rig.verify(options.binary, scenario.store, history, options.bodies)
        if wrong:
            failures += 1
            print(f"{scenario.name}: killed at {call} {k} of {count}: {'; '.join(wrong)}", flush=True)
    return failures


def bases(options, folder):
    """A store whose owner was killed, the same with a damaged block, and what a list must show of each."""
    killed, damaged = f"{folder}/killed", f"{folder}/damaged"
    append = rig.Append(options.binary, killed)
    for _ in range(4):
        append.feed(options.bodies.take(options.records // 4))
        append.settle()
    append.end(kill=True)
    promised = rig.History()
    promised.acknowledge(append.acked)
    shutil.copytree(killed, damaged)
    largest = max((os.path.join(at, name) for at, _, names in os.walk(damaged) for name in names), key=os.path.getsize)
    with open(largest, "r+b") as file:
        file.seek(os.path.getsize(largest) // 3 // 4096 * 4096)
        file.write(options.rng.randbytes(4096))
    shutil.copytree(damaged, f"{folder}/reference")
    rest = rig.History()
    ran = rig.outbox(options.binary, "list", f"{folder}/reference")
    rest.acknowledge({seq: body for _, seq, body in rig.listed(ran) if body in promised.acked})
    return {"append new": (None, rig.History()), "append killed": (killed, promised), "list killed": (killed, promised),
            "list damaged": (damaged, rest), "drain": (killed, promised)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--points", type=int, default=6)
    arguments.add_argument("--records", type=int, default=3_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--scenario", choices=SCENARIOS)
    arguments.add_argument("--syscall", choices=SYSCALLS)
    a = arguments.parse_args()
    rig.need("strace")
    if rig.Ran(tracing("-o", "/dev/null", "-e", "trace=openat", "true")).status != 0:
        rig.skip("strace may not trace here")
    a.rng = random.Random(a.seed)
    a.bodies = rig.Bodies(a.rng, f"k{a.seed}")
    print(f"seed {a.seed}", flush=True)
    started, table, failures = time.monotonic(), collections.Counter(), 0
    if os.geteuid() == 0:
        rig.own_mounts()
    with (rig.Scratch if os.geteuid() == 0 else tempfile.TemporaryDirectory)() as folder:
        stores = bases(a, folder)
        for name in [a.scenario] if a.scenario else SCENARIOS:
            scenario = Scenario(name, a, folder, *stores[name])
            most = scenario.counts()
            for call in [a.syscall] if a.syscall else SYSCALLS:
                failures += sweep(scenario, call, most[call], table, a.rng)
            print(f"{name:14} killed:", ", ".join(f"{call} {table[name, call]} of {most[call]}" for call in SYSCALLS if most[call]),
                  flush=True)
    kills = sum(count for (_, call), count in table.items() if call != "not reached")
    if sum(table.values()) > 2 * kills:
        failures += 1
        print("most points were not reached: the rig proves nothing")
    rig.summary("kill_syscall", failures, seed=a.seed, points=a.points, kills=kills,
                not_reached=sum(table.values()) - kills, seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
