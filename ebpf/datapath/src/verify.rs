//! Whether everything is as this process last knew it, without reading the tables back.
//!
//! A table that was built whole, or made larger, is not known until it was read back once: a digest taken later could
//! be one of what somebody else wrote in between.
use std::collections::BTreeMap;

use weir_abi::{
    Address, EndpointInfo, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey, Side, SourceRangeKey,
    SubjectInfo,
};
use weir_plan::{InterfaceName, Observed};

use crate::{
    error::{Result, entry, failed, netlink},
    kernel::Kernel,
    live::Live,
    maps::Map,
    programs::Programs,
    sided::Sided,
    stage::unnamed,
    sys::Plain,
};

impl Kernel {
    /// `known`: what was observed, with what was staged since.
    pub(crate) fn is_as(&mut self, known: &Observed) -> Result<bool> {
        if !self.current || !self.pinned || !self.is_pinned()? {
            return Ok(false);
        }
        let Some(live) = &mut self.live else { return Ok(false) };
        if live.word.get() != known.generation || live.capacity() != known.capacity {
            return Ok(false);
        }
        let links = self.netlink.links().map_err(netlink)?;
        let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.ifindex, link.name.as_str())).collect();
        let name = |index: u32| names.get(&index).map_or_else(|| unnamed(index), |name| InterfaceName((*name).into()));
        if self.names.iter().flatten().any(|(former, index)| name(*index) != *former) {
            return Ok(false);
        }
        if !live.mapped_are_known() || !live.hashes_are_known()? {
            return Ok(false);
        }
        Ok(self.observe_wiring(&links)? == known.wiring)
    }

    /// Whether the tables and programs at the pins are those that this process works with.
    fn is_pinned(&self) -> Result<bool> {
        let (Some(live), Some(programs)) = (&self.live, &self.programs) else { return Ok(false) };
        let opening = |cause| failed("opening", self.pins.root().display(), cause);
        for (name, map) in live.maps() {
            if Map::pinned(&self.pins.table(name)).map_err(opening)?.is_none_or(|pinned| pinned.id() != map.id()) {
                return Ok(false);
            }
        }
        for sided in live.sided() {
            if !sided.is_connected().map_err(opening)? {
                return Ok(false);
            }
        }
        let pinned = Programs::pinned(&self.pins, self.options.trace).map_err(opening)?;
        let ids = |programs: &Programs| programs.all().map(|(hook, info)| (hook, info.id)).collect::<Vec<_>>();
        Ok(pinned.is_some_and(|(pinned, current)| current && ids(&pinned) == ids(programs)))
    }
}

impl Live {
    fn mapped_are_known(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            self.settings.as_ref().is_some_and(|table| table.side(side).is_as_known())
                && self.classes.as_ref().is_some_and(|table| table.side(side).is_as_known())
                && self.backends.as_ref().is_some_and(|table| table.side(side).is_as_known())
                && self.services.as_ref().is_some_and(|table| table.is_as_known(side))
                && [&self.ipcache, &self.prefilter].into_iter().all(|table| {
                    let lines = table.as_ref().and_then(|table| table.side(side).lines());
                    lines.is_some_and(|lines| lines.is_as_known())
                })
        })
    }

    fn hashes_are_known(&self) -> Result<bool> {
        for side in Side::BOTH {
            let known = holds::<u32, InterfaceInfo>(self.interfaces.as_ref(), side)?
                && holds::<Address, EndpointInfo>(self.endpoints.as_ref(), side)?
                && holds::<u32, SubjectInfo>(self.subjects.as_ref(), side)?
                && holds::<PolicyKey, PolicyEntry>(self.policy.as_ref(), side)?
                && holds::<FrontendKey, FrontendInfo>(self.frontends.as_ref(), side)?
                && holds::<SourceRangeKey, u32>(self.source_ranges.as_ref(), side)?;
            if !known {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn holds<K: Plain, V: Plain>(sided: Option<&Sided>, side: Side) -> Result<bool> {
    let Some(sided) = sided else { return Ok(false) };
    let Some(known) = sided.known[side.index() as usize] else { return Ok(false) };
    known.holds::<K, V>(sided.side(side)).map_err(|cause| entry("reading from", sided.table.name, "all entries", cause))
}
