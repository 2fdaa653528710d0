//! What a verb needs: the manifests, the agent where one runs, the engine where none does.
use std::{fs, io, path::Path, sync::Arc, time::Duration};

use serde::Serialize;
use weir_agent::{Client, Engine, EngineOptions, Error, Manifests};
use weir_datapath::Kernel;
use weir_plan::StoreError;
use weir_source::{Access, EtcdOptions, EtcdSource, GitOptions, SourceError, SourceSpec, read_stdin};
use weir_state::SledStore;

use crate::{
    args::{EtcdArgs, FleetArgs, Format, Global, SourceArgs},
    out::{self, Paint},
};

#[derive(Clone, Debug)]
pub struct Context {
    pub global: Global,
    pub paint: Paint,
}

/// How long files must have been at rest to be believed, and how long that may take.
pub const REST: Duration = Duration::from_millis(10);
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long another verb may have the state open.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

impl Context {
    pub fn new(global: Global) -> Self {
        Self { global, paint: Paint::stdout() }
    }

    pub fn node(&self) -> Arc<str> {
        match &self.global.node {
            Some(node) => node.as_str().into(),
            None => {
                fs::read_to_string("/proc/sys/kernel/hostname").map_or("localhost".into(), |name| name.trim().into())
            }
        }
    }

    /// The agent, if one listens.
    pub async fn agent(&self) -> Result<Option<Client>, Error> {
        Client::find(&self.global.socket, self.global.timeout).await
    }

    pub async fn need_agent(&self) -> Result<Client, Error> {
        Client::connect(&self.global.socket, self.global.timeout).await
    }

    /// The engine, for a verb that works alone.
    pub fn engine(&self, ignore_foreign: bool) -> Result<Engine<Kernel, SledStore>, Error> {
        open(&self.global, self.node(), ignore_foreign)
    }

    /// Prints a document as JSON or YAML; `false`: it is to be printed for people.
    pub fn print(&self, document: &impl Serialize) -> Result<bool, Error> {
        match self.global.output {
            Format::Json => out::print(|out| {
                serde_json::to_writer(&mut *out, document)?;
                writeln!(out)
            })?,
            Format::Yaml => out::print(|out| serde_yaml::to_writer(out, document).map_err(io::Error::other))?,
            Format::Text | Format::Name => return Ok(false),
        }
        Ok(true)
    }
}

/// Opens the kernel and the store: whoever has them open is the one who writes.
pub fn open(global: &Global, node: Arc<str>, ignore_foreign: bool) -> Result<Engine<Kernel, SledStore>, Error> {
    let kernel = Kernel::open(weir_datapath::Options::new(&global.pin_dir))?;
    let store = open_store(&global.state_dir)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|cause| Error::Failed { what: "read the boot id".to_owned(), cause: cause.to_string() })?;
    let options = EngineOptions { node, boot_id: boot_id.trim().to_owned(), ignore_foreign };
    Ok(Engine::new(kernel, store, options))
}

pub fn open_store(path: &Path) -> Result<SledStore, StoreError> {
    // The store itself warns of what it had to move aside. A verb that works alone has it open for a moment only, and
    // must not keep an agent from starting.
    Ok(SledStore::open_within(path, STORE_PATIENCE)?.0)
}

impl SourceArgs {
    pub fn access(&self, global: &Global) -> Access {
        Access { git: self.git_options(global), etcd: self.etcd.options() }
    }

    fn git_options(&self, global: &Global) -> GitOptions {
        GitOptions {
            path: self.path.clone().unwrap_or_default(),
            cache: global.state_dir.join("git"),
            signers: self.verify_signatures.clone(),
            ..GitOptions::default()
        }
    }

    /// What is asked of git must not be dropped in silence, least of all signatures.
    fn refuse_git_flags(&self) -> Result<(), Error> {
        let flag = match (&self.path, self.verify_signatures.as_slice()) {
            (None, []) => return Ok(()),
            (Some(_), _) => "--path",
            _ => "--verify-signatures",
        };
        Err(Error::Usage { what: format!("{flag} is for git sources: `--source git+…`") })
    }
}

impl EtcdArgs {
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions {
            user: self.etcd_user.clone(),
            password_file: self.etcd_password_file.clone(),
            ca: self.etcd_ca.clone(),
            certificate: self.etcd_cert.clone(),
            key: self.etcd_key.clone(),
            timeout: self.etcd_timeout,
        }
    }
}

impl FleetArgs {
    /// The etcd that `--status-to` names. What follows its hosts does not matter: the keys have a prefix of their own.
    pub fn etcd(&self, etcd: &EtcdArgs) -> Result<Option<EtcdSource>, Error> {
        let Some(text) = &self.status_to else { return Ok(None) };
        let slash = if text.ends_with('/') { "" } else { "/" };
        Ok(Some(EtcdSource::new(&format!("{text}{slash}"), &etcd.options())?))
    }
}

/// What `-f` and `--source` name.
#[derive(Clone, Debug)]
pub struct Source {
    /// As history shows it; the same place has the same name, wherever it was named from.
    pub name: String,
    /// Empty for standard input.
    pub specs: Vec<SourceSpec>,
    pub access: Access,
}

impl Source {
    pub fn new(global: &Global, args: &SourceArgs) -> Result<Self, Error> {
        let (filenames, source) = args.one_of_two()?;
        let specs: Vec<SourceSpec> = match source {
            Some(source) => vec![SourceSpec::parse(source)?],
            None => filenames.iter().map(|text| SourceSpec::parse(text)).collect::<Result<_, _>>()?,
        };
        let access = args.access(global);
        if !matches!(specs.as_slice(), [SourceSpec::Git(_)]) {
            args.refuse_git_flags()?;
        }
        match specs.as_slice() {
            [SourceSpec::Stdin] => return Ok(Self { name: String::new(), specs: Vec::new(), access }),
            [spec @ SourceSpec::Git(text)] => {
                let mut name = spec.to_string();
                if !access.git.path.is_empty() {
                    // As `git show` takes it.
                    let reference = if text.contains('#') { "" } else { "#HEAD" };
                    name = format!("{name}{reference}:{}", access.git.path);
                }
                return Ok(Self { name, specs, access });
            }
            [spec @ SourceSpec::Etcd(_)] => return Ok(Self { name: spec.to_string(), specs, access }),
            // Refuses mixtures.
            specs => drop(SourceSpec::directories(specs)?),
        }
        let (mut roots, mut names) = (Vec::new(), Vec::new());
        for spec in specs {
            let SourceSpec::Dir(path) = spec else { continue };
            let real = fs::canonicalize(&path).map_err(|cause| match cause.kind() {
                io::ErrorKind::NotFound => SourceError::Missing { path: path.clone() },
                _ => SourceError::Unreadable { path: path.clone(), cause },
            })?;
            names.push(format!("dir:{}", real.display()));
            // Not the real path: a link that is swapped must be followed anew at every look.
            roots.push(SourceSpec::Dir(std::path::absolute(&path).unwrap_or(path)));
        }
        Ok(Self { name: names.join(","), specs: roots, access })
    }

    /// Reads the source as it is once it is at rest.
    pub fn read(&self) -> Result<Manifests, Error> {
        if self.specs.is_empty() {
            return Ok(Manifests::new("", &read_stdin(io::stdin().lock())?));
        }
        let revision = weir_source::Source::open(&self.specs, &self.access)?.read(REST, PATIENCE)?;
        Ok(Manifests::new(&self.name, &revision))
    }
}
