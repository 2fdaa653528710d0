use std::time::{Duration, UNIX_EPOCH};

use weir_agent::{CommitDocument, Error, Exit, FORMAT_VERSION, HistoryDocument};
use weir_plan::{Operation, Store};

use crate::{
    args::Format,
    context::{self, Context},
    out,
    plan_text::short,
};

pub async fn run(context: &Context, limit: usize) -> Result<Exit, Error> {
    let document = match context.agent().await? {
        Some(agent) => agent.history(limit).await?,
        None => {
            let commits = context::open_store(&context.global.state_dir)?.history(limit)?;
            HistoryDocument {
                format_version: FORMAT_VERSION.to_owned(),
                commits: commits.iter().map(CommitDocument::from).collect(),
            }
        }
    };
    if context.print(&document)? {
        return Ok(Exit::DONE);
    }
    out::print(|out| {
        if context.global.output == Format::Name {
            return document.commits.iter().try_for_each(|commit| writeln!(out, "commit/{}", commit.sequence));
        }
        let head = ["COMMIT", "TIME", "OPERATION", "EPOCH", "+", "~", "-", "!", "REVISION", "SOURCE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        // Directories know no authors.
        if document.commits.iter().any(|commit| commit.author.is_some()) {
            rows[0].extend(["AUTHOR", "SUBJECT"].map(str::to_owned));
        }
        rows.extend(document.commits.iter().map(row));
        out::columns(&rows, out)
    })?;
    Ok(Exit::DONE)
}

fn row(commit: &CommitDocument) -> Vec<String> {
    let operation = match (commit.operation, commit.restores) {
        (Operation::Rollback, Some(restores)) => format!("rollback to {restores}"),
        (Operation::Rollback, None) => "rollback".to_owned(),
        (Operation::Apply, _) => "apply".to_owned(),
        (Operation::Heal, _) => "heal".to_owned(),
    };
    vec![
        commit.sequence.to_string(),
        time(commit.time_unix_ms),
        operation,
        commit.epoch.to_string(),
        commit.summary.create.to_string(),
        commit.summary.update.to_string(),
        commit.summary.delete.to_string(),
        commit.summary.drift.to_string(),
        short(&commit.revision),
        if commit.source.is_empty() { "-".to_owned() } else { commit.source.clone() },
        commit.author.clone().unwrap_or_default(),
        commit.subject.clone().unwrap_or_default(),
    ]
}

/// RFC 3339, UTC.
pub fn time(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}
