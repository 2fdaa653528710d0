//! Writing the standby side.
use std::{borrow::Cow, collections::BTreeMap, io};

use weir_abi::{Settings, Side};
use weir_plan::{Change, DatapathError, InterfaceName, Prefix4, Prefix6, Service, Table, TablesDelta};
pub(crate) use weir_plan::{address_of, ip_of};

use crate::{
    error::{Result, entry, failed, netlink},
    hash::Edit,
    kernel::{Kernel, not_prepared},
    live::Live,
    prefix_tree::{Tree, TreePrefix, walk, walk_records},
    services::Unstaged,
    sided::{ArrayTable, MappedTable as _, Sided, TreeSide, TreeTable},
    sys::{Plain, zeroed},
};

/// Which of the two prefix trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeName {
    Ipcache,
    Prefilter,
}

impl TreeName {
    pub const fn table(self) -> &'static str {
        match self {
            Self::Ipcache => "IPCACHE",
            Self::Prefilter => "PREFILTER",
        }
    }

    pub fn of(self, live: &mut Live) -> Result<&mut TreeTable> {
        match self {
            Self::Ipcache => live.ipcache.as_mut(),
            Self::Prefilter => live.prefilter.as_mut(),
        }
        .ok_or_else(not_prepared)
    }
}

impl Kernel {
    pub(crate) fn stage_all(&mut self, delta: &TablesDelta) -> Result<()> {
        if delta.is_empty() {
            return Ok(());
        }
        self.ensure_quiet()?;
        let side = self.standby();
        self.orphans |= delta.backends.iter().any(|change| change.from.is_some());
        self.stage_interfaces(side, delta)?;
        let live = self.live()?;
        hash(live.endpoints.as_mut(), side, &delta.endpoints, |address| address_of(*address))?;
        hash(live.subjects.as_mut(), side, &delta.subjects, |identity| *identity)?;
        hash(live.policy.as_mut(), side, &delta.policy, |key| *key)?;
        stage_settings(live, side, &delta.settings)?;
        stage_array(live.classes.as_mut(), side, &delta.classes)?;
        stage_array(live.backends.as_mut(), side, &delta.backends)?;
        stage_services(live, side, &delta.services)?;
        hash(live.source_ranges.as_mut(), side, &delta.source_ranges, |key| *key)?;
        hash(live.frontends.as_mut(), side, &delta.frontends, |key| *key)?;
        self.stage_tree(TreeName::Ipcache, side, &delta.ipcache4, &delta.ipcache6)?;
        self.stage_tree(TreeName::Prefilter, side, &delta.prefilter4, &delta.prefilter6)
    }

    /// Interfaces are keyed by index in the kernel and by name everywhere else.
    fn stage_interfaces(&mut self, side: Side, delta: &TablesDelta) -> Result<()> {
        if delta.interfaces.is_empty() {
            return Ok(());
        }
        let links = self.netlink.links().map_err(netlink)?;
        let now: BTreeMap<&str, u32> = links.iter().map(|link| (link.name.as_str(), link.ifindex)).collect();
        let names = &mut self.names[side.index() as usize];
        let mut changes = BTreeMap::new();
        for change in &delta.interfaces {
            let name: &str = &change.key.0;
            let unnamed = name.strip_prefix('#').and_then(|index| index.parse().ok());
            let former = unnamed.or_else(|| names.get(&change.key).copied());
            match change.to {
                Some(info) => {
                    let index = now
                        .get(name)
                        .copied()
                        .or(unnamed)
                        .ok_or_else(|| DatapathError::InterfaceMissing { interface: change.key.clone() })?;
                    let former = former.unwrap_or(index);
                    changes.entry(former).or_insert((None, None)).0 = change.from;
                    // A device that was made anew under its name leaves the former index behind.
                    changes.entry(index).or_insert((None, None)).1 = Some(info);
                    names.insert(change.key.clone(), index);
                }
                None => {
                    if let Some(index) = former.or_else(|| now.get(name).copied()) {
                        changes.entry(index).or_insert((None, None)).0 = change.from;
                    }
                    names.remove(&change.key);
                }
            }
        }
        let changes: Vec<_> = changes.into_iter().map(|(key, (from, to))| Change { key, from, to }).collect();
        let interfaces = self.live()?.interfaces.as_mut();
        hash(interfaces, side, &changes, |index| *index)
    }

    fn stage_tree(
        &mut self,
        name: TreeName,
        side: Side,
        v4: &[Change<Prefix4, u32>],
        v6: &[Change<Prefix6, u32>],
    ) -> Result<()> {
        if v4.is_empty() && v6.is_empty() {
            return Ok(());
        }
        let table = name.of(self.live()?)?;
        if matches!(table.side(side), TreeSide::Unread(_)) {
            table.read(side);
        }
        let (v4, v6) = match table.side(side) {
            TreeSide::Sound(tree) => (&*differing(tree, v4), &*differing(tree, v6)),
            _ => (v4, v6),
        };
        if v4.is_empty() && v6.is_empty() && matches!(table.side(side), TreeSide::Sound(_)) {
            return Ok(());
        }
        // Edits cost about as much each as eight prefixes of a bulk build.
        let few = v4.len() + v6.len() <= 1024 + table.count(side) as usize / 8;
        if few
            && let TreeSide::Sound(tree) = table.side_mut(side)
            && !tree.is_worn()
        {
            if tree.apply(v4).and_then(|()| tree.apply(v6)).is_ok() {
                return read_back(name, tree, v4).and_then(|()| read_back(name, tree, v6));
            }
            tracing::debug!(table = name.table(), "no line is left, the table grows");
        }
        self.rebuild_tree(name, side, v4, v6)
    }

    /// Builds a side's tree anew: for many changes, for a damaged one, and for one that has outgrown its table.
    fn rebuild_tree(
        &mut self,
        name: TreeName,
        side: Side,
        v4: &[Change<Prefix4, u32>],
        v6: &[Change<Prefix6, u32>],
    ) -> Result<()> {
        let place = name.of(self.live()?)?.side_mut(side);
        let (mut set4, mut set6, mut lines) = match std::mem::replace(place, TreeSide::Taken) {
            TreeSide::Damaged { lines, v4, v6 } => (v4, v6, lines),
            other => {
                let lines = other.into_lines().ok_or_else(not_prepared)?;
                let walked = walk_records(&lines);
                (walked.v4, walked.v6, lines)
            }
        };
        lines.forget();
        set4.apply(v4);
        set6.apply(v6);
        loop {
            match Tree::rebuild(lines, &set4, &set6) {
                Ok(tree) => {
                    verify(name, &tree, &set4, &set6)?;
                    *name.of(self.live()?)?.side_mut(side) = TreeSide::Sound(tree);
                    return Ok(());
                }
                Err((full, _)) => {
                    *name.of(self.live()?)?.side_mut(side) = TreeSide::Unread(full);
                    self.grow_tree(name)?;
                    let place = name.of(self.live()?)?.side_mut(side);
                    lines = std::mem::replace(place, TreeSide::Taken).into_lines().ok_or_else(not_prepared)?;
                }
            }
        }
    }

    /// The next class of a tree's table: both sides copied into larger maps, the programs loaded against them and
    /// swapped in.
    fn grow_tree(&mut self, name: TreeName) -> Result<()> {
        let table = name.of(self.live()?)?;
        let entries = table.sided().entries(Side::A).saturating_mul(2);
        if entries > weir_abi::tree::LINES_MAX {
            return Err(DatapathError::Full { table: name.table(), limit: u64::from(weir_abi::tree::LINES_MAX) });
        }
        *table = table.grown(entries).map_err(|cause| failed("making larger", name.table(), cause))?;
        self.reload()
    }
}

/// The changes that are not made yet. Not asked where there are so many that a bulk build is cheaper than asking.
fn differing<'a, P: TreePrefix>(
    tree: &Tree<crate::mapped::Mapped<weir_abi::tree::Line>>,
    changes: &'a [Change<P, u32>],
) -> Cow<'a, [Change<P, u32>]> {
    if changes.len() > 1 << 14 || tree.count() == 0 || !changes.iter().any(|change| tree.get(change.key) == change.to) {
        return Cow::Borrowed(changes);
    }
    changes.iter().filter(|change| tree.get(change.key) != change.to).copied().collect()
}

fn read_back<P: TreePrefix + std::fmt::Display>(
    name: TreeName,
    tree: &Tree<crate::mapped::Mapped<weir_abi::tree::Line>>,
    changes: &[Change<P, u32>],
) -> Result<()> {
    match changes.iter().find(|change| tree.get(change.key) != change.to) {
        Some(change) => Err(DatapathError::ReadBack { table: name.table(), key: change.key.to_string() }),
        None => Ok(()),
    }
}

fn verify(
    name: TreeName,
    tree: &Tree<crate::mapped::Mapped<weir_abi::tree::Line>>,
    v4: &Table<Prefix4, u32>,
    v6: &Table<Prefix6, u32>,
) -> Result<()> {
    let walked = walk(tree.lines());
    if walked.damaged || walked.v4 != *v4 || walked.v6 != *v6 {
        return Err(DatapathError::ReadBack { table: name.table(), key: "the whole tree".to_owned() });
    }
    Ok(())
}

fn hash<K, N, V>(
    sided: Option<&mut Sided>,
    side: Side,
    changes: &[Change<K, V>],
    native: impl Fn(&K) -> N,
) -> Result<()>
where
    N: Plain + Ord + std::fmt::Debug,
    V: Plain + PartialEq,
{
    if changes.is_empty() {
        return Ok(());
    }
    let sided = sided.ok_or_else(not_prepared)?;
    let mut inserts: Vec<(N, V)> =
        changes.iter().filter_map(|change| change.to.map(|value| (native(&change.key), value))).collect();
    inserts.sort_unstable_by_key(|entry| entry.0);
    let (keys, values) = inserts.into_iter().unzip();
    let delete = changes.iter().filter(|change| change.to.is_none()).map(|change| native(&change.key)).collect();
    // Unknown, should it fail.
    let known = sided.known[side.index() as usize].take();
    Edit { table: sided.table.name, map: sided.side(side), delete, keys, values }.run(|key| format!("{key:?}"))?;
    sided.known[side.index() as usize] = known.map(|mut known| {
        for change in changes {
            known.change(&native(&change.key), change.from.as_ref(), change.to.as_ref());
        }
        known
    });
    Ok(())
}

fn stage_settings(live: &mut Live, side: Side, changes: &[Change<u32, Settings>]) -> Result<()> {
    let table = live.settings.as_mut().ok_or_else(not_prepared)?.side_mut(side);
    if let Some(change) = changes.last() {
        table.set(0, change.to.unwrap_or_else(zeroed));
    }
    Ok(())
}

fn stage_array<T: Plain + PartialEq + Default>(
    table: Option<&mut ArrayTable<T>>,
    side: Side,
    changes: &[Change<u32, T>],
) -> Result<()> {
    let table = table.ok_or_else(not_prepared)?;
    let name = table.sided().table.name;
    let table = table.side_mut(side);
    for change in changes {
        let index = change.key as usize;
        match change.to {
            _ if index < table.len() => table.set(index, change.to.unwrap_or_default()),
            None => {}
            Some(_) => {
                let cause = io::Error::from_raw_os_error(libc::E2BIG);
                return Err(entry("writing to", name, change.key, cause));
            }
        }
    }
    Ok(())
}

fn stage_services(live: &mut Live, side: Side, changes: &[Change<u32, Service>]) -> Result<()> {
    let table = live.services.as_mut().ok_or_else(not_prepared)?;
    table.stage(side, changes).map_err(|why| match why {
        Unstaged::NoRoom(service) => {
            entry("writing to", "SERVICES", service, io::Error::from_raw_os_error(libc::E2BIG))
        }
        Unstaged::ReadBack => DatapathError::ReadBack { table: "SERVICES", key: "the whole side".to_owned() },
    })
}

/// What an index is called when no device has it.
pub(crate) fn unnamed(index: u32) -> InterfaceName {
    InterfaceName(format!("#{index}").into())
}
