#!/usr/bin/env python3
"""A broker that ends the connection at some records instead of answering: everything else arrives, and they are found.

usage: tests/rigs/closing.py --binary target/release/quorate [--records N] [--closers N] [--seed N]
The store is filled by `quorate outbox append`, then `quorate run` delivers it to a broker of our own that resets the
connection at a message with one of these records. All others must arrive, the event `record-set-aside` must name these and
no others, and the number of connections is bounded by what halving costs. Then the broker takes them, the agent is
started again, and they must arrive, too.
"""
import argparse, contextlib, json, random, signal, subprocess, tempfile, time

import rig
from broker import configuration
from hostile import Hostile
from hostile_broker import append

# Two until the others go on, then at most one for each halving of 100 records and for the last.
CONNECTIONS_EACH = 2 + 7 + 1


def set_aside(ledger):
    """The records that events of the agent name as ending connections."""
    bodies = [json.loads(text)["body"] for text in list(ledger.other.values())]
    wanted = [body for body in bodies if body.get("what") == "record-set-aside"]
    return {seq for body in wanted if body["reason"] == "connection-closed" for seq in range(body["first_seq"], body["last_seq"] + 1)}


class Agent:
    def __init__(self, binary, path, log):
        self.process = subprocess.Popen([binary, "run", "--config", path], stdout=log, stderr=log)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--records", type=int, default=5_000)
    arguments.add_argument("--closers", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--limit-s", type=float, default=300)
    a = arguments.parse_args()
    began, rng = time.monotonic(), random.Random(a.seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        append(a.binary, f"{folder}/outbox", a.records)
        broker = Hostile(a.records, a.seed)
        ending.callback(broker.close)
        broker.peaceful = True
        broker.closers = closers = set(rng.sample(range(1, a.records + 1), a.closers))
        path = configuration(folder, broker.port, rig.free_port())
        log = ending.enter_context(open(f"{folder}/agent.log", "w"))
        ledger = broker.ledger
        others = lambda: ledger.seen.count(1) >= a.records - len(closers)
        agent = Agent(a.binary, path, log)
        ending.callback(agent.process.kill)
        rig.wait("the others arrive", others, a.limit_s)
        others_s = time.monotonic() - began
        rig.wait("they are named", lambda: closers <= set_aside(ledger), a.limit_s)
        connections, early = broker.connections, [seq for seq in closers if ledger.seen[seq]]
        status = agent.stop()
        broker.closers = set()
        again = Agent(a.binary, path, log)
        ending.callback(again.process.kill)
        rig.wait("they arrive", lambda: ledger.seen.count(1) >= a.records, a.limit_s)
        status |= again.stop()
        failures = {
            "wrong": len(ledger.wrong), "misnamed": len(set_aside(ledger) - closers), "early": len(early),
            "connections_beyond": max(0, connections - 1 - CONNECTIONS_EACH * len(closers)), "status": status,
        }
        rig.summary("closing", sum(failures.values()), seed=a.seed, records=a.records, closers=len(closers), connections=connections,
                    others_s=round(others_s, 1), **{name: count for name, count in failures.items() if count},
                    seconds=round(time.monotonic() - began, 1))


if __name__ == "__main__":
    main()
