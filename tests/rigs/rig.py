"""What the rigs share: the agent's commands, records with bodies that no two share, mounts of our own, and the summary.

Owns: how `quorate outbox append|list|stat` is driven and read. A rig knows the store through these commands only.
"""
import ctypes, json, os, re, select, shutil, signal, socket, subprocess, sys, tempfile, threading, time

SKIPPED = 77
LIBC = ctypes.CDLL(None, use_errno=True)
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE, MNT_DETACH, CLONE_NEWNS = 2, 4, 16384, 1 << 18, 2, 0x20000


def skip(why):
    """Ends the rig; whoever runs it sees that nothing was tested."""
    print(f"SKIPPED: {why}", flush=True)
    sys.exit(SKIPPED)


def need(*commands, root=False):
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if root and os.geteuid() != 0:
        skip("needs root, for mounts and loop devices")
    for command in commands:
        if not shutil.which(command):
            skip(f"needs {command} on the PATH")


def checked(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source, target, kind, flags=0, options=""):
    checked(LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
            f"mount {kind} on {target}")


def unmount(target, limit_s=20):
    """A file system that is busy for a moment only (a process that just died) is waited for."""
    end = time.monotonic() + limit_s
    while LIBC.umount2(target.encode(), 0) != 0:
        if time.monotonic() > end:
            checked(LIBC.umount2(target.encode(), MNT_DETACH), f"unmount {target}")
            return
        time.sleep(0.002)


def own_mounts():
    """Mounts from here on are seen by this rig only, and the kernel removes them when it ends, however it ends."""
    try:
        checked(LIBC.unshare(CLONE_NEWNS), "a mount namespace")
        mount("none", "/", "none", MS_REC | MS_PRIVATE)
    except OSError as error:
        skip(f"needs mounts: {error}")


class Scratch(tempfile.TemporaryDirectory):
    """A folder in memory, so that what a rig copies never waits for this machine's disk. Needs own_mounts()."""

    def __enter__(self):
        folder = super().__enter__()
        mount("tmpfs", folder, "tmpfs", 0, "size=4g")
        return folder

    def __exit__(self, *failure):
        unmount(self.name)
        super().__exit__(*failure)


def wait(what, holds, limit_s=60):
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_s} s for: {what}")
        time.sleep(0.005)


# What Bodies makes, in the bytes of a file.
BODY = re.compile(rb"[a-z]\d*\.\d+\.[0-9a-f]+")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    """Whether somebody takes connections there."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Authority:
    """A certificate authority in `folder`: `NAME.pem` and `NAME.key`, good for two days."""

    KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

    def __init__(self, folder, name="ca"):
        self.folder, self.name = folder, name
        self.run("req", "-x509", *self.KEY, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")

    def run(self, *words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self.folder)

    def issue(self, name, hosts="DNS:localhost,IP:127.0.0.1"):
        """`NAME.pem` and `NAME.key` of a server with these names."""
        self.run("req", *self.KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        with open(f"{self.folder}/{name}.ext", "w") as file:
            file.write(f"subjectAltName={hosts}\n")
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key", "-CAcreateserial", "-out", f"{name}.pem",
                 "-days", "2", "-extfile", f"{name}.ext")


class Bodies:
    """Bodies of many sizes, none of them twice; the same seed gives the same."""

    def __init__(self, rng, name, long=0.01):
        self.rng, self.name, self.long, self.count = rng, name, long, 0

    def next(self):
        self.count += 1
        length = self.rng.choice((20, 60, 200, 200, 200, 700))
        if self.rng.random() < self.long:
            length = self.rng.choice((4_000, 12_000, 40_000))
        return f"{self.name}.{self.count}." + "%0*x" % (length, self.rng.getrandbits(4 * length))

    def take(self, count):
        return [self.next() for _ in range(count)]


def ended_badly(status, stderr):
    """Why a command that may fail, but only in words, did worse: a panic, a signal or a hang."""
    if "panicked at" in stderr or status == 101:
        place = re.search(r"panicked at ([^\n]*)\n?([^\n]{0,150})", stderr)
        return f"panicked at {place[1]} {place[2]}" if place else "panicked"
    if status == "hangs":
        return "hangs"
    return f"signal {-status}" if status < 0 else None


def await_end(process, limit_s):
    """Its exit status, or "hangs" (and it is killed, with all that it started)."""
    if process.returncode is not None:
        return process.returncode
    descriptor = os.pidfd_open(process.pid)      # Popen.wait(timeout) would sleep for up to 50 ms
    ended, _, _ = select.select([descriptor], [], [], limit_s)
    os.close(descriptor)
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    return status if ended else "hangs"


def in_memory(text=""):
    file = os.fdopen(os.memfd_create("rig"), "w+", errors="replace")
    file.write(text)
    file.seek(0)
    return file


class Ran:
    """One command that ended: its status (or "hangs"), what it printed, and `bad`, see ended_badly()."""

    def __init__(self, arguments, lines="", limit_s=120, **options):
        with in_memory(lines) as source, in_memory() as output, in_memory() as error:
            process = subprocess.Popen(arguments, stdin=source, stdout=output, stderr=error, start_new_session=True,
                                       **options)
            self.status = await_end(process, limit_s)
            self.stdout, self.stderr = ((stream.seek(0), stream.read())[1] for stream in (output, error))
        self.bad = ended_badly(self.status, self.stderr)

    def why(self):
        return self.bad or f"status {self.status}: {self.stderr.strip()[-300:]}"


def outbox(binary, verb, path, lines=(), before=(), **options):
    """Runs one `quorate outbox` command to its end, under `before` (a strace, perhaps)."""
    text = "".join(line + "\n" for line in lines)
    return Ran([*before, binary, "outbox", verb, "--path", path], text, **options)


PLAIN = re.compile(r'\{"epoch":(\d+),"seq":(\d+),"body":"([^"\\]*)"\}')


def listed(ran):
    """What `list` printed, in its order: (epoch, seq, body); a body that is no string (an event) as JSON text."""
    records = []
    for line in ran.stdout.splitlines():
        plain = PLAIN.fullmatch(line)
        if plain:
            records.append((int(plain[1]), int(plain[2]), plain[3]))
            continue
        record = json.loads(line)
        body = record["body"]
        records.append((record["epoch"], record["seq"], body if isinstance(body, str) else json.dumps(body)))
    return records


def acknowledged(ran, lines):
    """The records of an `append` that printed their numbers: seq -> body. The n-th number is the n-th line's."""
    return {int(seq): line for seq, line in zip(ran.stdout.splitlines(), lines) if seq.isdigit()}


class Append:
    """A running `quorate outbox append`. drain() knows at any moment exactly what it has acknowledged so far."""

    def __init__(self, binary, path, before=(), **options):
        self.process = subprocess.Popen([*before, binary, "outbox", "append", "--path", path], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, start_new_session=True, **options)
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)
        self.sent, self.acked, self.partial, self.unsent = [], {}, b"", b""
        self.numbers, self.lock = 0, threading.Lock()

    def feed(self, lines):
        self.sent += lines
        self.unsent += "".join(line + "\n" for line in lines).encode()
        self.push()

    def push(self):
        """Writes as much as the pipe takes. False: the other side is gone."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.process.stdin.fileno(), self.unsent[:65536]):]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return False
        return True

    def drain(self):
        """Reads every acknowledgement that was given up to now; from any thread."""
        with self.lock:
            while True:
                try:
                    got = os.read(self.process.stdout.fileno(), 65536)
                except BlockingIOError:
                    break
                if not got:
                    break
                *whole, self.partial = (self.partial + got).split(b"\n")
                for line in whole:
                    self.acked[int(line)] = self.sent[self.numbers]
                    self.numbers += 1
            return self.numbers

    def settle(self, limit_s=60, until=lambda: False):
        """Waits until all that was fed is acknowledged. False: it ended before, or `until` held."""
        end = time.monotonic() + limit_s
        while self.drain() < len(self.sent):
            if until() or not self.push():
                return False
            if time.monotonic() > end:
                raise TimeoutError("append neither acknowledges nor ends")
            watched = [self.process.stdin] if self.unsent else []
            ready, _, _ = select.select([self.process.stdout], watched, [], 0.02)
            if ready and self.process.poll() is not None:
                self.drain()
                return self.numbers == len(self.sent)
        return True

    def end(self, kill=False, limit_s=60):
        """Closes its input (or kills it) and gives status and standard error."""
        if kill and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stdin.close()
        status = await_end(self.process, limit_s)
        self.drain()
        stderr = self.process.stderr.read().decode(errors="replace")
        self.process.stdout.close()
        self.process.stderr.close()
        return status, stderr


class History:
    """What one life of a store has promised, and the check that a store still keeps it."""

    def __init__(self, other=None):
        self.acked = dict(other.acked) if other else {}          # body -> seq
        self.names = dict(other.names) if other else {}          # (epoch, seq) -> body

    def acknowledge(self, acked):
        self.acked.update((body, seq) for seq, body in acked.items())

    def deliver(self, received):
        """What a broker has acknowledged may go; its name stays. Gives what is wrong with it."""
        wrong = History(self).check([(epoch, seq, body) for (epoch, seq), body in received.items()])
        self.names.update(received)
        delivered = set(received.values())
        self.acked = {body: seq for body, seq in self.acked.items() if body not in delivered}
        return [it for it in wrong if "two payloads" in it]

    def check(self, records):
        """What is wrong with a listing, in words; empty where all that was promised is there."""
        wrong, seen = [], {}
        for epoch, seq, body in records:
            if self.names.setdefault((epoch, seq), body) != body:
                wrong.append(f"seq {seq} of epoch {epoch} names two payloads")
            seen[body] = seq
        lost = sorted(seq for body, seq in self.acked.items() if seen.get(body) != seq)
        if lost:
            wrong.append(f"{len(lost)} of {len(self.acked)} acknowledged records lost, seq {lost[0]} to {lost[-1]}")
        return wrong


def verify(binary, path, history, bodies, appended=3):
    """Opens a store after a disaster: list, append, list. Gives what is wrong; `history` goes on with what it saw.

    A store that promised nothing yet may not be there; then append makes it."""
    for step in ("list", "append", "list again"):
        verb = step.split()[0]
        lines = bodies.take(appended) if verb == "append" else ()
        ran = outbox(binary, verb, path, lines)
        if step == "list" and ran.status == 1 and "no outbox" in ran.stderr and not history.acked:
            continue
        if ran.bad or ran.status != 0:
            return [f"{step}: {'refused, ' if not ran.bad else ''}{ran.why()}"]
        if verb == "append":
            acked = acknowledged(ran, lines)
            if len(acked) != appended:
                return [f"append: {len(acked)} of {appended} acknowledged, {ran.why()}"]
            history.acknowledge(acked)
        else:
            wrong = history.check(listed(ran))
            if wrong:
                return [f"{step}: {it}" for it in wrong]
    return []


def reported(texts):
    """The ranges of sequence numbers that findings and event records name as gone."""
    ranges = []
    for text in texts:
        pairs = re.findall(r'"first(?:_seq)?":\s*(\d+),.*?"last(?:_seq)?":\s*(\d+)', text)
        pairs += re.findall(r"(\d+)\s*(?:to|and|-|\.\.=?|through)\s*(\d+)", text)
        pairs += [(one, one) for one in re.findall(r"(?:seq|record) (\d+)", text)]
        ranges += [(int(first), int(last)) for first, last in pairs]
    return ranges


def summary(rig, failures, **figures):
    """The last line of every rig, for programs; then its exit status."""
    print(json.dumps({"rig": rig, "failures": failures, **figures}), flush=True)
    sys.exit(1 if failures else 0)
