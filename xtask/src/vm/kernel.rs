//! Debian's kernel package, unpacked beside the build's artifacts and never installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    command::{Call, heading},
    failure::Failure,
    privilege,
};

/// An unpacked kernel.
pub struct Kernel {
    /// `6.1.0-56-amd64`
    pub release: String,
    pub image: PathBuf,
    /// Holds `lib/modules/RELEASE`.
    pub root: PathBuf,
}

impl Kernel {
    fn at(root: PathBuf, release: &str) -> Self {
        Self { release: release.to_owned(), image: root.join(format!("boot/vmlinuz-{release}")), root }
    }

    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// `modules` and everything that they need, in the order to insert them.
    pub fn closure(&self, modules: &[&str]) -> Result<Vec<PathBuf>, Failure> {
        let path = self.modules().join("modules.dep");
        let text = fs::read_to_string(&path).map_err(Failure::file("reading", &path))?;
        let mut order: Vec<PathBuf> = Vec::new();
        for module in modules {
            let own = format!("/{module}.ko:");
            let line = text.lines().find(|line| line.contains(&own));
            let line =
                line.ok_or_else(|| Failure::Machine(format!("Linux {} has no module {module}", self.release)))?;
            // `a.ko: b.ko c.ko`: what stands last must go in first.
            for file in line.split_whitespace().rev().map(|file| self.modules().join(file.trim_end_matches(':'))) {
                if !order.contains(&file) {
                    order.push(file);
                }
            }
        }
        Ok(order)
    }
}

/// The kernel that `linux-image-amd64` stands for, from the cache when it is there.
pub fn get(cache: &Path) -> Result<Kernel, Failure> {
    let package = newest()?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let kernel = Kernel::at(cache.join(&package), &release);
    if kernel.image.exists() && kernel.modules().join("modules.dep").exists() {
        return Ok(kernel);
    }
    heading(&format!("fetching {package} (unpacked below {}, not installed)", cache.display()));
    fs::create_dir_all(cache).map_err(Failure::file("making", cache))?;
    Call::new("apt-get")
        .args(["download", "-q", "-o", "APT::Sandbox::User=root", &package])
        .inside(cache)
        .show()
        .run()?;
    let archive = archive(cache, &package)?;
    Call::new("dpkg-deb").args(["--extract".as_ref(), archive.as_os_str(), kernel.root.as_os_str()]).run()?;
    fs::remove_file(&archive).map_err(Failure::file("removing", &archive))?;
    Call::new("/sbin/depmod").args(["-b".as_ref(), kernel.root.as_os_str(), release.as_ref()]).run()?;
    Ok(kernel)
}

/// Of the series 6.1, as apt knows it; asks for apt's lists again when they say nothing.
fn newest() -> Result<String, Failure> {
    if let Some(package) = known()? {
        return Ok(package);
    }
    privilege::root("apt-get").args(["update", "-q"]).show().run()?;
    known()?
        .ok_or_else(|| Failure::Machine("apt knows no linux-image-amd64 of version 6.1: is this Debian 12?".to_owned()))
}

fn known() -> Result<Option<String>, Failure> {
    let output = Call::new("apt-cache").args(["depends", "linux-image-amd64"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-6.1."));
    Ok(package.map(|rest| format!("linux-image-6.1.{rest}")))
}

fn archive(cache: &Path, package: &str) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(cache).map_err(Failure::file("reading", cache))?;
    let prefix = format!("{package}_");
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .ok_or_else(|| Failure::Machine(format!("apt-get download left no {package} in {}", cache.display())))
}
