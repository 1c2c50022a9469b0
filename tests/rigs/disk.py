"""A disk whose writes are volatile until they are flushed, as a loop device, and the images that a power cut would leave.

The disk is one file, served over /dev/fuse by a thread of this process (the protocol is that of linux/fuse.h; a file
system whose root is a plain file needs no directories). A loop device turns it into a block device. A flush of the
device arrives as FUSE_FSYNC: from then on the writes before it count as kept. Needs root and own_mounts().
"""
import fcntl, os, random, struct, subprocess, threading

import rig

SECTOR, CHUNK = 512, 64 << 10
LOOKUP_ERROR, EIO, ENOSYS = -2, -5, -38
(FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT, ACCESS, INTERRUPT, DESTROY,
 BATCH_FORGET) = (2, 3, 4, 14, 15, 16, 17, 18, 20, 25, 26, 34, 36, 38, 42)
MAX_WRITE = 1 << 20
LOOP_SET_FD, LOOP_CLR_FD, LOOP_SET_STATUS64, LOOP_CTL_GET_FREE = 0x4C00, 0x4C01, 0x4C04, 0x4C82
POLICIES = ("nothing", "random", "everything")


class Volatile:
    """The bytes: what the kernel reads back, what the medium keeps, and the writes between the two."""

    def __init__(self, size, tear):
        self.tear, self.size, self.current, self.kept = tear, size, bytearray(size), bytearray(size)
        self.pending, self.touched = [], set()

    def write(self, offset, data):
        self.current[offset:offset + len(data)] = data
        self.pending.append((offset, data))
        self.touched.update(range(offset // CHUNK, (offset + len(data) - 1) // CHUNK + 1))

    def flush(self):
        for offset, data in self.pending:
            self.kept[offset:offset + len(data)] = data
        self.pending.clear()

    def forget(self):
        """The medium failed to keep what was pending, and reads back what it has."""
        for offset, data in self.pending:
            self.current[offset:offset + len(data)] = self.kept[offset:offset + len(data)]
        self.pending.clear()

    def image(self, policy, rng):
        """What a power cut now would leave: the kept bytes and some of the pending sectors, each in any of its versions.
        As chunks by number; what is not there is zero."""
        share = {"nothing": 0.0, "random": rng.choice((0.05, 0.3, 0.5, 0.7, 0.95)), "everything": 1.0}[policy]
        image = {chunk: bytearray(self.kept[chunk * CHUNK:(chunk + 1) * CHUNK]) for chunk in self.touched}
        for offset, data in self.pending if share else ():
            for start in range(0, len(data), self.tear):
                if rng.random() < share:
                    chunk, at = divmod(offset + start, CHUNK)
                    piece = data[start:start + self.tear]
                    image[chunk][at:at + len(piece)] = piece
        return image

    def load(self, image):
        """Begins again with an image."""
        zero = bytes(CHUNK)
        for chunk in self.touched | image.keys():
            place = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            self.current[place] = self.kept[place] = image.get(chunk, zero)
        self.pending.clear()
        self.touched = set(image)


def save(image, size, path):
    """Writes an image as a sparse file."""
    with open(path, "wb") as file:
        file.truncate(size)
        for chunk, data in image.items():
            file.seek(chunk * CHUNK)
            file.write(data)


def read(path):
    """The image in a file."""
    image = {}
    with open(path, "rb") as file:
        for chunk, data in enumerate(iter(lambda: file.read(CHUNK), b"")):
            if data.count(0) != len(data):
                image[chunk] = data
    return image


def loop(path):
    """Makes a loop device of a file and gives its name and descriptor; it goes when that is closed and nothing is mounted."""
    with open("/dev/loop-control") as control, open(path, "r+b", buffering=0) as backing:
        for _ in range(50):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            name = f"/dev/loop{number}"
            if not os.path.exists(name):
                os.mknod(name, 0o660 | 0o060000, os.makedev(7, number))
            device = os.open(name, os.O_RDWR)
            try:
                fcntl.ioctl(device, LOOP_SET_FD, backing.fileno())
                # 232 bytes of struct loop_info64; the flag at 52 is LO_FLAGS_AUTOCLEAR.
                fcntl.ioctl(device, LOOP_SET_STATUS64, struct.pack("52xI176x", 4))
                return name, device
            except OSError:
                os.close(device)          # another process took it first
    raise OSError("no free loop device")


class Mounted:
    """A file system on a loop device over a file."""

    def __init__(self, path, folder, kind):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.device, self.descriptor = loop(path)
        try:
            # xfs refuses a second file system of the same identity unless it is told.
            rig.mount(self.device, folder, kind, 0, "nouuid" if kind == "xfs" else "")
        except OSError:
            os.close(self.descriptor)
            raise

    def close(self):
        rig.unmount(self.folder)
        os.close(self.descriptor)

    def __enter__(self):
        return self.folder

    def __exit__(self, *failure):
        self.close()


# The unit that the medium writes whole. btrfs relies on 4 KiB for its superblock and does not mount after less.
TEARS = {"ext4": 512, "xfs": 512, "btrfs": 4096}
SIZES_MIB = {"ext4": 128, "xfs": 320, "btrfs": 128}


def make_file_system(path, kind):
    command = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
               "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}[kind]
    subprocess.run([*command, path], check=True, stdout=subprocess.DEVNULL)


def repair(path, kind):
    """What an operating system does at boot with a file system that does not mount. The superblock of ext4 is larger than
    512 bytes and not journalled: a tear in it is repaired from a copy."""
    if kind == "ext4":
        subprocess.run(["e2fsck", "-f", "-y", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class FuseDisk:
    """Serves a Volatile as one file. `on_request(kind)` is called in the serving thread for every write and flush, before
    it is answered: nothing can be acknowledged meanwhile. It may return an error number, which the device then gives."""

    def __init__(self, folder, size, tear=512):
        self.path, self.disk, self.on_request = f"{folder}/disk", Volatile(size, tear), lambda kind: None
        open(self.path, "w").close()
        try:
            self.device = os.open("/dev/fuse", os.O_RDWR)
            rig.mount("rig", self.path, "fuse", rig.MS_NOSUID | rig.MS_NODEV,
                      f"fd={self.device},rootmode=100600,user_id=0,group_id=0,max_read={MAX_WRITE}")
        except OSError as error:
            rig.skip(f"needs /dev/fuse: {error}")
        self.failure, self.lock = None, threading.Lock()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def close(self):
        rig.unmount(self.path)
        os.close(self.device)

    def serve(self):
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except InterruptedError:
                continue
            except OSError:
                return                     # unmounted
            _, operation, unique, _, _, _, _, _ = struct.unpack_from("<IIQQIIII", request)
            if operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            try:
                with self.lock:
                    error, answer = self.answer(operation, memoryview(request)[40:])
            except Exception as failure:   # the device must answer, or the kernel waits for ever
                self.failure, error, answer = failure, EIO, b""
            answer = b"" if error else answer
            try:
                os.write(self.device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
            except FileNotFoundError:
                pass                       # whoever asked is gone
            if operation == DESTROY:
                return

    def attributes(self):
        size = self.disk.size
        return struct.pack("<QQQQQQIIIIIIIIII", 1, size, size // SECTOR, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, 4096, 0)

    def answer(self, operation, body):
        if operation == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = bytes(body[40:40 + size])
            self.disk.write(offset, data)
            return self.on_request("write") or 0, struct.pack("<II", size, 0)
        if operation == FSYNC:
            error = self.on_request("flush")
            if error:
                self.disk.forget()
                return error, b""
            self.disk.flush()
            return 0, b""
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, bytes(self.disk.current[offset:offset + size])
        if operation in (GETATTR, SETATTR):
            return 0, struct.pack("<QII", 3600, 0, 0) + self.attributes()
        if operation == OPEN:
            return 0, struct.pack("<QIi", 1, 1, 0)      # FOPEN_DIRECT_IO: no cache between the loop device and the disk
        if operation == INIT:
            # Version 7.31; flags: asynchronous reads, big writes, max_pages.
            return 0, struct.pack("<IIIIHHIIHHIIH22x", 7, 31, 1 << 17, 1 | 1 << 5 | 1 << 22, 16, 12, MAX_WRITE, 1,
                                  MAX_WRITE // 4096, 0, 0, 0, 0)
        if operation == STATFS:
            return 0, struct.pack("<QQQQQIIII24x", self.disk.size // 4096, 0, 0, 1, 0, 4096, 255, 4096, 0)
        return (0 if operation in (FLUSH, RELEASE, ACCESS, DESTROY) else ENOSYS), b""
