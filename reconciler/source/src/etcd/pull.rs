//! Writing a revision into a directory: all of it, or none.
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{EtcdError, layout::check_path};
use crate::Revision;

/// Makes `directory` hold the files of `revision` and nothing else. Where it holds something already, `replace` must
/// say that this may go; hidden files are never replaced.
pub(super) fn write(revision: &Revision, directory: &Path, replace: bool) -> Result<(), EtcdError> {
    let refused = |why: &str| EtcdError::Directory { path: directory.into(), why: why.to_owned() };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause: io::Error| EtcdError::Write { path, cause }
    };
    for file in &revision.files {
        let plain = Path::new(&*file.path).components().all(|part| matches!(part, Component::Normal(_)));
        if let Some(why) = check_path(&file.path).err().or((!plain).then_some("is no relative path")) {
            return Err(refused(&format!("the source's file {:?} {why}", file.path)));
        }
    }
    let there = standing(directory, replace)?;
    let whole = std::path::absolute(directory).map_err(failed(directory))?;
    let parent = whole.parent().ok_or_else(|| refused("is the root of the file system"))?;
    fs::create_dir_all(parent).map_err(failed(parent))?;
    // Beside it, so that it can be renamed; removed again if anything fails.
    let staged = tempfile::Builder::new().prefix(".weir-pull-").tempdir_in(parent).map_err(failed(parent))?;
    for file in &revision.files {
        let path = staged.path().join(&*file.path);
        let above = path.parent().unwrap_or(staged.path());
        fs::create_dir_all(above)
            .and_then(|()| fs::write(&path, &file.bytes))
            .map_err(failed(&directory.join(&*file.path)))?;
    }
    let mode = there.as_ref().map_or(0o755, |permissions| permissions.mode() & 0o7777);
    fs::set_permissions(staged.path(), Permissions::from_mode(mode)).map_err(failed(directory))?;
    match there {
        None => {
            fs::rename(staged.path(), &whole).map_err(failed(directory))?;
            // What it was made for stands elsewhere now.
            let _ = staged.keep();
        }
        // What stood there goes with the temporary directory, whose place it takes.
        Some(_) => renameat2(AT_FDCWD, staged.path(), AT_FDCWD, &whole, RenameFlags::RENAME_EXCHANGE)
            .map_err(|errno| failed(directory)(errno.into()))?,
    }
    Ok(())
}

/// The permissions of what stands there, if that may be replaced.
fn standing(directory: &Path, replace: bool) -> Result<Option<Permissions>, EtcdError> {
    let refused = |why: &str| EtcdError::Directory { path: directory.into(), why: why.to_owned() };
    let failed = |cause| EtcdError::Write { path: directory.into(), cause };
    let metadata = match fs::symlink_metadata(directory) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed(cause)),
    };
    if !metadata.is_dir() {
        return Err(refused("is not a directory"));
    }
    let real: PathBuf = fs::canonicalize(directory).map_err(failed)?;
    if std::env::current_dir().is_ok_and(|current| current.starts_with(&real)) {
        return Err(refused("is where you are: it is replaced as a whole, so call this from outside of it"));
    }
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            return Err(refused(&format!("holds {}, and hidden files are never replaced", name.display())));
        }
        if !replace {
            return Err(refused("is not empty"));
        }
    }
    Ok(Some(metadata.permissions()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceFile;

    fn revision(files: &[(&str, &str)]) -> Revision {
        Revision::new(files.iter().map(|(path, text)| SourceFile::new(*path, text.as_bytes())).collect())
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_is_replaced_as_a_whole_or_not_at_all() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("new/manifests");
        write(&revision(&[("a.yaml", "1"), ("lists/b.txt", "2")]), &directory, false).unwrap();
        assert_eq!(fs::read_to_string(directory.join("lists/b.txt")).unwrap(), "2");
        let next = revision(&[("c.yaml", "3")]);
        assert_eq!(write(&next, &directory, false).unwrap_err().code(), "pull-directory");
        assert_eq!(names(&directory), ["a.yaml", "lists"]);
        fs::set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        write(&next, &directory, true).unwrap();
        assert_eq!(names(&directory), ["c.yaml"]);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(names(&outer.path().join("new")), ["manifests"], "nothing is left beside it");

        fs::write(directory.join(".git"), "").unwrap();
        let error = write(&next, &directory, true).unwrap_err();
        assert!(error.to_string().contains("holds .git"), "{error}");
    }

    #[test]
    fn nothing_is_written_outside_of_it() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("in");
        for path in ["../out.yaml", "/out.yaml", "a/../../out.yaml", "a//b.yaml", "./a.yaml"] {
            let error = write(&revision(&[("a.yaml", "1"), (path, "2")]), &directory, true).unwrap_err();
            assert_eq!(error.code(), "pull-directory", "{path}");
            assert!(names(outer.path()).is_empty(), "{path}");
        }
        std::os::unix::fs::symlink("/tmp", &directory).unwrap();
        assert_eq!(write(&revision(&[("a.yaml", "1")]), &directory, true).unwrap_err().code(), "pull-directory");
        // A name that is a file and a directory.
        let directory = outer.path().join("both");
        let error = write(&revision(&[("a", "1"), ("a/b.yaml", "2")]), &directory, true).unwrap_err();
        assert_eq!(error.code(), "pull-write");
        assert_eq!(names(outer.path()), ["in"]);
    }
}
