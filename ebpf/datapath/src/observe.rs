//! Reading everything back.
use std::{collections::BTreeMap, sync::Arc};

use weir_abi::{
    Address, BackendInfo, EndpointInfo, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey,
    PrefilterClass, Settings, Side, SourceRangeKey, SubjectInfo,
};
use weir_plan::{InterfaceName, Observed, Table, Tables};

use crate::{
    digest::Known,
    error::{Result, entry, netlink},
    hash,
    kernel::Kernel,
    mapped::Mapped,
    sided::{Sided, TreeTable},
    stage::{ip_of, unnamed},
    sys::{Plain, zeroed},
};

impl Kernel {
    pub(crate) fn observe_all(&mut self) -> Result<Option<Observed>> {
        if self.live.is_none() {
            return Ok(None);
        }
        let links = self.netlink.links().map_err(netlink)?;
        let names: BTreeMap<u32, InterfaceName> =
            links.iter().map(|link| (link.ifindex, InterfaceName(link.name.as_str().into()))).collect();
        let mut sides = [self.observe_side(Side::A, &names)?, self.observe_side(Side::B, &names)?];
        let live = self.live()?;
        for (side, sets) in sides.iter_mut().zip(live.ipcache.as_mut().map(TreeTable::read_both).unwrap_or_default()) {
            (side.ipcache4, side.ipcache6) = sets;
        }
        for (side, sets) in sides.iter_mut().zip(live.prefilter.as_mut().map(TreeTable::read_both).unwrap_or_default())
        {
            (side.prefilter4, side.prefilter6) = sets;
        }
        let [a, b] = sides;
        let a = Arc::new(a);
        // Mostly both are the same: one copy then.
        let b = if *a == b { a.clone() } else { Arc::new(b) };
        let wiring = self.observe_wiring(&links)?;
        let live = self.live()?;
        Ok(Some(Observed { generation: live.word.get(), sides: [a, b], wiring, capacity: live.capacity() }))
    }

    /// All but the prefix trees.
    fn observe_side(&mut self, side: Side, names: &BTreeMap<u32, InterfaceName>) -> Result<Tables> {
        let live = self.live()?;
        let mut tables = Tables::default();
        if let Some(table) = &mut live.settings {
            let table = table.side_mut(side);
            let before = table.digest();
            let settings: Settings = table.get(0);
            table.was_read(before);
            if settings != zeroed() {
                tables.settings.insert(0, settings);
            }
        }
        if let Some(table) = &mut live.classes {
            let table = table.side_mut(side);
            tables.classes = read_array(table, PrefilterClass::default());
        }
        if let Some(table) = &mut live.backends {
            tables.backends = read_array(table.side_mut(side), BackendInfo::default());
        }
        if let Some(table) = &mut live.services {
            tables.services = table.read(side);
        }
        tables.frontends = Table::from_unsorted(read::<FrontendKey, FrontendInfo>(live.frontends.as_mut(), side)?);
        tables.source_ranges = Table::from_unsorted(read::<SourceRangeKey, u32>(live.source_ranges.as_mut(), side)?);
        let interfaces = read::<u32, InterfaceInfo>(live.interfaces.as_mut(), side)?;
        tables.endpoints = read::<Address, EndpointInfo>(live.endpoints.as_mut(), side)?
            .into_iter()
            .map(|(address, info)| (ip_of(&address), info))
            .collect();
        tables.subjects = Table::from_unsorted(read::<u32, SubjectInfo>(live.subjects.as_mut(), side)?);
        tables.policy = Table::from_unsorted(read::<PolicyKey, PolicyEntry>(live.policy.as_mut(), side)?);
        let name = |index: u32| names.get(&index).cloned().unwrap_or_else(|| unnamed(index));
        self.names[side.index() as usize] = interfaces.iter().map(|(index, _)| (name(*index), *index)).collect();
        tables.interfaces = interfaces.into_iter().map(|(index, info)| (name(index), info)).collect();
        Ok(tables)
    }
}

/// What is not `none`, by index; index 0 is never used.
fn read_array<T: Plain + PartialEq>(table: &mut Mapped<T>, none: T) -> Table<u32, T> {
    let before = table.digest();
    let values =
        (1..table.len()).map(|index| (index as u32, table.get(index))).filter(|(_, value)| *value != none).collect();
    table.was_read(before);
    values
}

fn read<K: Plain + Ord, V: Plain>(sided: Option<&mut Sided>, side: Side) -> Result<Vec<(K, V)>> {
    let Some(sided) = sided else { return Ok(Vec::new()) };
    let entries =
        hash::read(sided.side(side)).map_err(|cause| entry("reading from", sided.table.name, "all entries", cause))?;
    sided.known[side.index() as usize] = Some(Known::of(&entries));
    Ok(entries)
}
