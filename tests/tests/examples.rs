//! Every directory below `examples/` is applied by the binary: it goes live whole, a second apply has nothing to do, and
//! an uninstall leaves nothing.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use weir_tests::node::{Node, UPLINK, binary, eventually, kernel::residue, run};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn copy(node: &Node, root: &Path, below: &Path) -> usize {
    let mut manifests = 0;
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            manifests += copy(node, root, &path);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            node.write(name, &fs::read_to_string(&path).unwrap());
            manifests += usize::from(name.ends_with(".yaml"));
        }
    }
    manifests
}

fn applied(name: &'static str) {
    Node::run(move |node| {
        let root = examples().join(name);
        assert!(copy(node, &root, &root) > 0, "there are manifests in {}", root.display());
        node.expect(0, &["validate", "-f", "."]);
        node.expect(1, &["diff", "-f", "."]);
        node.apply();

        let again = node.expect(0, &["apply", "-f", ".", "-o", "json"]).json();
        assert_eq!((again["result"].as_str(), again["flipped"].as_bool()), (Some("unchanged"), Some(false)), "{again}");
        node.expect(0, &["diff", "-f", "."]);
        let status = node.expect(0, &["status", "-o", "json"]).json();
        assert_eq!(status["state"], "converged", "nothing is pending: {status}");

        node.expect(0, &["uninstall"]);
        eventually("nothing is left", || residue(node, &["lo", UPLINK]).is_empty().then_some(()));
    });
}

#[test]
fn quickstart() {
    applied("quickstart");
}

#[test]
fn policies() {
    applied("policies");
}

/// Its tests pass, and a commit that breaks one does not go live.
#[test]
fn flow_tests() {
    applied("flow-tests");
    Node::run(|node| {
        let root = examples().join("flow-tests");
        copy(node, &root, &root);
        let shown = node.expect(0, &["test", "-f", "."]);
        assert!(shown.stdout.contains("5 passed, 0 failed, 0 skipped"), "{shown}");
        node.apply();
        let shown = node.expect(0, &["test", "--live"]);
        assert!(shown.stdout.contains("5 passed, 0 failed, 0 skipped"), "{shown}");
        println!("{shown}");
        let policies = fs::read_to_string(root.join("policies.yaml")).unwrap();
        node.write("policies.yaml", &policies.replace("port: 5432", "port: 5433"));
        println!("{}", node.expect(1, &["diff", "-f", ".", "--flows"]));
        let refused = node.expect(1, &["apply", "-f", "."]);
        assert!(refused.stderr.contains("FlowTest default/web-reaches-db"), "{refused}");
        println!("{refused}");
    });
}

/// The oracle and the packets agree on what its tests expect.
#[test]
fn services() {
    applied("services");
    Node::run(|node| {
        let root = examples().join("services");
        copy(node, &root, &root);
        let shown = node.expect(0, &["test", "-f", ".", "--oracle"]);
        assert!(shown.stdout.contains("4 passed, 0 failed, 0 skipped"), "{shown}");
        node.apply();
        println!("{}", node.expect(0, &["get", "services"]));
        println!("{}", node.expect(0, &["get", "backends"]));
    });
}

/// The walk-through as it is; its repository is where it is told.
#[test]
fn git() {
    Node::run(|node| {
        let weir = binary();
        let mut command = Command::new(examples().join("git/walkthrough.sh"));
        command.arg(node.directory().join("firewall"));
        // As for the binary itself, which must be on the path under its name.
        for (name, value) in node.command(&[]).get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", weir.parent().unwrap().display()));
        let ran = run(command, "walkthrough.sh");
        assert_eq!(ran.code(), 0, "{ran}");
        println!("{ran}");
        for said in ["valid: 4 objects", "state     converged", "web moves to port 8080", "error[source-signature]"] {
            let told = ran.stdout.contains(said) || ran.stderr.contains(said);
            assert!(told, "{said}: {ran}");
        }
        node.expect(0, &["uninstall"]);
        eventually("nothing is left", || residue(node, &["lo", UPLINK]).is_empty().then_some(()));
    });
}

#[test]
fn every_example_has_its_test() {
    let entries = fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        entries.collect::<BTreeSet<_>>(),
        ["etcd", "flow-tests", "git", "policies", "quickstart", "services", "systemd"].map(str::to_owned).into()
    );
}

/// The binary knows every flag of the unit, and the unit asks for what the agent gives and leaves bpffs writable.
#[test]
fn systemd() {
    let unit = fs::read_to_string(examples().join("systemd/weir.service")).unwrap();
    let said = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    assert_eq!(said("Type"), Some("notify"));
    assert!(said("WatchdogSec").is_some());
    assert_ne!(said("ProtectKernelTunables"), Some("yes"), "it makes bpffs read-only");
    let command: Vec<String> = said("ExecStart").expect("a command").split_whitespace().map(str::to_owned).collect();
    assert!(command[0].ends_with("/weir") && command[1] == "run", "{command:?}");
    Node::run(move |node| {
        let help = node.expect(0, &["run", "--help"]).to_string();
        for flag in command.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag.as_str()), "{flag}");
        }
    });
}
