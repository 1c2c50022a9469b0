#!/usr/bin/env python3
"""Kills the agent and stops a real mosquitto while records flow, and counts what a subscriber received.

usage: tests/rigs/kill_mosquitto.py --binary target/release/quorate [--records N] [--kills N] [--stops N] [--stop-s S] [--mqtt 5|3.1.1] [--keep DIR]
needs: mosquitto and mosquitto_sub on the PATH. Everything runs on loopback, in a folder that goes at the end, unless
--keep names one: then the logs of both sides and the store stay there for whoever looks for a lost record.

Prints one line per kill and stop, then: records committed, received, repeats, payloads that differ, lost. Exit 1 when a
record is lost or a sequence number names two payloads. A record counts as committed when its sequence number was given
out and kept: the agent's own sequence has no gap, so every number below the next one must have arrived or still lie in
the store.
"""
import argparse, contextlib, hashlib, json, os, random, signal, subprocess, sys, tempfile, threading, time

import rig

QUANTITIES, PERIOD_MS = 10, 20


def configuration(folder, broker, endpoint, version):
    text = f'[device]\nid = "rig"\n[outbox]\npath = "{folder}/outbox"\n[http]\nlisten = "127.0.0.1:{endpoint}"\n'
    text += (f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker}"\ncompression = "none"\nversion = "{version}"\nkeep_alive_s = 5\nack_timeout_ms = 5000\n'
             'first_retry_ms_max = 500\nbackoff_ms_min = 200\nbackoff_ms_max = 2000\nlinger_ms = 50\n')
    for q in range(QUANTITIES):
        for c in "abc":
            text += (f'[[sensors]]\nid = "s{q}{c}"\nsource = {{ kind = "simulated", base = 20.0, amplitude = 5.0, noise = 0.1, '
                     f'seed = {q * 3 + ord(c)} }}\n')
        text += f'[[quantities]]\nid = "q{q}"\nperiod_ms = {PERIOD_MS}\nsensors = ["s{q}a", "s{q}b", "s{q}c"]\n'
    return text


class Received:
    """Every record that the subscriber printed: the payload's digest by (epoch, seq)."""

    def __init__(self, stream):
        self.seen, self.repeats, self.conflicts, self.lock = {}, 0, 0, threading.Lock()
        threading.Thread(target=self.read, args=(stream,), daemon=True).start()

    def read(self, stream):
        for line in stream:
            batch = json.loads(line)
            with self.lock:
                for record in batch["records"]:
                    key = (batch["epoch"], record["seq"])
                    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
                    if key not in self.seen:
                        self.seen[key] = digest
                    else:
                        self.repeats += 1
                        self.conflicts += self.seen[key] != digest

    def count(self):
        with self.lock:
            return len(self.seen)


def wait(what, holds, limit_s=120):
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"rig: waited {limit_s} s for: {what}")
        time.sleep(0.05)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--records", type=int, default=50_000)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--stops", type=int, default=20)
    arguments.add_argument("--stop-s", type=float, default=30.0)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--mqtt", choices=["5", "3.1.1"], default="5")
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("mosquitto", "mosquitto_sub")
    rng, port, endpoint = random.Random(a.seed), rig.free_port(), rig.free_port()
    print(f"seed {a.seed}")
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/mosquitto.conf", "w") as f:
            f.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nlog_type all\n"
                    "log_dest stderr\n")
        with open(f"{folder}/quorate.toml", "w") as f:
            f.write(configuration(folder, port, endpoint, a.mqtt))
        log, broker_log = open(f"{folder}/agent.log", "w"), open(f"{folder}/broker.log", "w")
        broker = subprocess.Popen(["mosquitto", "-c", f"{folder}/mosquitto.conf"], stdout=broker_log, stderr=broker_log)
        wait("the broker", lambda: rig.listens(port))
        subscriber = subprocess.Popen(
            ["mosquitto_sub", "-p", str(port), "-V", "mqttv5", "-q", "1", "-c", "-i", "rig-subscriber", "-x", "4000000",
             "-k", "600", "-t", "quorate/rig/data", "-F", "%p"], stdout=subprocess.PIPE, stderr=log, text=True)
        received = Received(subscriber.stdout)
        start = lambda: subprocess.Popen([a.binary, "run", "--config", f"{folder}/quorate.toml"], stdout=log, stderr=log)
        agent = start()
        deeds = ["kill"] * a.kills + ["stop"] * a.stops
        rng.shuffle(deeds)
        try:
            for number, deed in enumerate(deeds):
                # Every deed falls into flowing records, however many the one before let through at once.
                target = received.count() + a.records // (len(deeds) + 1)
                wait(f"{target} records", lambda: received.count() >= target, 600)
                time.sleep(rng.random() * 0.2)    # a moment that no record announces
                if deed == "kill":
                    agent.send_signal(signal.SIGKILL); agent.wait()
                    agent = start()
                else:
                    broker.send_signal(signal.SIGSTOP)
                    time.sleep(a.stop_s)          # the stop itself
                    broker.send_signal(signal.SIGCONT)
                print(f"{number + 1:3} {deed}: {received.count()} received", flush=True)
            target = max(a.records, received.count() + a.records // (len(deeds) + 1))
            wait(f"{target} records", lambda: received.count() >= target, 600)
            agent.send_signal(signal.SIGTERM)
            status = agent.wait(60)
            time.sleep(2)                         # what the broker still holds for the subscriber
            store = subprocess.run([a.binary, "outbox", "list", "--path", f"{folder}/outbox"], capture_output=True, text=True, check=True)
            stat = json.loads(subprocess.run([a.binary, "outbox", "stat", "--path", f"{folder}/outbox"], capture_output=True, text=True, check=True).stdout)
        finally:
            for process in (agent, broker, subscriber):
                process.kill()
        epoch, kept = stat["epoch"], {json.loads(line)["seq"] for line in store.stdout.splitlines()}
        lost = [seq for seq in range(1, stat["seq_next"]) if (epoch, seq) not in received.seen and seq not in kept]
        print(f"committed {stat['seq_next'] - 1}, received {len(received.seen)}, in the store {len(kept)}, repeats {received.repeats}, "
              f"payloads that differ {received.conflicts}, lost {len(lost)}, agent's exit status {status}")
        if lost[:1] or received.conflicts or len({key[0] for key in received.seen}) != 1:
            print("first lost:", lost[:10]); sys.exit(1)


if __name__ == "__main__":
    main()
