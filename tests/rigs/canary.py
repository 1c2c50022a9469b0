#!/usr/bin/env python3
"""A small store with the commands of `quorate outbox`, and its sins: the rigs must pass the store and catch each sin.

usage: tests/rigs/canary.py             runs the rigs against the honest store and every sin, prints one line each
       QUORATE_CANARY=SIN tests/rigs/canary.py outbox append|list|stat --path DIR      is the store
needs: what the rigs need.

The store is a file of lines, a checksum at the start of each, and a file with the first number that was never given out.
Sins: no-fsync (acknowledges what is not flushed), trusts-retry (after a failed fsync calls fsync again and believes it),
largest-key (takes the next number from the last record that it can read), silent (does not say what it cannot read),
refuses (ends when it finds a damaged line), hangs-when-full, early-ack (acknowledges before it writes).
Exit 1 when a rig passes a sin or does not pass the honest store.
"""
import json, os, subprocess, sys, time, zlib

SIN = os.environ.get("QUORATE_CANARY", "")
# The rig that must catch it, with enough trials for that.
TRIALS = {"no-fsync": "power_cut.py --cuts 6", "trusts-retry": "eio.py --points 2 --records 100 --device-faults 0 --scenario append%new",
          "largest-key": "bit_rot.py --flips 20 --records 200", "silent": "bit_rot.py --flips 10 --records 200",
          "refuses": "bit_rot.py --flips 10 --records 200", "hangs-when-full": "full_disk.py --rounds 1 --part command",
          "early-ack": "kill_syscall.py --points 2 --records 200 --scenario append%killed"}
HONEST = ("power_cut.py --cuts 8 --drains 0", "eio.py --points 1 --records 100 --device-faults 5 --scenario append%killed",
          "bit_rot.py --flips 12 --records 200", "kill_syscall.py --points 1 --records 200 --scenario append%killed")


class Store:
    def __init__(self, path, create):
        self.path, self.log, self.state = path, f"{path}/log", f"{path}/next"
        if create:
            os.makedirs(path, exist_ok=True)
            self.sync_folder(os.path.dirname(path))
        elif not os.path.exists(path):
            sys.exit("canary: no outbox: no such directory")
        self.findings, self.records = [], {}
        data = open(self.log, "rb").read() if os.path.exists(self.log) else b""
        for line in data.split(b"\n"):
            try:
                if zlib.crc32(line[9:]) == int(line[:8], 16):
                    seq, _, body = line[9:].decode().partition(" ")
                    self.records[int(seq)] = body
                    continue
            except ValueError:
                pass
            if line and SIN == "refuses":
                sys.exit("canary: a damaged line")
        # Numbers are kept twice, so that one damaged file does not make two records share one.
        self.next = max(self.states() + [max(self.records, default=0) + 1])
        if SIN == "largest-key":
            self.next = max(self.records, default=0) + 1
        if SIN != "silent":
            missing = [seq for seq in range(1, self.next) if seq not in self.records]
            self.findings = [f"records {seq} to {seq} may be gone" for seq in missing]
        self.torn = bool(data) and not data.endswith(b"\n")

    def states(self):
        found = []
        for copy in (self.state, self.state + ".2"):
            try:
                words = open(copy).read().split()
                found += [int(words[0])] if words[0] == words[1] else []
            except (OSError, ValueError, IndexError):
                pass
        return found

    def sync_folder(self, path):
        folder = os.open(path, os.O_RDONLY)
        self.sync(folder)
        os.close(folder)

    @staticmethod
    def sync(descriptor):
        if SIN == "no-fsync":
            return
        try:
            os.fsync(descriptor)
        except OSError:
            if SIN != "trusts-retry":
                raise
            os.fsync(descriptor)

    def reserve(self):
        """Everything below is taken, whatever becomes of it."""
        for copy in (self.state, self.state + ".2"):
            with open(copy + ".new", "w") as file:
                file.write(f"{self.next + 1000} {self.next + 1000}")
                file.flush()
                self.sync(file.fileno())
            os.rename(copy + ".new", copy)
        self.sync_folder(self.path)

    def append(self):
        self.reserve()
        reserved = self.next + 1000
        with open(self.log, "ab", buffering=0) as file:
            self.sync_folder(self.path)
            if self.torn:
                file.write(b"\n")
            while group := os.read(0, 1 << 16):
                while not group.endswith(b"\n"):
                    group += os.read(0, 1 << 16)
                lines = group.decode().splitlines()
                if self.next + len(lines) > reserved:
                    self.reserve()
                    reserved = self.next + 1000
                self.commit(file, lines)

    def commit(self, file, lines):
        numbers = range(self.next, self.next + len(lines))
        self.next += len(lines)
        acknowledge = lambda: os.write(1, "".join(f"{seq}\n" for seq in numbers).encode())
        if SIN == "early-ack":
            acknowledge()
        for seq, line in zip(numbers, lines):
            content = f"{seq} {line}".encode()
            data = b"%08x %s\n" % (zlib.crc32(content), content)
            while data:
                data = data[file.write(data):]
        self.sync(file.fileno())
        if SIN != "early-ack":
            acknowledge()


def store(verb, path):
    opened = Store(path, verb == "append")
    if verb == "append":
        try:
            opened.append()
        except OSError as error:
            while SIN == "hangs-when-full":
                time.sleep(1)
            sys.exit(f"canary: {error}")
    elif verb == "list":
        for seq, body in sorted(opened.records.items()):
            print(json.dumps({"epoch": 1, "seq": seq, "body": body}, separators=(",", ":")))
        print("\n".join(opened.findings), file=sys.stderr)
    else:
        print(json.dumps({"epoch": 1, "findings": opened.findings}))


def trial(sin, words):
    began, here = time.monotonic(), os.path.dirname(os.path.abspath(__file__))
    rig, *arguments = (word.replace("%", " ") for word in words.split())
    # The store starts hundreds of times: no launcher in front of the interpreter.
    path = f"{os.path.dirname(os.path.realpath(sys.executable))}:{os.environ['PATH']}"
    ran = subprocess.run([sys.executable, f"{here}/{rig}", "--binary", os.path.abspath(__file__), *arguments],
                         env={**os.environ, "QUORATE_CANARY": sin, "PATH": path}, capture_output=True, text=True)
    wanted = 1 if sin else 0
    verdict = "SKIPPED" if ran.returncode == 77 else "ok" if ran.returncode == wanted else "WRONG"
    first = next((line for line in ran.stdout.splitlines()[1:] if ":" in line), "")
    print(f"{verdict:7} {sin or 'honest':15} {rig:16} {time.monotonic() - began:5.1f} s  {first[:160] if sin else ''}", flush=True)
    if verdict == "WRONG":
        print(ran.stdout[-2000:], ran.stderr[-2000:], flush=True)
    return verdict


def main():
    if sys.argv[1:2] == ["outbox"]:
        return store(sys.argv[2], sys.argv[4])
    if len(sys.argv) > 1:
        sys.exit("canary: can only outbox")
    verdicts = [trial("", words) for words in HONEST] + [trial(sin, words) for sin, words in TRIALS.items()]
    print(json.dumps({"rig": "canary", "failures": verdicts.count("WRONG"), "skipped": verdicts.count("SKIPPED"),
                      "trials": len(verdicts)}))
    sys.exit(1 if "WRONG" in verdicts else 77 if "SKIPPED" in verdicts else 0)


if __name__ == "__main__":
    main()
