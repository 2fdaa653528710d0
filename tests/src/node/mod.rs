//! A node of a test's own: mount and network namespaces, a BPF file system, `/run` in memory, an uplink to a client
//! outside, and two empty network namespaces for the endpoints `web` and `db`.
//!
//! Nodes do not see each other, so tests run side by side; what a test leaves behind goes with its namespaces.

mod agent;
pub mod connection;
pub mod datagram;
pub mod dialogue;
pub mod kernel;
pub mod metrics;
pub mod traffic;

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::Value;

pub use agent::Agent;

/// The name that the node's manifests give it.
pub const NODE: &str = "node1";
pub const CLIENT: [&str; 2] = ["192.0.2.10", "2001:db8:0:1::10"];
/// The node's own addresses on the uplink.
pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:0:1::1"];
pub const WEB: [&str; 2] = ["10.10.0.2", "fd00:10::2"];
pub const DB: [&str; 2] = ["10.10.0.3", "fd00:10::3"];
/// For tests whose endpoints have a router.
pub const ROUTER: [&str; 2] = ["10.10.0.1", "fd00:10::1"];
pub const UPLINK: &str = "uplink0";

/// No verb takes this long; a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(180);

/// Manifests of the node, with small tables, and its two endpoints. No policy.
pub const ENDPOINTS: &str = r"
apiVersion: weir/v1alpha1
kind: NodeConfig
metadata: {name: small}
spec:
  limits: {conntrackTcp: 8192, conntrackOther: 8192}
---
apiVersion: weir/v1alpha1
kind: Node
metadata: {name: node1}
spec:
  addresses: [192.0.2.1, '2001:db8:0:1::1']
  endpointCIDRs: [10.10.0.0/24, 'fd00:10::/64']
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {node: node1, addresses: [10.10.0.2, 'fd00:10::2'], attach: {netns: web}}
---
apiVersion: weir/v1alpha1
kind: Endpoint
metadata: {name: db, labels: {app: db}}
spec: {node: node1, addresses: [10.10.0.3, 'fd00:10::3'], attach: {netns: db}}
";

/// The machine that a test sees.
#[derive(Clone, Debug)]
pub struct Node {
    directory: PathBuf,
    weir: PathBuf,
}

/// How a run of the binary ended.
#[derive(Clone, Debug)]
pub struct Ran {
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Node {
    /// Runs `test` on a new node, in a thread that is alone in its namespaces.
    pub fn run(test: impl FnOnce(&Self) + Send + 'static) {
        let outcome = thread::spawn(move || {
            let node = Self::build();
            test(&node);
        })
        .join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    fn build() -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a mount namespace of our own");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("/run in memory");
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).expect("a BPF file system");
        let node = Self { directory: "/run/test".into(), weir: binary() };
        fs::create_dir_all(node.manifests()).expect("a directory in /run");
        for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            fs::write(Path::new("/proc/sys").join(setting), "1").expect("a setting of our own network namespace");
        }
        let [host4, host6] = HOST;
        node.batch(
            &[],
            &format!(
                "netns add client\nnetns add web\nnetns add db\nlink set lo up\n\
             link add {UPLINK} type veth peer name eth0 netns client\n\
             address add {host4}/24 dev {UPLINK}\naddress add {host6}/64 dev {UPLINK} nodad\nlink set {UPLINK} up\n"
            ),
        );
        let [client4, client6] = CLIENT;
        node.batch(
            &["-netns", "client"],
            &format!(
                "link set lo up\naddress add {client4}/24 dev eth0\naddress add {client6}/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via {host4}\nroute add default via {host6}\n"
            ),
        );
        for netns in ["web", "db"] {
            node.batch(&["-netns", netns], "link set lo up\n");
        }
        node
    }

    /// A directory for whatever the test needs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The source: a directory of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.directory.join("manifests")
    }

    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn pins(&self) -> PathBuf {
        "/sys/fs/bpf/weir".into()
    }

    /// Writes a manifest below the source, by rename.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.manifests().join(name);
        fs::create_dir_all(path.parent().expect("it is below the source")).expect("a directory in /run");
        let temporary = path.with_file_name(".new");
        fs::write(&temporary, text).expect("a file in /run");
        fs::rename(temporary, path).expect("a file in /run");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).expect("the manifest was written before");
    }

    /// The binary, told where everything is. Runs in the source's directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.weir);
        let manifests = self.manifests();
        command
            .args(words)
            .current_dir(if manifests.exists() { &manifests } else { &self.directory })
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .env("WEIR_NODE", NODE)
            .env("WEIR_STATE_DIR", self.state())
            .env("WEIR_PIN_DIR", self.pins())
            .env("WEIR_SOCKET", self.directory.join("agent.sock"));
        command
    }

    /// The same machine, where the binary is another build.
    pub fn with_binary(&self, weir: PathBuf) -> Self {
        Self { weir, ..self.clone() }
    }

    /// Runs the binary to its end.
    pub fn weir(&self, words: &[&str]) -> Ran {
        run(self.command(words), &format!("weir {}", words.join(" ")))
    }

    /// Runs a verb that must end with `code`.
    pub fn expect(&self, code: i32, words: &[&str]) -> Ran {
        let ran = self.weir(words);
        assert_eq!(ran.code(), code, "{ran}");
        ran
    }

    pub fn apply(&self) -> Ran {
        self.expect(0, &["apply", "-f", "."])
    }

    /// The plan as JSON, whatever is in it.
    pub fn plan(&self) -> Value {
        self.expect(0, &["plan", "-f", ".", "-o", "json"]).json()
    }

    /// ip(8) on the node; `-netns NAME` first for elsewhere.
    pub fn ip(&self, words: &str) {
        let ran = tool("ip", words);
        assert!(ran.status.success(), "{ran}");
    }

    fn batch(&self, options: &[&str], lines: &str) {
        let path = self.directory.join("batch");
        fs::create_dir_all(&self.directory).expect("a directory in /run");
        fs::write(&path, lines).expect("a file in /run");
        let mut command = Command::new("ip");
        command.args(options).arg("-batch").arg(&path);
        let ran = run(command, &format!("ip {} -batch", options.join(" ")));
        assert!(ran.status.success(), "{ran}\n{lines}");
    }

    /// Runs `act` in a thread that is in the network namespace `netns`; `node` is the node's own.
    pub fn inside<T: Send + 'static>(
        &self,
        netns: &str,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = (netns != "node").then(|| Path::new("/run/netns").join(netns));
        thread::spawn(move || {
            if let Some(path) = path {
                let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                setns(file, CloneFlags::CLONE_NEWNET).expect("a network namespace of ours");
            }
            act()
        })
    }

    /// Follows the source.
    pub fn agent(&self, words: &[&str]) -> Agent {
        Agent::start(self, words)
    }
}

impl Ran {
    /// -1 when it was killed.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}\n{}{}", self.line, self.status, self.stdout, self.stderr)
    }
}

/// Any program, its words separated by blanks.
pub fn tool(program: &str, words: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(words.split_whitespace());
    run(command, &format!("{program} {words}"))
}

/// Any command to its end; `line` is what it is called in messages.
pub fn run(mut command: Command, line: &str) -> Ran {
    // Files, not pipes: nobody has to read them while the program runs.
    let output = || tempfile::tempfile_in("/run").or_else(|_| tempfile::tempfile()).expect("a temporary file");
    let (mut stdout, mut stderr) = (output(), output());
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a descriptor"))
        .stderr(stderr.try_clone().expect("a descriptor"));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    let (status, late) = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break (status, false);
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("our own child");
            break (child.wait().expect("our own child"), true);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("a temporary file");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let ran = Ran { line: line.to_owned(), status, stdout: text(&mut stdout), stderr: text(&mut stderr) };
    assert!(!late, "it took too long: {ran}");
    assert!(!ran.stderr.contains("panicked at"), "{ran}");
    ran
}

/// The binary under test: `WEIR_BIN`, or beside the directory of the test's own.
pub fn binary() -> PathBuf {
    let path = match std::env::var_os("WEIR_BIN") {
        Some(path) => path.into(),
        None => {
            let own = std::env::current_exe().expect("our own path");
            own.ancestors().nth(2).expect("target/release/deps/test").join("weir")
        }
    };
    assert!(path.is_file(), "{} is not there: `cargo build --release -p weir` makes it", path.display());
    path
}

/// Waits until `condition` gives a value; panics with `what` when it does not in a minute.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many rounds of a campaign to run: `WEIR_CAMPAIGN` is `quick`, `ci` or `soak`.
pub fn rounds(quick: u32, ci: u32, soak: u32) -> u32 {
    match std::env::var("WEIR_CAMPAIGN").as_deref() {
        Ok("quick") => quick,
        Ok("soak") => soak,
        _ => ci,
    }
}
