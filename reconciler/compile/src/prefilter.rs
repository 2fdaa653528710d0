//! Overlapping prefixes of many filters, resolved into one table in which the longest match alone decides.
//!
//! A sweep over all prefixes in sorted order with a stack of those that cover the current one: half a million cost
//! some 20 ms. What covers a prefix is interned as a state, so that the work per prefix is two small lookups and no
//! allocation.
use std::collections::HashMap;

use weir_abi::{ACTION_DROP, ACTION_ENDPOINT_RANGE, ClassCell, PrefilterClass, SIDE_DESTINATION};
use weir_plan::{Prefix4, Prefix6};

/// Where a prefix comes from; index into [`Sweep::sources`].
pub(crate) type SourceId = u32;

/// What being covered by a prefix means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Index into [`Sweep::filters`].
    pub filter: u32,
    pub role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Dropped under this rule number.
    Drop { rule: u32 },
    /// Dropped as a destination unless an endpoint has the address.
    EndpointRange { rule: u32 },
    /// Never dropped by this filter, be it source or destination.
    Allow,
}

/// What a filter drops by, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    /// [`weir_abi::SIDE_SOURCE`] or [`SIDE_DESTINATION`].
    pub side: usize,
    /// Bit per interface group.
    pub groups: u32,
}

pub(crate) trait Prefix: Copy + Ord {
    fn covers(&self, other: &Self) -> bool;
    fn length(&self) -> u8;
    /// The prefix of this length that covers it.
    fn shortened(&self, length: u8) -> Self;
}

impl Prefix for Prefix4 {
    fn covers(&self, other: &Self) -> bool {
        Self::covers(self, other)
    }

    fn length(&self) -> u8 {
        self.length
    }

    fn shortened(&self, length: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        Self { bits: self.bits & mask, length }
    }
}

impl Prefix for Prefix6 {
    fn covers(&self, other: &Self) -> bool {
        Self::covers(self, other)
    }

    fn length(&self) -> u8 {
        self.length
    }

    fn shortened(&self, length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Self::from_bits(self.bits() & mask, length)
    }
}

type StateId = u32;

/// What holds below some chain of prefixes. Of filters that drop, the first explains; of one filter's lists, the one
/// whose prefix is the most specific.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    /// (filter, rule), by filter
    drops: Vec<(u32, u32)>,
    ranges: Vec<(u32, u32)>,
    /// Filters that allow; sorted.
    allowed: Vec<u32>,
}

impl State {
    fn enter(&self, source: Source) -> Self {
        let mut next = self.clone();
        let filter = source.filter;
        if next.allowed.binary_search(&filter).is_ok() {
            return next;
        }
        let put = |list: &mut Vec<(u32, u32)>, rule| match list.binary_search_by_key(&filter, |(other, _)| *other) {
            Ok(at) => list[at].1 = rule,
            Err(at) => list.insert(at, (filter, rule)),
        };
        match source.role {
            Role::Drop { rule } => put(&mut next.drops, rule),
            Role::EndpointRange { rule } => put(&mut next.ranges, rule),
            Role::Allow => {
                next.drops.retain(|(other, _)| *other != filter);
                next.ranges.retain(|(other, _)| *other != filter);
                let at = next.allowed.partition_point(|other| *other < filter);
                next.allowed.insert(at, filter);
            }
        }
        next
    }

    fn class(&self, filters: &[Columns]) -> PrefilterClass {
        let mut class = PrefilterClass::default();
        let mut fill = |filter: u32, side: usize, cell: ClassCell| {
            let mut groups = filters[filter as usize].groups;
            while groups != 0 {
                let at = groups.trailing_zeros() as usize * 2 + side;
                if class.cells[at] == ClassCell::default() {
                    class.cells[at] = cell;
                }
                groups &= groups - 1;
            }
        };
        for (filter, rule) in &self.drops {
            fill(*filter, filters[*filter as usize].side, ClassCell::new(*rule, ACTION_DROP));
        }
        for (filter, rule) in &self.ranges {
            fill(*filter, SIDE_DESTINATION, ClassCell::new(*rule, ACTION_ENDPOINT_RANGE));
        }
        class
    }
}

#[derive(Debug)]
struct Known {
    state: State,
    class: u32,
    /// The step that was taken last: siblings take the same again and again.
    last_step: (SourceId, StateId),
}

struct Frame<P> {
    prefix: P,
    state: StateId,
    class: u32,
}

/// One sweep over both families, so that they share classes.
#[derive(Debug)]
pub(crate) struct Sweep<'a> {
    filters: &'a [Columns],
    /// Sorted so that, of prefixes that are equal, the one whose rule explains comes last.
    sources: &'a [Source],
    states: Vec<Known>,
    state_ids: HashMap<State, StateId>,
    steps: HashMap<(StateId, SourceId), StateId>,
    /// Steps from the first state, where most prefixes begin, by source.
    first_steps: Vec<Option<StateId>>,
    classes: Vec<PrefilterClass>,
    class_ids: HashMap<PrefilterClass, u32>,
}

impl<'a> Sweep<'a> {
    pub fn new(filters: &'a [Columns], sources: &'a [Source]) -> Self {
        let mut this = Self {
            filters,
            sources,
            states: Vec::new(),
            state_ids: HashMap::new(),
            steps: HashMap::new(),
            first_steps: vec![None; sources.len()],
            classes: Vec::new(),
            class_ids: HashMap::new(),
        };
        this.intern(State::default());
        this
    }

    /// The classes by the numbers that [`Self::run`] gave them; 0 is the empty one.
    pub fn into_classes(self) -> Vec<PrefilterClass> {
        self.classes
    }

    fn intern(&mut self, state: State) -> StateId {
        if let Some(id) = self.state_ids.get(&state) {
            return *id;
        }
        let content = state.class(self.filters);
        let next = self.classes.len() as u32;
        let class = *self.class_ids.entry(content).or_insert(next);
        if class == next {
            self.classes.push(content);
        }
        let id = self.states.len() as StateId;
        self.states.push(Known { state: state.clone(), class, last_step: (SourceId::MAX, 0) });
        self.state_ids.insert(state, id);
        id
    }

    fn enter(&mut self, state: StateId, source: SourceId) -> StateId {
        let known = &self.states[state as usize];
        if known.last_step.0 == source {
            return known.last_step.1;
        }
        let made = match state {
            0 => self.first_steps[source as usize],
            _ => self.steps.get(&(state, source)).copied(),
        };
        let next = made.unwrap_or_else(|| {
            let next = self.states[state as usize].state.enter(self.sources[source as usize]);
            let next = self.intern(next);
            match state {
                0 => self.first_steps[source as usize] = Some(next),
                _ => drop(self.steps.insert((state, source), next)),
            }
            next
        });
        self.states[state as usize].last_step = (source, next);
        next
    }

    /// `prefixes` in any order; they are sorted here (which is cheap when they nearly are). The result is sorted, and
    /// has no prefix that says what its cover says already.
    pub fn run<P: Prefix>(&mut self, mut prefixes: Vec<(P, SourceId)>) -> Vec<(P, u32)> {
        prefixes.sort();
        let mut out = Vec::with_capacity(prefixes.len());
        let mut stack: Vec<Frame<P>> = Vec::new();
        let mut at = 0;
        while at < prefixes.len() {
            let prefix = prefixes[at].0;
            while stack.last().is_some_and(|frame| !frame.prefix.covers(&prefix)) {
                stack.pop();
            }
            let (mut state, cover_class) = stack.last().map_or((0, 0), |frame| (frame.state, frame.class));
            while at < prefixes.len() && prefixes[at].0 == prefix {
                state = self.enter(state, prefixes[at].1);
                at += 1;
            }
            let class = self.states[state as usize].class;
            if class != cover_class {
                out.push((prefix, class));
            }
            stack.push(Frame { prefix, state, class });
        }
        out.shrink_to_fit();
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_abi::SIDE_SOURCE;

    use super::*;

    /// What the definition says about one address, cell by cell.
    fn naive(
        address: u32,
        filters: &[Columns],
        sources: &[Source],
        prefixes: &[(Prefix4, SourceId)],
    ) -> PrefilterClass {
        let host = Prefix4 { bits: address, length: 32 };
        let covering: Vec<_> = prefixes.iter().filter(|(prefix, _)| prefix.covers(&host)).collect();
        let allows = |filter| {
            covering.iter().any(|(_, source)| {
                let source = sources[*source as usize];
                source.filter == filter && source.role == Role::Allow
            })
        };
        let best = |group: u32, wanted: &dyn Fn(Source) -> Option<u32>| {
            covering
                .iter()
                .filter_map(|(prefix, source)| {
                    let rule = wanted(sources[*source as usize])?;
                    let filter = sources[*source as usize].filter;
                    let held = filters[filter as usize].groups & (1 << group) != 0 && !allows(filter);
                    held.then_some((filter, std::cmp::Reverse(prefix.length), std::cmp::Reverse(*source), rule))
                })
                .min()
                .map(|(.., rule)| rule)
        };
        let mut class = PrefilterClass::default();
        for group in 0..3u32 {
            for side in [SIDE_SOURCE, SIDE_DESTINATION] {
                let drop = best(group, &|source| match source.role {
                    Role::Drop { rule } if filters[source.filter as usize].side == side => Some(rule),
                    _ => None,
                });
                let range = best(group, &|source| match source.role {
                    Role::EndpointRange { rule } if side == SIDE_DESTINATION => Some(rule),
                    _ => None,
                });
                class.cells[group as usize * 2 + side] = match (drop, range) {
                    (Some(rule), _) => ClassCell::new(rule, ACTION_DROP),
                    (None, Some(rule)) => ClassCell::new(rule, ACTION_ENDPOINT_RANGE),
                    (None, None) => ClassCell::default(),
                };
            }
        }
        class
    }

    fn longest(address: u32, table: &[(Prefix4, u32)]) -> u32 {
        let host = Prefix4 { bits: address, length: 32 };
        let covering = table.iter().filter(|(prefix, _)| prefix.covers(&host));
        covering.max_by_key(|(prefix, _)| prefix.length).map_or(0, |(_, class)| *class)
    }

    /// Prefixes in a space of 256 addresses below 10.0.0.0/24, and the space itself, so that they nest often.
    fn prefix() -> impl Strategy<Value = Prefix4> {
        (0u32..256, 22u8..=32).prop_map(|(low, length)| {
            let bits = 0x0a00_0000 | low;
            Prefix4 { bits: bits & (u32::MAX << (32 - length)), length }
        })
    }

    fn role() -> impl Strategy<Value = u8> {
        prop_oneof![4 => Just(0u8), 1 => Just(1u8), 2 => Just(2u8)]
    }

    proptest! {
        #[test]
        fn the_longest_match_says_what_the_definition_says(
            filters in proptest::collection::vec((0usize..2, 0u32..8), 1..5),
            roles in proptest::collection::vec((0u32..5, role()), 1..9),
            prefixes in proptest::collection::vec((prefix(), 0u32..9), 0..60),
        ) {
            let filters: Vec<Columns> = filters.into_iter().map(|(side, groups)| Columns { side, groups }).collect();
            let sources: Vec<Source> = roles
                .iter()
                .enumerate()
                .map(|(index, (filter, role))| {
                    let rule = 100 - index as u32;
                    let role = match role {
                        0 => Role::Drop { rule },
                        1 => Role::EndpointRange { rule },
                        _ => Role::Allow,
                    };
                    Source { filter: filter % filters.len() as u32, role }
                })
                .collect();
            let prefixes: Vec<(Prefix4, SourceId)> =
                prefixes.into_iter().map(|(prefix, source)| (prefix, source % sources.len() as u32)).collect();
            let mut sweep = Sweep::new(&filters, &sources);
            let table = sweep.run(prefixes.clone());
            let classes = sweep.into_classes();
            prop_assert!(table.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert_eq!(classes[0], PrefilterClass::default());
            for low in 0..1024u32 {
                let address = 0x0a00_0000 - 256 + low;
                let class = classes[longest(address, &table) as usize];
                prop_assert_eq!(class, naive(address, &filters, &sources, &prefixes), "{:#x}", address);
            }
            // Nothing superfluous: without any one entry, some address would get another answer.
            for index in 0..table.len() {
                let (prefix, class) = table[index];
                let mut without = table.clone();
                without.remove(index);
                prop_assert_ne!(longest(prefix.bits, &without[..index]), class);
            }
        }
    }

    #[test]
    fn an_exception_is_a_hole_and_a_list_inside_it_stays_one() {
        let filters = [Columns { side: SIDE_SOURCE, groups: 1 }, Columns { side: SIDE_SOURCE, groups: 1 }];
        let sources = [
            Source { filter: 1, role: Role::Drop { rule: 9 } },
            Source { filter: 0, role: Role::Drop { rule: 7 } },
            Source { filter: 0, role: Role::Allow },
        ];
        let prefix = |text: &str| Prefix4::from(text.parse::<ipnet::Ipv4Net>().unwrap());
        let mut sweep = Sweep::new(&filters, &sources);
        let table = sweep.run(vec![
            (prefix("10.0.0.0/8"), 1),
            (prefix("10.1.0.0/16"), 2),
            (prefix("10.1.1.0/24"), 1),
            (prefix("10.1.2.0/24"), 0),
        ]);
        let classes = sweep.into_classes();
        let rule = |class: u32| classes[class as usize].cells[0].rule();
        let shown: Vec<_> = table.iter().map(|(prefix, class)| (prefix.to_string(), rule(*class))).collect();
        let expected = [("10.0.0.0/8", 7), ("10.1.0.0/16", 0), ("10.1.2.0/24", 9)];
        assert_eq!(shown, expected.map(|(text, rule)| (text.to_owned(), rule)));
        assert_eq!(table[1].1, 0);
    }
}
