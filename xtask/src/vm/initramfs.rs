//! The first root of the guest: busybox, the modules for the shared file system, and a script.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::kernel::Kernel;
use crate::failure::Failure;

const BUSYBOX: &str = "/bin/busybox";

/// What the guest needs before it sees the host's files.
const MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Makes the host's files the root, with an overlay in memory, and hands over to the job.
const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
fail() { echo "weir-vm: $*"; $bb poweroff -f; }
$bb mount -t proc proc /proc
for module in $($bb cat /modules/order); do $bb insmod /modules/$module || fail "insmod $module"; done
$bb mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /lower || fail "9p"
$bb mount -t tmpfs -o size=2g upper /upper
$bb mkdir /upper/data /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root || fail "overlay"
$bb mkdir -p /root/.weir-vm
$bb cp /job /root/.weir-vm/job
$bb umount /proc
exec $bb switch_root /root /bin/bash /.weir-vm/job
fail "switch_root"
"#;

/// Writes the archive to `path`, with `job` in it, and returns the path.
pub fn write(kernel: &Kernel, path: &Path, job: &str) -> Result<PathBuf, Failure> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "modules", "lower", "upper", "root"] {
        archive.entry(directory, 0o040_755, &[], (0, 0));
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.entry("dev/console", 0o020_600, &[], (5, 1));
    archive.file("bin/busybox", Path::new(BUSYBOX))?;
    let mut order = String::new();
    for module in kernel.closure(MODULES)? {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("modules/{name}"), &module)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.entry("modules/order", 0o100_644, order.as_bytes(), (0, 0));
    archive.entry("job", 0o100_755, job.as_bytes(), (0, 0));
    archive.entry("init", 0o100_755, INIT.as_bytes(), (0, 0));
    let bytes = archive.finish();
    let mut file = fs::File::create(path).map_err(Failure::file("making", path))?;
    file.write_all(&bytes).map_err(Failure::file("writing", path))?;
    Ok(path.to_owned())
}

/// A cpio archive in the `newc` format: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn file(&mut self, name: &str, source: &Path) -> Result<(), Failure> {
        let content = fs::read(source).map_err(Failure::file("reading", source))?;
        self.entry(name, 0o100_755, &content, (0, 0));
        Ok(())
    }

    /// `mode` holds the type as `stat` does; `device` is (major, minor) of a device node.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.inode += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn headers_and_contents_are_aligned() {
        let mut archive = Archive::default();
        archive.entry("abc", 0o100_644, b"hello", (0, 0));
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        // 110 bytes of header, the name with its end, padded to 116; five bytes of content padded to 124.
        assert_eq!(&bytes[110..114], b"abc\0");
        assert_eq!(&bytes[116..121], b"hello");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}
