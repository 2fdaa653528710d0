//! The stable codes of diagnostics. A code is never given a second meaning.

macro_rules! codes {
    ($($name:ident = $code:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: &str = $code;)*

        /// Every code with what it means: the one table that documents them.
        pub const ALL: &[(&str, &str)] = &[$(($code, $meaning),)*];
    };
}

codes! {
    NOT_UTF8 = "not-utf8", "A manifest holds bytes that are not UTF-8.";
    YAML_SYNTAX = "yaml-syntax", "The text is not YAML (tabs as indentation, an unclosed quote, an unknown anchor, ...).";
    TOO_COMPLEX = "too-complex", "Nested too deeply, or aliases that multiply (an alias bomb).";
    DUPLICATE_KEY = "duplicate-key", "A mapping has the same key twice.";
    MISSING_HEADER = "missing-header", "`apiVersion` or `kind` is missing, or the document is no mapping.";
    UNKNOWN_API_VERSION = "unknown-api-version", "The group is known, the version is not; or the apiVersion is a misspelling.";
    UNKNOWN_KIND = "unknown-kind", "The apiVersion has no such kind.";
    FOREIGN_OBJECT = "foreign-object", "An object of another system's group.";
    NOT_SUPPORTED = "not-supported", "A kind or field that exists, and that this version does not do yet.";
    UNKNOWN_FIELD = "unknown-field", "The kind has no such field here.";
    MISSING_FIELD = "missing-field", "A field that must be there is not.";
    INVALID_TYPE = "invalid-type", "A value of another type: a mapping where a list belongs, a text where a number belongs.";
    INVALID_VALUE = "invalid-value", "The type is right, the value is not one of those allowed.";
    INVALID_NAME = "invalid-name", "A name, namespace or interface name that cannot be one.";
    INVALID_LABEL = "invalid-label", "A label key or value that cannot be one, or an unknown label source.";
    INVALID_ANNOTATION = "invalid-annotation", "An annotation of Weir's that there is not, or one with a value that it cannot have.";
    INVALID_CIDR = "invalid-cidr", "Neither a CIDR nor an IP address.";
    HOST_BITS = "host-bits", "A CIDR with bits set behind its prefix length.";
    EXCEPT_OUTSIDE = "except-outside", "An `except` prefix that is not inside its `cidr`.";
    INVALID_ADDRESS = "invalid-address", "Not an IP address, or one that no endpoint or node can have.";
    DUPLICATE_ADDRESS = "duplicate-address", "One address given twice, to one object or to two.";
    INVERTED_RANGE = "inverted-range", "A port range whose end is below its start.";
    INVALID_PORT = "invalid-port", "A port that cannot be one here: a named port with `endPort`, a bad port name, port 0.";
    INVALID_SELECTOR = "invalid-selector", "An operator with values it must not have, or without those it needs.";
    SELECTOR_FORM = "selector-form", "Not exactly one of `endpointSelector` and `nodeSelector`.";
    EMPTY_RULE = "empty-rule", "A policy without a single section.";
    RULE_FORM = "rule-form", "Fields of a rule that exclude each other, or a rule that says nothing.";
    ATTACH_FORM = "attach-form", "`attach` is none of its three forms.";
    SERVICE_FORM = "service-form", "Fields of a service that exclude or need each other: backends and selector, a frontend's type and address, ports that cannot be rewritten.";
    DUPLICATE_FRONTEND = "duplicate-frontend", "One address, port and protocol, or one node port, in two frontends of one service or of two.";
    DUPLICATE_BACKEND = "duplicate-backend", "One address and port twice among the backends of a service.";
    FLOW_TEST_FORM = "flow-test-form", "An end of a `FlowTest` that is none of its forms, or fields that exclude each other.";
    NAMESPACE_NOT_ALLOWED = "namespace-not-allowed", "A namespace on a kind that has none.";
    INVALID_DURATION = "invalid-duration", "Not a duration, or one that cannot be kept.";
    DUPLICATE_OBJECT = "duplicate-object", "Two documents with the same group, kind, namespace and name.";
    DUPLICATE_ATTACH = "duplicate-attach", "Two endpoints of a node attach to the same place.";
    NODE_CONFIG_CONFLICT = "node-config-conflict", "Two NodeConfigs set one field of one node differently.";
    FILE_OUTSIDE_ROOT = "file-outside-root", "`fromFiles` names a path outside the source's root.";
    FILE_MISSING = "file-missing", "`fromFiles` names a file that the source does not have.";
    UNKNOWN_ENDPOINT = "unknown-endpoint", "A `FlowTest` names an endpoint that the set does not have.";
    UNKNOWN_SERVICE = "unknown-service", "A `FlowTest` names a service that the set does not have.";
    UNKNOWN_NODE = "unknown-node", "Warning: an endpoint's node is none of the set's `Node` objects.";
    SKIPPED_OBJECT = "skipped-object", "Warning: a foreign object was ignored, as asked for.";
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_distinct_and_kebab_case() {
        let mut codes: Vec<_> = super::ALL.iter().map(|(code, _)| *code).collect();
        assert!(codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'8')));
        codes.sort_unstable();
        let all = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }
}
