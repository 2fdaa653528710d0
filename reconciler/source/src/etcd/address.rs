//! `etcd://host:2379,host2:2379/weir/manifests/`
use std::fmt;

use super::EtcdError;

const PORT: u16 = 2379;

/// Which servers, and which keys of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    text: String,
    /// As the client takes them: `http://host:2379`.
    pub endpoints: Vec<String>,
    /// What every key of the source begins with: the path, from its first slash to its last.
    pub prefix: String,
    pub tls: bool,
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, EtcdError> {
        let refused = |why: &str| EtcdError::Address { spec: text.to_owned(), why: why.to_owned() };
        let (scheme, tls, rest) = match (text.strip_prefix("etcd://"), text.strip_prefix("etcds://")) {
            (Some(rest), _) => ("http", false, rest),
            (_, Some(rest)) => ("https", true, rest),
            _ => return Err(refused("it begins with neither etcd:// nor etcds://")),
        };
        let (hosts, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if hosts.contains('@') {
            return Err(refused("a user's name is given by --etcd-user, and a password only by --etcd-password-file"));
        }
        if !prefix.ends_with('/') {
            return Err(refused("the prefix of the keys must end in `/`"));
        }
        let endpoint = |host: &str| match host_and_port(host) {
            Some((host, port)) => Ok(format!("{scheme}://{host}:{port}")),
            None => Err(refused(&format!("`{host}` is not HOST or HOST:PORT"))),
        };
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), endpoints, prefix: prefix.to_owned(), tls })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of a bare IPv6 address are within brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, PORT),
    };
    let (inner, allowed): (&str, fn(char) -> bool) =
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => (inner, |c| c.is_ascii_hexdigit() || c == ':' || c == '.'),
            None => (host, |c| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_'),
        };
    (!inner.is_empty() && inner.chars().all(allowed)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_the_prefix() {
        let address = Address::parse("etcd://a:2379,10.0.0.1:1,[2001:db8::1],[::1]:3/weir/manifests/").unwrap();
        assert_eq!(
            address.endpoints,
            ["http://a:2379", "http://10.0.0.1:1", "http://[2001:db8::1]:2379", "http://[::1]:3"]
        );
        assert_eq!((address.prefix.as_str(), address.tls), ("/weir/manifests/", false));
        let address = Address::parse("etcds://etcd.example.org/").unwrap();
        assert_eq!((address.endpoints, address.tls), (vec!["https://etcd.example.org:2379".to_owned()], true));
        assert_eq!(address.prefix, "/");
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (text, part) in [
            ("etcd://a:2379", "must end in `/`"),
            ("etcd://a:2379/weir", "must end in `/`"),
            ("etcd:///weir/", "`` is not HOST"),
            ("etcd://a,/weir/", "`` is not HOST"),
            ("etcd://a:port/weir/", "`a:port` is not HOST"),
            ("etcd://a:99999/weir/", "`a:99999` is not HOST"),
            ("etcd://2001:db8::1/weir/", "`2001:db8::1` is not HOST"),
            ("etcd://user:secret@a/weir/", "--etcd-password-file"),
            ("etcd://a b/weir/", "`a b` is not HOST"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.code(), "etcd-address");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
