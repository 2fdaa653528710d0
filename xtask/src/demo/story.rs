//! The main job, step by step.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    table::{Cell, Table},
    world::{self, DIRECTORY, Place, World},
};
use crate::{
    command::{Call, heading},
    failure::Failure,
    workspace,
};

/// What the table must say; each word is a column, `y` both families, `-` neither, `.` oneself. Before Weir comes, the
/// endpoints have no network, and nobody is kept out.
const BARE: [(Place, &str); 5] = [
    (Place::Client, "-----.y"),
    (Place::Scanner, "-----yy"),
    (Place::Web, "...----"),
    (Place::Db, "---..--"),
    (Place::Node, "-----y."),
];

/// Under `examples/quickstart`.
const QUICKSTART: [(Place, &str); 5] = [
    (Place::Client, "y-y--.y"),
    (Place::Scanner, "-------"),
    (Place::Web, "...y-yy"),
    (Place::Db, "---..yy"),
    (Place::Node, "-----y."),
];

/// One line of one manifest is edited: web is opened on another port.
const EDIT: (&str, &str, &str) = ("policies.yaml", "port: 80\n", "port: 8080\n");
const EDITED: [(Place, &str); 5] = [
    (Place::Client, "-yy--.y"),
    (Place::Scanner, "-------"),
    (Place::Web, "...y-yy"),
    (Place::Db, "---..yy"),
    (Place::Node, "-----y."),
];

/// Where the binary keeps things, as its flags would say; the pin directory and the socket are where they always are,
/// in file systems of the demo's own.
const SETTINGS: [(&str, &str); 2] = [("WEIR_NODE", "node1"), ("WEIR_STATE_DIR", "/run/weir-demo/state")];

/// The demo's expectations, and how many of them were not met.
struct Story {
    weir: PathBuf,
    failures: usize,
}

/// Everything, to the end; an error when any expectation was not met.
pub fn tell(weir: &Path, program: &Path) -> Result<(), Failure> {
    let mut story = Story { weir: weir.to_owned(), failures: 0 };
    let columns = world::columns();

    heading("a node, two empty namespaces for its endpoints, and a client and a scanner outside");
    let mut world = World::build(program)?;
    for place in Place::ALL {
        world.serve(place, &columns)?;
    }
    let manifests = Path::new(DIRECTORY).join("quickstart");
    copy(&workspace::root().join("examples/quickstart"), &manifests)?;

    story.table(&world, &BARE)?;

    heading("the manifests, and what applying them will change");
    for (name, value) in SETTINGS {
        println!("$ export {name}={value}");
    }
    story.step(&["validate", "-f", "quickstart"], 0)?;
    story.step(&["diff", "-f", "quickstart"], 1)?;

    heading("apply, and see who reaches whom");
    story.step(&["apply", "-f", "quickstart"], 0)?;
    let before = story.table(&world, &QUICKSTART)?;
    story.step(&["doctor"], 0)?;
    story.step(&["status"], 0)?;
    story.step(&["trace", "192.0.2.10", "web", "tcp/80"], 0)?;
    story.step(&["trace", "2001:db8:0:1::10", "db", "tcp/5432"], 0)?;

    heading("apply again: nothing to do");
    story.step(&["diff", "-f", "quickstart"], 0)?;
    story.step(&["apply", "-f", "quickstart"], 0)?;

    heading("edit a manifest, look, and apply");
    edit(&manifests.join(EDIT.0))?;
    story.step(&["diff", "-f", "quickstart"], 1)?;
    story.step(&["apply", "-f", "quickstart"], 0)?;
    story.table(&world, &EDITED)?;

    heading("take it back");
    story.step(&["history"], 0)?;
    story.step(&["rollback"], 0)?;
    let after = story.table(&world, &QUICKSTART)?;
    if before != after {
        story.fail("the rollback did not bring the first table back".to_owned());
    }

    heading("clean up");
    story.step(&["uninstall"], 0)?;
    let residue = world.residue()?;
    if residue.is_empty() {
        println!("no pin, device, qdisc or attached program is left");
    }
    residue.into_iter().for_each(|what| story.fail(format!("left behind: {what}")));
    story.end()
}

impl Story {
    /// Runs a verb of the binary; another exit code than `expected` is a failed expectation.
    fn step(&mut self, words: &[&str], expected: i32) -> Result<(), Failure> {
        let call = Call::new(&self.weir).args(words).inside(DIRECTORY);
        let call = SETTINGS.iter().fold(call, |call, (name, value)| call.env(name, value)).show();
        let line = call.line();
        let code = call.code()?;
        println!("(exit {code})");
        if code != expected {
            self.fail(format!("`{line}` ended with {code} and not {expected}"));
        }
        Ok(())
    }

    fn table(&mut self, world: &World, expected: &[(Place, &str)]) -> Result<Table, Failure> {
        let table = world.who_reaches_whom(&world::columns())?;
        print!("{}", table.text());
        for difference in table.differences(&expectation(expected)) {
            self.fail(difference);
        }
        Ok(table)
    }

    fn fail(&mut self, what: String) {
        println!("FAILED: {what}");
        self.failures += 1;
    }

    fn end(self) -> Result<(), Failure> {
        if self.failures == 0 {
            println!("\nthe demo did what it should");
            return Ok(());
        }
        Err(Failure::Failed(format!("{} expectations of the demo were not met: see FAILED above", self.failures)))
    }
}

fn expectation(rows: &[(Place, &str)]) -> Table {
    let cell = |c| match c {
        'y' => Some(Cell::YES),
        '-' => Some(Cell::NO),
        _ => None,
    };
    let rows = rows.iter().map(|(place, cells)| (*place, cells.chars().map(cell).collect())).collect();
    Table { columns: world::columns(), rows }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(Failure::file("making", to))?;
    for entry in fs::read_dir(from).map_err(Failure::file("reading", from))?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(Failure::file("copying", &entry.path()))?;
        }
    }
    Ok(())
}

/// Changes one line of a manifest and shows it.
fn edit(path: &Path) -> Result<(), Failure> {
    let (_, old, new) = EDIT;
    let text = fs::read_to_string(path).map_err(Failure::file("reading", path))?;
    if text.matches(old).count() != 1 {
        return Err(Failure::Failed(format!("{} does not hold `{}` exactly once", path.display(), old.trim())));
    }
    let former = path.with_extension("yaml.orig");
    fs::write(&former, &text).map_err(Failure::file("writing", &former))?;
    fs::write(path, text.replace(old, new)).map_err(Failure::file("writing", path))?;
    // Exits with 1: they differ.
    Call::new("diff").args(["-u".as_ref(), former.as_os_str(), path.as_os_str()]).show().code()?;
    fs::remove_file(&former).map_err(Failure::file("removing", &former))
}
