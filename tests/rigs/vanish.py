#!/usr/bin/env python3
"""The broker's address vanishes from the network, without a packet that says so, and comes back.

usage: tests/rigs/vanish.py --binary target/release/quorate [--times N] [--seed N] [--keep DIR]
needs: root, ip (iproute2), mosquitto, mosquitto_sub. Agent and broker each have a network namespace of their own, joined by
a pair of virtual interfaces; the namespaces go at the end.

While records flow the address is taken from the broker's interface: what the agent sends is answered by nobody. Its link
must be down within 1.5 keep-alives (and two seconds for a slow machine), votes go on, and when the address is back every
record arrives.
"""
import argparse, contextlib, json, os, random, signal, subprocess, sys, tempfile, time

import rig
from kill_mosquitto import Received, configuration, wait

KEEP_ALIVE_S, BROKER, AGENT = 5, "10.77.0.1", "10.77.0.2"


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Networks:
    def __init__(self):
        self.a, self.b = f"qa{os.getpid()}", f"qb{os.getpid()}"
        try:
            for name in (self.a, self.b):
                ip("netns", "add", name)
            ip("link", "add", "qveth0", "netns", self.a, "type", "veth", "peer", "name", "qveth1", "netns", self.b)
        except subprocess.CalledProcessError as error:
            self.close()
            rig.skip(f"needs network namespaces: {error.stderr.strip()}")
        for name, link, address in ((self.a, "qveth0", AGENT), (self.b, "qveth1", BROKER)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")

    def address(self, verb):
        ip("-n", self.b, "addr", verb, f"{BROKER}/24", "dev", "qveth1")

    def close(self):
        for name in (self.a, self.b):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--times", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("ip", "mosquitto", "mosquitto_sub", root=True)
    rng, began, failures, noticed = random.Random(a.seed), time.monotonic(), [], []
    networks = Networks()
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder, contextlib.closing(networks):
        log, inside = open(f"{folder}/log", "w"), lambda name, *words, **more: subprocess.Popen(["ip", "netns", "exec", name, *words], stderr=log, text=True, **more)
        with open(f"{folder}/mosquitto.conf", "w") as file:
            file.write("listener 1883 0.0.0.0\nallow_anonymous true\nmax_queued_messages 0\n")
        with open(f"{folder}/quorate.toml", "w") as file:
            file.write(configuration(folder, 1883, 8870, "5").replace("mqtt://127.0.0.1:1883", f"mqtt://{BROKER}:1883")
                       .replace("[mqtt]\n", "[mqtt]\nallow_plaintext = true\n").replace("ack_timeout_ms = 5000", "ack_timeout_ms = 60000"))
        broker = inside(networks.b, "mosquitto", "-c", f"{folder}/mosquitto.conf", stdout=log)
        time.sleep(0.5)                       # the listener; the subscriber would otherwise give up
        listener = inside(networks.b, "mosquitto_sub", "-h", "127.0.0.1", "-V", "mqttv5", "-q", "1", "-c", "-i", "listener", "-x", "600", "-k", "600",
                          "-t", "quorate/rig/data", "-F", "%p", stdout=subprocess.PIPE)
        received = Received(listener.stdout)
        agent = inside(networks.a, a.binary, "run", "--config", f"{folder}/quorate.toml", stdout=log)

        def status():
            done = subprocess.run(["ip", "netns", "exec", networks.a, a.binary, "status", "--json", "--address", "127.0.0.1:8870"], capture_output=True, text=True)
            return json.loads(done.stdout) if done.returncode == 0 else {"link": {"state": "none"}, "counters": {"records": 0}}
        try:
            for _ in range(a.times):
                before = received.count()
                wait("records", lambda: received.count() > before + 500, 60)
                time.sleep(rng.random())      # a moment that no record announces
                networks.address("del")
                gone, made = time.monotonic(), status()["counters"]["records"]
                wait("the link to be down", lambda: status()["link"]["state"] != "up", 60)
                noticed.append(round(time.monotonic() - gone, 2))
                wait("votes to go on", lambda: status()["counters"]["records"] > made + 100, 30)
                networks.address("add")
            before = received.count()
            wait("records", lambda: received.count() > before + 500, 60)
            agent.send_signal(signal.SIGTERM)
            agent.wait(60)
            command = lambda verb: subprocess.run([a.binary, "outbox", verb, "--path", f"{folder}/outbox"], capture_output=True, text=True, check=True).stdout
            stat, kept = json.loads(command("stat")), {json.loads(line)["seq"] for line in command("list").splitlines()}
            expected = [seq for seq in range(1, stat["seq_next"]) if seq not in kept]
            with contextlib.suppress(SystemExit):
                wait("the last", lambda: all((stat["epoch"], seq) in received.seen for seq in expected), 20)
            lost = [seq for seq in expected if (stat["epoch"], seq) not in received.seen]
        finally:
            for process in (agent, listener, broker):
                process.kill()
        limit_s = 1.5 * KEEP_ALIVE_S + 2
        failures += [f"noticed after {seconds} s" for seconds in noticed if seconds > limit_s]
        failures += [f"lost {lost[:10]}"] * bool(lost) + ["payloads that differ"] * bool(received.conflicts)
        for failure in failures:
            print(failure)
        rig.summary("vanish", len(failures), seed=a.seed, committed=stat["seq_next"] - 1, received=len(received.seen), noticed_s=noticed, seconds=round(time.monotonic() - began, 1))
        sys.exit(bool(failures))


if __name__ == "__main__":
    main()
