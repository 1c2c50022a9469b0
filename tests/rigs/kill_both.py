#!/usr/bin/env python3
"""Both sides of a stock mosquitto die, and the broker itself: with the watermark nothing that was committed is lost.

usage: tests/rigs/kill_both.py --binary target/release/quorate [--records N] [--kills N] [--seed N] [--keep DIR]
needs: mosquitto. The agent has mqtt.confirm = "watermark", `quorate collect` stores into SQLite and confirms. Agent, broker
(without persistence: it forgets what it acknowledged) and collector are killed with SIGKILL in turn, at random, while
records flow. In the end every record below the agent's next number is in SQLite once, or still in the agent's store.
"""
import argparse, contextlib, json, os, random, signal, sqlite3, subprocess, sys, tempfile, time

import rig
from consumers import collector, command, rows
from kill_mosquitto import configuration, wait


def count(path):
    with contextlib.suppress(Exception), contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM records").fetchone()[0]
    return 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--records", type=int, default=84_000)
    arguments.add_argument("--kills", type=int, default=40)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("mosquitto")
    rng, port, began, done = random.Random(a.seed), rig.free_port(), time.monotonic(), {"agent": 0, "broker": 0, "collector": 0}
    print(f"seed {a.seed}")
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/out.sqlite"
        with open(f"{folder}/mosquitto.conf", "w") as file:
            file.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        text = configuration(folder, port, rig.free_port(), "5")
        with open(f"{folder}/quorate.toml", "w") as file:
            file.write(text.replace("[mqtt]\n", '[mqtt]\nconfirm = "watermark"\nwatermark_timeout_ms = 1000\n'))
        log = open(f"{folder}/log", "w")
        start = {"broker": lambda: subprocess.Popen(["mosquitto", "-c", f"{folder}/mosquitto.conf"], stdout=log, stderr=log),
                 "collector": lambda: collector(a.binary, port, output, log),
                 "agent": lambda: subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)}
        running = {}
        try:
            for name in start:
                running[name] = start[name]()
                if name == "broker":
                    wait("the broker", lambda: rig.listens(port))
            for number in range(a.kills):
                target = count(output) + a.records // (a.kills + 1)
                wait(f"{target} records", lambda: count(output) >= target, 180)
                time.sleep(rng.random() * 0.2)        # a moment that no record announces
                name = rng.choice(list(running))
                running[name].kill(); running[name].wait()
                done[name] += 1
                running[name] = start[name]()
            stat = lambda: json.loads(command(a.binary, "outbox", "stat", "--path", f"{folder}/outbox"))
            target = count(output) + a.records // (a.kills + 1)
            wait("the last records", lambda: count(output) >= target, 180)
            running["agent"].send_signal(signal.SIGTERM)
            running["agent"].wait(60)
            stored, kept = stat(), {json.loads(line)["seq"] for line in command(a.binary, "outbox", "list", "--path", f"{folder}/outbox").splitlines()}
            running["collector"].send_signal(signal.SIGTERM)
            running["collector"].wait(30)
            seen = rows(output)
            lost = [seq for seq in range(1, stored["seq_next"]) if seq not in seen and seq not in kept]
            conflicts = int(subprocess.run(["sqlite3", output, "SELECT count(*) FROM conflicts"], capture_output=True, text=True).stdout or 0)
            report = json.loads(command(a.binary, "collect", "--report", "--output", output))
        finally:
            for process in running.values():
                process.kill()
        if lost:
            print("first lost:", lost[:10])
        rig.summary("kill_both", len(lost) + conflicts, seed=a.seed, committed=stored["seq_next"] - 1, stored=len(seen), in_the_store=len(kept), kills=done,
                    conflicts=conflicts, missing=report["missing"], seconds=round(time.monotonic() - began, 1))
        sys.exit(bool(lost or conflicts))


if __name__ == "__main__":
    main()
