//! One process at a time.
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use weir_plan::StoreError;

/// Held as long as the process has the store open; the kernel lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub fn take(state: &Path) -> Result<Self, StoreError> {
        let path = state.join("lock");
        let name = || path.display().to_string();
        let failed = |doing: &'static str, cause: std::io::Error| crate::space::explain(doing, &path, cause);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|cause| failed("opening the lock", cause))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The pid is for the message alone; a full disk must not stop a reader.
                let write = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
                let written = write.and_then(|_| writeln!(file, "{}", std::process::id()));
                if let Err(cause) = written {
                    tracing::debug!(%cause, path = %name(), "cannot note the pid");
                }
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Err(StoreError::Locked { path: state.display().to_string(), holder })
            }
            Err((_, errno)) => Err(failed("locking", errno.into())),
        }
    }
}
