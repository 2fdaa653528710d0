//! Whatever the bytes are: an answer with places in the file, never a panic, never a hang.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod story;

use std::{fs, path::Path};

use proptest::prelude::*;
use story::file;
use weir_schema::{Options, code, locate, parse};

fn examples() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut texts = Vec::new();
    for folder in ["quickstart", "policies"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                texts.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    texts.sort();
    texts
}

/// Parses, and checks that every error points into the file.
fn judge(path: &str, bytes: &[u8], ignore_foreign: bool) {
    let set = [file(path, bytes)];
    let lines = bytes.split(|byte| *byte == b'\n').count();
    match parse(&set, &Options { ignore_foreign }) {
        Ok(inventory) => {
            for object in inventory.objects() {
                let place = locate(&set[0], object.origin.document, "metadata.name");
                assert!(
                    place.is_some_and(|place| place.line >= object.origin.line && place.line <= lines),
                    "{place:?}\n{}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            for error in &errors.0 {
                assert!((1..=lines).contains(&error.line) && error.column >= 1 && error.span_len >= 1, "{error}");
                assert!(code::ALL.iter().any(|(code, _)| *code == error.code));
                let line = error.source_line.as_deref();
                assert!(line.is_none_or(|line| error.column <= line.chars().count() + 1), "{error}");
            }
            let _ = errors.to_string();
        }
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
    Swap(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let token = prop_oneof![
        Just(b"\n---\n".to_vec()),
        Just(b"\t".to_vec()),
        Just(b": ".to_vec()),
        Just(b"- ".to_vec()),
        Just(b"[".to_vec()),
        Just(b"}".to_vec()),
        Just(b"&a ".to_vec()),
        Just(b"*a".to_vec()),
        Just(b"!!str ".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"'".to_vec()),
        Just(b"null".to_vec()),
        Just(b"-1".to_vec()),
        Just(b"\r".to_vec()),
        Just("\u{85}\u{2028}".as_bytes().to_vec()),
        Just("ü".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 1..4),
    ];
    prop_oneof![
        (any::<usize>(), 1usize..40).prop_map(|(at, length)| Edit::Remove(at, length)),
        (any::<usize>(), token).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<usize>(), 1usize..200).prop_map(|(at, length)| Edit::Repeat(at, length)),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Edit::Swap(a, b)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let at = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
    match edit {
        Edit::Remove(begin, length) => {
            let begin = at(*begin, bytes);
            bytes.drain(begin..(begin + length).min(bytes.len()));
        }
        Edit::Insert(begin, inserted) => {
            let begin = at(*begin, bytes);
            bytes.splice(begin..begin, inserted.iter().copied());
        }
        Edit::Repeat(begin, length) => {
            let begin = at(*begin, bytes);
            let piece = bytes[begin..(begin + length).min(bytes.len())].to_vec();
            bytes.splice(begin..begin, piece);
        }
        Edit::Swap(a, b) if !bytes.is_empty() => {
            let (a, b) = (a % bytes.len(), b % bytes.len());
            bytes.swap(a, b);
        }
        Edit::Swap(..) => {}
    }
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_examples(which: prop::sample::Index, edits in proptest::collection::vec(edit(), 1..6), foreign: bool) {
        let examples = examples();
        let mut bytes = examples[which.index(examples.len())].clone().into_bytes();
        edits.iter().for_each(|edit| apply(&mut bytes, edit));
        judge("a.yaml", &bytes, foreign);
    }

    #[test]
    fn garbage(bytes in proptest::collection::vec(any::<u8>(), 0..300), foreign: bool) {
        judge("a.yaml", &bytes, foreign);
    }

    #[test]
    fn garbage_of_yaml(text in "[ \\n\\-\\[\\]{}:,&*!|>'\"a#?%]{0,80}") {
        judge("a.yaml", text.as_bytes(), false);
        judge("a.yaml", format!("apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {text}").as_bytes(), false);
    }

    #[test]
    fn garbage_lists(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let manifest = b"apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: f}\nspec: {fromFiles: [l]}\n";
        let result = parse(&[file("f.yaml", manifest), file("l", &bytes)], &Options::default());
        if let Err(errors) = result {
            prop_assert!(errors.0.iter().all(|error| &*error.path == "l"), "{}", errors);
        }
    }
}

/// libyaml's time grows with the square of open brackets: these must not get that far.
#[test]
fn nesting_without_end_is_an_error() {
    let head = "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: ";
    for (tail, codes) in [
        ("[".repeat(1_000_000), vec![code::TOO_COMPLEX]),
        ("{a: ".repeat(1_000_000), vec![code::TOO_COMPLEX]),
        (format!("\n{}", "- ".repeat(50_000)), vec![code::TOO_COMPLEX]),
        (format!("\n  {}", "? ".repeat(50_000)), vec![code::TOO_COMPLEX]),
        (format!("{}x{}", "[".repeat(900), "]".repeat(900)), vec![code::TOO_COMPLEX, code::YAML_SYNTAX]),
    ] {
        let errors = parse(&[file("a.yaml", format!("{head}{tail}\n").as_bytes())], &Options::default()).unwrap_err();
        assert!(errors.0.len() == 1 && codes.contains(&errors.0[0].code), "{:?}", errors.0[0].message);
    }
}

#[test]
fn a_billion_laughs_is_an_error() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    for head in [
        "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: n}\nspec: {addresses: *a11}\n",
        "apiVersion: v1\nkind: List\nitems: *a11\n",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: n}\nspec: *a11\n",
    ] {
        let errors = parse(&[file("a.yaml", format!("{text}{head}").as_bytes())], &Options::default());
        assert!(errors.is_err());
    }
}

/// Each error's place is found without reading the file again from its beginning.
#[test]
fn a_file_that_is_an_error_from_end_to_end_is_told_whole() {
    const DOCUMENTS: usize = 50_000;
    let one = |address: usize| {
        format!(
            "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {{name: n{address}}}\nspec: {{addresses: [192.0.2.1]}}\n---\n"
        )
    };
    let text: String = (0..DOCUMENTS).map(one).collect();
    let errors = parse(&[file("many.yaml", text.as_bytes())], &Options::default()).unwrap_err();
    assert_eq!(errors.0.len(), DOCUMENTS - 1);
    let last = errors.0.last().unwrap();
    assert_eq!((last.code, last.line, last.column), (code::DUPLICATE_ADDRESS, DOCUMENTS * 5 - 1, 20));
    assert_eq!(last.related[0].1, 4);
}
