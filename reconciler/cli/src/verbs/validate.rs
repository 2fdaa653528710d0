use std::io::Write;

use serde::Serialize;
use weir_agent::{Error, Exit, FORMAT_VERSION, Manifests, Problem, Refusal};
use weir_compile::Input;
use weir_plan::{NodeFacts, Numbering};
use weir_schema::{Inventory, Options};

use crate::{
    args::{Format, SourceArgs},
    context::{Context, Source},
    out,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidateDocument {
    format_version: &'static str,
    valid: bool,
    objects: usize,
    files: usize,
    warnings: Vec<Problem>,
}

/// Parses, checks and compiles for a node that nothing is known of.
pub fn check(context: &Context, manifests: &Manifests, ignore_foreign: bool) -> Result<Inventory, Error> {
    let options = Options { ignore_foreign };
    let inventory = weir_schema::parse(&manifests.files, &options).map_err(Error::Manifests)?;
    if inventory.is_empty() {
        let source = if manifests.source.is_empty() { "standard input" } else { &manifests.source };
        return Err(Error::Guard(Refusal::NoObjects { source: source.to_owned() }));
    }
    let facts = NodeFacts::default();
    let input = Input { inventory: &inventory, node: &context.node(), facts: &facts, sequence: 1 };
    weir_compile::compile(&input, &mut Numbering::default()).map_err(Error::Compile)?;
    Ok(inventory)
}

/// Touches neither kernel nor store.
pub fn run(context: &Context, args: &SourceArgs) -> Result<Exit, Error> {
    let manifests = Source::new(&context.global, args)?.read()?;
    let inventory = check(context, &manifests, args.ignore_foreign)?;
    let files = manifests.files.iter().filter(|file| weir_schema::is_manifest(&file.path)).count();
    let document = ValidateDocument {
        format_version: FORMAT_VERSION,
        valid: true,
        objects: inventory.len(),
        files,
        warnings: inventory.warnings().iter().map(Problem::from).collect(),
    };
    if context.print(&document)? {
        return Ok(Exit::DONE);
    }
    if context.global.output == Format::Name {
        out::print(|out| {
            inventory.objects().try_for_each(|object| {
                let key = &object.key;
                let namespace = if key.namespace.is_empty() { String::new() } else { format!("{}/", key.namespace) };
                writeln!(out, "{}/{namespace}{}", key.kind.to_lowercase(), key.name)
            })
        })?;
        return Ok(Exit::DONE);
    }
    for warning in inventory.warnings() {
        // A warning that cannot be written changes nothing.
        let _ = writeln!(std::io::stderr(), "{}", warning.as_warning());
    }
    let objects = plural(inventory.len(), "object", "objects");
    let files = plural(files, "file", "files");
    out::print(|out| writeln!(out, "valid: {objects} in {files}"))?;
    Ok(Exit::DONE)
}

pub fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
