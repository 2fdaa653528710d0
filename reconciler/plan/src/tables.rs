use std::net::IpAddr;

use weir_abi::{
    BackendInfo, EndpointInfo, FrontendInfo, FrontendKey, InterfaceInfo, PolicyEntry, PolicyKey, PrefilterClass,
    Settings, SourceRangeKey, SubjectInfo,
};

use crate::{Change, InterfaceName, Prefix4, Prefix6, Service, Show, Table, WiringDelta};

/// Generates, from the one list of tables, everything that has a part per table.
macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident $field:ident $name:literal: $key:ty => $value:ty;)*) => {
        /// The content of every table that manifests fill: one side.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Tables { $($(#[$doc])* pub $field: Table<$key, $value>,)* }

        /// What turns one [`Tables`] into another, per table, sorted by key.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct TablesDelta { $(pub $field: Vec<Change<$key, $value>>,)* }

        /// One change of any table, borrowed: there may be millions of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AnyChange<'a> {
            $($variant(&'a Change<$key, $value>),)*
            Device(&'a Change<InterfaceName, crate::Device>),
            Hook(&'a Change<crate::HookKey, crate::HookState>),
        }

        impl Tables {
            /// The names, as they stand in plans, status and JSON.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            pub fn diff(&self, to: &Self) -> TablesDelta {
                TablesDelta { $($field: self.$field.diff(&to.$field),)* }
            }

            pub fn apply(&mut self, delta: &TablesDelta) {
                $(self.$field.apply(&delta.$field);)*
            }

            /// Entries per table, in the order of [`Self::NAMES`].
            pub fn lengths(&self) -> Vec<(&'static str, usize)> {
                vec![$(($name, self.$field.len()),)*]
            }

            pub fn is_empty(&self) -> bool {
                true $(&& self.$field.is_empty())*
            }
        }

        impl TablesDelta {
            pub fn is_empty(&self) -> bool {
                true $(&& self.$field.is_empty())*
            }

            pub fn len(&self) -> usize {
                0 $(+ self.$field.len())*
            }

            pub fn changes(&self) -> impl Iterator<Item = AnyChange<'_>> {
                std::iter::empty()$(.chain(self.$field.iter().map(AnyChange::$variant)))*
            }

            fn push(&mut self, change: AnyChange<'_>) {
                match change {
                    $(AnyChange::$variant(change) => self.$field.push(change.clone()),)*
                    AnyChange::Device(_) | AnyChange::Hook(_) => {}
                }
            }
        }

        impl AnyChange<'_> {
            pub const fn table(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::Device(_) => "devices",
                    Self::Hook(_) => "hooks",
                }
            }

            /// (key, from, to) as text for people and JSON.
            pub fn show(&self) -> (String, Option<String>, Option<String>) {
                match self {
                    $(Self::$variant(change) => show(change),)*
                    Self::Device(change) => show(change),
                    Self::Hook(change) => show(change),
                }
            }

            /// The change without formatting it: what a digest is computed over.
            pub(crate) fn hash_into(&self, to: &mut impl std::hash::Hasher) {
                use std::hash::Hash;
                self.table().hash(to);
                match self {
                    $(Self::$variant(change) => change.hash(to),)*
                    Self::Device(change) => change.hash(to),
                    Self::Hook(change) => change.hash(to),
                }
            }

            pub const fn action(&self) -> crate::Action {
                const fn action<K, V>(change: &Change<K, V>) -> crate::Action {
                    match (&change.from, &change.to) {
                        (None, _) => crate::Action::Create,
                        (_, None) => crate::Action::Delete,
                        _ => crate::Action::Update,
                    }
                }
                match self {
                    $(Self::$variant(change) => action(change),)*
                    Self::Device(change) => action(change),
                    Self::Hook(change) => action(change),
                }
            }
        }
    };
}

fn show<K: Show, V: Show>(change: &Change<K, V>) -> (String, Option<String>, Option<String>) {
    (change.key.show(), change.from.as_ref().map(Show::show), change.to.as_ref().map(Show::show))
}

tables! {
    /// Exactly one entry, key 0.
    Setting settings "settings": u32 => Settings;
    /// By name; the datapath knows the ifindex. A live entry of an ifindex that no interface has is named `#<ifindex>`.
    Interface interfaces "interfaces": InterfaceName => InterfaceInfo;
    Endpoint endpoints "endpoints": IpAddr => EndpointInfo;
    /// Prefix to identity; what no prefix covers is `world`.
    Ipcache4 ipcache4 "ipcache4": Prefix4 => u32;
    Ipcache6 ipcache6 "ipcache6": Prefix6 => u32;
    Subject subjects "subjects": u32 => SubjectInfo;
    Policy policy "policy": PolicyKey => PolicyEntry;
    /// Prefix to class number; overlaps are resolved, so the longest match alone decides.
    Prefilter4 prefilter4 "prefilter4": Prefix4 => u32;
    Prefilter6 prefilter6 "prefilter6": Prefix6 => u32;
    /// Class 0 is never listed.
    Class classes "prefilter_classes": u32 => PrefilterClass;
    Frontend frontends "frontends": FrontendKey => FrontendInfo;
    /// Service 0 is never listed.
    Service services "services": u32 => Service;
    /// Backend 0 is never listed.
    Backend backends "backends": u32 => BackendInfo;
    /// The value is always 1.
    SourceRange source_ranges "source_ranges": SourceRangeKey => u32;
}

/// Changes of tables and of wiring together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub tables: TablesDelta,
    pub wiring: WiringDelta,
}

impl Delta {
    /// Every change, table by table, sorted by key within each.
    pub fn changes(&self) -> impl Iterator<Item = AnyChange<'_>> {
        self.tables.changes().chain(self.wiring.changes())
    }

    pub fn push(&mut self, change: AnyChange<'_>) {
        match change {
            AnyChange::Device(change) => self.wiring.devices.push(change.clone()),
            AnyChange::Hook(change) => self.wiring.hooks.push(change.clone()),
            change => self.tables.push(change),
        }
    }

    pub fn len(&self) -> usize {
        self.tables.len() + self.wiring.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.wiring.is_empty()
    }
}

/// What must fit, beyond the entries themselves: how large the tables of traffic are made. Changing one of these makes
/// that table anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub conntrack_tcp: u32,
    pub conntrack_other: u32,
    pub fragments: u32,
    pub affinity: u32,
    pub nat: u32,
    pub sockets: u32,
    /// Highest rule number + 1 that must have a counter.
    pub rules: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            conntrack_tcp: 1 << 20,
            conntrack_other: 1 << 18,
            fragments: 8192,
            affinity: 1 << 16,
            nat: 1 << 18,
            sockets: 1 << 16,
            rules: 1024,
        }
    }
}
