use super::object_id::ObjectId;
use crate::Authorship;

/// What a commit object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub tree: ObjectId,
    pub authorship: Authorship,
    /// Whether it carries a signature of any kind.
    pub signed: bool,
}

impl Commit {
    /// `None`: not the form of a commit.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, message) = match bytes.windows(2).position(|pair| pair == b"\n\n") {
            Some(end) => (&bytes[..end], &bytes[end + 2..]),
            None => (bytes, &b""[..]),
        };
        let mut tree = None;
        let mut author = String::new();
        let mut signed = false;
        for line in header.split(|byte| *byte == b'\n') {
            if let Some(id) = line.strip_prefix(b"tree ") {
                tree = ObjectId::parse(std::str::from_utf8(id).ok()?);
            } else if let Some(who) = line.strip_prefix(b"author ") {
                // The time stands behind the address.
                let end = who.iter().rposition(|byte| *byte == b'>').map_or(who.len(), |at| at + 1);
                author = printable(&who[..end]);
            } else {
                signed |= line.starts_with(b"gpgsig ") || line.starts_with(b"gpgsig-sha256 ");
            }
        }
        // As git shows it: the first paragraph in one line.
        let lines = message.split(|byte| *byte == b'\n').skip_while(|line| line.trim_ascii().is_empty());
        let subject: Vec<String> =
            lines.map(<[u8]>::trim_ascii).take_while(|line| !line.is_empty()).map(printable).collect();
        let mut subject = subject.join(" ");
        if let Some((end, _)) = subject.char_indices().nth(LONGEST_SUBJECT) {
            subject.truncate(end);
            subject.push('…');
        }
        Some(Self { tree: tree?, authorship: Authorship { author, subject }, signed })
    }
}

/// It is kept in the history and shown in a column.
const LONGEST_SUBJECT: usize = 200;

/// Whoever may commit must not be able to move the cursor of whoever reads the history.
fn printable(text: &[u8]) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    String::from_utf8_lossy(text).chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(rest: &str) -> Commit {
        Commit::parse(format!("tree {TREE}\n{rest}").as_bytes()).unwrap()
    }

    #[test]
    fn author_and_subject() {
        let commit =
            parse("parent 1\nauthor A <B> U Thor <a@example.org> 1700000000 +0100\ncommitter x\n\none\ntwo\n\nx");
        assert_eq!(commit.tree.to_string(), TREE);
        assert_eq!(commit.authorship.author, "A <B> U Thor <a@example.org>");
        assert_eq!(commit.authorship.subject, "one two");
        assert!(!commit.signed);
        assert_eq!(parse("author a <b> 1 +0\n").authorship.subject, "");
        assert_eq!(parse("author a <b> 1 +0\n\n\n  \nx").authorship.subject, "x");
        assert!(Commit::parse(b"author x\n\ny").is_none());
    }

    #[test]
    fn a_signature_is_a_header_and_not_part_of_the_message() {
        assert!(parse("author a <b> 1 +0\ngpgsig -----BEGIN\n x\n\ny").signed);
        assert!(!parse("author a <b> 1 +0\n\ngpgsig -----BEGIN").signed);
    }

    #[test]
    fn nobody_writes_to_the_terminal() {
        let commit = parse("author \x1b[2J <b> 1 +0\n\n\x1b]0;x\x07 \u{9b}31m");
        assert!(!commit.authorship.author.contains('\x1b') && !commit.authorship.subject.contains(char::is_control));
        assert_eq!(parse(&format!("author a <b> 1 +0\n\n{}", "ä".repeat(999))).authorship.subject.chars().count(), 201);
    }
}
