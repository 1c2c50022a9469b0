#!/usr/bin/env python3
"""Boots the image of cross/image in an emulated Raspberry Pi 3, and has its service manager guard the agent.

usage: tests/boards/image.py --image FILE.img [--cache DIR] [--keep DIR]
needs: QEMU 9 or newer, mosquitto and mosquitto_sub, mcopy, the kernel of cross/kernel

The settings go onto the boot partition as an owner would write them, one of them wrong. Then: the unit is active, three chips
are voted, records reach a broker here that wants a password (a credential of the unit), /readyz is 200, the wrong setting
is named, the data partition has grown; the agent killed is back within 5 s, stopped it is ended by the watchdog, and a
configuration that is refused (status 2) is not tried again. QEMU runs no firmware of the Pi: config.txt is not tested.
Exit 1 on a broken promise, 77 when something is missing.
"""
import argparse, contextlib, os, re, shutil, subprocess, sys, tempfile, time

import delivery, machine, raspberry_pi
from delivery import rig

START_OF_BOOT = 4 << 20
USER, PASSWORD = "press-07", "not-a-secret"


class Board:
    """The image in a machine with three chips; guest.sh does inside what is asked and tells it on the console."""

    def __init__(self, folder, image, cache, broker_port):
        self.folder, self.kernel, self.lives = folder, machine.Kernel(cache), 0
        self.card = f"{folder}/card.img"
        shutil.copyfile(image, self.card)
        os.truncate(self.card, 1 << 30)
        configuration = raspberry_pi.configuration(broker_port, "/dev/i2c-1").replace("/data/outbox", "/var/lib/quorate/outbox")
        self.write("quorate.toml", configuration.replace("/models/", "/usr/share/quorate/models/store/"))
        self.write("settings.txt", f"device_id = pi\nbroker_username = {USER}\nbroker_password = {PASSWORD}\nhostname = press-07\nwifi_country = Germany\n")
        self.initrd = f"{folder}/initrd.img"
        self.run("mcopy", "-n", "-i", f"{self.card}@@{START_OF_BOOT}", "::initrd.img", self.initrd)

    def run(self, *words):
        return subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.decode(errors="replace")

    def write(self, name, text):
        with open(f"{self.folder}/{name}", "w") as file:
            file.write(text)
        self.run("mcopy", "-o", "-i", f"{self.card}@@{START_OF_BOOT}", f"{self.folder}/{name}", f"::{name}")

    def read(self, name):
        return self.run("mtype", "-i", f"{self.card}@@{START_OF_BOOT}", f"::{name}")

    def boot(self, endpoint):
        self.lives += 1
        chips = [(name, 1, 0x48 + number) for number, name in enumerate(raspberry_pi.SENSORS)]
        # QEMU resets the Pi the moment its watchdog is armed, so that of the board stays off here.
        arguments = machine.raspberry_pi(self.kernel, self.initrd, self.card, endpoint.forward(), chips,
                                         "systemd.watchdog_sec=0 systemd.journald.forward_to_console=1")
        return machine.Machine(self.folder, f"image-{self.lives}", arguments, consoles=2)

    def add_guest_script(self):
        """A unit that runs guest.sh, written into the root file system of this copy of the card."""
        table = self.run("sfdisk", "-d", self.card)
        start = int(re.findall(r"start=\s*(\d+)", table)[1]) * 512
        with open(f"{self.folder}/rig.service", "w") as file:
            file.write("[Unit]\nAfter=quorate.service\n[Service]\nExecStart=/bin/sh /usr/lib/quorate/guest.sh\n")
        here = os.path.dirname(os.path.abspath(__file__))
        units = "/etc/systemd/system"
        # debugfs writes into its current folder alone. systemd takes only a symbolic link for an entry of `.wants`.
        commands = (f"cd /usr/lib/quorate\nwrite {here}/guest.sh guest.sh\ncd {units}\nwrite {self.folder}/rig.service rig.service\n"
                    f"cd {units}/multi-user.target.wants\nsymlink rig.service {units}/rig.service\n")
        subprocess.run(("debugfs", "-w", "-f", "-", f"{self.card}?offset={start}"), input=commands.encode(), check=True, capture_output=True)


def protected_broker(folder):
    """A broker that takes one user with a password."""
    subprocess.run(["mosquitto_passwd", "-b", "-c", f"{folder}/passwords", USER, PASSWORD], check=True)
    os.chmod(f"{folder}/passwords", 0o644)
    return delivery.Broker(folder, f"allow_anonymous false\npassword_file {folder}/passwords\n")


def guarded(r, board, endpoint, ledger, check):
    """The first life: everything that the service manager and the settings promise."""
    active = board.wait_text(r"RIG: (active after ([\d.]+) s, user (\w+), .*)", 900)
    print(f"  {active[1].strip()}; {board.age_s():.0f} s here", flush=True)
    check(active[3] == "quorate", f"runs as {active[3]}")
    check(re.search(r"NoNewPrivs: 1 Seccomp: 2", active[1]), f"not in its sandbox: {active[1]}")
    data = board.wait_text(r"RIG: (data (\d+) MiB, root (\w+), failed units: (.*))", 120)
    print(f"  {data[1].strip()}", flush=True)
    check(int(data[2]) > 300, f"the data partition has {data[2]} MiB")
    check(data[3] == "overlay", f"the root is {data[3]}")
    rig.wait("the endpoint", lambda: endpoint.status() is not None, 300)
    rig.wait("a vote at the broker", lambda: ledger.of(raspberry_pi.QUANTITY), 300)
    rig.wait("/readyz", endpoint.ready, 60)
    print(f"  /readyz 200, first vote at the broker: {ledger.of(raspberry_pi.QUANTITY)[0]['quality']}", flush=True)
    for pattern, promise in ((r"killed: back after ([\d.]+) s", 5.0), (r"stopped: back after ([\d.]+) s", 60.0)):
        said = board.wait_text("RIG: " + pattern, 900)
        print(f"  {said[0][5:]}", flush=True)
        check(float(said[1]) <= promise, f"{said[0]}, not within {promise}")
    refused = board.wait_text(r"RIG: (refused: state (\w+), status (\d+), restarts (\d+))", 300)
    print(f"  {refused[1]}", flush=True)
    check(refused[2] == "failed" and refused[3] == "2" and refused[4] == "0", refused[1])
    print(f"  {board.wait_text(r'RIG: (memory: .*)', 300)[1].strip()}", flush=True)
    board.wait_text(r"RIG: end", 300)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--image", required=True, help="of cross/image")
    arguments.add_argument("--kills", type=int, default=2)
    arguments.add_argument("--cache", default=os.environ.get("QUORATE_BOARDS", os.path.expanduser("~/.cache/quorate/boards")))
    arguments.add_argument("--keep")
    a = arguments.parse_args()
    rig.need("qemu-system-aarch64", "mosquitto", "mosquitto_sub", "mosquitto_passwd", "mcopy", "sfdisk", "debugfs")
    began, failures = time.monotonic(), []

    def check(holds, what):
        if not holds:
            print(f"  BROKEN: {what}", flush=True)
            failures.append(what)

    if a.keep:
        os.makedirs(a.keep)
    with contextlib.nullcontext(a.keep) if a.keep else tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)    # mosquitto gives up root
        broker = protected_broker(folder)
        ledger = delivery.Ledger(broker.port, "quorate/pi", ("-u", USER, "-P", PASSWORD))
        r = Board(folder, a.image, a.cache, broker.port)
        r.add_guest_script()
        durable = 0
        try:
            for life in range(a.kills + 1):
                endpoint = delivery.Endpoint()
                board = r.boot(endpoint)
                board.wait_text("Welcome to", 300)
                warmth = raspberry_pi.Warmth(board, raspberry_pi.SENSORS, life)
                if life == 0:
                    guarded(r, board, endpoint, ledger, check)
                rig.wait("the agent", lambda: endpoint.status() is not None, 900)
                status = endpoint.status()
                check(status["store"]["seq_next"] > durable, f"life {life}: {durable} was durable, the store goes on with {status['store']['seq_next']}")
                rig.wait("records", lambda: (endpoint.status() or status)["store"]["seq_next"] > status["store"]["seq_next"] + 20, 300)
                durable = max(durable, delivery.durable_through(endpoint.status() or status))
                if life == a.kills:
                    rig.wait("all that was durable", lambda: not ledger.missing(durable)[0], 300)
                warmth.stop.set()
                board.pull_the_plug()
                print(f"  power lost {life + 1}: after {board.age_s():.0f} s, durable through {durable}, received {ledger.received()}", flush=True)
            missing, epochs = ledger.missing(durable)
            check(not missing and len(epochs) == 1, f"lost {missing[:10]}, epochs {epochs}")
            report = r.read("settings-report.txt")
            print(f"  settings-report.txt: {report.strip()}", flush=True)
            check("wifi_country: expected two capital letters" in report, "the wrong setting is not named")
        except (TimeoutError, KeyError) as late:
            check(False, str(late)[-1500:])
            board.pull_the_plug()
        finally:
            ledger.end()
            broker.end()
    rig.summary("image", failures, durable=durable, received=ledger.received(), seconds=round(time.monotonic() - began))


if __name__ == "__main__":
    main()
