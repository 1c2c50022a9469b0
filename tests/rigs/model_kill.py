#!/usr/bin/env python3
"""Kills `quorate model stage`, `promote` and `rollback` at system calls that change the disk, one after another; the agent
itself at starts with a new model; and at random moments while a model is on trial.

usage: tests/rigs/model_kill.py --binary target/debug/quorate [--points N] [--trials N] [--seed N]
needs: strace that may trace. Python's own library only.

After each kill: `model status` answers, what it says is active is what was active before or what the command made active,
`quorate check` loads it (signature, digests and golden vectors), and the same command again succeeds and leaves the same as
a run that was never killed. Then: an agent with a new model is killed with SIGKILL at start after start; it must be back at
the model before after three of them, and its outbox must hold the event. Then the same commands while a model is in shadow,
and an agent that is killed at random moments of a trial: whatever it was, a verified model is active, and the trial goes on.

Prints one line per failure and a summary in JSON. Exit 1 on a failure.
"""
import argparse, collections, json, os, random, re, shutil, signal, subprocess, sys, tempfile, time

SYSCALLS = ("openat", "write", "fsync", "rename", "unlink", "mkdir", "flock", "close")
# The same deed under another name.
SAME = {"rename": "rename,renameat,renameat2", "unlink": "unlink,unlinkat", "mkdir": "mkdir,mkdirat",
        "fsync": "fsync,fdatasync"}
HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.join(HERE, "../../models/store/bearing-anomaly-v1")
UNITS = {"t": ("celsius", "35.0"), "v": ("mm/s", "1.6"), "a": ("A", "10.0")}


class Rig:
    def __init__(self, binary, folder, period_ms):
        self.binary, self.folder = os.path.abspath(binary), folder
        self.failures, self.kills = [], collections.Counter()
        self.config = f"{folder}/q.toml"
        public = self.do("model", "keygen", "--output", f"{folder}/key.pem", "--key-id", "plant-1")
        parts = ["[device]\nid = 'press-07'\n"]
        for name, (unit, base) in UNITS.items():
            parts.append(f"[[sensors]]\nid = '{name}'\nsource = {{ kind = 'simulated', base = {base} }}\n"
                         f"[[quantities]]\nid = '{name}-q'\nunit = '{unit}'\nsensors = ['{name}']\nperiod_ms = {period_ms}\n")
        parts.append(f"[[models]]\nid = 'bearing-anomaly'\nbundle = '{folder}/configured'\ninputs = ['t-q', 'v-q', 'a-q']\n"
                     f"{public}[outbox]\npath = '{folder}/outbox'\n[http]\nlisten = '127.0.0.1:0'\n")
        with open(self.config, "w") as file:
            file.write("".join(parts))
        self.bundle("configured", 1, period_ms)
        for release in (2, 3):
            self.bundle("folder", release, period_ms)
            self.do("model", "pack", "--folder", f"{folder}/folder", "--key", f"{folder}/key.pem", "--key-id", "plant-1",
                    "--output", f"{folder}/{release}.qmodel")

    def bundle(self, name, release, period_ms):
        shutil.rmtree(f"{self.folder}/{name}", ignore_errors=True)
        shutil.copytree(SHIPPED, f"{self.folder}/{name}")
        path = f"{self.folder}/{name}/manifest.toml"
        text = re.sub(r"release = \d+", f"release = {release}", open(path).read())
        text = text.replace('version = "1"', f'version = "{release}"').replace("period_ms = 1000", f"period_ms = {period_ms}")
        open(path, "w").write(text)

    def ran(self, *arguments, before=()):
        return subprocess.run([*before, self.binary, *arguments], capture_output=True, text=True)

    def do(self, *arguments):
        ran = self.ran(*arguments)
        if ran.returncode:
            sys.exit(f"{arguments}: {ran.stderr}")
        return ran.stdout

    def status(self):
        return json.loads(self.do("model", "status", "--config", self.config, "--json"))

    def save(self, name):
        for part in ("state", "models"):
            shutil.rmtree(f"{self.folder}/{name}.{part}", ignore_errors=True)
            if os.path.isdir(f"{self.folder}/outbox.{part}"):
                shutil.copytree(f"{self.folder}/outbox.{part}", f"{self.folder}/{name}.{part}")

    def restore(self, name):
        for part in ("state", "models"):
            shutil.rmtree(f"{self.folder}/outbox.{part}", ignore_errors=True)
            if os.path.isdir(f"{self.folder}/{name}.{part}"):
                shutil.copytree(f"{self.folder}/{name}.{part}", f"{self.folder}/outbox.{part}")

    def fail(self, text):
        self.failures.append(text)
        print("FAILURE", text, flush=True)

    def sweep(self, name, arguments, before, points, dice):
        """Kills this command at its calls; each time on a copy of the state `before`."""
        brief = lambda record: [(record[slot] or {}).get("release") for slot in ("active", "previous")] + \
            [((record["staged"] or {}).get("held") or {}).get("release")]
        self.restore(before)
        old = brief(self.status())
        self.do(*arguments)
        new = brief(self.status())
        for syscall in SYSCALLS:
            calls = SAME.get(syscall, syscall)
            self.restore(before)
            log = f"{self.folder}/strace.log"
            self.ran(*arguments, before=["strace", "-qqq", "-e", "signal=none", "-e", f"trace={calls}", "-o", log])
            count = sum(1 for _ in open(log))
            chosen = range(1, count + 1)
            if points and count > points:
                chosen = sorted({1, count, *dice.sample(chosen, points - 2)})
            for at in chosen:
                self.restore(before)
                ran = self.ran(*arguments, before=["strace", "-qqq", "-e", "signal=none", "-e", f"trace={calls}", "-o", log,
                                                   "-e", f"inject={calls}:signal=SIGKILL:when={at}"])
                self.kills[f"{name} {syscall}"] += ran.returncode in (-signal.SIGKILL, 137)
                place = f"{name} at {syscall} {at} of {count}"
                found = brief(self.status())
                if found[:2] not in (old[:2], new[:2]):
                    self.fail(f"{place}: {found}, neither {old} nor {new}")
                checked = self.ran("check", "--config", self.config)
                active = found[0] or 1
                if checked.returncode or f"version {active} " not in checked.stdout:
                    self.fail(f"{place}: check of release {active}: {checked.stdout[-300:]} {checked.stderr}")
                # A rollback that is done needs no second one: it would go back further.
                if not name.startswith("rollback") or found != new:
                    again = self.ran(*arguments)
                    if again.returncode:
                        self.fail(f"{place}: again: {again.stderr}")
                if brief(self.status()) != new:
                    self.fail(f"{place}: afterwards {brief(self.status())}, not {new}")
                kept = [file for _, _, files in os.walk(f"{self.folder}/outbox.models") for file in files if file != ".lock"]
                named = {held["digest"] for held in self.held()}
                kept = {file.removesuffix(".qmodel") for file in kept}
                # What a cut rollback left is cleared by the next step or start.
                if not named <= kept or (not name.startswith("rollback") and named != kept):
                    self.fail(f"{place}: files {kept}, named {named}")

    def held(self):
        record = self.status()
        staged = (record["staged"] or {}).get("held")
        return [held for held in (record["active"], record["previous"], staged) if held]

    def start(self):
        log = open(f"{self.folder}/log", "a")
        return subprocess.Popen([self.binary, "run", "--config", self.config], stderr=log)

    def wait(self, what, condition, limit_s=30):
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                self.fail(f"waited {limit_s} s for {what}")
                return
            time.sleep(0.02)

    def trial(self, seconds):
        """The configuration with a trial of so many seconds for each phase, or without one."""
        text = re.sub(r"trial = .*\n", "", open(self.config).read())
        if seconds:
            table = (f"trial = {{ shadow_s = {seconds}, canary_s = {seconds}, answers_min = 5, auto = 'promote', "
                     "errors_max_share = 1.0 }")
            text = text.replace("inputs = ['t-q', 'v-q', 'a-q']\n", f"inputs = ['t-q', 'v-q', 'a-q']\n{table}\n")
        open(self.config, "w").write(text)

    def phase(self):
        return (self.status().get("trial") or {}).get("phase")

    def trials(self, kills, dice):
        """Kills an agent at random moments of a trial of release 3 over release 2, each time from its beginning."""
        seen = collections.Counter()
        for _ in range(kills):
            self.restore("staged")
            agent = self.start()
            time.sleep(dice.uniform(0.2, 5.0))
            agent.kill()
            agent.wait()
            record = self.status()
            seen[(record.get("trial") or {}).get("phase") or ("active" if record["active"]["release"] == 3 else "staged")] += 1
            if record["active"]["release"] not in (2, 3):
                self.fail(f"killed on trial: {record}")
            checked = self.ran("check", "--config", self.config)
            if checked.returncode:
                self.fail(f"killed on trial: check: {checked.stdout[-300:]} {checked.stderr}")
            agent = self.start()
            self.wait("release 3 after a kill on trial", lambda: self.status()["active"]["release"] == 3, 60)
            agent.send_signal(signal.SIGTERM)
            agent.wait()
            record = self.status()
            if record["previous"]["release"] != 2 or record["staged"] or record.get("trial"):
                self.fail(f"after a kill on trial: {record}")
        return dict(seen)

    def crash_loop(self):
        """Starts with release 3 that die before it is confirmed; the start after the third is back at release 2."""
        before = self.status()
        starts = 0
        while self.status()["active"]["release"] == 3 and starts < 10:
            attempts = self.status()["attempts"]
            agent = self.start()
            self.wait("the attempt", lambda: self.status()["attempts"] > attempts or self.status()["active"]["release"] != 3)
            agent.kill()
            agent.wait()
            starts += 1
        if starts != 4:
            self.fail(f"release 3 was left at start {starts}, not 4; before {before}")
        agent = self.start()
        # 32 ticks of 50 ms fill the window, 32 more confirm.
        self.wait("the confirmation", lambda: self.status()["confirmed"])
        agent.send_signal(signal.SIGTERM)
        if agent.wait():
            self.fail(f"the agent ended with {agent.returncode}")
        record = self.status()
        if record["active"]["release"] != 2 or record["change"]["cause"] != "crashed" or not record["change"]["told"]:
            self.fail(f"after the crashes: {record}")
        events = self.do("outbox", "list", "--path", f"{self.folder}/outbox")
        told = [line for line in events.splitlines() if "model-rolled-back" in line]
        if not told or "crashed" not in told[0] or "release 3" not in told[0]:
            self.fail(f"no event of the rollback: {told}")
        print("event:", told[0] if told else None, flush=True)
        return starts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    began = time.monotonic()
    if not shutil.which("strace"):
        print("SKIPPED: no strace")
        sys.exit(77)
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(options.binary, folder, 50)
        place = ["--config", rig.config]
        stage = lambda release: ["model", "stage", f"{folder}/{release}.qmodel", *place]
        rig.save("empty")
        rig.sweep("stage first", stage(2), "empty", options.points, dice)
        rig.save("staged first")
        rig.sweep("promote first", ["model", "promote", *place], "staged first", options.points, dice)
        # A start that lives confirms release 2.
        agent = rig.start()
        rig.wait("release 2 to be confirmed", lambda: rig.status()["confirmed"])
        agent.send_signal(signal.SIGTERM)
        agent.wait()
        rig.save("confirmed")
        rig.sweep("stage", stage(3), "confirmed", options.points, dice)
        rig.save("staged")
        rig.sweep("promote", ["model", "promote", *place], "staged", options.points, dice)
        rig.save("promoted")
        rig.sweep("rollback", ["model", "rollback", *place], "promoted", options.points, dice)
        rig.restore("promoted")
        starts = rig.crash_loop()
        rig.restore("staged")
        rig.trial(3600)
        agent = rig.start()
        rig.wait("the shadow", lambda: rig.phase() == "shadow")
        agent.send_signal(signal.SIGTERM)
        agent.wait()
        rig.save("shadow")
        rig.sweep("rollback of a shadow", ["model", "rollback", *place], "shadow", options.points, dice)
        rig.sweep("promote --force of a shadow", ["model", "promote", "--force", *place], "shadow", options.points, dice)
        rig.trial(1)
        trials = rig.trials(options.trials, dice)
        print(json.dumps({"kills": sum(rig.kills.values()), "by_place": dict(rig.kills), "starts_until_back": starts,
                          "killed_on_trial": trials,
                          "failures": len(rig.failures), "rig": "model_kill", "seconds": round(time.monotonic() - began)}))
        sys.exit(1 if rig.failures else 0)


main()
