use std::{fs, path::Path};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::kinds::KINDS;

const ENDPOINT: &str = "---
# from the inventory
apiVersion: weir/v1alpha1
kind: Endpoint
metadata:
  name: web-1
  labels: {app: web, tier: \"front end\"}
  annotations:
    a/b: \"x y\"
spec:
  node: node1   # rack 3
  addresses: [10.0.0.1, fd00::1]
  attach:
    netns: /run/netns/web
    interface: eth0
  ports:
  - name: http
    port: 80
    protocol: TCP
  -   {name: dns, port: 53, protocol: UDP}
";

const FILTER: &str = "apiVersion: weir/v1alpha1
kind: CidrFilter
metadata: {name: f, namespace: shop}
spec:
  mode: native
  dropUnknownDestinations: false
  cidrs:
    - 10.0.0.0/8
    - \"2001:db8::/32\" # a note

    - '192.0.2.7'
  allow: []
  fromFiles: [drop.txt, ../x]
  interfaces:
  - eth*
";

#[test]
fn plain_documents_take_the_lane() {
    for text in [ENDPOINT, FILTER] {
        let kind = KINDS.iter().find(|kind| text.contains(&format!("kind: {}\n", kind.kind))).unwrap();
        let draft = (kind.read_plain)(text).unwrap_or_else(|| panic!("not plain:\n{text}"));
        assert_eq!(draft, (kind.read_yaml)(text).unwrap());
    }
}

#[test]
fn what_is_not_plain_is_left_to_the_parser() {
    let tail = "apiVersion: v1\nkind: x\n";
    for text in [
        "a: &x b\n",
        "a: *x\n",
        "a: !!str b\n",
        "a: |\n  b\n",
        "a: >-\n  b\n",
        "a: b\n  c\n",
        "a: \"b\n  c\"\n",
        "a: \"b\\n\"\n",
        "a: 'b''c'\n",
        "a:\tb\n",
        "a: b\r\n",
        "a: null\n",
        "a: ~\n",
        "a:\n",
        "? a\n: b\n",
        "<<: {a: b}\n",
        "a: b: c\n",
        "a: [b, c\n",
        "a: [b, ]\n",
        "a: {b}\n",
        "a: {b:, c: d}\n",
        "a: {b:c}\n",
        "a: [b]c\n",
        "a: \"b\"c\n",
        "a: b #\u{1}\n",
        "a: b # x\ry: z\n",
        "a: @b\n",
        "a: `b\n",
        "a: %b\n",
        "a: - b\n",
        "a:\n- - b\n",
        "a:\n  - b\n - c\n",
        "a:\n  b: c\n d: e\n",
        "%YAML 1.1\n",
        "é: b\n",
        "a: é\n",
        "a: b c\n",
        "a: fd00::\n",
        "a: [fd00::]\n",
        "a: #b\n",
        "a: -1\n",
        "- a\n",
        "{a: b}\n",
        "\"a\": b\n",
        "a: b, c\n",
        "a: ,\n",
        "a:\n  - b: c\n   d: e\n",
        " a: b\n",
    ] {
        assert_eq!(events::read(&format!("{text}{tail}")), None, "{text:?}");
    }
}

/// A line ends at a carriage return in YAML: what stands behind it is no comment.
#[test]
fn a_carriage_return_in_a_comment_is_a_line_break() {
    let entries: String = (0..40).map(|n| format!("  - 10.0.{n}.0/24\n")).collect();
    let kind = KINDS.iter().find(|kind| kind.kind == "CidrFilter").unwrap();
    for comment in ["# x\r  - junk", "# \u{1}", "# \u{feff}"] {
        let text = format!(
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: f}}\nspec:\n  cidrs:\n{entries}  - 192.0.2.1 {comment}\n"
        );
        assert!((kind.read_plain)(&text).is_none(), "{comment:?}");
    }
}

fn seeds() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![ENDPOINT.to_owned(), FILTER.to_owned()];
    let entries: String = (0..40).map(|n| format!("  - 10.0.{n}.0/24 # {n}\n")).collect();
    texts.push(format!(
        "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: f}}\nspec:\n  cidrs:\n{entries}"
    ));
    for folder in ["../examples/quickstart", "../examples/policies", "../examples/services", "tests/diagnostics"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = fs::read_to_string(path).unwrap();
                texts.extend(crate::document::split(&text, 0).into_iter().map(|document| document.text.to_owned()));
            }
        }
    }
    texts.sort();
    texts
}

/// Whatever the fast lane says, the parser says, too: of every kind, whatever the text claims to be.
fn judge(text: &str) -> Result<usize, TestCaseError> {
    if crate::document::one_bracket_too_many(text).is_some() || crate::document::disputed_break(text).is_some() {
        return Ok(0);
    }
    let mut taken = 0;
    for kind in KINDS {
        if let Some(draft) = (kind.read_plain)(text) {
            taken += 1;
            match (kind.read_yaml)(text) {
                Ok(expected) => prop_assert_eq!(&draft, &expected, "{}", text),
                Err(error) => return Err(TestCaseError::fail(format!("{error}\n{text}"))),
            }
        }
    }
    Ok(taken)
}

const TOKENS: &[&str] = &[
    "\n", "\n  ", "\n- ", "\n  - ", "\n    ", " ", "  ", "\t", "\r", "\r\n", ":", ": ", "- ", "#", " #", " # x", "[",
    "]", "{", "}", ", ", ",", "\"", "'", "\\", "&a ", "*a", "!!str ", "|\n", ">", "?", "? ", "~", "null", "true",
    "yes", "0", "00", "0x1", "1e3", "-1", "+1", ".5", "::", "fd00::", "a", "a b", "é", "\u{a0}", "\u{1}", "\u{7f}",
    "\u{85}", "\u{feff}", "%", "@", "`", "---", "--- ", "...", "<<: ", "=", "spec:", "name: x", "{a: b}", "[a, b]",
    "\"a\": b", "''", "\"\"",
];

#[derive(Clone, Debug)]
enum Edit {
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, usize),
    Indent(prop::sample::Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        1 => (at(), 1usize..12).prop_map(|(at, length)| Edit::Remove(at, length)),
        3 => (at(), at()).prop_map(|(at, token)| Edit::Insert(at, token)),
        1 => (at(), 1usize..60).prop_map(|(at, length)| Edit::Repeat(at, length)),
        1 => (at(), 0usize..6).prop_map(|(line, indent)| Edit::Indent(line, indent)),
    ]
}

fn apply(text: &str, edit: &Edit) -> String {
    let chars: Vec<char> = text.chars().collect();
    let place = |at: &prop::sample::Index| at.index(chars.len() + 1);
    let string = |chars: &[char]| chars.iter().collect::<String>();
    match edit {
        Edit::Remove(at, length) => {
            let at = place(at);
            string(&chars[..at]) + &string(&chars[(at + length).min(chars.len())..])
        }
        Edit::Insert(at, token) => {
            let at = place(at);
            string(&chars[..at]) + TOKENS[token.index(TOKENS.len())] + &string(&chars[at..])
        }
        Edit::Repeat(at, length) => {
            let at = place(at);
            string(&chars[..(at + length).min(chars.len())]) + &string(&chars[at..])
        }
        Edit::Indent(line, indent) => {
            let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
            if !lines.is_empty() {
                let at = line.index(lines.len());
                lines[at] = " ".repeat(*indent) + lines[at].trim_start_matches(' ');
            }
            lines.concat()
        }
    }
}

/// A piece of YAML in any of its styles, plain or not.
fn piece() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "web-1",
        "10.0.0.1",
        "fd00::1",
        "fd00::",
        "80",
        "0",
        "007",
        "true",
        "null",
        "\"x y\"",
        "'x'",
        "'it''s'",
        "\"a\\tb\"",
        "~",
        "/run/x",
        "eth*",
        "*x",
        "a b",
        "a:b",
        "a: b",
        "-x",
        "- x",
        "[]",
        "{}",
        "",
        "x#y",
        "x #y",
        "é",
        "?",
        "%x",
        "@x",
        "a,b",
        "[a,b]",
    ]);
    let scalar = word.prop_map(str::to_owned).boxed();
    scalar.prop_recursive(3, 12, 4, |inner| {
        let list = proptest::collection::vec(inner.clone(), 0..4);
        let name = prop::sample::select(vec!["a", "b", "spec", "x/y", "\"q\"", "1", "a b", "é"]);
        let map = proptest::collection::vec((name, inner), 0..4);
        let indented = |text: &str, by: &str| text.replace('\n', &format!("\n{by}"));
        prop_oneof![
            list.clone().prop_map(|list| format!("[{}]", list.join(", "))),
            map.clone().prop_map(|map| {
                let entries: Vec<_> = map.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                format!("{{{}}}", entries.join(", "))
            }),
            (list, "  |    | ?").prop_map(move |(list, by)| {
                list.iter().map(|item| format!("\n{by}- {}", indented(item, &format!("{by}  ")))).collect::<String>()
            }),
            (map, "  |    |   # x").prop_map(move |(map, by)| {
                map.iter().map(|(name, value)| format!("\n{by}{name}: {}", indented(value, &by))).collect::<String>()
            }),
        ]
    })
}

/// As [`judge`], for the events alone: as texts in maps and lists, which take anything.
fn judge_shape(text: &str) -> Result<bool, TestCaseError> {
    #[derive(Debug, PartialEq)]
    enum Shape {
        Text(String),
        List(Vec<Shape>),
        Map(Vec<(String, Shape)>),
    }
    // The types say what a value is, and the events do not: so ask the events, and check the answer.
    fn build(events: &mut std::slice::Iter<'_, events::Event<'_>>) -> Option<Shape> {
        match events.next()? {
            events::Event::Scalar { text, .. } => Some(Shape::Text((*text).to_owned())),
            events::Event::Sequence => {
                let mut list = Vec::new();
                while let Some(item) = build(events) {
                    list.push(item);
                }
                Some(Shape::List(list))
            }
            events::Event::Mapping => {
                let mut map = Vec::new();
                while let Some(Shape::Text(name)) = build(events) {
                    map.push((name, build(events)?));
                }
                Some(Shape::Map(map))
            }
            events::Event::End => None,
        }
    }
    fn of_tree(node: &crate::marked::Node) -> Shape {
        use crate::marked::Value;
        match &*node.value {
            Value::Scalar { text, .. } => Shape::Text(text.clone()),
            Value::Sequence(items) => Shape::List(items.iter().map(of_tree).collect()),
            Value::Mapping(entries) => Shape::Map(
                entries.iter().map(|(key, value)| (key.text().unwrap_or("?").to_owned(), of_tree(value))).collect(),
            ),
        }
    }
    let Some(events) = events::read(text) else { return Ok(false) };
    // libyaml must take it, and the other parser must see the same.
    if let Err(error) = serde_yaml::from_str::<serde::de::IgnoredAny>(text) {
        return Err(TestCaseError::fail(format!("{error}\n{text}")));
    }
    let tree = crate::marked::read(text).map_err(|error| TestCaseError::fail(format!("{error:?}\n{text}")))?;
    prop_assert_eq!(build(&mut events.iter()), Some(of_tree(&tree)), "{}", text);
    Ok(true)
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig { cases: 8 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn the_lane_and_the_parser_agree_on_spoilt_documents(
        which: prop::sample::Index, edits in proptest::collection::vec(edit(), 0..5),
    ) {
        let seeds = seeds();
        let text = edits.iter().fold(seeds[which.index(seeds.len())].clone(), |text, edit| apply(&text, edit));
        judge(&text)?;
        judge_shape(&text)?;
    }

    #[test]
    fn the_lane_and_the_parser_agree_on_generated_documents(
        values in proptest::collection::vec(piece(), 1..4), edits in proptest::collection::vec(edit(), 0..2),
    ) {
        let text: String = values.iter().enumerate().map(|(n, value)| format!("k{n}: {value}\n")).collect();
        let text = edits.iter().fold(text, |text, edit| apply(&text, edit));
        judge_shape(&text)?;
    }
}

/// The comparison above means something: the seeds reach the lane, and so do many spoilt ones.
#[test]
fn the_comparison_reaches_the_lane() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let seeds = seeds();
    let taken = seeds.iter().filter(|text| judge(text).unwrap() > 0).count();
    assert!(taken >= 12, "{taken} of {}", seeds.len());
    let mut runner = TestRunner::deterministic();
    let mut spoilt = 0;
    for _ in 0..200 {
        let edit = edit().new_tree(&mut runner).unwrap().current();
        spoilt += usize::from(judge_shape(&apply(ENDPOINT, &edit)).unwrap());
    }
    assert!((20..180).contains(&spoilt), "{spoilt} of 200");
}

#[test]
fn a_number_is_what_yaml_says_it_is() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Numbers {
        a: u16,
    }
    for text in
        ["a: 0\n", "a: 80\n", "a: 65535\n", "a: 65536\n", "a: 010\n", "a: 0o10\n", "a: \"8\"\n", "a: 8.0\n", "a: 1_0\n"]
    {
        if let Some(read) = read::<Numbers>(text) {
            assert_eq!(Ok(read), serde_yaml::from_str::<Numbers>(text).map_err(|error| error.to_string()), "{text}");
        }
    }
    assert_eq!(read::<Numbers>("a: 443\n"), Some(Numbers { a: 443 }));
    assert_eq!(read::<Numbers>("a: 443\na: 443\n"), None);
}
