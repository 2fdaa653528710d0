//! Objects that wait for something on the node: each is tried again on its own, ever more seldom.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_plan::{ObjectRef, Pending};

/// The wait before the first further try; doubled each time.
const FIRST: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
struct Wait {
    code: &'static str,
    attempts: u32,
    next: Instant,
}

/// Who waits, how often it was tried, and when it is tried next.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    objects: BTreeMap<ObjectRef, Wait>,
}

/// What came of the objects that waited.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Object, and the code of what it waits for.
    pub waits: Vec<(ObjectRef, &'static str)>,
    pub attached: Vec<ObjectRef>,
}

impl Waiting {
    /// What is pending after a look at the node.
    pub fn update(&mut self, pending: &[Pending], now: Instant) -> News {
        let mut news = News::default();
        let mut former = std::mem::take(&mut self.objects);
        for Pending { object, code, .. } in pending {
            let wait = match former.remove(object) {
                Some(wait) if wait.code == *code => wait,
                _ => {
                    news.waits.push((object.clone(), *code));
                    Wait { code, attempts: 0, next: now + FIRST }
                }
            };
            self.objects.insert(object.clone(), wait);
        }
        news.attached = former.into_keys().collect();
        news
    }

    /// Whether a further try is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.objects.values().any(|wait| wait.next <= now)
    }

    /// Those that were due have been tried, in vain.
    pub fn tried(&mut self, now: Instant, most: Duration) {
        for wait in self.objects.values_mut().filter(|wait| wait.next <= now) {
            wait.attempts += 1;
            wait.next = now + FIRST.saturating_mul(1 << wait.attempts.min(16)).min(most);
        }
    }

    /// The node changed in a way that may be what they wait for, a moment ago or in a moment.
    pub fn hint(&mut self, now: Instant) {
        for wait in self.objects.values_mut() {
            wait.attempts = 0;
            wait.next = wait.next.min(now + FIRST);
        }
    }

    /// Tries so far, and the time until the next.
    pub fn of(&self, object: &ObjectRef, now: Instant) -> Option<(u32, Duration)> {
        let wait = self.objects.get(object)?;
        Some((wait.attempts, wait.next.saturating_duration_since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef {
            api_version: "weir/v1alpha1".into(),
            kind: "Endpoint".into(),
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn pending(name: &str, code: &'static str) -> Pending {
        Pending { object: object(name), code, message: String::new() }
    }

    #[test]
    fn each_object_waits_longer_each_time() {
        let (start, most) = (Instant::now(), Duration::from_secs(2));
        let mut waiting = Waiting::default();
        waiting.update(&[pending("a", "netns-missing")], start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..5 {
            let (attempts, wait) = waiting.of(&object("a"), now).unwrap();
            waits.push((attempts, wait.as_millis()));
            assert!(!waiting.is_due(now));
            now += wait;
            assert!(waiting.is_due(now));
            waiting.tried(now, most);
        }
        assert_eq!(waits, [(0, 250), (1, 500), (2, 1000), (3, 2000), (4, 2000)]);
        // One that came later has its own time.
        waiting.update(&[pending("a", "netns-missing"), pending("b", "netns-missing")], now);
        assert_eq!(waiting.of(&object("a"), now).unwrap(), (5, most));
        assert_eq!(waiting.of(&object("b"), now).unwrap(), (0, FIRST));
        waiting.hint(now);
        assert_eq!(waiting.of(&object("a"), now).unwrap(), (0, FIRST));
    }

    #[test]
    fn news_is_what_changed() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let both = [pending("a", "netns-missing"), pending("b", "interface-missing")];
        assert_eq!(waiting.update(&both, now).waits.len(), 2);
        assert_eq!(waiting.update(&both, now), News::default());
        let news = waiting.update(&[pending("b", "netns-missing")], now);
        assert_eq!(news.waits, [(object("b"), "netns-missing")]);
        assert_eq!(news.attached, [object("a")]);
        assert_eq!(waiting.update(&[], now).attached, [object("b")]);
        assert!(!waiting.is_due(now + Duration::from_secs(600)));
    }
}
