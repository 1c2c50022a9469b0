"""The initial file system of images and of emulated boards: busybox, kernel modules in an order in which they load, files.

Owns: the archive (cpio "newc", built here: no cpio, no kmod). Needs the kernel that cross/kernel unpacked.
"""
import gzip, lzma, os, re

KERNEL = "kernel"


def only(folder, pattern):
    found = [name for name in os.listdir(folder) if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise FileNotFoundError(f"{pattern} in {folder}: {found}")
    return os.path.join(folder, found[0])


class Kernel:
    """The unpacked kernel package of Debian."""

    def __init__(self, cache):
        self.root = os.path.join(cache, KERNEL)
        self.image = only(f"{self.root}/boot", r"vmlinuz-.*")
        self.busybox = f"{self.root}/bin/busybox"
        self.extra = os.path.join(cache, "modules")
        modules = only(f"{self.root}/lib/modules", r".*")
        self.files = {}
        for folder, _, names in os.walk(modules):
            for name in names:
                if ".ko" in name:
                    self.files[name.split(".ko")[0].replace("-", "_")] = os.path.join(folder, name)

    def device_tree(self, name):
        return only(only(f"{self.root}/usr/lib", r"linux-image-.*") + "/broadcom", name)

    def module(self, name):
        """The bytes of a module, or None where it is built in."""
        path = self.files.get(name.replace("-", "_"))
        if path is None:
            return None
        with open(path, "rb") as file:
            data = file.read()
        return lzma.decompress(data) if path.endswith(".xz") else data

    def ordered(self, names):
        """The modules and what they depend on, in an order in which they load: [(file name, bytes)]."""
        done, order = set(), []

        def add(name):
            name = name.replace("-", "_")
            if name in done:
                return
            done.add(name)
            data = self.module(name)
            if data is None:
                return
            depends = re.search(rb"\0?depends=([^\0]*)\0", data)
            for other in depends[1].decode().split(",") if depends and depends[1] else ():
                add(other)
            order.append((f"{name}.ko", data))

        for name in names:
            add(name)
        return order


def archive(entries):
    """A cpio archive ("newc") of [(path, mode, bytes)]."""
    out = bytearray()

    def put(number, path, mode, data):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out.extend(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, (path, mode, data) in enumerate(entries, 1):
        put(number, path, mode, data)
    put(0, "TRAILER!!!", 0, b"")
    return bytes(out)


def initial_file_system(kernel, path, modules, files, extra_modules=()):
    """Writes the compressed archive. `files`: path -> bytes, or the name of a file of the host."""
    order = kernel.ordered(modules)
    for name in extra_modules:
        with open(f"{kernel.extra}/{name}.ko", "rb") as file:
            order.append((f"{name}.ko", file.read()))
    entries = [(folder, 0o40755, b"") for folder in
               ("bin", "dev", "proc", "sys", "lib", "lib/modules", "etc", "usr", "usr/share")]
    with open(kernel.busybox, "rb") as file:
        entries.append(("bin/busybox", 0o100755, file.read()))
    entries.append(("bin/sh", 0o120777, b"busybox"))
    entries += [(f"lib/modules/{name}", 0o100644, data) for name, data in order]
    entries.append(("modules", 0o100644, "\n".join(name for name, _ in order).encode()))
    made = {entry[0] for entry in entries}
    for target, source in files.items():
        parts = target.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                entries.append((folder, 0o40755, b""))
        if isinstance(source, str):
            with open(source, "rb") as file:
                source = file.read()
        entries.append((target, 0o100755, source))
    # No time and no name inside: the same inputs give the same bytes.
    with open(path, "wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
        packed.write(archive(entries))
