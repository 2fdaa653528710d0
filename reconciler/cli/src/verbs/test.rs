use std::io::{self, Write};

use weir_agent::{Error, Exit, FlowResult, FlowTestResult, FlowTestsDocument, flow_tests_by_oracle};

use super::validate;
use crate::{
    args::{Format, SourceArgs},
    context::{Context, Source},
    out::{self, Ink},
};

/// Who is to judge: an agent if there is one, else the oracle, unless somebody says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Judges {
    pub oracle: bool,
    pub live: bool,
}

pub async fn run(context: &Context, args: &SourceArgs, judges: Judges) -> Result<Exit, Error> {
    let named = !matches!(args.one_of_two()?, ([], None));
    let read = || Source::new(&context.global, args)?.read();
    let agent = if judges.oracle { None } else { context.agent().await? };
    let document = match agent {
        Some(agent) => {
            let manifests = if named { Some(read()?) } else { None };
            agent.flow_tests(manifests.as_ref()).await?
        }
        None if judges.live => {
            let manifests = if named { Some(read()?) } else { None };
            context.engine(args.ignore_foreign)?.flow_tests_of(manifests.as_ref())?
        }
        None if named => {
            let manifests = read()?;
            let inventory = validate::check(context, &manifests, args.ignore_foreign)?;
            flow_tests_by_oracle(&manifests, &inventory, context.global.node.as_deref())
        }
        None => {
            let what = "no agent runs here: name the manifests with -f or --source, or pass --live".to_owned();
            return Err(Error::Usage { what });
        }
    };
    let exit = if document.summary.failed == 0 { Exit::DONE } else { Exit::FAILED };
    if context.print(&document)? {
        return Ok(exit);
    }
    out::print(|out| match context.global.output {
        Format::Name => {
            // One packet of it is enough.
            let mut failed: Vec<_> = document.failed().map(|failed| &failed.test).collect();
            failed.dedup();
            failed.into_iter().try_for_each(|test| writeln!(out, "{test}"))
        }
        _ => write(context, &document, out),
    })?;
    Ok(exit)
}

fn write(context: &Context, document: &FlowTestsDocument, out: &mut dyn Write) -> io::Result<()> {
    if document.results.is_empty() {
        return writeln!(out, "no flow tests");
    }
    let node = document.node.as_ref().map(|node| format!(" ({node})")).unwrap_or_default();
    writeln!(out, "judged {}{node}", document.judge)?;
    let mut rows = Vec::new();
    for result in &document.results {
        let place = match (&result.file, result.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ => String::new(),
        };
        let flow = result.flow.as_ref().map(ToString::to_string).unwrap_or_default();
        rows.push(vec![word(result).to_owned(), result.test.to_string(), place, flow, said(result)]);
    }
    out::columns(&rows, out)?;
    let summary = document.summary;
    let line = format!("{} passed, {} failed, {} skipped", summary.passed, summary.failed, summary.skipped);
    let ink = if summary.failed == 0 { Ink::Green } else { Ink::Red };
    writeln!(out, "{}", context.paint.paint(ink, &line))
}

const fn word(result: &FlowResult) -> &'static str {
    match result.result {
        FlowTestResult::Passed => "passed",
        FlowTestResult::Failed => "FAILED",
        FlowTestResult::Skipped => "skipped",
    }
}

/// What became of it, and by what.
fn said(result: &FlowResult) -> String {
    if let Some(why) = &result.why {
        return why.clone();
    }
    let actual = result.actual.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut text = match (&result.expected, result.result) {
        (Some(expected), FlowTestResult::Failed) => format!("expected {expected}, got {actual}"),
        _ => actual,
    };
    if result.answer {
        text.push_str(" for the answer");
    }
    text.extend(result.at.iter().map(|at| format!(" at {at}")));
    text.extend(result.rule.iter().map(|rule| format!(", {rule}")));
    text
}
