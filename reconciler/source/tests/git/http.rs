//! A web server in front of `git http-backend`, which can misbehave.
use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Serve = 0,
    /// Asks for a password that nobody has.
    Deny = 1,
    /// Takes the request and never answers.
    Hang = 2,
    /// As a plain web server: files, and no git behind them.
    Files = 3,
    /// Cuts every answer short.
    Cut = 4,
}

pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    root: PathBuf,
    manner: AtomicU8,
    stop: AtomicBool,
    requests: AtomicUsize,
}

impl Server {
    /// Serves the repositories in `root`, at an address of its own: on the one that all clients call from, one of them
    /// may have taken the port while the server is stopped.
    pub fn start(root: &Path) -> Self {
        static SERVERS: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = process::id().to_be_bytes();
        Self::at((Ipv4Addr::new(127, SERVERS.fetch_add(1, Ordering::Relaxed), high, low), 0).into(), root)
    }

    fn at(address: SocketAddr, root: &Path) -> Self {
        let started = Instant::now();
        let listener = loop {
            match TcpListener::bind(address) {
                // A program that another thread starts holds what this process has open until it runs.
                Err(error) if error.kind() == ErrorKind::AddrInUse && started.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(5));
                }
                bound => break bound.unwrap(),
            }
        };
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            root: root.into(),
            manner: AtomicU8::new(Manner::Serve as u8),
            stop: false.into(),
            requests: 0.into(),
        });
        let for_thread = shared.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if for_thread.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = for_thread.clone();
                // A client that goes away in the middle is its own business.
                thread::spawn(move || stream.and_then(|stream| serve(&stream, &shared)));
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    pub fn url(&self, repository: &str) -> String {
        format!("git+http://{}/{repository}", self.address)
    }

    pub fn behave(&self, manner: Manner) {
        self.shared.manner.store(manner as u8, Ordering::Relaxed);
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Nobody listens any more.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// At the same address again.
    pub fn restart(&mut self) {
        self.stop();
        *self = Self::at(self.address, &self.shared.root);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let length: u64 = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));

    let manner = shared.manner.load(Ordering::Relaxed);
    let mut out = stream;
    if manner == Manner::Deny as u8 {
        let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n";
        return out.write_all(format!("{refusal}Connection: close\r\n\r\n").as_bytes());
    }
    if manner == Manner::Hang as u8 {
        // Until the client gives up.
        return (&mut &*stream).read(&mut [0]).map(drop);
    }
    if manner == Manner::Files as u8 {
        return match std::fs::read(shared.root.join(path.trim_start_matches('/'))) {
            Ok(bytes) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
                out.write_all(&[head.as_bytes(), &bytes].concat())
            }
            Err(_) => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        };
    }
    let mut backend = Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", &shared.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", length.to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    backend.stdin.take().unwrap().write_all(&body)?;
    let answer = backend.wait_with_output()?.stdout;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    head.lines().filter(|line| !line.starts_with("Status: ")).for_each(|line| text.push_str(&format!("{line}\r\n")));
    let content = answer.get(end + 4..).unwrap_or_default();
    text.push_str(&format!("Content-Length: {}\r\n\r\n", content.len()));
    out.write_all(text.as_bytes())?;
    let whole = if manner == Manner::Cut as u8 { content.len() / 2 } else { content.len() };
    out.write_all(&content[..whole])
}
