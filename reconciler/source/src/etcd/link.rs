//! The way to etcd: one connection to one of its servers, for all that this process asks of it.
use std::{
    error::Error as _,
    fmt, fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, GetResponse, Identity, KvClient, LeaseClient, PutOptions,
    TlsOptions, Txn, TxnResponse, WatchClient, WatchOptions, WatchStream,
};
use tokio::{sync::Mutex, time::timeout};

use super::{EtcdError, EtcdOptions, address::Address, layout::Keys};

/// The largest answer that is taken: a page of files, each as large as a server may be told to allow.
const LARGEST_ANSWER: usize = 256 << 20;
/// Servers hang up on clients that ping more often than each 5 s (`--grpc-keepalive-min-time`). That a silent server is
/// noticed sooner is the watch's doing.
const PING: Duration = Duration::from_secs(6);

/// Connects on demand, to the next server after each failure.
pub(super) struct Link {
    pub address: Address,
    options: EtcdOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    serial: u64,
    next: usize,
}

/// A connection. Every call ends within the time that etcd has to answer.
#[derive(Clone)]
pub(super) struct Session {
    kv: KvClient,
    watch: WatchClient,
    pub lease: LeaseClient,
    /// Tells connections of one link apart.
    pub serial: u64,
    /// For messages: the source, and the server if there are several.
    pub spec: Arc<str>,
    pub patience: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.address)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {})", self.spec, self.serial)
    }
}

impl Link {
    pub fn new(address: Address, options: &EtcdOptions) -> Self {
        // Not all of a fleet to the first server.
        let next = fastrand::usize(..address.endpoints.len().max(1));
        let state = Mutex::new(State { next, ..State::default() });
        Self { address, options: options.clone(), state }
    }

    pub fn keys(&self) -> Keys {
        Keys { prefix: self.address.prefix.clone() }
    }

    pub const fn patience(&self) -> Duration {
        self.options.timeout
    }

    pub async fn session(&self) -> Result<Session, EtcdError> {
        let mut state = self.state.lock().await;
        if let Some(session) = &state.session {
            return Ok(session.clone());
        }
        let at = state.next % self.address.endpoints.len();
        state.serial += 1;
        match self.connect(at, state.serial).await {
            Ok(session) => {
                state.session = Some(session.clone());
                Ok(session)
            }
            Err(error) => {
                state.next = at + 1;
                Err(error)
            }
        }
    }

    /// Whoever met a failure of `session` says so: the next one who asks gets a new connection.
    pub async fn broken(&self, serial: u64) {
        let mut state = self.state.lock().await;
        if state.session.as_ref().is_some_and(|session| session.serial == serial) {
            state.session = None;
            state.next = (state.next + 1) % self.address.endpoints.len();
        }
    }

    async fn connect(&self, at: usize, serial: u64) -> Result<Session, EtcdError> {
        let endpoint = &self.address.endpoints[at];
        let spec: Arc<str> = match self.address.endpoints.as_slice() {
            [_] => self.address.to_string().into(),
            _ => format!("{} ({})", self.address, endpoint.split("//").last().unwrap_or(endpoint)).into(),
        };
        let patience = self.options.timeout;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(patience)
            .with_keep_alive(PING.max(patience), patience)
            .with_keep_alive_while_idle(true)
            // A server that has lost its leader ends the watch instead of being silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = &self.options.user {
            let password = match &self.options.password_file {
                Some(path) => String::from_utf8_lossy(&secret(path)?).trim_end_matches(['\r', '\n']).to_owned(),
                None => String::new(),
            };
            options = options.with_user(user, password);
        }
        if self.address.tls {
            options = options.with_tls(self.tls()?);
        }
        let connecting = Client::connect([endpoint], Some(options));
        let client = within(patience, &spec, connecting).await?;
        Ok(Session {
            kv: client.kv_client().max_decoding_message_size(LARGEST_ANSWER),
            watch: client.watch_client().max_decoding_message_size(LARGEST_ANSWER),
            lease: client.lease_client(),
            serial,
            spec,
            patience,
        })
    }

    fn tls(&self) -> Result<TlsOptions, EtcdError> {
        let mut tls = TlsOptions::new();
        tls = match &self.options.ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(secret(path)?)),
            None => tls.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.options.certificate, &self.options.key) {
            tls = tls.identity(Identity::from_pem(secret(certificate)?, secret(key)?));
        }
        Ok(tls)
    }
}

/// Read anew for each connection: certificates and passwords are replaced while an agent runs.
fn secret(path: &Path) -> Result<Vec<u8>, EtcdError> {
    fs::read(path).map_err(|cause| EtcdError::Secret { path: path.into(), cause })
}

impl Session {
    pub async fn get(&self, key: impl Into<Vec<u8>>, options: GetOptions) -> Result<GetResponse, EtcdError> {
        within(self.patience, &self.spec, self.kv.clone().get(key, Some(options))).await
    }

    pub async fn put(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        options: PutOptions,
    ) -> Result<i64, EtcdError> {
        let response = within(self.patience, &self.spec, self.kv.clone().put(key, value, Some(options))).await?;
        Ok(response.header().map_or(0, etcd_client::ResponseHeader::revision))
    }

    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, EtcdError> {
        within(self.patience, &self.spec, self.kv.clone().txn(txn)).await
    }

    pub async fn watch(&self, key: impl Into<Vec<u8>>, options: WatchOptions) -> Result<WatchStream, EtcdError> {
        within(self.patience, &self.spec, self.watch.clone().watch(key, Some(options))).await
    }

    pub fn unreachable(&self, cause: impl Into<String>) -> EtcdError {
        EtcdError::Unreachable { spec: self.spec.to_string(), cause: cause.into() }
    }

    pub fn failed(&self, error: &Error) -> EtcdError {
        failed(&self.spec, error)
    }
}

/// No call may wait for ever: a server that was stopped answers nothing, and keeps the connection.
pub(super) async fn within<T>(
    patience: Duration,
    spec: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EtcdError> {
    let start = Instant::now();
    match timeout(patience, call).await {
        Ok(result) => result.map_err(|error| failed(spec, &error)),
        Err(_) => {
            tracing::debug!(spec, waited = ?start.elapsed(), "etcd does not answer");
            Err(EtcdError::Unreachable { spec: spec.to_owned(), cause: format!("no answer within {patience:?}") })
        }
    }
}

fn failed(spec: &str, error: &Error) -> EtcdError {
    let spec = spec.to_owned();
    let Error::GRpcStatus(status) = error else {
        return EtcdError::Unreachable { spec, cause: chain(error) };
    };
    let message = status.message();
    let cause = status.source().map_or_else(|| message.to_owned(), chain);
    // By the server's words: it uses one code for several of these.
    // https://github.com/etcd-io/etcd/blob/v3.4.23/etcdserver/api/v3rpc/rpctypes/error.go
    if message.contains("required revision") {
        return EtcdError::Compacted { spec };
    }
    if message.contains("space exceeded") {
        return EtcdError::Full { spec, cause };
    }
    let refused =
        ["authentication failed", "permission denied", "invalid auth token", "user name", "authentication is"];
    if refused.iter().any(|words| message.contains(words)) || message.contains("request is too large") {
        return EtcdError::Refused { spec, cause };
    }
    EtcdError::Unreachable { spec, cause }
}

/// What is at the bottom: the layers above it only say that a transport failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}
