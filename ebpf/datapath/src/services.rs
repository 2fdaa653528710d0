//! Services: `SERVICES`, an array of what is known of each, and `SLOTS`, the lines that they point into.
//!
//! Where a service's slots stand is known here only. Each side has a layout of its own: a block of lines is taken where
//! it fits first, and when none fits the side is written anew without gaps. That always succeeds: the table is made as
//! large as all slots together before anything is staged.
use std::{collections::BTreeMap, io, sync::Arc};

use weir_abi::{ServiceInfo, Side, service_flags, tree::Line};
use weir_plan::{Change, Service, Table};

use crate::{
    live::{class, grown_class, table},
    sided::{ArrayTable, MappedTable, Sided},
};

const SERVICES: usize = 64;
const LINES: usize = 64;
/// Slots of a line.
const WIDTH: usize = 16;

#[derive(Debug)]
pub struct ServiceTable {
    services: ArrayTable<ServiceInfo>,
    slots: ArrayTable<Line>,
    /// Lines that no service has, by side; `None` where that was not looked at, or the services contradict each other.
    free: [Option<Free>; 2],
}

/// Why a side does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstaged {
    /// For this service.
    NoRoom(u32),
    /// What was read back is not what was written.
    ReadBack,
}

impl ServiceTable {
    pub fn create(services: usize, lines: usize) -> io::Result<Self> {
        Ok(Self {
            services: MappedTable::create(table("SERVICES"), class(services, SERVICES))?,
            slots: MappedTable::create(table("SLOTS"), class(lines, LINES))?,
            free: [None, None],
        })
    }

    /// Both, or neither.
    pub fn open(services: Option<ArrayTable<ServiceInfo>>, slots: Option<ArrayTable<Line>>) -> Option<Self> {
        Some(Self { services: services?, slots: slots?, free: [None, None] })
    }

    pub fn sided(&self) -> [&Sided; 2] {
        [self.services.sided(), self.slots.sided()]
    }

    pub fn pending_stores(&self) -> u64 {
        self.services.pending_stores() + self.slots.pending_stores()
    }

    pub fn is_as_known(&self, side: Side) -> bool {
        self.services.side(side).is_as_known() && self.slots.side(side).is_as_known()
    }

    /// Makes room for so many services and lines of slots. Whether anything had to be made larger.
    pub fn grow(&mut self, services: usize, lines: usize) -> io::Result<bool> {
        let mut grown = false;
        if (self.services.sided().entries(Side::A) as usize) < services {
            self.services = self.services.grown(grown_class(services))?;
            grown = true;
        }
        if (self.slots.sided().entries(Side::A) as usize) < lines {
            self.slots = self.slots.grown(grown_class(lines))?;
            self.free = [None, None];
            grown = true;
        }
        Ok(grown)
    }

    /// Reads a side back, whole.
    pub fn read(&mut self, side: Side) -> Table<u32, Service> {
        let before = (self.services.side(side).digest(), self.slots.side(side).digest());
        let services = (1..self.services.side(side).len()).filter_map(|number| {
            let info = self.services.side(side).get(number);
            (info != ServiceInfo::default()).then(|| (number as u32, self.service(side, &info)))
        });
        let services = services.collect();
        self.services.side_mut(side).was_read(before.0);
        self.slots.side_mut(side).was_read(before.1);
        services
    }

    fn service(&self, side: Side, info: &ServiceInfo) -> Service {
        let slots = self.slots(side, info.slots, info.slot_count);
        let shared = (info.slots, info.slot_count) == (info.local_slots, info.local_count);
        let local_slots =
            if shared { Arc::clone(&slots) } else { self.slots(side, info.local_slots, info.local_count) };
        Service {
            // Without the bit it is not one that was written here, and so no service at all that anybody wants.
            flags: info.flags ^ service_flags::EXISTS,
            affinity: info.affinity,
            slots,
            local_slots,
            ranges_v4: info.ranges_v4,
            ranges_v6: info.ranges_v6,
        }
    }

    /// What lies outside the table reads as nothing.
    fn slots(&self, side: Side, first: u32, count: u32) -> Arc<[u32]> {
        let (first, count) = (first as usize, count as usize);
        let lines = self.slots.side(side);
        if first.saturating_add(count.div_ceil(WIDTH)) > lines.len() {
            return [].into();
        }
        (0..count).map(|slot| lines.get(first + slot / WIDTH).0[slot % WIDTH]).collect()
    }

    /// Writes to a side.
    pub fn stage(&mut self, side: Side, changes: &[Change<u32, Service>]) -> Result<(), Unstaged> {
        if changes.is_empty() {
            return Ok(());
        }
        let room = self.services.side(side).len();
        if let Some(beyond) = changes.iter().find(|change| change.key as usize >= room && change.to.is_some()) {
            return Err(Unstaged::NoRoom(beyond.key));
        }
        if self.free[side.index() as usize].is_none() {
            self.free[side.index() as usize] = self.unused(side);
        }
        let placed = match self.free[side.index() as usize].take() {
            Some(mut free) => {
                let placed = changes.iter().all(|change| self.put(side, &mut free, change));
                self.free[side.index() as usize] = Some(free).filter(|_| placed);
                placed
            }
            None => false,
        };
        if placed { Ok(()) } else { self.rewrite(side, changes) }
    }

    /// False where no block is large enough; the service is not there then.
    fn put(&mut self, side: Side, free: &mut Free, change: &Change<u32, Service>) -> bool {
        let number = change.key as usize;
        if number >= self.services.side(side).len() {
            return true;
        }
        let former = self.services.side(side).get(number);
        blocks(&former).into_iter().flatten().for_each(|(first, lines)| free.give(first, lines));
        let Some(service) = &change.to else {
            self.services.side_mut(side).set(number, ServiceInfo::default());
            return true;
        };
        let Some(slots) = free.take(lines(&service.slots)) else {
            self.services.side_mut(side).set(number, ServiceInfo::default());
            return false;
        };
        self.write(side, slots, &service.slots);
        let local = if service.local_slots == service.slots {
            slots
        } else {
            let Some(local) = free.take(lines(&service.local_slots)) else {
                free.give(slots, lines(&service.slots));
                self.services.side_mut(side).set(number, ServiceInfo::default());
                return false;
            };
            self.write(side, local, &service.local_slots);
            local
        };
        let info = ServiceInfo {
            slots,
            slot_count: service.slots.len() as u32,
            local_slots: local,
            local_count: service.local_slots.len() as u32,
            flags: service.flags | service_flags::EXISTS,
            affinity: service.affinity,
            ranges_v4: service.ranges_v4,
            ranges_v6: service.ranges_v6,
            reserved: 0,
        };
        self.services.side_mut(side).set(number, info);
        true
    }

    fn write(&mut self, side: Side, first: u32, slots: &[u32]) {
        let lines = self.slots.side_mut(side);
        for (index, chunk) in slots.chunks(WIDTH).enumerate() {
            let mut line = Line([0; WIDTH]);
            line.0[..chunk.len()].copy_from_slice(chunk);
            lines.set(first as usize + index, line);
        }
    }

    /// The whole side without gaps.
    fn rewrite(&mut self, side: Side, changes: &[Change<u32, Service>]) -> Result<(), Unstaged> {
        let mut all = self.read(side);
        all.apply(changes);
        self.services.side_mut(side).forget();
        self.slots.side_mut(side).forget();
        let room = self.services.side(side).len();
        for number in 1..room {
            self.services.side_mut(side).set(number, ServiceInfo::default());
        }
        let mut free = Free::all(self.slots.side(side).len() as u32);
        for (number, service) in &all {
            let change = Change { key: *number, from: None, to: Some(service.clone()) };
            if !self.put(side, &mut free, &change) {
                return Err(Unstaged::NoRoom(*number));
            }
        }
        self.free[side.index() as usize] = Some(free);
        // What was forgotten is known again: it was compared as it was written, and is read back now.
        if self.read(side) == all { Ok(()) } else { Err(Unstaged::ReadBack) }
    }

    /// `None`: two services have a line in common, or one is outside the table.
    fn unused(&self, side: Side) -> Option<Free> {
        let mut free = Free::all(self.slots.side(side).len() as u32);
        let services = self.services.side(side);
        for number in 1..services.len() {
            for (first, lines) in blocks(&services.get(number)).into_iter().flatten() {
                if !free.cut(first, lines) {
                    return None;
                }
            }
        }
        Some(free)
    }
}

/// Lines that the slots of all services take together, with some to spare for gaps.
pub fn slot_lines(services: &Table<u32, Service>) -> usize {
    let of = |service: &Service| {
        let shared = service.local_slots == service.slots;
        lines(&service.slots) + if shared { 0 } else { lines(&service.local_slots) }
    };
    let all: usize = services.iter().map(|(_, service)| of(service) as usize).sum();
    all + all / 4
}

fn lines(slots: &[u32]) -> u32 {
    slots.len().div_ceil(WIDTH) as u32
}

/// The blocks of lines that a service has.
fn blocks(info: &ServiceInfo) -> [Option<(u32, u32)>; 2] {
    let width = WIDTH as u32;
    let block = |first, count: u32| (count > 0).then(|| (first, count.div_ceil(width)));
    let shared = (info.slots, info.slot_count) == (info.local_slots, info.local_count);
    [block(info.slots, info.slot_count), if shared { None } else { block(info.local_slots, info.local_count) }]
}

/// Lines that are free: first line and number of each run, no two of which touch.
#[derive(Debug)]
struct Free(BTreeMap<u32, u32>);

impl Free {
    fn all(lines: u32) -> Self {
        Self([(0, lines)].into_iter().filter(|(_, lines)| *lines > 0).collect())
    }

    /// No line at all is found anywhere.
    fn take(&mut self, lines: u32) -> Option<u32> {
        if lines == 0 {
            return Some(0);
        }
        let (first, found) =
            self.0.iter().find(|(_, found)| **found >= lines).map(|(first, found)| (*first, *found))?;
        self.0.remove(&first);
        if found > lines {
            self.0.insert(first + lines, found - lines);
        }
        Some(first)
    }

    /// Takes these very lines; false if one of them is not free.
    fn cut(&mut self, first: u32, lines: u32) -> bool {
        let Some((start, found)) = self.0.range(..=first).next_back().map(|(start, found)| (*start, *found)) else {
            return false;
        };
        let (Some(end), run_end) = (first.checked_add(lines), start + found) else { return false };
        if end > run_end {
            return false;
        }
        self.0.remove(&start);
        if first > start {
            self.0.insert(start, first - start);
        }
        if run_end > end {
            self.0.insert(end, run_end - end);
        }
        true
    }

    fn give(&mut self, first: u32, lines: u32) {
        if lines == 0 {
            return;
        }
        let (mut first, mut lines) = (first, lines);
        if let Some((start, found)) = self.0.range(..first).next_back().map(|(start, found)| (*start, *found))
            && start + found == first
        {
            self.0.remove(&start);
            (first, lines) = (start, lines + found);
        }
        if let Some(found) = self.0.remove(&(first + lines)) {
            lines += found;
        }
        self.0.insert(first, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_grows_together() {
        let mut free = Free::all(16);
        let blocks: Vec<u32> = (0..4).filter_map(|_| free.take(4)).collect();
        assert_eq!(blocks, [0, 4, 8, 12]);
        assert_eq!(free.take(1), None);
        free.give(4, 4);
        free.give(12, 4);
        assert_eq!(free.take(5), None, "two blocks apart are no larger one");
        free.give(8, 4);
        assert_eq!(free.take(12), Some(4));
        assert!(free.0.is_empty());
    }

    #[test]
    fn a_line_that_is_taken_cannot_be_cut() {
        let mut free = Free::all(16);
        assert!(free.cut(4, 4));
        assert!(!free.cut(7, 2));
        assert!(!free.cut(14, 3), "behind the table's end");
        assert!(free.cut(8, 8));
        assert_eq!(free.take(5), None);
        assert_eq!(free.take(4), Some(0));
    }
}
