//! Random `CidrFilter`s.
use ipnet::IpNet;
use serde_json::json;

use super::{
    generate::Draft,
    peers::{edges, prefix},
    random::Random,
};

pub fn draw(random: &mut Random, draft: &mut Draft) {
    if !random.chance(40) {
        return;
    }
    for number in 0..random.within(1..=3) {
        draft.feature("CidrFilter");
        // A whole family dropped leaves nothing to tell apart.
        let mut list = |count: usize| -> Vec<IpNet> {
            let drawn =
                (0..count).map(|_| prefix(random)).filter(|prefix| prefix.prefix_len() >= 7).collect::<Vec<_>>();
            draft.filtered.extend(drawn.iter().flat_map(|prefix| edges(*prefix)));
            drawn
        };
        let cidrs = list(4);
        let allow = list(2);
        let mut spec = json!({"cidrs": cidrs});
        if random.chance(50) && !allow.is_empty() {
            draft.feature("allow");
            spec["allow"] = json!(allow);
        }
        if random.chance(50) {
            draft.feature("match: destination");
            spec["match"] = json!("destination");
        }
        if random.chance(40) {
            draft.feature("interfaces");
            spec["interfaces"] = json!([random.pick(&["wan0", "wan?", "*0"])]);
        }
        if random.chance(30) {
            draft.feature("dropUnknownDestinations");
            spec["dropUnknownDestinations"] = json!(true);
        }
        draft.push(json!({
            "apiVersion": "weir/v1alpha1", "kind": "CidrFilter", "metadata": {"name": format!("f{number}")}, "spec": spec,
        }));
    }
}
