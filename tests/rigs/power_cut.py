#!/usr/bin/env python3
"""Cuts the power of a real file system under `quorate` and checks what is left against what was acknowledged.

usage: tests/rigs/power_cut.py --binary target/release/quorate [--cuts N] [--fs ext4|xfs|btrfs]
           [--policy mixed|nothing|random|everything] [--drains SHARE] [--seed N] [--keep DIR] [--canary]
needs: root, /dev/fuse, a free loop device, mkfs.ext4 (mkfs.xfs, mkfs.btrfs). Python's own library only.

The disk is a FUSE file under a loop device (disk.py); what was written since the last flush of the device is volatile. A
cut falls on a write or flush request drawn at random, or on a quiet moment: during the mount, during an opening after an
earlier cut, while `outbox append` commits records, or (for --drains of the lives' stretches) while `quorate run` delivers
them to a broker of the rig and forgets them: what that broker acknowledged may be missing, nothing else. The image keeps none of the volatile 512-byte sectors (btrfs: 4 KiB), a random part of them (each in
any of its versions), or all. It is mounted elsewhere, then `list`, `append`, `list` must show every acknowledged record with its
exact body, and no sequence number with two. Then life goes on from the image as it was, unrepaired, to the next cut. A
file system that does not mount is checked first, as at any boot (counted as repaired).

Prints one line per failure, a table of cuts by policy and moment, and a summary in JSON. Exit 1 when a promise was
broken. The seed gives the same choices again, not the same interleaving. --canary takes the store's fsync away (strace
makes it return 0 and do nothing): then the rig must find losses, and fails when it does not.
"""
import argparse, collections, os, random, shutil, subprocess, time

import broker, disk, rig


Cut = collections.namedtuple("Cut", "policy moment request promised path image")


class Life:
    """A file system and its store, from mkfs to the last of its cuts."""

    def __init__(self, options, folder, empty):
        self.options, self.folder, self.rng = options, folder, options.rng
        self.fuse, self.history = options.fuse, rig.History()
        self.fuse.disk.load(empty)
        self.cuts, self.append, self.sink, self.phase, self.left = [], None, None, "mounting", 0
        self.full = False

    def on_request(self, kind):
        """In the disk's own thread: nothing is acknowledged while an image is taken."""
        self.left -= 1
        if self.left == 0:
            self.cut(kind)

    def cut(self, request):
        options = self.options
        policy = self.rng.choice(disk.POLICIES) if options.policy == "mixed" else options.policy
        image = self.fuse.disk.image(policy, self.rng)
        promised, phase = rig.History(self.history), self.phase
        if self.append:
            self.append.drain()
            promised.acknowledge(self.append.acked)
            phase = "appending" if self.append.acked else "opening"
        if self.sink:
            self.twice = promised.deliver(dict(self.sink.received))
            phase = "draining" if self.sink.received else "opening"
        path = f"{self.folder}/cut"
        disk.save(image, self.fuse.disk.size, path)
        self.cuts.append(Cut(policy, phase, request, promised, path, image))

    def quiet_cut(self, chance=1.0):
        with self.fuse.lock:
            if not self.cuts and self.rng.random() < chance:
                self.cut("quiet")

    def stretch(self):
        """Mounts, perhaps lists, then appends or drains until the power is cut. Gives the cut, or what went wrong."""
        self.cuts, self.append, self.sink, self.phase = [], None, None, "mounting"
        self.full, self.twice = False, []
        # Many cuts fall into mount and opening; some only after a run that makes files of more than one read of a salvage.
        self.left = int(2 ** self.rng.uniform(0, 10.5)) if self.rng.random() < 0.9 else self.rng.randrange(400, 1_500)
        with disk.Mounted(self.fuse.path, f"{self.folder}/live", self.options.fs) as mounted:
            store, deed = f"{mounted}/outbox", self.rng.random()
            if deed < 0.25 and os.path.exists(store):
                self.phase = "listing"
                ran = rig.outbox(self.options.binary, "list", store)
                if ran.status == 0 and not self.cuts:
                    # What was listed may have been published: it keeps its name from here on.
                    self.history.check(rig.listed(ran))
            drains = self.options.drains and self.rng.random() < self.options.drains and self.history.acked
            ended = None if self.cuts else self.drained(store) if drains else self.appended(store)
        if self.fuse.failure:
            raise self.fuse.failure
        return (self.cuts[0], None) if self.cuts else (None, ended)

    def appended(self, store):
        self.append = rig.Append(self.options.binary, store, self.options.before)
        while not self.cuts and self.append.process.poll() is None:
            self.append.feed(self.options.bodies.take(self.rng.choice((1, 1, 2, 10, 60, 200))))
            if not self.append.settle(until=lambda: self.cuts):
                break
            self.quiet_cut(self.options.quiet)
        with self.fuse.lock:
            self.left = 0              # what is written from here on is not of this life
        status, stderr = self.append.end(kill=True)
        return f"append ended by itself, status {status}: {stderr[-300:]}"

    def drained(self, store):
        """Runs the agent with a broker; a cut by itself falls when all is delivered and most of it forgotten."""
        self.sink = broker.Broker()
        config = broker.configuration(self.folder, self.sink.port, rig.free_port(), outbox=store)
        with open(f"{self.folder}/log", "w+") as log:
            agent = subprocess.Popen([self.options.binary, "run", "--config", config], stdout=log, stderr=log)
            try:
                over = lambda: self.cuts or agent.poll() is not None
                rig.wait("the drain", lambda: over() or len(self.sink.received) >= len(self.history.acked))
                quiet = time.monotonic() + self.rng.random() * 0.3
                rig.wait("a quiet moment", lambda: over() or time.monotonic() > quiet)
                if agent.poll() is None:
                    self.quiet_cut()
            finally:
                with self.fuse.lock:
                    self.left = 0
                agent.kill()
                agent.wait()
                self.sink.close()
            log.seek(0)
            return f"the agent ended by itself, status {agent.returncode}: {log.read()[-300:]}"

    def verify(self, cut):
        for attempt in ("", "after fsck: "):
            try:
                with disk.Mounted(cut.path, f"{self.folder}/after", self.options.fs) as mounted:
                    wrong = rig.verify(self.options.binary, f"{mounted}/outbox", rig.History(cut.promised), self.options.bodies)
                    space = os.statvfs(mounted)
                    self.full = space.f_bavail < 0.7 * space.f_blocks
                    return [attempt + it for it in wrong]
            except OSError as error:
                wrong = [f"{attempt}the file system itself is lost: {error}"]
                disk.repair(cut.path, self.options.fs)
                cut.image.clear()
                cut.image.update(disk.read(cut.path))
                self.options.repaired += 1
        return wrong

    def go_on_from(self, cut):
        self.history = cut.promised
        self.fuse.disk.load(cut.image)


def parse():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--cuts", type=int, default=200)
    arguments.add_argument("--fs", choices=disk.SIZES_MIB, default="ext4")
    arguments.add_argument("--policy", choices=("mixed", *disk.POLICIES), default="mixed")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--drains", type=float, default=0.2, help="share of stretches that deliver instead of append")
    arguments.add_argument("--keep", help="a folder for the images of failures")
    arguments.add_argument("--canary", action="store_true")
    return arguments.parse_args()


def run(a, folder):
    a.fuse = disk.FuseDisk(folder, disk.SIZES_MIB[a.fs] << 20, disk.TEARS[a.fs])
    disk.make_file_system(a.fuse.path, a.fs)
    a.fuse.disk.flush()
    empty = a.fuse.disk.image("everything", a.rng)
    table, failures, records, life = collections.Counter(), 0, 0, None
    for number in range(a.cuts):
        if life is None:
            a.fuse.on_request = lambda kind: None
            life = Life(a, folder, empty)
            a.fuse.on_request = life.on_request
        cut, wrong = life.stretch()
        if cut:
            table[cut.policy, cut.moment] += 1
            wrong = life.verify(cut) + life.twice
            life.go_on_from(cut)
        else:
            wrong = [wrong]
        if wrong:
            failures += 1
            print(f"cut {number}: {cut and cut[:3]}: {'; '.join(wrong)}", flush=True)
            if a.keep and cut:
                os.makedirs(a.keep, exist_ok=True)
                shutil.copy(cut.path, f"{a.keep}/cut-{a.seed}-{number}.{a.fs}")
        if wrong or life.full or a.rng.random() < 0.08:
            records += len(cut.promised.acked) if cut else 0
            life = None
    a.fuse.on_request = lambda kind: None
    a.fuse.close()
    return table, failures, records


def main():
    a = parse()
    rig.need(f"mkfs.{a.fs}", *(["strace"] if a.canary else []), root=True)
    rig.own_mounts()
    a.rng = random.Random(a.seed)
    a.bodies, a.repaired = rig.Bodies(a.rng, f"s{a.seed}"), 0
    a.quiet, a.drains = (0.2, 0.0) if a.canary else (0.01, a.drains)
    unsynced = "fsync,fdatasync,sync_file_range,msync"
    a.before = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={unsynced}", "-e",
                f"inject={unsynced}:retval=0") if a.canary else ()
    print(f"seed {a.seed}", flush=True)
    started = time.monotonic()
    with rig.Scratch() as folder:
        table, failures, records = run(a, folder)
    moments = sorted({moment for _, moment in table})
    for policy in disk.POLICIES:
        print(f"{policy:11}", ", ".join(f"{moment} {table[policy, moment]}" for moment in moments))
    figures = {"fs": a.fs, "policy": a.policy, "seed": a.seed, "cuts": sum(table.values()), "broken": failures, "repaired": a.repaired,
               "records_at_ends_of_lives": records, "seconds": round(time.monotonic() - started, 1)}
    if a.canary:
        figures["canary"] = "caught" if failures else "not caught"
        failures = 0 if failures else 1
    rig.summary("power_cut", failures, **figures)


if __name__ == "__main__":
    main()
