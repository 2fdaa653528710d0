//! Faults of services that a comparison must see.
use std::sync::Arc;

use weir_abi::{Settings, frontend_flags, settings_flags};
use weir_plan::{Table, Tables};

fn frontends(tables: &mut Tables, change: fn(u32) -> u32) {
    let changed = tables.frontends.iter().map(|(key, info)| {
        let mut info = *info;
        info.flags = change(info.flags);
        (*key, info)
    });
    tables.frontends = Table::from_unsorted(changed.collect());
}

fn settings(tables: &mut Tables, change: fn(&mut Settings)) {
    let changed = tables.settings.iter().map(|(key, settings)| {
        let mut settings = *settings;
        change(&mut settings);
        (*key, settings)
    });
    tables.settings = Table::from_unsorted(changed.collect());
}

/// What it is called, and what it does to compiled tables.
pub type Fault = (&'static str, fn(&mut Tables));

pub const FAULTS: &[Fault] = &[
    ("the other ports of an address are left to themselves", |tables| {
        let others = tables.frontends.iter().filter(|(key, _)| !key.is_address());
        tables.frontends = Table::from_unsorted(others.map(|(key, info)| (*key, *info)).collect());
    }),
    ("cluster addresses are open to everybody", |tables| frontends(tables, |flags| flags | frontend_flags::EXTERNAL)),
    ("externalTrafficPolicy is forgotten", |tables| frontends(tables, |flags| flags & !frontend_flags::EXTERNAL_LOCAL)),
    ("internalTrafficPolicy is forgotten", |tables| frontends(tables, |flags| flags & !frontend_flags::INTERNAL_LOCAL)),
    ("source ranges are forgotten", |tables| frontends(tables, |flags| flags & !frontend_flags::SOURCE_RANGES)),
    ("IPv6 source ranges are lost", |tables| {
        let services = tables.services.iter().map(|(number, service)| {
            let mut service = service.clone();
            service.ranges_v6 = [0; 3];
            (*number, service)
        });
        tables.services = Table::from_unsorted(services.collect());
    }),
    ("local backends are all backends", |tables| {
        let services = tables.services.iter().map(|(number, service)| {
            let mut service = service.clone();
            service.local_slots = Arc::clone(&service.slots);
            (*number, service)
        });
        tables.services = Table::from_unsorted(services.collect());
    }),
    ("backends' ports are in the wrong byte order", |tables| {
        let backends = tables.backends.iter().map(|(number, info)| {
            let mut info = *info;
            info.port_be = info.port_be.swap_bytes();
            (*number, info)
        });
        tables.backends = Table::from_unsorted(backends.collect());
    }),
];

/// Faults of what is seen outside.
pub const OUTWARD_FAULTS: &[Fault] = &[
    ("nothing is masqueraded", |tables| settings(tables, |settings| settings.flags &= !settings_flags::MASQUERADE)),
    ("the cluster is masqueraded too", |tables| {
        let others = tables.source_ranges.iter().filter(|(key, _)| key.service != 0);
        tables.source_ranges = Table::from_unsorted(others.map(|(key, value)| (*key, *value)).collect());
    }),
    ("IPv4 has one length of exempt prefixes", |tables| {
        settings(tables, |settings| settings.exempt_v4 &= settings.exempt_v4.wrapping_neg());
    }),
    ("long exempt prefixes of IPv6 are lost", |tables| settings(tables, |settings| settings.exempt_v6[1..].fill(0))),
];
