//! `diff --from REV --to REV`: what one commit would change where another is live, on any node, from anywhere.
use std::{collections::BTreeSet, io, io::Write, sync::Arc, time::Duration};

use serde::Serialize;
use weir_abi::{Generation, Side};
use weir_agent::{Error, Exit, FORMAT_VERSION, Manifests, Places, PlanDocument, PlanView, Refusal, Snapshot};
use weir_compile::Input;
use weir_plan::{Numbering, Observed, Plan};
use weir_schema::{Inventory, Options};
use weir_source::{GitSource, Source, SourceSpec};

use crate::{
    args::{Format, SourceArgs},
    context::Context,
    out::{self, Ink},
    plan_text::{self, SHOWN, short},
};

/// `diff --from --to -o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RevisionsDocument {
    format_version: &'static str,
    from: RevisionDocument,
    to: RevisionDocument,
    /// Sorted by name; each as in `diff`, without drift.
    nodes: Vec<PlanDocument>,
    summary: NodesSummary,
}

#[derive(Serialize)]
struct RevisionDocument {
    /// As it was asked for.
    rev: String,
    commit: Arc<str>,
    author: String,
    subject: String,
}

/// Nodes, and on how many of them an entry, a device or a hook would change: an object may change and say the same.
#[derive(Serialize)]
struct NodesSummary {
    nodes: usize,
    changed: usize,
}

/// One of the two, read and parsed.
struct Commit {
    rev: String,
    manifests: Manifests,
    inventory: Inventory,
}

const PATIENCE: Duration = Duration::from_secs(60);

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Asked {
    pub from: String,
    pub to: String,
    pub all_nodes: bool,
    pub flows: bool,
}

pub fn run(context: &Context, args: &SourceArgs, asked: &Asked) -> Result<Exit, Error> {
    let (name, mut source) = repository(context, args)?;
    let mut side = |rev: &str| -> Result<Commit, Error> {
        let revision = source.read_at(rev, PATIENCE)?;
        let manifests = Manifests::new(&name, &revision);
        let inventory = parse(&manifests, rev, args.ignore_foreign)?;
        Ok(Commit { rev: rev.to_owned(), manifests, inventory })
    };
    let (from, to) = (side(&asked.from)?, side(&asked.to)?);

    let known: BTreeSet<String> = [&from, &to].iter().flat_map(|side| weir_compile::nodes(&side.inventory)).collect();
    let nodes = if asked.all_nodes {
        known.into_iter().collect()
    } else {
        let node = context.node().to_string();
        if !known.contains(&node) {
            let names = known.into_iter().collect::<Vec<_>>().join(", ");
            let what =
                format!("neither commit names the node `{node}`; use --all-nodes, or --node with one of: {names}");
            return Err(Error::Usage { what });
        }
        vec![node]
    };
    let limit = match context.global.output {
        Format::Json | Format::Yaml => None,
        Format::Text => Some(SHOWN),
        Format::Name => Some(0),
    };
    let plans = nodes.iter().map(|node| plan(&from, &to, node, limit, asked.flows)).collect::<Result<Vec<_>, _>>()?;
    let changed = plans.iter().filter(|plan| writes(plan)).count();
    let differ = plans.iter().any(|plan| writes(plan) || !plan.changes.is_empty());
    let document = RevisionsDocument {
        format_version: FORMAT_VERSION,
        from: from.document(),
        to: to.document(),
        summary: NodesSummary { nodes: plans.len(), changed },
        nodes: plans,
    };
    if !context.print(&document)? {
        out::print(|out| match context.global.output {
            Format::Name => names(&document, out),
            _ => write(context, &document, out),
        })?;
    }
    Ok(if differ { Exit::FAILED } else { Exit::DONE })
}

/// The repository that `--source` names, or the one around `-f`.
fn repository(context: &Context, args: &SourceArgs) -> Result<(String, GitSource), Error> {
    let access = args.access(&context.global);
    let (filenames, source) = args.one_of_two()?;
    let spec = match (source, filenames) {
        (Some(source), _) => SourceSpec::parse(source)?,
        (None, []) => SourceSpec::Dir(".".into()),
        (None, [one]) => SourceSpec::parse(one)?,
        (None, _) => return Err(Error::Usage { what: "two commits of one repository are compared".to_owned() }),
    };
    match spec {
        SourceSpec::Git(_) => match Source::open(std::slice::from_ref(&spec), &access)? {
            Source::Git(source) => Ok((spec.to_string(), *source)),
            _ => unreachable!("a git source is opened for its name"),
        },
        SourceSpec::Dir(path) => Ok((format!("git+dir:{}", path.display()), GitSource::around(&path, &access.git)?)),
        _ => Err(Error::Usage {
            what: "commits are compared in a git repository: `-f DIR` or `--source git+…`".to_owned(),
        }),
    }
}

/// Every message says in which commit.
fn parse(manifests: &Manifests, rev: &str, ignore_foreign: bool) -> Result<Inventory, Error> {
    let inventory = weir_schema::parse(&manifests.files, &Options { ignore_foreign }).map_err(|mut diagnostics| {
        for diagnostic in &mut diagnostics.0 {
            diagnostic.path = format!("{rev}:{}", diagnostic.path).into();
            diagnostic.related.iter_mut().for_each(|(path, ..)| *path = format!("{rev}:{path}").into());
        }
        Error::Manifests(diagnostics)
    })?;
    if inventory.is_empty() {
        return Err(Error::Guard(Refusal::NoObjects { source: rev.to_owned() }));
    }
    Ok(inventory)
}

/// What `to` would change on a node where `from` is live and nothing drifted.
fn plan(from: &Commit, to: &Commit, node: &str, limit: Option<usize>, flows: bool) -> Result<PlanDocument, Error> {
    let facts = weir_compile::assumed_facts(&[&from.inventory, &to.inventory], node);
    let mut numbering = Numbering::default();
    let mut compile = |side: &Commit, sequence: u64| -> Result<Snapshot, Error> {
        let input = Input { inventory: &side.inventory, node, facts: &facts, sequence };
        let compiled = weir_compile::compile(&input, &mut numbering).map_err(|mut errors| {
            errors.iter_mut().for_each(|error| error.message = format!("{} on {node}: {}", side.rev, error.message));
            Error::Compile(errors)
        })?;
        Ok(Snapshot {
            manifests: side.manifests.clone(),
            node: node.into(),
            facts: facts.clone(),
            inventory: side.inventory.clone(),
            compiled: Arc::new(compiled),
        })
    };
    let applied = compile(from, 1)?;
    let desired = compile(to, 2)?;
    let live = Observed {
        generation: Generation { side: Side::A, epoch: 1 },
        sides: [applied.compiled.tables.clone(), applied.compiled.tables.clone()],
        wiring: applied.compiled.wiring.clone(),
        capacity: applied.compiled.capacity,
    };
    let objects = weir_compile::changed(&from.inventory, &to.inventory);
    let plan = Plan::new(desired.target(), Some(applied.target()), Some(&live), &objects);
    let source = to.manifests.plan_source();
    let places = limit.map(|_| Places { desired: &desired, applied: Some(&applied) });
    let flows = if flows { Some(desired.flow_changes(Some(&applied))?) } else { None };
    Ok(PlanView { node, source: &source, plan: &plan, limit, kept: &[], places, flows: flows.as_deref() }.document())
}

impl Commit {
    fn document(&self) -> RevisionDocument {
        let (author, subject) = self.manifests.authorship.clone().map(|by| (by.author, by.subject)).unwrap_or_default();
        RevisionDocument { rev: self.rev.clone(), commit: self.manifests.revision.clone(), author, subject }
    }
}

fn writes(plan: &PlanDocument) -> bool {
    plan.summary.writes > 0
}

/// `node1/endpoint/default/web`
fn names(document: &RevisionsDocument, out: &mut dyn Write) -> io::Result<()> {
    document.nodes.iter().try_for_each(|plan| {
        plan.changes.iter().try_for_each(|change| writeln!(out, "{}/{}", plan.node, change.object.name()))
    })
}

/// Nodes that would change alike are shown once.
fn write(context: &Context, document: &RevisionsDocument, out: &mut dyn Write) -> io::Result<()> {
    let paint = context.paint;
    for (word, revision) in [("from", &document.from), ("to  ", &document.to)] {
        let RevisionDocument { rev, commit, author, subject } = revision;
        writeln!(out, "{}", paint.paint(Ink::Dim, &format!("{word} {rev} = {}  {author}  {subject}", short(commit))))?;
    }
    let mut groups: Vec<(Vec<u8>, Vec<&str>)> = Vec::new();
    for plan in document.nodes.iter().filter(|plan| writes(plan)) {
        let mut text = Vec::new();
        plan_text::changes(plan, paint, &mut text)?;
        match groups.iter_mut().find(|(known, _)| *known == text) {
            Some((_, nodes)) => nodes.push(&plan.node),
            None => groups.push((text, vec![&plan.node])),
        }
    }
    for (text, nodes) in &groups {
        writeln!(out, "\n{}", paint.paint(Ink::Bold, &format!("on {}", nodes.join(", "))))?;
        out.write_all(text)?;
    }
    let same: Vec<&str> = document.nodes.iter().filter(|plan| !writes(plan)).map(|plan| plan.node.as_str()).collect();
    if !same.is_empty() {
        writeln!(out, "\n{}\nno entry changes", paint.paint(Ink::Bold, &format!("on {}", same.join(", "))))?;
    }
    Ok(())
}
