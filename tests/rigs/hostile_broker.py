#!/usr/bin/env python3
"""The agent delivers a backlog to a broker that is durable and merciless, and every record arrives.

usage: tests/rigs/hostile_broker.py --binary target/release/quorate [--records N] [--faults N] [--seed N] [--watermark] [--keep DIR]
The store is filled by `quorate outbox append`, then `quorate run` delivers it. The rig goes on until the records have
arrived and the faults have struck, then makes peace and looks: every record is there with its own body, poisoned records
are named as refused by an event and by no other way, the user properties fit, and repeats are at most what can be in
flight at each reconnect. With --watermark the broker also loses one message in fifty that it has acknowledged.
"""
import argparse, contextlib, json, os, random, signal, subprocess, sys, tempfile, time

import rig
from broker import configuration
from hostile import Hostile


def append(binary, outbox, count):
    lines = "".join(f'{{"n":{n}}}\n' for n in range(1, count + 1))
    done = subprocess.run([binary, "outbox", "append", "--path", outbox], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    numbers = done.stdout.split()
    assert numbers[0] == "1" and numbers[-1] == str(count), "the rig counts from 1"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--records", type=int, default=100_000)
    arguments.add_argument("--faults", type=int, default=150)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--limit-s", type=float, default=600)
    arguments.add_argument("--watermark", action="store_true")
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    began, rng = time.monotonic(), random.Random(a.seed)
    print(f"seed {a.seed}")
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        append(a.binary, f"{folder}/outbox", a.records)
        poison = set(rng.sample(range(1, a.records + 1), 5))
        broker = Hostile(a.records, a.seed, poison, 0.02 if a.watermark else 0.0)
        more = 'connect_timeout_ms = 500\nack_timeout_ms = 1000\n' + ('confirm = "watermark"\nwatermark_timeout_ms = 1000\n' if a.watermark else "")
        path = configuration(folder, broker.port, rig.free_port(), more)
        text = open(path).read().replace("ack_timeout_ms = 5000\n", "").replace("backoff_ms_max = 500", "backoff_ms_max = 150").replace(f'[outbox]\n', '[outbox]\nsize_max = "16 GiB"\n')
        open(path, "w").write(text)
        log = open(f"{folder}/agent.log", "w")
        agent = subprocess.Popen([a.binary, "run", "--config", path], stdout=log, stderr=log)
        end = time.monotonic() + a.limit_s
        ledger, struck = broker.ledger, lambda: sum(broker.faults.values())
        arrived = lambda: ledger.seen.count(1) >= a.records - len(poison)
        fed = 0
        try:
            while not (arrived() and struck() >= a.faults):
                if time.monotonic() > end or agent.poll() is not None:
                    break
                time.sleep(0.05)
                if arrived() and not broker.peaceful:
                    # All is delivered before all has struck: only reconnects bring the rest, and they need nothing to send.
                    fed += 1
                    for peer in list(broker.peers):
                        with contextlib.suppress(OSError):
                            peer.shutdown(2)
            broker.peaceful = True
            for peer in list(broker.peers):
                with contextlib.suppress(OSError):
                    peer.shutdown(2)
            named = lambda: {seq for text in list(ledger.other.values()) for seq in gone(json.loads(text))}
            while not (arrived() and poison <= named()) and time.monotonic() < end and agent.poll() is None:
                time.sleep(0.1)
            died = agent.poll()
            agent.send_signal(signal.SIGTERM)
            status = agent.wait(60)
        finally:
            agent.kill()
            broker.close()
        lost = [seq for seq in range(1, a.records + 1) if not ledger.seen[seq] and seq not in poison]
        unnamed, misnamed = poison - named(), named() - poison
        taken_back = [seq for seq in poison if ledger.seen[seq]]
        most = broker.repeats_most if not a.watermark else None
        failures = {
            "lost": len(lost), "wrong": len(ledger.wrong), "corrupt": broker.corrupt, "poison_unnamed": len(unnamed), "named_without_cause": len(misnamed),
            "repeats_beyond_window": int(most is not None and ledger.repeats > most), "epochs": len(ledger.epochs) - 1, "died": int(died is not None),
            "faults_missing": max(0, a.faults - struck()),
        }
        if lost:
            print("first lost:", lost[:10])
        print("faults:", " ".join(f"{name} {count}" for name, count in broker.faults.items() if count))
        rig.summary("hostile_broker", sum(failures.values()), seed=a.seed, records=a.records, faults=struck(), connections=broker.connections,
                repeats=ledger.repeats, repeats_most=most, lost_by_the_broker=broker.dropped, status=status,
                **{name: count for name, count in failures.items() if count},
                    seconds=round(time.monotonic() - began, 1))
        sys.exit(bool(sum(failures.values())))


def gone(record):
    body = record["body"]
    if record["kind"] == "event" and body.get("what") == "records-gone":
        return range(body["first_seq"], body["last_seq"] + 1)
    return ()


if __name__ == "__main__":
    main()
