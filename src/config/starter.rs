//! Starter configurations for `countersign init`: examples of `config/`, and shorter ones where an
//! example shows more than one has to begin with.

/// The kinds of credential that there is a starter for.
pub const KINDS: [&str; 11] = [
    "twinzo-device",
    "twinzo-api-key",
    "devo-token",
    "devo-signature",
    "oauth2",
    "login",
    "hmac",
    "fields",
    "query",
    "bearer",
    "basic",
];

/// A commented configuration for `kind`, with secrets as references. `None` for an unknown kind.
pub fn starter(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "twinzo-device" => include_str!("../../config/twinzo-device.toml"),
        "twinzo-api-key" => include_str!("../../config/twinzo-api-key.toml"),
        "devo-token" => include_str!("../../config/devo-token.toml"),
        "devo-signature" => include_str!("../../config/devo-provisioning.toml"),
        "oauth2" => include_str!("starter/oauth2.toml"),
        "login" => include_str!("../../config/login-any-api.toml"),
        "hmac" => include_str!("../../config/hmac-any-api.toml"),
        "fields" => include_str!("starter/fields.toml"),
        "query" => include_str!("starter/query.toml"),
        "bearer" => include_str!("starter/bearer.toml"),
        "basic" => include_str!("starter/basic.toml"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{KINDS, starter};
    use crate::config::problem::any_error;

    /// Without the `#` before what looks like a key or a table.
    fn with_all_options(starter: &str) -> String {
        let option = |line: &str| {
            let after = line.strip_prefix("# ")?;
            let name = after.split(" = ").next().unwrap_or_default();
            let is_key = name.len() < after.len()
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let is_table = after.starts_with('[') && after.ends_with(']');
            (is_key || is_table).then(|| after.to_owned())
        };
        let lines = starter.lines().map(|line| option(line).unwrap_or_else(|| line.to_owned()));
        lines.map(|line| line + "\n").collect()
    }

    #[test]
    fn every_starter_loads_as_it_is_and_with_all_that_is_commented_out() {
        for kind in KINDS {
            let text = starter(kind).unwrap();
            let all = with_all_options(text);
            assert!(all != text, "{kind} shows no option");
            let loaded = crate::config::load(text, &|_| None);
            assert!(loaded.problems.is_empty(), "{kind}: {:#?}", loaded.problems);
            let loaded = crate::config::load(&all, &|_| None);
            assert!(!any_error(&loaded.problems), "{kind}: {:#?}\n{all}", loaded.problems);
        }
    }

    #[test]
    fn every_starter_says_what_to_do_next() {
        for kind in KINDS {
            let text = starter(kind).unwrap();
            for step in ["countersign run", "127.0.0.1:8080/"] {
                assert!(text.contains(step), "{kind}: {step}");
            }
        }
    }
}
