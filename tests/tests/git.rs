//! A git repository as the source, as a user meets it: commits go live, whoever wrote them is named, and two of them
//! can be compared anywhere.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use weir_tests::node::{
    Agent, ENDPOINTS, NODE, Node, WEB, eventually, run,
    traffic::{Way, reaches},
};

/// One port of `web` is open to the client.
fn policy(port: u16) -> String {
    format!(
        "apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {{name: web}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  ingress:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts:
    - ports: [{{port: {port}, protocol: UDP}}]
"
    )
}

const fn way(port: u16) -> Way<'static> {
    Way { from: "client", to: "web", address: WEB[0], port }
}

/// A repository on the node.
struct Repo {
    path: PathBuf,
}

impl Repo {
    /// With the node's manifests in `manifests/`, and port 80 open.
    fn new(node: &Node) -> Self {
        let repo = Self { path: node.directory().join("repo") };
        fs::create_dir_all(repo.path.join("manifests")).unwrap();
        repo.git(&["init", "--quiet", "-b", "main"]);
        repo.write("manifests/endpoints.yaml", ENDPOINTS);
        repo.write("README.yaml", "beside the manifests: none");
        repo.open(80);
        repo
    }

    fn git(&self, words: &[&str]) -> String {
        let mut command = Command::new("git");
        command.current_dir(&self.path).args(words);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Ann").env(format!("GIT_{role}_EMAIL"), "ann@example.org");
        }
        let ran = run(command, &format!("git {words:?}"));
        assert_eq!(ran.code(), 0, "{ran}");
        ran.stdout.trim_end().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    fn commit(&self, subject: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", subject]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// This port and no other.
    fn open(&self, port: u16) -> String {
        self.write("manifests/policy.yaml", &policy(port));
        self.commit(&format!("open {port}"))
    }

    fn url(&self) -> String {
        format!("git+file://{}#main", self.path.display())
    }
}

fn applied(agent: &Agent, revision: &str) -> Value {
    eventually(&format!("{revision} is applied"), || {
        let status = agent.status();
        (status["commit"]["revision"] == revision && status["state"] == "converged").then_some(status)
    })
}

/// What status says is wrong, once it says so.
fn failing(agent: &Agent, code: &str) -> String {
    eventually(&format!("the agent says {code}"), || {
        let failure = &agent.status()["agent"]["failure"];
        (failure["code"] == code).then(|| failure["message"].as_str().unwrap().to_owned())
    })
}

#[test]
fn commits_go_live_and_are_named_everywhere() {
    Node::run(|node| {
        let repo = Repo::new(node);
        let first = repo.git(&["rev-parse", "HEAD"]);
        let url = repo.url();
        let source = ["--source", &url, "--path", "manifests"];
        let agent = Agent::following(node, &[&source[..], &["--resync", "1h"]].concat(), &[]);
        let status = applied(&agent, &first);
        assert_eq!(status["commit"]["author"], "Ann <ann@example.org>");
        assert_eq!(status["commit"]["subject"], "open 80");
        assert_eq!(status["agent"]["source"], format!("{url}:manifests"));
        assert!(reaches(node, way(80)) && !reaches(node, way(81)));

        // What is only in the work tree is not there, staged or not.
        repo.write("manifests/policy.yaml", &policy(82));
        repo.git(&["add", "--all"]);
        let plan = node.expect(0, &[&["plan", "-o", "json"], &source[..]].concat()).json();
        assert!(plan["changes"].as_array().unwrap().is_empty(), "{plan}");
        assert_eq!(plan["source"]["kind"], "git");
        assert_eq!(plan["source"]["revision"], first);
        assert_eq!(plan["source"]["subject"], "open 80");

        let second = repo.open(81);
        applied(&agent, &second);
        assert!(reaches(node, way(81)) && !reaches(node, way(80)));
        let text = node.expect(0, &["status"]).stdout;
        assert!(text.contains("author    Ann <ann@example.org>  open 81"), "{text}");
        let text = node.expect(0, &["history"]).stdout;
        assert!(text.contains("SUBJECT") && text.contains("open 80") && text.contains("open 81"), "{text}");
        let text = node.expect(0, &[&["plan"], &source[..]].concat()).stdout;
        assert!(text.starts_with(&format!("{}  Ann <ann@example.org>  open 81", &second[..12])), "{text}");

        // Rewritten: the branch goes back, and the node with it.
        repo.git(&["reset", "--quiet", "--hard", &first]);
        applied(&agent, &first);
        assert!(reaches(node, way(80)) && !reaches(node, way(81)));
        let commits = node.expect(0, &["history", "-o", "json"]).json()["commits"].clone();
        let revisions: Vec<&str> =
            commits.as_array().unwrap().iter().map(|commit| commit["revision"].as_str().unwrap()).collect();
        assert_eq!(revisions, [&first, &second, &first]);
        assert!(agent.stop().success());
    });
}

#[test]
fn whatever_is_wrong_with_the_repository_the_last_good_commit_stays_live() {
    Node::run(|node| {
        let repo = Repo::new(node);
        let url = repo.url();
        let first = repo.git(&["rev-parse", "HEAD"]);
        let agent = Agent::following(node, &["--source", &url, "--path", "manifests", "--resync", "1h"], &[]);
        applied(&agent, &first);
        let away = repo.path.with_file_name("away");
        let broken: [(&str, &str, &dyn Fn()); 5] = [
            ("invalid manifests", "invalid-manifests", &|| {
                repo.write("manifests/policy.yaml", "kind: Nonsense");
                repo.commit("nonsense");
            }),
            ("a link that leaves the path", "source-symlink", &|| {
                std::os::unix::fs::symlink("../README.yaml", repo.path.join("manifests/x.yaml")).unwrap();
                repo.commit("a link");
            }),
            ("no directory", "source-path", &|| {
                repo.git(&["mv", "manifests", "elsewhere"]);
                repo.commit("moved");
            }),
            ("no branch", "source-branch", &|| {
                repo.git(&["branch", "-m", "main", "other"]);
            }),
            ("no repository", "source-missing", &|| fs::rename(&repo.path, &away).unwrap()),
        ];
        for (what, code, wreck) in broken {
            wreck();
            let message = failing(&agent, code);
            assert!(!message.is_empty(), "{what}");
            assert_eq!(agent.status()["commit"]["revision"], first, "{what}");
            assert!(reaches(node, way(80)), "{what}");
            if away.exists() {
                fs::rename(&away, &repo.path).unwrap();
                repo.git(&["branch", "-m", "other", "main"]);
            } else if code == "source-branch" {
                continue;
            }
            repo.git(&["reset", "--quiet", "--hard", &first]);
            applied(&agent, &first);
        }
        let last = repo.open(81);
        applied(&agent, &last);
        assert!(agent.stop().success());
    });
}

#[test]
fn apply_by_hand_takes_the_commit_that_is_there_now() {
    Node::run(|node| {
        let repo = Repo::new(node);
        let url = repo.url();
        let source = ["--source", &url, "--path", "manifests"];
        let words = [&["apply", "-o", "json"], &source[..]].concat();
        let done = node.expect(0, &words).json();
        assert_eq!(done["commit"]["subject"], "open 80");
        node.expect(0, &[&["diff"], &source[..]].concat());
        let second = repo.open(81);
        node.expect(1, &[&["diff"], &source[..]].concat());
        let agent = Agent::following(node, &[&source[..], &["--resync", "1h"]].concat(), &[]);
        applied(&agent, &second);
        // Its own source: sync now. Another path of it is another source.
        let third = repo.open(82);
        let done = node.expect(0, &words).json();
        assert_eq!(done["source"]["revision"], third);
        node.expect(75, &["apply", "--source", &url, "--path", "."]);
        assert!(agent.stop().success());
    });
}

#[test]
fn unsigned_commits_are_refused() {
    Node::run(|node| {
        let repo = Repo::new(node);
        let key = node.directory().join("key");
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&key);
        assert_eq!(run(command, "ssh-keygen").code(), 0);
        repo.git(&["config", "gpg.format", "ssh"]);
        repo.git(&["config", "user.signingkey", key.to_str().unwrap()]);
        let signers = node.directory().join("signers");
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        fs::write(&signers, format!("ann@example.org {public}")).unwrap();
        let url = repo.url();
        let signers = signers.to_str().unwrap();
        let source = ["--source", &url, "--path", "manifests", "--verify-signatures", signers];
        let refused = node.expect(66, &[&["apply"], &source[..]].concat());
        assert!(refused.stderr.contains("error[source-signature]") && refused.stderr.contains("it is not signed"));
        // Nobody may believe that a directory's signatures were checked.
        node.expect(64, &["apply", "-f", ".", "--verify-signatures", signers]);

        repo.git(&["config", "commit.gpgsign", "true"]);
        let signed = repo.open(81);
        let agent = Agent::following(node, &[&source[..], &["--resync", "1h"]].concat(), &[]);
        applied(&agent, &signed);
        repo.git(&["config", "commit.gpgsign", "false"]);
        let unsigned = repo.open(82);
        let message = failing(&agent, "source-signature");
        assert!(message.contains(&unsigned) && message.contains("Ann <ann@example.org>"), "{message}");
        assert_eq!(agent.status()["commit"]["revision"], signed);
        assert!(reaches(node, way(81)) && !reaches(node, way(82)));
        assert!(agent.stop().success());
    });
}

/// An SSH server with a home of its own for root, ended when it is dropped.
struct Ssh<'a> {
    node: &'a Node,
    server: Option<Child>,
}

impl<'a> Ssh<'a> {
    const PORT: &'static str = "127.0.0.1:2222";

    fn new(node: &'a Node) -> Self {
        let home = node.directory().join("home");
        fs::create_dir_all(home.join(".ssh")).unwrap();
        for key in ["id", "stranger"] {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.join(".ssh").join(key));
            assert_eq!(run(command, "ssh-keygen").code(), 0);
        }
        fs::copy(home.join(".ssh/id.pub"), home.join(".ssh/authorized_keys")).unwrap();
        for (path, mode) in [("", 0o700), (".ssh", 0o700), (".ssh/authorized_keys", 0o600)] {
            fs::set_permissions(home.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        // The node has a mount namespace of its own: this is nobody else's user database.
        let passwd = node.directory().join("passwd");
        fs::write(&passwd, format!("root:x:0:0:root:{}:/bin/sh\n", home.display())).unwrap();
        let flags = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&passwd), "/etc/passwd", None::<&str>, flags, None::<&str>).unwrap();
        let mut command = Command::new("dropbearkey");
        command.args(["-t", "ed25519", "-f"]).arg(node.directory().join("host"));
        let ran = run(command, "dropbearkey");
        assert_eq!(ran.code(), 0, "{ran}");
        let public = ran.stdout.lines().find(|line| line.starts_with("ssh-ed25519")).unwrap().to_owned();
        fs::write(home.join("known"), format!("[127.0.0.1]:2222 {public}\n")).unwrap();
        let mut this = Self { node, server: None };
        this.start();
        this
    }

    fn start(&mut self) {
        let log = fs::File::create(self.node.directory().join("dropbear.log")).unwrap();
        let mut command = Command::new("dropbear");
        command.args(["-F", "-E", "-m", "-s", "-p", Self::PORT, "-P", "/run/dropbear.pid", "-r"]);
        command.arg(self.node.directory().join("host")).stdin(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().unwrap());
        eventually("the SSH server listens", || std::net::TcpStream::connect(Self::PORT).ok());
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// What makes ssh use this key.
    fn with(&self, key: &str, known: &str) -> String {
        let home = self.node.directory().join("home");
        format!("ssh -F none -i {0}/.ssh/{key} -o IdentitiesOnly=yes -o UserKnownHostsFile={0}/{known}", home.display())
    }
}

impl Drop for Ssh<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn a_remote_over_ssh_goes_away_and_comes_back() {
    Node::run(|node| {
        let repo = Repo::new(node);
        let mut ssh = Ssh::new(node);
        let url = format!("git+ssh://root@{}{}", Ssh::PORT, repo.path.display());
        let source = ["--source", &url, "--path", "manifests"];
        // Whoever is not let in is told so, and nobody is asked anything.
        for (key, known) in [("stranger", "known"), ("id", "nobody")] {
            let mut command = node.command(&[&["validate"], &source[..]].concat());
            command.env("GIT_SSH_COMMAND", ssh.with(key, known));
            let ran = run(command, "weir validate");
            assert_eq!(ran.code(), 66, "{ran}");
            assert!(ran.stderr.contains("error[source-denied]"), "{key} {known}: {ran}");
        }
        let command = ssh.with("id", "known");
        let variables = [("GIT_SSH_COMMAND", command.as_str())];
        let agent = Agent::following(node, &[&source[..], &["--poll", "100ms"]].concat(), &variables);
        applied(&agent, &repo.git(&["rev-parse", "HEAD"]));
        let second = repo.open(81);
        applied(&agent, &second);

        ssh.stop();
        let third = repo.open(82);
        failing(&agent, "source-unreachable");
        assert_eq!(agent.status()["commit"]["revision"], second);
        assert!(reaches(node, way(81)) && !reaches(node, way(82)));
        ssh.start();
        applied(&agent, &third);
        assert!(reaches(node, way(82)));
        // The clone is where the state is, and nobody else may read it.
        let clones: Vec<PathBuf> =
            fs::read_dir(node.state().join("git")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(clones.iter().filter(|path| path.extension().is_some_and(|end| end == "git")).count(), 1);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(node.state().join("git")).unwrap());
        assert_eq!(mode & 0o077, 0);
        assert!(agent.stop().success());
    });
}

/// Two nodes, and an endpoint on each.
const CLUSTER: &str = r"
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1}
spec: {addresses: [192.0.2.1]}
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node2}
spec: {addresses: [192.0.2.2]}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {node: node1, addresses: [10.10.0.2], attach: {netns: web}}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: db, labels: {app: db}}
spec: {node: node3, addresses: [10.10.0.3], attach: {interface: tap7}}
---
apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: drop}
spec: {interfaces: ['eth*', 'en[op]*'], fromFiles: [drop.txt]}
";

/// `weir`, by a user who may do nothing, in an environment that says nothing.
fn as_nobody(node: &Node, directory: &Path, words: &[&str]) -> weir_tests::node::Ran {
    // Where it was built may be closed to that user.
    let weir = node.directory().join("weir");
    if !weir.exists() {
        fs::copy(weir_tests::node::binary(), &weir).unwrap();
    }
    let mut command = Command::new(weir);
    command.args(words).current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.uid(65534).gid(65534);
    run(command, &format!("weir {}", words.join(" ")))
}

#[test]
fn two_commits_are_compared_by_whoever_reviews_them() {
    Node::run(|node| {
        let repo = Repo { path: node.directory().join("repo") };
        fs::create_dir_all(repo.path.join("manifests")).unwrap();
        repo.git(&["init", "--quiet", "-b", "main"]);
        repo.write("manifests/cluster.yaml", CLUSTER);
        repo.write("manifests/policy.yaml", &policy(80));
        repo.write("manifests/drop.txt", "203.0.113.0/24\n");
        let first = repo.commit("one");
        repo.write("manifests/policy.yaml", &policy(81));
        let second = repo.commit("another port");
        repo.write("manifests/drop.txt", "203.0.113.0/24\n198.51.100.0/24\n");
        repo.commit("another network");

        let diff = |code: i32, words: &[&str]| {
            let ran = as_nobody(node, &repo.path, &[&["diff", "-f", "manifests"], words].concat());
            assert_eq!(ran.code(), code, "{ran}");
            ran
        };
        // A policy's port: only the node of the endpoint that it selects.
        let words = ["--from", &first, "--to", "HEAD~1", "--all-nodes"];
        let document = diff(1, &[&words[..], &["-o", "json"]].concat()).json();
        assert_eq!(document["from"]["commit"], first);
        assert_eq!(document["to"]["rev"], "HEAD~1");
        assert_eq!(document["to"]["subject"], "another port");
        let nodes = document["nodes"].as_array().unwrap();
        let names: Vec<&str> = nodes.iter().map(|plan| plan["node"].as_str().unwrap()).collect();
        assert_eq!(names, ["node1", "node2", "node3"]);
        let summary = |at: usize| &nodes[at]["summary"];
        assert_eq!((&summary(0)["update"], &summary(0)["writes"]), (&Value::from(1), &Value::from(4)), "{document}");
        assert_eq!(document["summary"], serde_json::json!({"nodes": 3, "changed": 1}));
        let entries = |at: usize| nodes[at]["changes"][0]["entries"].as_array().unwrap().len();
        assert_eq!([entries(0), entries(1), entries(2)], [4, 0, 0], "{document}");
        assert_eq!(nodes[0]["changes"][0]["entries"][0]["table"], "policy");

        let text = diff(1, &words).stdout;
        assert!(text.contains("on node1\n~ NetworkPolicy default/web"), "{text}");
        assert!(text.contains("policy.yaml:") && text.contains("udp/81"), "{text}");
        assert!(text.ends_with("on node2, node3\nno entry changes\n"), "{text}");

        // A drop list: every node, on devices that only exist as patterns.
        let document = diff(1, &["--from", "HEAD~1", "--all-nodes", "-o", "json"]).json();
        let networks: Vec<&Value> =
            document["nodes"].as_array().unwrap().iter().map(|plan| &plan["changes"][0]["entries"][0]["key"]).collect();
        assert_eq!(networks, ["198.51.100.0/24"; 3].iter().collect::<Vec<_>>());

        let text = diff(1, &["--from", "HEAD~1", "--all-nodes"]).stdout;
        assert!(text.contains("on node1, node2, node3\n"), "nodes that change alike are shown once: {text}");

        // One node by name; the names of what changes; nothing.
        let names = diff(1, &["--from", &first, "--node", NODE, "-o", "name"]).stdout;
        assert_eq!(names, "node1/cidrfilter/default/drop\nnode1/networkpolicy/default/web\n");
        diff(0, &["--from", &second, "--to", &second, "--all-nodes"]);
        // From the top of the repository the manifests are the same.
        let ran = as_nobody(node, &repo.path, &["diff", "--from", &second, "--path", "manifests", "--all-nodes"]);
        assert_eq!(ran.code(), 1, "{ran}");
        let url = format!("git+file://{}", repo.path.display());
        let words = ["diff", "--source", &url, "--path", "manifests", "--from", &second, "--all-nodes"];
        assert_eq!(as_nobody(node, Path::new("/"), &words).code(), 1);

        // What cannot be compared.
        let ran = diff(64, &["--from", &first, "--node", "node9"]);
        assert!(ran.stderr.contains("node1, node2, node3"), "{ran}");
        diff(66, &["--from", "nope", "--all-nodes"]);
        diff(64, &["--all-nodes"]);
        repo.write("manifests/policy.yaml", "kind: Nonsense\n");
        repo.commit("nonsense");
        let ran = diff(65, &["--from", &first, "--to", "main", "--all-nodes"]);
        assert!(ran.stderr.contains("main:policy.yaml:1"), "in which commit: {ran}");

        assert!(!node.state().exists() && !node.pins().exists(), "nothing is left behind");
    });
}

/// Inside a hook git's own variables mean the repository that is pushed to.
#[test]
fn a_hook_compares_what_is_pushed() {
    Node::run(|node| {
        let repo = Repo::new(node);
        repo.open(81);
        let other = node.directory().join("other.git");
        repo.git(&["init", "--quiet", "--bare", other.to_str().unwrap()]);
        let url = repo.url();
        let words =
            ["diff", "--source", &url, "--path", "manifests", "--from", "main~1", "--to", "main", "--all-nodes"];
        let mut command = node.command(&words);
        command
            .env("GIT_DIR", &other)
            .env("GIT_INDEX_FILE", "/nonexistent")
            .env("GIT_OBJECT_DIRECTORY", other.join("x"));
        let ran = run(command, "weir diff");
        assert_eq!(ran.code(), 1, "{ran}");
    });
}
