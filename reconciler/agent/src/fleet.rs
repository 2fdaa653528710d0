//! What a node tells the fleet: its status, under a key of its own in etcd, as long as it lives.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use weir_plan::Store;
use weir_source::{BeaconOptions, EtcdBeacon, EtcdSource, Source};

use crate::{Error, FORMAT_VERSION, Handle, Inspect, StatusDocument, clock};

/// Where a node's status is told.
#[derive(Clone, Debug, Default)]
pub struct FleetOptions {
    /// What the keys begin with; the node's name follows. Empty: nothing is told.
    pub prefix: String,
    /// Where; the source's own etcd otherwise, if it is one.
    pub etcd: Option<EtcdSource>,
    pub beacon: BeaconOptions,
}

/// What to look at before it is compared with what was told last.
const LOOK: Duration = Duration::from_secs(1);

/// The revision that a node follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionDocument {
    /// What the source delivered last.
    pub seen: Option<String>,
    /// What is live.
    pub applied: Option<String>,
}

/// One node's status, as it stands in etcd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDocument {
    pub format_version: String,
    pub node: String,
    /// As in status; or `no word`: it has a manifest, and says nothing.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub revision: RevisionDocument,
    /// When this was written: when something of it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_unix_ms: Option<u64>,
    /// The rest of the node's status, but for what only the node itself is asked for: its tables and attachments.
    #[serde(flatten)]
    pub status: BTreeMap<String, Value>,
}

/// The answer to `status --all`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetDocument {
    pub format_version: String,
    pub nodes: Vec<NodeDocument>,
}

/// Of a status: what is told under names of its own, what is too much, and what changes without a change.
const LEFT_OUT: &[&str] = &["formatVersion", "node", "state", "agent", "tables", "attachments", "notes"];

impl NodeDocument {
    /// Without the time.
    fn new(status: &StatusDocument) -> Self {
        let agent = status.agent.as_ref();
        let seen = agent.and_then(|agent| agent.revision.clone());
        // A revision that changes no table makes no commit: a node that follows without a failure has what it saw.
        let follows = agent.is_some_and(|agent| agent.failure.is_none()) && status.suspended.is_none();
        let committed = status.commit.as_ref().map(|commit| commit.revision.clone());
        let applied = if follows { seen.clone().or(committed) } else { committed };
        let mut rest = match serde_json::to_value(status) {
            Ok(Value::Object(rest)) => rest,
            _ => Map::new(),
        };
        LEFT_OUT.iter().for_each(|name| drop(rest.remove(*name)));
        if let Some(failure) = agent.and_then(|agent| agent.failure.as_ref()) {
            rest.insert("failure".to_owned(), serde_json::to_value(failure).unwrap_or_default());
        }
        if let Some(agent) = agent {
            rest.insert("startedUnixMs".to_owned(), agent.started_unix_ms.into());
        }
        Self {
            format_version: FORMAT_VERSION.to_owned(),
            node: status.node.clone(),
            state: status.state.clone(),
            version: agent.map(|agent| agent.version.clone()),
            source: agent.map(|agent| agent.source.clone()),
            revision: RevisionDocument { seen, applied },
            time_unix_ms: None,
            status: rest.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        }
    }

    /// A node that has a manifest, and no key.
    fn silent(node: String) -> Self {
        Self {
            format_version: FORMAT_VERSION.to_owned(),
            node,
            state: "no word".to_owned(),
            version: None,
            source: None,
            revision: RevisionDocument::default(),
            time_unix_ms: None,
            status: BTreeMap::new(),
        }
    }
}

impl FleetDocument {
    /// Reads what the nodes said. `known` are the nodes that ought to. Blocking.
    pub fn read(etcd: &EtcdSource, prefix: &str, known: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut nodes: BTreeMap<String, NodeDocument> =
            known.into_iter().map(|node| (node.clone(), NodeDocument::silent(node))).collect();
        for (node, value) in etcd.values(prefix)? {
            match serde_json::from_slice(&value) {
                Ok(document) => drop(nodes.insert(node, document)),
                Err(error) => tracing::warn!(node, %error, "what stands there is no status"),
            }
        }
        Ok(Self { format_version: FORMAT_VERSION.to_owned(), nodes: nodes.into_values().collect() })
    }
}

/// Tells the fleet, beside the loop.
#[derive(Debug)]
pub(crate) struct Fleet {
    beacon: EtcdBeacon,
    hint: Arc<Notify>,
    looking: tokio::task::JoinHandle<()>,
}

impl Fleet {
    /// `None`: there is no etcd to tell it to.
    pub fn join<D: Inspect + 'static, S: Store + 'static>(
        options: &FleetOptions,
        source: &Source,
        node: &str,
        handle: Handle<D, S>,
    ) -> Option<Self> {
        let own = match source {
            Source::Etcd(etcd) => Some(etcd),
            _ => None,
        };
        let etcd = options.etcd.as_ref().or(own).filter(|_| !options.prefix.is_empty())?;
        let beacon = etcd.beacon(format!("{}{node}", options.prefix), options.beacon);
        let hint = Arc::new(Notify::new());
        let voice = beacon.voice();
        let hinted = hint.clone();
        let looking = tokio::spawn(async move {
            let mut told = None;
            // Ends with the engine's thread.
            while let Ok(status) = handle.call(|agent| agent.status()).await {
                match status {
                    Ok(status) => {
                        let document = NodeDocument::new(&status);
                        if told.as_ref() != Some(&document) {
                            let stamped = NodeDocument { time_unix_ms: Some(clock::unix_ms()), ..document.clone() };
                            // A struct of texts and values always serializes.
                            voice.say(serde_json::to_vec(&stamped).unwrap_or_default());
                            told = Some(document);
                        }
                    }
                    Err(error) => tracing::debug!(%error, "the node's status cannot be told"),
                }
                // The source's word is told at once; anything else within a moment.
                let _ = tokio::time::timeout(LOOK, hinted.notified()).await;
            }
        });
        Some(Self { beacon, hint, looking })
    }

    /// Something changed, or may have.
    pub fn look(&self) {
        self.hint.notify_one();
    }

    /// Takes the node's word back: nobody keeps it any more.
    pub async fn leave(self) {
        self.looking.abort();
        // Ended by that.
        let _ = self.looking.await;
        self.beacon.end().await;
    }
}
