//! A real etcd, and everything that happens to one.
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// One member. It goes with its data when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    directory: TempDir,
    /// The number of the data directory: a restored backup has a new one.
    data: u32,
    child: Option<Child>,
    address: String,
    client: u16,
    peer: u16,
    cluster: String,
    name: String,
    words: Vec<String>,
    netns: Option<String>,
    tls: Option<[PathBuf; 3]>,
}

impl Etcd {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more of etcd's own flags.
    pub fn with(words: &[&str]) -> Self {
        let mut etcd = Self::plan(&own_address(), USUAL_PORTS, words);
        etcd.run();
        etcd
    }

    /// At its usual ports: for a test that has a network namespace of its own.
    pub fn at_usual_ports(address: &str, words: &[&str]) -> Self {
        let mut etcd = Self::plan(address, USUAL_PORTS, words);
        etcd.run();
        etcd
    }

    /// In a network namespace, at one of its addresses and its usual ports.
    pub fn inside(netns: &str, address: &str, words: &[&str]) -> Self {
        let mut etcd = Self::plan(address, USUAL_PORTS, words);
        etcd.netns = Some(netns.to_owned());
        etcd.run();
        etcd
    }

    /// With TLS: certificate and key of the server, and the authority that clients' certificates must come from.
    pub fn with_tls(certificate: &Path, key: &Path, ca: &Path, words: &[&str]) -> Self {
        let mut etcd = Self::plan("127.0.0.1", free_ports(), words);
        etcd.tls = Some([certificate.to_owned(), key.to_owned(), ca.to_owned()]);
        etcd.run();
        etcd
    }

    /// Three members that are one etcd.
    pub fn cluster() -> [Self; 3] {
        let mut members = [0, 1, 2].map(|number| {
            let mut member = Self::plan(&own_address(), USUAL_PORTS, &[]);
            member.name = format!("m{number}");
            member
        });
        let cluster: Vec<String> =
            members.iter().map(|member| format!("{}=http://{}:{}", member.name, member.address, member.peer)).collect();
        for member in &mut members {
            member.cluster = cluster.join(",");
            member.spawn();
        }
        members.iter().for_each(Self::wait);
        members
    }

    fn plan(address: &str, [client, peer]: [u16; 2], words: &[&str]) -> Self {
        Self {
            directory: TempDir::new().expect("a temporary directory"),
            data: 0,
            child: None,
            address: address.to_owned(),
            client,
            peer,
            cluster: format!("m=http://{address}:{peer}"),
            name: "m".to_owned(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            netns: None,
            tls: None,
        }
    }

    fn program(&self, name: &str) -> Command {
        match &self.netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, name]);
                command
            }
            None => Command::new(name),
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join(format!("data{}", self.data))
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn spawn(&mut self) {
        let (client, peer) =
            (format!("{}://{}", self.scheme(), self.host()), format!("http://{}:{}", self.address, self.peer));
        let log = self.directory.path().join("log");
        let log = File::options().create(true).append(true).open(log).expect("a file of ours");
        let mut command = self.program("etcd");
        command
            .arg("--data-dir")
            .arg(self.data())
            .args(["--name", &self.name, "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster, "--heartbeat-interval", "20", "--election-timeout", "200"])
            // For clients that are told to be impatient.
            .args(["--grpc-keepalive-min-time", "100ms", "--logger", "zap", "--log-level", "error"])
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        if let Some([certificate, key, ca]) = &self.tls {
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
            command.arg("--trusted-ca-file").arg(ca).arg("--client-cert-auth");
        }
        self.child = Some(command.spawn().expect("package etcd-server is installed"));
    }

    fn wait(&self) {
        let start = Instant::now();
        while !self.answers() {
            assert!(start.elapsed() < Duration::from_secs(60), "etcd does not start:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn run(&mut self) {
        self.spawn();
        self.wait();
    }

    /// A read that needs the leader.
    fn answers(&self) -> bool {
        if self.tls.is_some() {
            return TcpStream::connect((self.address.as_str(), self.client)).is_ok();
        }
        match &self.netns {
            Some(_) => self.try_ctl(&["get", "health"]).0,
            None => self.http("/health").is_some_and(|answer| answer.contains("true")),
        }
    }

    /// A page of the server's own, `/metrics` for one.
    pub fn http(&self, path: &str) -> Option<String> {
        let address: SocketAddr = self.host().parse().ok()?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A place for a test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `HOST:PORT`
    pub fn host(&self) -> String {
        format!("{}:{}", self.address, self.client)
    }

    /// `etcd://HOST:PORT/weir/manifests/`
    pub fn source(&self) -> String {
        let scheme = if self.tls.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}{PREFIX}", self.host())
    }

    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("it runs").id();
        Pid::from_raw(id.cast_signed())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// After [`Self::kill`], with what is on its disk.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// It keeps its connections, and says nothing.
    pub fn freeze(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("our own child");
    }

    pub fn thaw(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("our own child");
    }

    /// etcdctl, which must succeed.
    pub fn ctl(&self, words: &[&str]) -> String {
        let (succeeded, output) = self.try_ctl(words);
        assert!(succeeded, "etcdctl {}: {output}", words.join(" "));
        output
    }

    pub fn try_ctl(&self, words: &[&str]) -> (bool, String) {
        let mut command = self.program("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("{}://{}", self.scheme(), self.host())]);
        let output = command.args(words).stdin(Stdio::null()).output().expect("package etcd-client is installed");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// A file below the source's prefix.
    pub fn put(&self, path: &str, text: &str) {
        self.ctl(&["put", "--", &format!("{PREFIX}{path}"), text]);
    }

    pub fn delete(&self, path: &str) {
        self.ctl(&["del", &format!("{PREFIX}{path}")]);
    }

    pub fn get(&self, path: &str) -> String {
        self.ctl(&["get", "--print-value-only", &format!("{PREFIX}{path}")]).trim_end_matches('\n').to_owned()
    }

    /// Keys below the source's prefix.
    pub fn keys(&self) -> Vec<String> {
        let listed = self.ctl(&["get", "--prefix", "--keys-only", PREFIX]);
        listed.lines().filter_map(|line| line.strip_prefix(PREFIX)).map(str::to_owned).collect()
    }

    /// Of the store.
    pub fn revision(&self) -> i64 {
        let status = self.ctl(&["endpoint", "status", "-w", "json"]);
        let at = status.find("\"revision\":").expect("a revision") + "\"revision\":".len();
        let digits: String = status[at..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }

    /// Forgets all history, and makes the file small again.
    pub fn compact(&self) {
        let revision = self.revision().to_string();
        // Already done is fine.
        self.try_ctl(&["compact", &revision]);
        self.ctl(&["defrag"]);
    }

    pub fn backup(&self) -> PathBuf {
        let path = self.directory.path().join(format!("backup{}", self.revision()));
        if !path.exists() {
            self.ctl(&["snapshot", "save", path.to_str().expect("our own path")]);
        }
        path
    }

    /// Kills it, and starts it again with what a backup holds.
    pub fn restore(&mut self, backup: &Path) {
        self.kill();
        self.data += 1;
        let peer = format!("http://{}:{}", self.address, self.peer);
        let data = self.data();
        let words = ["--name", &self.name, "--initial-cluster", &self.cluster, "--initial-advertise-peer-urls", &peer];
        let (backup, data) = (backup.to_str().expect("our own path"), data.to_str().expect("our own path"));
        self.ctl(&[&["snapshot", "restore", backup, "--data-dir", data], &words[..]].concat());
        self.run();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            println!("etcd's log:\n{}", self.log());
        }
    }
}

/// Of [`Etcd::source`].
pub const PREFIX: &str = "/weir/manifests/";

/// For clients and for members.
const USUAL_PORTS: [u16; 2] = [2379, 2380];

/// Of one server alone: on the address that all clients call from, one of them may have taken a port that was free a
/// moment ago, or while the server is down.
fn own_address() -> String {
    static SERVERS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, SERVERS.fetch_add(1, Ordering::Relaxed), high, low).to_string()
}

fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("it is bound").port())
}
