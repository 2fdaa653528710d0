//! What another version of Weir left.
//!
//! Its programs go on with its own tables until ours are live. What traffic filled goes over to us: a table of the same
//! shape is pinned in our directory as well, and both versions' programs use it for as long as both run; conntrack, where
//! only the size of its entries is another, is taken over flow by flow and then copied. An entry names the epoch that
//! judged it, so our generation word begins beyond every epoch of the others.
use std::{io, os::fd::AsFd as _, path::Path};

use weir_abi::{ConntrackEntry, ConntrackKey, KernelTable, runtime_tables};

use crate::{
    error::{Result, attach, failed, netlink},
    generation::Word,
    hash,
    kernel::{Kernel, not_prepared},
    live::{Live, table},
    maps::{Map, kernel_name, spec},
    pins::layouts,
    prepare::{Former, insert_all, uses},
    programs::FORMER,
    sys::{self, MapSpec, value_of, zeroed},
};

/// The version whose programs run, or ran last.
#[derive(Debug)]
pub struct Predecessor {
    clock_offset: u64,
    /// Those whose fields mean the same to us.
    tables: Vec<Map>,
}

/// Made anew by each version, and with its programs.
const OWN: [&str; 2] = ["RUNTIME", "TRACE"];

impl Predecessor {
    fn open(directory: &Path) -> io::Result<Option<(Self, Map, u64)>> {
        let known = layouts(directory);
        let same = |table: &KernelTable| known.get(table.name) == Some(&table.layout);
        let runtime = table("RUNTIME");
        let Some(word) = Map::pinned(&directory.join(runtime.name))? else { return Ok(None) };
        // Longer or shorter at its end: generation and clock stand in front.
        if !same(runtime) || !word.fits(&MapSpec { value_size: word.spec().value_size, ..spec(runtime, 1) }) {
            return Ok(None);
        }
        let mut tables = Vec::new();
        for table in runtime_tables().iter().filter(|table| !OWN.contains(&table.name) && same(table)) {
            tables.extend(Map::pinned(&directory.join(table.name))?);
        }
        let live = Word::new(&word)?;
        Ok(Some((Self { clock_offset: live.clock_offset(), tables }, word, live.get().epoch)))
    }

    fn table(&self, table: &KernelTable) -> Option<&Map> {
        self.tables.iter().find(|map| map.name() == kernel_name(table.name))
    }

    /// The table itself, where ours would look the same.
    fn same(&self, name: &str) -> io::Result<Option<Map>> {
        let table = table(name);
        let shape = spec(table, 0);
        let fits = |map: &&Map| map.fits(&shape) && (table.max_entries == 0 || map.entries() == table.max_entries);
        self.table(table).filter(fits).map(Map::try_clone).transpose()
    }

    /// Takes over what traffic filled.
    pub fn hand_over(&self, live: &mut Live) -> io::Result<()> {
        live.word.set_clock_offset(self.clock_offset);
        for (name, place) in live.of_traffic() {
            if place.is_none() {
                *place = self.same(name)?;
            }
        }
        Ok(())
    }

    /// Conntrack's tables that ours are others than.
    pub fn conntrack(&self, live: &Live) -> io::Result<Vec<Former>> {
        let mut former = Vec::new();
        for (name, to) in [("CONNTRACK_TCP", &live.conntrack_tcp), ("CONNTRACK_OTHER", &live.conntrack_other)] {
            let Some(to) = to else { continue };
            let like = |from: &&Map| {
                let (from, to) = (from.spec(), to.spec());
                from.map_type == to.map_type && from.key_size == to.key_size && from.value_size.is_multiple_of(8)
            };
            if let Some(from) = self.table(table(name)).filter(|from| from.id() != to.id()).filter(like) {
                former.push(Former { name, from: from.try_clone()?, to: to.try_clone()? });
            }
        }
        Ok(former)
    }
}

impl Kernel {
    /// What another version left, if anything; our epochs go on beyond its own.
    pub(crate) fn predecessor(&mut self) -> Result<Option<Predecessor>> {
        let looking = |cause| failed("looking at", "the tables of another version", cause);
        let others = self.pins.others().map_err(looking)?;
        if others.is_empty() {
            return Ok(None);
        }
        let links = self.netlink.links().map_err(netlink)?;
        let attached = self.attacher.attached(&mut self.netlink, &links).map_err(attach)?;
        let mut found = Vec::new();
        for other in others {
            let Some((predecessor, word, epoch)) = Predecessor::open(&other).map_err(looking)? else { continue };
            self.beyond = self.beyond.max(epoch);
            let runs = attached.iter().any(|found| uses(found.program, word.id()));
            found.push((runs, epoch, predecessor));
        }
        let last = found.into_iter().max_by_key(|(runs, epoch, _)| (*runs, *epoch));
        Ok(last.map(|(.., predecessor)| predecessor))
    }

    /// Pins conntrack's former tables where programs are told to look for them.
    pub(crate) fn pin_former(&mut self, former: &[Former]) -> Result<()> {
        self.pins.make()?;
        for (name, current) in FORMER {
            let path = self.pins.table(name);
            // Of a table that stays, former and new are one.
            let tables = self.live()?.maps();
            let staying = tables.into_iter().find(|(name, _)| *name == current).map(|(_, map)| map);
            let from = former.iter().find(|former| former.name == current).map(|former| &former.from).or(staying);
            let map = from.map(Map::try_clone).transpose();
            let map = map.map_err(|cause| failed("holding", current, cause))?.ok_or_else(not_prepared)?;
            sys::pin_replace(map.as_fd(), &path).map_err(|cause| failed("pinning", path.display(), cause))?;
        }
        Ok(())
    }

    /// Every program on our tables takes flows over from the former ones: brings the rest, and forgets those.
    pub(crate) fn end_move(&mut self, former: &[Former]) -> Result<()> {
        for Former { name, from, to } in former {
            copy_conntrack(from, to).map_err(|cause| failed("moving", name, cause))?;
        }
        self.reload()?;
        for (name, _) in FORMER {
            let path = self.pins.table(name);
            std::fs::remove_file(&path).map_err(|cause| failed("unpinning", path.display(), cause))?;
        }
        Ok(())
    }
}

/// Entries that the new table does not have yet: traffic has the newer ones.
fn copy_conntrack(from: &Map, to: &Map) -> io::Result<()> {
    let mut content = conntrack_of(from)?;
    let there: std::collections::HashSet<ConntrackKey> =
        hash::read::<ConntrackKey, ConntrackEntry>(to)?.into_iter().map(|(key, _)| key).collect();
    content.retain(|(key, _)| !there.contains(key));
    insert_all(to, &content)
}

/// An entry of another version is longer or shorter at its end, and what it does not have is zero.
fn conntrack_of(map: &Map) -> io::Result<Vec<(ConntrackKey, ConntrackEntry)>> {
    let size = map.spec().value_size as usize;
    if size == size_of::<ConntrackEntry>() {
        return hash::read(map);
    }
    let mut content = Vec::new();
    let mut bytes = vec![0; size.max(size_of::<ConntrackEntry>())];
    let mut last = None;
    // Nobody writes to it any more.
    while let Some(key) = sys::next_key::<ConntrackKey>(map.as_fd(), last.as_ref())? {
        if sys::lookup_bytes(map.as_fd(), &key, &mut bytes)? {
            content.push((key, value_of(&bytes).unwrap_or_else(zeroed)));
        }
        last = Some(key);
        if content.len() > map.entries() as usize {
            return Err(io::Error::other("it has more entries than it has room for"));
        }
    }
    Ok(content)
}
