#!/usr/bin/env python3
"""An arm64 machine in QEMU with two I2C buses whose chips refuse and whose bus hangs, on command.

usage: tests/boards/virtio_bus.py --binary BINARY [--hang-s S] [--cache DIR] [--keep DIR]
needs: what `tests/boards/fetch FOLDER modules` fetches and builds, mosquitto, mosquitto_sub, mkfs.ext4

Refuse: a chip that does not acknowledge is `no-acknowledge` in health and in an event, is left out with `sensor-error`, and
never reads as zero; it is readmitted when it answers again. Hang: one bus ends no transfer for S seconds; the quantity on the
other bus has a good vote of all its chips at every tick meanwhile, and the hung one comes back by itself. Exit 1 on a
broken promise, 77 when something is missing.
"""
import argparse, contextlib, json, os, random, subprocess, sys, tempfile, threading, time

import delivery, i2c_bus, machine
from delivery import rig

HERE = os.path.dirname(os.path.abspath(__file__))
PERIOD_MS = 1000
QUANTITIES = ("first", "second")
BASE_CELSIUS = {"first": 35.0, "second": 21.0}


def configuration(broker_port, buses):
    text = ('[device]\nid = "virt"\n[outbox]\npath = "/data/outbox"\n[http]\nlisten = "0.0.0.0:8870"\nallow_remote = true\n'
            f'[mqtt]\nurl = "mqtt://10.0.2.2:{broker_port}"\nallow_plaintext = true\ncompression = "none"\nlinger_ms = 0\nkeep_alive_s = 5\n')
    for quantity, path in zip(QUANTITIES, buses):
        text += f'[[buses]]\nid = "{quantity}"\nkind = "i2c"\npath = "{path}"\n'
        for number, letter in enumerate("abc"):
            text += (f'[[sensors]]\nid = "{quantity}-{letter}"\nsource = {{ kind = "tmp102", bus = "{quantity}", '
                     f'address = {0x48 + number:#x} }}\nrange = [-40.0, 125.0]\n')
        text += (f'[[quantities]]\nid = "{quantity}"\nunit = "celsius"\nperiod_ms = {PERIOD_MS}\naccuracy = "0.5"\n'
                 f'sensors = ["{quantity}-a", "{quantity}-b", "{quantity}-c"]\n')
    return text


class Noise:
    """Keeps every chip moving a little, as real ones do."""

    def __init__(self, buses, seed):
        self.buses, self.rng, self.stop = buses, random.Random(seed), threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while not self.stop.wait(0.2):
            for quantity, bus in self.buses.items():
                for chip in bus.chips.values():
                    chip.set(BASE_CELSIUS[quantity] + self.rng.gauss(0, 0.08))


class Rig:
    def __init__(self, folder, binary, cache, seed):
        kernel = machine.Kernel(cache)
        self.broker = delivery.Broker(folder)
        self.ledger = delivery.Ledger(self.broker.port, "quorate/virt")
        self.endpoint, self.failures = delivery.Endpoint(), []
        card, initrd = f"{folder}/card.img", f"{folder}/initrd.gz"
        machine.disk(card, 128)
        files = {"init": f"{HERE}/init", "quorate": binary, **machine.libraries(),
                 "quorate.toml": configuration(self.broker.port, ("/dev/i2c-0", "/dev/i2c-1")).encode()}
        machine.initial_file_system(kernel, initrd, machine.MODULES_VIRT, files, ("i2c-virtio",))
        sockets = [f"{folder}/bus{number}" for number in range(2)]
        self.buses = {quantity: i2c_bus.Bus(path, {0x48 + n: i2c_bus.Chip(BASE_CELSIUS[quantity]) for n in range(3)})
                      for quantity, path in zip(QUANTITIES, sockets)}
        self.noise = Noise(self.buses, seed)
        self.board = machine.Machine(folder, "virt", machine.virtual(kernel, initrd, card, self.endpoint.forward(), sockets))
        self.board.wait_text(r"INIT: up after ([\d.]+) s")

    def check(self, holds, what):
        if not holds:
            print(f"  BROKEN: {what}", flush=True)
            self.failures.append(what)

    def sensor(self, name):
        status = self.endpoint.status()
        return next((one for one in status["sensors"] if one["id"] == name), None) if status else None

    def healthy(self, quantity):
        status = self.endpoint.status()
        try:
            return status and all(delivery.channel(status, quantity, f"{quantity}-{letter}")["state"] == "healthy" for letter in "abc")
        except KeyError:
            return False

    def await_votes(self, quantity, mark, count, limit_s=120):
        rig.wait(f"{count} votes", lambda: len(self.ledger.of(quantity, mark)) >= count, limit_s)
        return self.ledger.of(quantity, mark)

    def end(self):
        self.noise.stop.set()
        self.board.pull_the_plug()
        self.ledger.end()
        self.broker.end()


def refuse(r):
    mark, events = r.ledger.mark(), len(r.ledger.events)
    r.buses["first"].chips[0x49].refuses = True
    rig.wait("no-acknowledge in health", lambda: (r.sensor("first-b") or {}).get("fault") == "no-acknowledge", 60)
    votes = r.await_votes("first", mark, 10)
    out = next((n for n, vote in enumerate(votes, 1) if delivery.excluded(vote, "first-b")), None)
    said = delivery.excluded(votes[-1], "first-b")
    # A zero among three would move the value by at least a third of the quantity's size before it is voted out.
    worst = max(abs(vote["value"] - BASE_CELSIUS["first"]) for vote in votes)
    r.check(out is not None and out <= 3, f"refusing: left out only in vote {out}")
    r.check(said is not None and said[1] == "sensor-error", f"refusing: telemetry says {said}")
    r.check(worst < 0.5, f"refusing: the value was off by {worst:.2f}")
    r.check(r.sensor("first-b")["value"] is None or r.sensor("first-b")["value"] > 30, f"refusing: reads {r.sensor('first-b')}")
    with r.ledger.lock:
        named = [event["body"] for event in r.ledger.events[events:] if "no-acknowledge" in json.dumps(event["body"])]
    r.check(named, "refusing: no event names no-acknowledge")
    mark = r.ledger.mark()
    r.buses["first"].chips[0x49].refuses = False
    rig.wait("readmitted", lambda: r.healthy("first"), 200)
    print(f"  refusing chip: left out in vote {out}, telemetry {said[0]}/{said[1]}, health no-acknowledge, value never more than {worst:.2f} off; "
          f"readmitted after {len(r.ledger.of('first', mark))} votes; event: {json.dumps(named[0]) if named else None}", flush=True)


def hang(r, hang_s):
    marked = r.ledger.mark()
    r.await_votes("second", marked, 1)
    mark = r.ledger.mark()
    r.buses["first"].hang()
    count = hang_s * 1000 // PERIOD_MS
    during = r.await_votes("second", mark, count, hang_s * 4)[:count]
    hung = r.ledger.of("first", mark)
    fault = (r.sensor("first-a") or {}).get("fault")
    r.buses["first"].recover()
    steps = {second["mono_ms"] - first["mono_ms"] for first, second in zip(during, during[1:])}
    r.check(all(vote["quality"] == "good" and vote["used"] == 3 for vote in during),
            f"hung: the other bus had {[(vote['quality'], vote['used']) for vote in during if vote['quality'] != 'good'][:5]}")
    r.check(steps == {PERIOD_MS}, f"hung: the other bus voted in steps of {sorted(steps)} ms")
    r.check(hung and hung[-1]["quality"] in ("uncertain", "bad"), f"hung: its own quantity is {hung[-1]['quality'] if hung else None}")
    rig.wait("the hung bus is back", lambda: r.healthy("first"), 300)
    print(f"  bus hung for {hang_s} s: the other bus gave {len(during)} votes, {sum(vote['used'] == 3 for vote in during)} of all three chips, in steps of "
          f"{sorted(steps)} ms; the hung one {hung[-1]['quality']} with fault {fault}, healthy again afterwards", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True, help="of cross/build")
    arguments.add_argument("--hang-s", type=int, default=30)
    arguments.add_argument("--cache", default=os.environ.get("QUORATE_BOARDS", os.path.expanduser("~/.cache/quorate/boards")))
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("mosquitto", "mosquitto_sub", "mkfs.ext4")
    fetched = subprocess.run([f"{HERE}/fetch", a.cache, "modules"], stdout=subprocess.PIPE, text=True)
    if fetched.returncode:
        print(fetched.stdout, end="")
        sys.exit(fetched.returncode)
    began = time.monotonic()
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        r = Rig(folder, a.binary, a.cache, a.seed)
        try:
            rig.wait("healthy chips on both buses", lambda: all(r.healthy(quantity) for quantity in QUANTITIES), 400)
            print(f"boot: chips healthy on both buses after {r.board.age_s():.0f} s", flush=True)
            refuse(r)
            hang(r, a.hang_s)
        except TimeoutError as late:
            r.check(False, str(late))
        finally:
            r.end()
    rig.summary("virtio_bus", r.failures, received=r.ledger.received(), seconds=round(time.monotonic() - began))


if __name__ == "__main__":
    main()
