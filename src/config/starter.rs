//! Starter configurations for `countersign init`: the examples in `config/`, and short ones for
//! the kinds that need no example of their own.

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
        "oauth2" => include_str!("../../config/oauth-any-api.toml"),
        "login" => include_str!("../../config/login-any-api.toml"),
        "hmac" => include_str!("../../config/hmac-any-api.toml"),
        "fields" | "query" => include_str!("../../config/fields-and-query.toml"),
        "bearer" => BEARER,
        "basic" => BASIC,
        _ => return None,
    })
}

const BEARER: &str = r#"# countersign: any API that wants "Authorization: Bearer".
# Check it:  countersign check        Run it:  countersign run

[[listen]]
address = "127.0.0.1:8080"

# What the API wants. The token comes from the environment; it may also come from
# { file = "/run/secrets/api_token" } or { exec = ["pass", "show", "api"] }.
[credential.api]
kind = "bearer"
token = { env = "API_TOKEN" }

# Which requests go there: http://127.0.0.1:8080/api/… → https://api.example.com/…
[[route]]
name = "api"
path = "/api"
upstream = "https://api.example.com"
credential = "api"
"#;

const BASIC: &str = r#"# countersign: any API that wants a user and a password.
# Check it:  countersign check        Run it:  countersign run

[[listen]]
address = "127.0.0.1:8080"

# What the API wants. The password comes from the environment; it may also come from
# { file = "/run/secrets/api_password" } or { exec = ["pass", "show", "api"] }.
[credential.api]
kind = "basic"
username = "reporting"
password = { env = "API_PASSWORD" }

# Which requests go there: http://127.0.0.1:8080/api/… → https://api.example.com/…
[[route]]
name = "api"
path = "/api"
upstream = "https://api.example.com"
credential = "api"
"#;
