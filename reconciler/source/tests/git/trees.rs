//! What a tree may hold.
use weir_source::SourceError;

use crate::repo::{PATIENCE, Repo, content, paths, read, source};

#[test]
fn links_are_followed_below_the_root() {
    let repo = Repo::new();
    repo.write("real/a.yaml", "a");
    repo.write("real/deep/b.yaml", "b");
    repo.write("..1/v.yaml", "v");
    repo.link("..data", "..1");
    repo.link("v.yaml", "..data/v.yaml");
    repo.link("file.yaml", "real/a.yaml");
    repo.link("chain.yaml", "./file.yaml");
    repo.link("dir", "real/deep/");
    repo.link("real/up.yaml", "../real/./deep/../a.yaml");
    repo.link("through.yaml", "dir/b.yaml");
    repo.link("real/deep/back", "../../..1");
    repo.commit("links");
    let revision = repo.source().read(PATIENCE).unwrap();
    let wanted = [
        ("chain.yaml", "a"),
        ("dir/b.yaml", "b"),
        ("dir/back/v.yaml", "v"),
        ("file.yaml", "a"),
        ("real/a.yaml", "a"),
        ("real/deep/b.yaml", "b"),
        ("real/deep/back/v.yaml", "v"),
        ("real/up.yaml", "a"),
        ("through.yaml", "b"),
        ("v.yaml", "v"),
    ];
    assert_eq!(content(&revision), wanted.map(|(path, text)| (path.to_owned(), text.to_owned())));
}

/// As from a directory: the same files, or the same error.
#[test]
fn links_that_lead_nowhere_or_outside() {
    for (target, outside) in [
        ("../secret.yaml", true),
        ("/etc/passwd", true),
        ("sub/../../x", true),
        ("nowhere.yaml", false),
        ("sub/a.yaml/x", false),
        ("sub/nothing/x", false),
        ("self.yaml", false),
        ("sub/self", false),
    ] {
        let repo = Repo::new();
        repo.write("root/sub/a.yaml", "a");
        repo.write("secret.yaml", "outside the root, inside the repository");
        repo.link("root/sub/self", "self");
        std::fs::remove_file(repo.path.join("root/sub/self")).unwrap();
        if target == "sub/self" {
            repo.link("root/sub/self", "../sub/self");
        }
        repo.link("root/self.yaml", target);
        repo.commit("links");
        let error = source(&repo.path, "", "root").read(PATIENCE).unwrap_err();
        assert_eq!(error.code(), "source-symlink", "{target}: {error}");
        assert_eq!(matches!(error, SourceError::OutsideRoot { .. }), outside, "{target}: {error}");
        let directory = weir_source::DirSource::new(&[repo.path.join("root")]).scan().unwrap_err();
        assert_eq!(error.code(), directory.code(), "{target}: {directory}");
    }
}

#[test]
fn a_link_to_a_directory_above_is_a_loop() {
    let repo = Repo::new();
    repo.write("a/b/x.yaml", "x");
    repo.link("a/b/up", "../../a");
    repo.commit("links");
    let error = read(&mut repo.source()).unwrap_err();
    assert!(matches!(error, SourceError::Loop { .. }), "{error}");
    assert!(error.to_string().ends_with("leads back to a directory above it") && error.to_string().contains(":a/b/up"));
}

#[test]
fn a_submodule_is_refused_by_name() {
    let repo = Repo::ready();
    let other = Repo::ready();
    let entry = |path: &str| format!("160000,{},{path}", other.head());
    repo.write("beside/b.yaml", "b");
    repo.write("beside/.hidden/x", "x");
    repo.git(&["add", "--all"]);
    repo.git(&["update-index", "--add", "--cacheinfo", &entry("vendor/policies")]);
    repo.git(&["update-index", "--add", "--cacheinfo", &entry(".hidden")]);
    repo.git(&["commit", "--quiet", "-m", "a submodule"]);
    let error = read(&mut repo.source()).unwrap_err();
    assert_eq!(error.code(), "source-submodule");
    assert!(error.to_string().contains("vendor/policies"), "{error}");
    for below in ["vendor/policies", "vendor"] {
        assert_eq!(read(&mut source(&repo.path, "", below)).unwrap_err().code(), "source-submodule");
    }
    // Elsewhere in the tree it is nobody's business.
    assert_eq!(paths(&source(&repo.path, "", "beside").read(PATIENCE).unwrap()), ["b.yaml"]);
}

#[test]
fn a_pointer_of_lfs_is_no_manifest() {
    let repo = Repo::ready();
    repo.write("lists/big.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
    repo.commit("lfs");
    let error = read(&mut repo.source()).unwrap_err();
    assert_eq!(error.code(), "source-lfs");
    assert!(error.to_string().contains("lists/big.txt"), "{error}");
}

#[test]
fn names_that_are_not_utf_8() {
    use std::os::unix::ffi::OsStrExt as _;
    let repo = Repo::ready();
    let name = std::ffi::OsStr::from_bytes(b"x\xff.yaml");
    std::fs::write(repo.path.join(name), "x").unwrap();
    repo.commit("a name");
    assert!(matches!(read(&mut repo.source()).unwrap_err(), SourceError::NotUtf8 { .. }));
}

#[test]
fn files_that_are_too_large() {
    let repo = Repo::ready();
    let file = std::fs::File::create(repo.path.join("big.txt")).unwrap();
    file.set_len(weir_source::MAX_FILE_BYTES + 1).unwrap();
    repo.commit("big");
    let error = read(&mut repo.source()).unwrap_err();
    assert_eq!(error.code(), "source-too-large");
    assert!(error.to_string().contains("big.txt"), "{error}");
    file.set_len(weir_source::MAX_FILE_BYTES).unwrap();
    repo.commit("just so");
    assert_eq!(repo.source().read(PATIENCE).unwrap().bytes(), weir_source::MAX_FILE_BYTES + 1);
}

/// Trees within trees, each named twice by the one above: as many files as a small repository can pretend to have.
#[test]
fn a_bomb_of_links_is_refused() {
    let repo = Repo::new();
    repo.write("0/x.yaml", "x");
    for level in 1..24 {
        for name in ["a", "b"] {
            repo.link(&format!("{level}/{name}"), &format!("../{}", level - 1));
        }
    }
    repo.commit("a bomb");
    assert_eq!(read(&mut repo.source()).unwrap_err().code(), "source-too-large");
}
