#!/usr/bin/env python3
"""A Raspberry Pi 3 in QEMU: the cross-compiled agent reads three chips on /dev/i2c-1, votes, infers and delivers to a broker here.

usage: tests/boards/raspberry_pi.py --binary BINARY [--kills N] [--cache DIR] [--only faults|kills] [--keep DIR]
needs: what tests/boards/fetch fetches, mosquitto, mosquitto_sub, mkfs.ext4 and the libraries of gcc-aarch64-linux-gnu

Faults: one chip is set 15 degrees off, drifts and freezes; each time it must be out of the value and named with a reason
by telemetry and by health, and be readmitted when it is sound again. Kills: the machine loses its power N times while it
stores; half of the times the broker is frozen, so that what was stored is on the card alone. Then every record that the
agent said was durable must have arrived, once by number. Exit 1 on a broken promise, 77 when something is missing.
"""
import argparse, contextlib, math, os, random, subprocess, sys, tempfile, threading, time

import delivery, machine
from delivery import rig

HERE = os.path.dirname(os.path.abspath(__file__))
PERIOD_MS = 1000
QUANTITY = "bearing-temperature"
SENSORS = ("bearing-a", "bearing-b", "bearing-c")
BASE_CELSIUS = 35.0


def configuration(broker_port, bus):
    """Three chips, two simulated quantities for the model, and one that is quick, so that power is lost while storing."""
    text = ('[device]\nid = "pi"\n[outbox]\npath = "/data/outbox"\n[http]\nlisten = "0.0.0.0:8870"\nallow_remote = true\n'
            f'[mqtt]\nurl = "mqtt://10.0.2.2:{broker_port}"\nallow_plaintext = true\ncompression = "none"\nlinger_ms = 0\nkeep_alive_s = 5\n'
            'ack_timeout_ms = 5000\nfirst_retry_ms_max = 500\nbackoff_ms_min = 200\nbackoff_ms_max = 1000\n'
            f'[[buses]]\nid = "i2c"\nkind = "i2c"\npath = "{bus}"\n')
    for number, name in enumerate(SENSORS):
        text += f'[[sensors]]\nid = "{name}"\nsource = {{ kind = "tmp102", bus = "i2c", address = {0x48 + number:#x} }}\nrange = [-40.0, 125.0]\n'
    text += (f'[[quantities]]\nid = "{QUANTITY}"\nunit = "celsius"\nperiod_ms = {PERIOD_MS}\naccuracy = "0.5"\n'
             f'sensors = {str(list(SENSORS)).replace(chr(39), chr(34))}\n')
    for quantity, unit, base, noise in (("vibration-rms", "mm/s", 1.64, 0.05), ("motor-current", "A", 10.0, 0.3)):
        names = [f"{quantity}-{letter}" for letter in "abc"]
        for seed, name in enumerate(names):
            text += (f'[[sensors]]\nid = "{name}"\nsource = {{ kind = "simulated", base = {base}, amplitude = {noise}, '
                     f'noise = {noise / 4}, seed = {seed} }}\n')
        text += f'[[quantities]]\nid = "{quantity}"\nunit = "{unit}"\nperiod_ms = {PERIOD_MS}\nsensors = {str(names).replace(chr(39), chr(34))}\n'
    text += ('[[sensors]]\nid = "quick-a"\nsource = { kind = "simulated", base = 20.0, amplitude = 5.0, noise = 0.1 }\n'
             '[[quantities]]\nid = "quick"\nperiod_ms = 100\nsensors = ["quick-a"]\n'
             '[[models]]\nid = "bearing-anomaly"\nbundle = "/models/bearing-anomaly-v1"\n'
             f'inputs = ["{QUANTITY}", "vibration-rms", "motor-current"]\n')
    return text


class Warmth:
    """Moves the chips as a bearing would: a slow wave and noise of each chip; `offset` and `frozen` are the faults."""

    def __init__(self, board, names, seed):
        self.board, self.names, self.rng = board, names, random.Random(seed)
        self.offset, self.frozen, self.stop, self.failure = dict.fromkeys(names, 0.0), set(), threading.Event(), None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def celsius(self, at_s):
        return BASE_CELSIUS + 2.0 * math.sin(at_s * 2 * math.pi / 60)

    def run(self):
        began = time.monotonic()
        while not self.stop.is_set():
            for name in self.names:
                if name not in self.frozen:
                    value = self.celsius(time.monotonic() - began) + self.offset[name] + self.rng.gauss(0, 0.06)
                    try:
                        self.board.set(name, "temperature", round(value * 1000))
                    except (OSError, ValueError) as failure:    # the plug was pulled
                        self.failure = failure
                        return
            self.stop.wait(0.2)

    def end(self):
        self.stop.set()
        self.thread.join()


class Rig:
    """What stays over all lives of the board: the card, the broker, the ledger."""

    def __init__(self, folder, binary, cache, seed):
        self.folder, self.kernel, self.rng = folder, machine.Kernel(cache), random.Random(seed)
        self.broker = delivery.Broker(folder)
        self.ledger = delivery.Ledger(self.broker.port, "quorate/pi")
        self.card, self.initrd = f"{folder}/card.img", f"{folder}/initrd.gz"
        machine.disk(self.card, 256)
        files = {"init": f"{HERE}/init", "quorate": binary, "quorate.toml": configuration(self.broker.port, "/dev/i2c-1").encode(),
                 **machine.libraries(), **machine.bundle(f"{HERE}/../../models/store", "bearing-anomaly-v1")}
        machine.initial_file_system(self.kernel, self.initrd, machine.MODULES_PI, files)
        self.failures, self.lives = [], 0

    def boot(self):
        """A running board whose agent answers, and its endpoint."""
        self.lives += 1
        endpoint = delivery.Endpoint()
        chips = [(name, 1, 0x48 + number) for number, name in enumerate(SENSORS)]
        board = machine.Machine(self.folder, f"life-{self.lives}", machine.raspberry_pi(
            self.kernel, self.initrd, self.card, endpoint.forward(), chips), consoles=2)
        board.wait_text(r"INIT: up after ([\d.]+) s")
        up_s = board.age_s()
        warmth = Warmth(board, SENSORS, self.lives)
        rig.wait("the agent's endpoint", lambda: endpoint.status() is not None or board.process.poll() is not None, 300)
        return board, endpoint, warmth, up_s

    def broken(self, what):
        print(f"  BROKEN: {what}", flush=True)
        self.failures.append(what)

    def check(self, holds, what):
        if not holds:
            self.broken(what)

    def until_vote(self, mark, holds, votes_max):
        """How many votes after `mark` it takes until one satisfies `holds`, that vote, and all of them."""
        end = time.monotonic() + votes_max * PERIOD_MS / 1000 * 4 + 60
        while True:
            votes = self.ledger.of(QUANTITY, mark)
            for number, vote in enumerate(votes, 1):
                if holds(vote):
                    return number, vote, votes
            if len(votes) >= votes_max or time.monotonic() > end:
                return None, None, votes
            time.sleep(0.05)

    def end(self):
        self.ledger.end()
        self.broker.end()


def commissioned(r, endpoint, limit_s=400):
    """Waits until all three chips are healthy in the value."""
    def all_healthy():
        status = endpoint.status()
        try:
            return status and all(delivery.channel(status, QUANTITY, name)["state"] == "healthy" for name in SENSORS)
        except KeyError:
            return False
    rig.wait("three healthy chips", all_healthy, limit_s)


def fault(r, endpoint, what, begin, end, votes_max, limit):
    """One fault of bearing-c: until it is out, what is said of it, and until it is back."""
    mark = r.ledger.mark()
    begin()
    out, vote, votes = r.until_vote(mark, lambda vote: delivery.excluded(vote, "bearing-c"), votes_max)
    if out is None:
        end()
        r.broken(f"{what}: still in the value after {len(votes)} votes")
        return
    worst = max(abs(v["value"] - BASE_CELSIUS) - 2.2 for v in votes if v["value"] is not None)
    quarantined, firm, _ = r.until_vote(mark, lambda v: (delivery.excluded(v, "bearing-c") or ("",))[0] in ("quarantined", "failed"), votes_max)
    def health():
        return delivery.channel(endpoint.status() or status, QUANTITY, "bearing-c")
    status = endpoint.status()
    rig.wait("health", lambda: health()["state"] in ("quarantined", "failed"), 60)
    health = health()
    said = delivery.excluded(firm or vote, "bearing-c")
    r.check(limit is None or out <= limit, f"{what}: out of the value only in vote {out}")
    r.check(worst < 0.5, f"{what}: the value was off by {worst:.2f}")
    r.check(said[1] is not None and health["reason"] is not None, f"{what}: no reason, {said} {health}")
    others = {one["sensor"] for v in votes for one in v.get("excluded", ())} - {"bearing-c"}
    mark = r.ledger.mark()
    end()
    back, _, later = r.until_vote(mark, lambda vote: not delivery.excluded(vote, "bearing-c"), 200)
    r.check(back is not None, f"{what}: not readmitted within {len(later)} votes")
    print(f"  {what}: out of the value in vote {out} after the fault, quarantined in {quarantined}; telemetry {said[0]}/{said[1]}, "
          f"health {health['state']}/{health['reason']}; value never more than {max(worst, 0):.2f} beyond the wave; readmitted after {back} votes; "
          f"others left out: {sorted(others) or 'none'}", flush=True)


def faults(r):
    board, endpoint, warmth, up_s = r.boot()
    first = r.until_vote(0, lambda vote: True, 100)[1]
    print(f"boot: system up after {up_s:.0f} s, first vote here after {board.age_s():.0f} s: {first['value']} {first['quality']}", flush=True)
    commissioned(r, endpoint)
    print(f"  three chips healthy after {board.age_s():.0f} s; /readyz {endpoint.ready()}", flush=True)
    r.check(endpoint.ready(), "/readyz is not 200")

    def offset(value):
        warmth.offset["bearing-c"] = value
        # The next poll of the agent may come at once: nothing waits for the thread.
        board.set("bearing-c", "temperature", round((warmth.celsius(0) + value) * 1000))

    def drift():
        stop.clear()
        threading.Thread(target=drifting, daemon=True).start()

    def drifting():
        while not stop.wait(1.0):
            warmth.offset["bearing-c"] += 0.1

    def drift_ends():
        stop.set()
        warmth.offset["bearing-c"] = 0.0

    stop = threading.Event()
    fault(r, endpoint, "15 degrees off", lambda: offset(15.0), lambda: offset(0.0), 10, 3)
    fault(r, endpoint, "drift of 0.1 degrees a second", drift, drift_ends, 200, None)
    fault(r, endpoint, "frozen", lambda: warmth.frozen.add("bearing-c"), lambda: warmth.frozen.clear(), 200, None)
    rig.wait("an inference", lambda: r.ledger.inferences > 0, 120)
    print(f"  inferences delivered: {r.ledger.inferences}", flush=True)
    warmth.end()
    board.pull_the_plug()


def kills(r, count):
    durable = 0
    for cycle in range(1, count + 1):
        offline = cycle % 2 == 0
        if offline:
            r.broker.freeze()
        board, endpoint, warmth, up_s = r.boot()
        status = endpoint.status()
        r.check(status["store"]["seq_next"] > durable, f"life {cycle}: {durable} was durable, but the store goes on with {status['store']['seq_next']}")
        target = max(durable, status["store"]["seq_next"]) + 30
        rig.wait("records that are durable", lambda: (endpoint.status() or status)["store"]["seq_next"] > target, 300)
        time.sleep(r.rng.random() * 2)    # a moment that no record announces
        status = endpoint.status() or status
        board.pull_the_plug()
        warmth.end()
        durable = max(durable, delivery.durable_through(status))
        if offline:
            r.broker.thaw()
        print(f"  kill {cycle}: up after {up_s:.0f} s, durable through {durable}, {status['store']['pending_records']} not delivered, "
              f"broker {'frozen' if offline else 'there'}, received {r.ledger.received()}", flush=True)
    board, endpoint, warmth, _ = r.boot()
    rig.wait("all that was durable", lambda: not r.ledger.missing(durable)[0], 300)
    missing, epochs = r.ledger.missing(durable)
    warmth.end()
    board.pull_the_plug()
    r.check(not missing, f"lost: {missing[:10]}")
    r.check(len(epochs) == 1, f"epochs {sorted(epochs)}")
    r.check(r.ledger.conflicts == 0, f"{r.ledger.conflicts} numbers with two payloads")
    print(f"  {count} losses of power: {durable} records durable, {r.ledger.received()} received, {r.ledger.repeats} repeats, "
          f"{r.ledger.conflicts} payloads that differ, {len(missing)} lost", flush=True)
    return durable


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True, help="of cross/build")
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--cache", default=os.environ.get("QUORATE_BOARDS", os.path.expanduser("~/.cache/quorate/boards")))
    arguments.add_argument("--only", choices=("faults", "kills"))
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("mosquitto", "mosquitto_sub", "mkfs.ext4")
    fetched = subprocess.run([f"{HERE}/fetch", a.cache], stdout=subprocess.PIPE, text=True)
    if fetched.returncode:
        print(fetched.stdout, end="")
        sys.exit(fetched.returncode)
    if not machine.libraries():
        rig.skip("needs the libraries of gcc-aarch64-linux-gnu")
    began = time.monotonic()
    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        r = Rig(folder, a.binary, a.cache, a.seed)
        try:
            if a.only != "kills":
                faults(r)
            durable = kills(r, a.kills) if a.only != "faults" else None
        except TimeoutError as late:
            r.broken(str(late))
            durable = None
        finally:
            r.end()
    rig.summary("raspberry_pi", r.failures, kills=a.kills, durable=durable, received=r.ledger.received(), seconds=round(time.monotonic() - began))


if __name__ == "__main__":
    main()
