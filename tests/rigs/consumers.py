#!/usr/bin/env python3
"""Everything that docs/consumers offers, against a real mosquitto: each record is there once, whoever was killed.

usage: tests/rigs/consumers.py --binary target/release/quorate [--records N] [--kills N] [--seed N] [--keep DIR]
needs: mosquitto, mosquitto_sub, PostgreSQL's server programs (and root or a user who may run them), node.

Two collectors (SQLite, JSON lines) and the agent are killed with SIGKILL while records flow. What a subscriber heard is
entered twice into PostgreSQL through quorate_enter and twice into the function of the Node-RED flow. All four must agree
with the agent's own sequence; the published gap query must say the same in both databases.
"""
import argparse, contextlib, glob, json, os, random, shutil, signal, sqlite3, subprocess, sys, tempfile, time

import rig
from kill_mosquitto import Received, configuration, wait

CONSUMERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/consumers")
NODE = """
const fs = require('fs'), vm = require('vm');
const flow = JSON.parse(fs.readFileSync(process.argv[1]));
const code = flow.find(node => node.type === 'function').func;
const kept = new Map(), context = { get: name => kept.get(name), set: (name, value) => kept.set(name, value) };
const run = new vm.Script('(function (msg) {' + code + '\\n})').runInNewContext({ context });
const counts = [], seen = new Set();
for (let round = 0; round < 2; round++) {
  let count = 0;
  for (const line of fs.readFileSync(process.argv[2], 'utf8').split('\\n')) {
    if (!line) continue;
    for (const message of run({ payload: JSON.parse(line) })[0]) {
      count++;
      seen.add(message.epoch + '/' + message.payload.seq);
    }
  }
  counts.push(count);
}
console.log(JSON.stringify({ first: counts[0], second: counts[1], distinct: seen.size }));
"""


class Postgres:
    """A server of its own on a socket in `folder`."""

    def __init__(self, folder):
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not programs and not shutil.which("initdb"):
            rig.skip("needs PostgreSQL's server programs (Debian: postgresql)")
        self.bin, self.folder = (programs or [os.path.dirname(shutil.which("initdb"))])[-1], f"{folder}/postgres"
        os.mkdir(self.folder)
        self.user = []
        if os.geteuid() == 0:
            # The server refuses to be root.
            os.chmod(folder, 0o755)
            shutil.chown(self.folder, "postgres")
            self.user = ["runuser", "-u", "postgres", "--"]
        self.run(f"{self.bin}/initdb", "-D", f"{self.folder}/data", "-U", "rig", "--auth=trust", "--no-sync")
        self.server = subprocess.Popen([*self.user, f"{self.bin}/postgres", "-D", f"{self.folder}/data", "-k", self.folder, "-h", "", "-F"],
                                       cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait("PostgreSQL", lambda: subprocess.run([f"{self.bin}/pg_isready", "-q", "-h", self.folder]).returncode == 0)

    def run(self, *command, **options):
        return subprocess.run([*self.user, *command], cwd=self.folder, check=True, capture_output=True, text=True, **options)

    def sql(self, text):
        done = subprocess.run(["psql", "-h", self.folder, "-U", "rig", "-d", "postgres", "-qAtF,", "-v", "ON_ERROR_STOP=1"], input=text,
                              capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"rig: PostgreSQL: {done.stderr[-500:]}")
        return done.stdout.split()

    def close(self):
        pid = open(f"{self.folder}/data/postmaster.pid").readline()
        os.kill(int(pid), signal.SIGQUIT)
        self.server.wait(30)


class Heard(Received):
    """What a subscriber heard, batch by batch, as it came."""

    def __init__(self, stream, path):
        self.lines = open(path, "w")
        super().__init__(self.copied(stream))

    def copied(self, stream):
        for line in stream:
            self.lines.write(line)
            yield line


def collector(binary, port, output, log):
    return subprocess.Popen([binary, "collect", "--url", f"mqtt://127.0.0.1:{port}", "--output", output, "--client-id", os.path.basename(output)],
                            stdout=log, stderr=log)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--records", type=int, default=20_000)
    arguments.add_argument("--kills", type=int, default=12)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("mosquitto", "mosquitto_sub", "psql", "node")
    rng, port, began = random.Random(a.seed), rig.free_port(), time.monotonic()
    print(f"seed {a.seed}")
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        postgres = Postgres(folder)
        with open(f"{folder}/mosquitto.conf", "w") as file:
            file.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        with open(f"{folder}/quorate.toml", "w") as file:
            file.write(configuration(folder, port, rig.free_port(), "5"))
        log = open(f"{folder}/log", "w")
        broker = subprocess.Popen(["mosquitto", "-c", f"{folder}/mosquitto.conf"], stdout=log, stderr=log)
        wait("the broker", lambda: rig.listens(port))
        listener = subprocess.Popen(["mosquitto_sub", "-p", str(port), "-V", "mqttv5", "-q", "1", "-c", "-i", "listener", "-x", "600", "-k", "600",
                                     "-t", "quorate/rig/data", "-F", "%p"], stdout=subprocess.PIPE, stderr=log, text=True)
        heard = Heard(listener.stdout, f"{folder}/batches")
        outputs = [f"{folder}/out.sqlite", f"{folder}/out.jsonl"]
        start = {"agent": lambda: subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)}
        for output in outputs:
            start[output] = lambda output=output: collector(a.binary, port, output, log)
        # The sessions must be there before the first record, or it is nobody's.
        running = {name: start[name]() for name in outputs}
        wait("the collectors", lambda: open(f"{folder}/log").read().count("subscribed") >= 2)
        running["agent"] = start["agent"]()
        try:
            for number in range(a.kills):
                target = heard.count() + a.records // (a.kills + 1)
                wait(f"{target} records", lambda: heard.count() >= target, 300)
                time.sleep(rng.random() * 0.1)        # a moment that no record announces
                name = rng.choice(list(running))
                running[name].kill(); running[name].wait()
                running[name] = start[name]()
            wait("the last records", lambda: heard.count() >= a.records, 300)
            running["agent"].send_signal(signal.SIGTERM)
            running["agent"].wait(60)
            stat = json.loads(command(a.binary, "outbox", "stat", "--path", f"{folder}/outbox"))
            kept = {json.loads(line)["seq"] for line in command(a.binary, "outbox", "list", "--path", f"{folder}/outbox").splitlines()}
            committed = set(range(1, stat["seq_next"])) - kept
            arrived = lambda: {seq for epoch, seq in list(heard.seen) if epoch == stat["epoch"]} >= committed
            wait("the subscriber", arrived)
            wait("SQLite", lambda: rows(outputs[0]) >= committed)
            wait("JSON lines", lambda: lines(outputs[1])[0] >= committed)
            for output in outputs:
                running[output].send_signal(signal.SIGTERM)
                running[output].wait(30)
            failures = look(a.binary, folder, outputs, committed, heard, postgres, stat["epoch"])
        finally:
            for process in (*running.values(), broker, listener):
                process.kill()
            postgres.close()
        for failure in failures:
            print(failure)
        rig.summary("consumers", len(failures), seed=a.seed, records=len(committed), heard=len(heard.seen), repeats=heard.repeats, kills=a.kills,
                    seconds=round(time.monotonic() - began, 1))
        sys.exit(bool(failures))


def command(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {seq for seq, in database.execute("SELECT seq FROM records")}


def lines(path):
    """The records' numbers, and how many lines there are of them."""
    with open(path) as file:
        found = [json.loads(line)["record"]["seq"] for line in file if line.endswith("\n") and '"record":' in line]
    return set(found), len(found)


def look(binary, folder, outputs, committed, heard, postgres, epoch):
    failures = []
    def expect(what, found, expected):
        if found != expected:
            failures.append(f"{what}: {str(found)[:300]} instead of {str(expected)[:300]}")
    distinct = {seq for _, seq in heard.seen}
    expect("the subscriber's numbers", distinct >= committed and heard.conflicts == 0, True)
    expect("SQLite", rows(outputs[0]), distinct)
    expect("JSON lines", lines(outputs[1]), (distinct, len(distinct)))
    for output in outputs:
        report = json.loads(command(binary, "collect", "--report", "--output", output))
        expect(f"the report of {output}", (report["epoch"], report["missing"]), (epoch, 0))
        expect(f"the watermark of {output}", report["through"], max(distinct))
    heard.lines.flush()
    postgres.sql(open(f"{CONSUMERS}/postgresql.sql").read())
    enter = [f"SELECT quorate_enter('{line.strip()}');" for line in open(f"{folder}/batches")]
    expect("PostgreSQL, new", sum(map(int, postgres.sql("\n".join(enter)))), len(distinct))
    expect("PostgreSQL, repeats", sum(map(int, postgres.sql("\n".join(enter)))), 0)
    # A hole that we make, so that the query has something to find.
    hole = sorted(distinct)[3:7]
    remove = f"DELETE FROM records WHERE seq BETWEEN {hole[0]} AND {hole[-1]}"
    query = open(f"{CONSUMERS}/gaps.sql").read()
    found = [line.split(",") for line in postgres.sql(f"{remove};\n{query}")]
    with contextlib.closing(sqlite3.connect(outputs[0])) as database:
        database.execute(remove)
        in_sqlite = [[str(value) for value in row] for row in database.execute(query)]
    expect("the gap query", found, in_sqlite)
    expect("the gap", [hole[0], hole[-1]] in [[int(first), int(last)] for _, _, first, last in found], True)
    node = json.loads(command("node", "-e", NODE, f"{CONSUMERS}/node-red.json", f"{folder}/batches"))
    expect("Node-RED", node, {"first": len(distinct), "second": 0, "distinct": len(distinct)})
    return failures


if __name__ == "__main__":
    main()
