//! The binary as scripts and people meet it, without a kernel.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

struct Weir {
    dir: tempfile::TempDir,
}

impl Weir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("etc").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(args).env_clear().current_dir(self.dir.path());
        command.env("WEIR_STATE_DIR", self.path("state")).env("WEIR_PIN_DIR", self.path("bpf/weir"));
        command.env("WEIR_SOCKET", self.path("agent.sock")).env("WEIR_NODE", "n1");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

const ENDPOINT: &str = "\
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {node: n1, addresses: [10.0.0.1], attach: {interface: vweb}}
";

const POLICY: &str = "\
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - toPorts: [{ports: [{port: 80, protocol: TCP}]}]
";

#[test]
fn help_shows_the_verbs_that_work() {
    let weir = Weir::new();
    let output = weir.run(&["--help"]);
    assert_eq!(code(&output), 0);
    let help = stdout(&output);
    for verb in [
        "validate",
        "diff",
        "plan",
        "apply",
        "run",
        "status",
        "get",
        "trace",
        "monitor",
        "history",
        "push",
        "pull",
        "rollback",
        "suspend",
        "resume",
        "doctor",
        "schema",
        "uninstall",
        "completions",
        "push",
        "pull",
        "test",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb} in {help}");
        let output = weir.run(&[verb, "--help"]);
        assert_eq!(code(&output), 0, "{verb}");
        assert!(stdout(&output).contains("--state-dir"), "{verb}");
    }
    assert!(!help.lines().any(|line| line.trim_start().starts_with("describe ")), "it comes later");
    assert_eq!(code(&weir.run(&["--version"])), 0);
}

#[test]
fn wrong_usage_is_64() {
    let weir = Weir::new();
    weir.write("a.yaml", ENDPOINT);
    for args in [
        &[][..],
        &["frobnicate"],
        &["apply", "--frobnicate"],
        &["apply"],
        &["diff", "-f", "etc", "--source", "dir:etc"],
        &["diff", "-f", "etc", "-o", "xml"],
        &["suspend", "--for", "soon"],
        &["get", "nothing"],
        &["trace", "web", "db", "tcp"],
        &["trace", "web", "db"],
        &["schema", "Nothing"],
        &["run", "-f", "-"],
        &["validate", "--source", "s3://bucket"],
        &["push", "-f", "etc"],
        &["push", "-f", "etc", "--to", "etcd://127.0.0.1:2379/no-slash"],
        &["push", "-f", "etc", "--to", "etcd://user:secret@127.0.0.1:2379/weir/"],
        &["pull", "--from", "dir:etc", "out"],
        &["pull", "out"],
        &["validate", "--source", "etcd://127.0.0.1:2379/weir/", "--etcd-cert", "cert.pem"],
        &["status", "--all"],
        &["status", "--all", "--from", "dir:etc"],
    ] {
        let output = weir.run(args);
        assert_eq!(code(&output), 64, "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_valid_set() {
    let weir = Weir::new();
    weir.write("a.yaml", ENDPOINT);
    weir.write("deep/er/b.yml", POLICY);
    weir.write(".hidden/c.yaml", "nonsense");
    weir.write("notes.txt", "nonsense");
    let output = weir.run(&["validate", "-f", "etc"]);
    assert_eq!((code(&output), stdout(&output)), (0, "valid: 2 objects in 2 files\n"));
    for source in ["dir:etc", "etc"] {
        assert_eq!(code(&weir.run(&["validate", "--source", source])), 0);
    }
    let output = weir.run(&["validate", "-f", "etc/a.yaml", "-f", "etc/deep", "-o", "name"]);
    assert_eq!(stdout(&output), "endpoint/default/web\nnetworkpolicy/default/web\n");
    let output = weir.run(&["validate", "-f", "etc", "-o", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["formatVersion"], "1");
    assert_eq!((&document["valid"], &document["objects"]), (&Value::from(true), &Value::from(2)));
    let output = weir.run(&["validate", "-f", "etc", "-o", "yaml"]);
    assert!(stdout(&output).starts_with("formatVersion: '1'\nvalid: true\n"), "{}", stdout(&output));
    assert!(!Path::new(&weir.path("state")).exists(), "validate touches nothing");
}

/// Clap takes a variable for a flag, and refused the two together.
#[test]
fn a_source_in_the_environment_gives_way_to_the_command_line() {
    let weir = Weir::new();
    weir.write("a.yaml", ENDPOINT);
    let run = |args: &[&str], name: &str, value: &str| weir.command(args).env(name, value).output().unwrap();
    let elsewhere = "etcd://127.0.0.1:1/weir/";
    assert_eq!(code(&run(&["validate", "-f", "etc"], "WEIR_SOURCE", elsewhere)), 0);
    assert_eq!(code(&run(&["validate", "--source", "dir:etc"], "WEIR_FILENAME", "nowhere")), 0);
    assert_eq!(code(&run(&["validate"], "WEIR_SOURCE", "dir:etc")), 0);
    assert_eq!(code(&run(&["validate"], "WEIR_SOURCE", elsewhere)), 69);
    assert_eq!(code(&run(&["validate", "-f", "etc", "--source", "dir:etc/a.yaml"], "WEIR_SOURCE", elsewhere)), 64);
}

#[test]
fn standard_input() {
    let weir = Weir::new();
    let mut child =
        weir.command(&["validate", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{ENDPOINT}---\n{POLICY}").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stdout(&output)), (0, "valid: 2 objects in 1 file\n"));
}

#[test]
fn every_error_of_every_file_in_one_run() {
    let weir = Weir::new();
    weir.write("a.yaml", &ENDPOINT.replace("addresses", "adresses"));
    weir.write("b.yaml", &POLICY.replace("port: 80", "port: 80, endPort: 79"));
    weir.write("c.yaml", &ENDPOINT.replace("kind: Endpoint", "kind: Endpiont"));
    let output = weir.run(&["validate", "-f", "etc"]);
    assert_eq!(code(&output), 65);
    let text = stderr(&output);
    for part in [
        "error[unknown-field]",
        "a.yaml:4:",
        "addresses",
        "error[inverted-range]",
        "b.yaml:7:",
        "error[unknown-kind]",
        "c.yaml:2:",
        "Endpoint",
        "^",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let output = weir.run(&["validate", "-f", "etc", "-o", "json"]);
    assert_eq!(code(&output), 65);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = document["error"]["errors"].as_array().unwrap();
    let places: Vec<_> = errors.iter().map(|e| (e["code"].as_str().unwrap(), e["file"].as_str().unwrap())).collect();
    assert!(places.contains(&("inverted-range", "b.yaml")), "{places:?}");
    assert_eq!(document["error"]["exit"], 65);
    assert!(errors.iter().all(|error| error["line"].is_u64() && error["column"].is_u64()), "{errors:?}");
    // The same for whoever would apply it: nothing is touched before the set is valid.
    for verb in ["diff", "plan", "apply"] {
        let output = weir.run(&[verb, "-f", "etc"]);
        assert!(matches!(code(&output), 65 | 77 | 78), "{verb}: {}", stderr(&output));
    }
}

#[test]
fn foreign_objects_are_refused_unless_they_are_to_be_ignored() {
    let weir = Weir::new();
    weir.write("a.yaml", &format!("{ENDPOINT}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\n"));
    let output = weir.run(&["validate", "-f", "etc"]);
    assert_eq!(code(&output), 65);
    assert!(stderr(&output).contains("foreign-object"), "{}", stderr(&output));
    let output = weir.run(&["validate", "-f", "etc", "--ignore-foreign"]);
    assert_eq!((code(&output), stdout(&output)), (0, "valid: 1 object in 1 file\n"));
    assert!(stderr(&output).contains("warning[skipped-object]"), "{}", stderr(&output));
}

#[test]
fn a_source_that_cannot_be_read_is_66_and_an_empty_one_65() {
    let weir = Weir::new();
    for verb in ["validate", "diff", "apply", "run"] {
        let output = weir.run(&[verb, "-f", "nowhere"]);
        assert_eq!(code(&output), 66, "{verb}: {}", stderr(&output));
        assert!(stderr(&output).contains("error[source-missing]: nowhere"), "{}", stderr(&output));
    }
    let output = weir.run(&["validate", "-f", "etc"]);
    assert_eq!(code(&output), 65);
    assert!(stderr(&output).contains("error[no-objects]"), "{}", stderr(&output));
    assert_eq!(code(&weir.run(&["validate", "--source", "git+https://example.org/x.git"])), 66);
}

#[test]
fn what_needs_an_agent_says_so() {
    let weir = Weir::new();
    let output = weir.run(&["monitor"]);
    assert_eq!(code(&output), 69);
    assert!(stderr(&output).contains("weir run"), "{}", stderr(&output));
}

/// Where the pin directory is in no bpffs, or the privileges are missing: the kernel's exit codes, and never a word on
/// standard output that a script could take for a plan.
#[test]
fn without_bpffs_nothing_is_done() {
    let weir = Weir::new();
    weir.write("a.yaml", ENDPOINT);
    for args in [&["diff", "-f", "etc"][..], &["apply", "-f", "etc"], &["status"], &["uninstall"]] {
        let output = weir.run(args);
        assert!(matches!(code(&output), 77 | 78), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    let output = weir.run(&["apply", "-f", "etc", "-o", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(["no-bpffs", "missing-capability"].contains(&document["error"]["code"].as_str().unwrap()), "{document}");
    let output = weir.run(&["doctor"]);
    assert!(matches!(code(&output), 77 | 78), "{}", stderr(&output));
    assert!(stdout(&output).contains("mend it: mount -t bpf bpf"), "{}", stdout(&output));
}

#[test]
fn schemas_and_completions() {
    let weir = Weir::new();
    let one = weir.run(&["schema", "CidrFilter"]);
    let schema: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(schema["title"], "CidrFilter");
    let all: Value = serde_json::from_slice(&weir.run(&["schema"]).stdout).unwrap();
    assert_eq!(all["cidrfilter.json"], schema);
    assert!(stdout(&weir.run(&["schema", "CiliumNetworkPolicy"])).contains("CiliumNetworkPolicy"));
    for shell in ["bash", "zsh", "fish"] {
        let output = weir.run(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("rollback"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let weir = Weir::new();
    let mut child = weir.command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn two_runs_give_identical_bytes() {
    let weir = Weir::new();
    weir.write("a.yaml", &ENDPOINT.replace("addresses", "adresses"));
    let first = weir.run(&["validate", "-f", "etc", "-o", "json"]);
    assert_eq!(first.stdout, weir.run(&["validate", "-f", "etc", "-o", "json"]).stdout);
}
