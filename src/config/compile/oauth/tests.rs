use crate::config::load;
use crate::config::problem::Report;
use crate::config::{CredentialConfig, SourceSpec};
use crate::credential::devices::Form;
use crate::credential::oauth::{Assertion, ClientAuth, Endpoint, Grant, OauthSpec};
use crate::credential::secret_ref::SecretRef;

fn with(credential: &str) -> String {
    let many = credential.contains("devices = ");
    let identity = if many { "identity = { header = \"X-Device\" }\n" } else { "" };
    format!(
        "[[listen]]\naddress = \"127.0.0.1:8080\"\n\n[credential.x]\nkind = \"oauth2\"\n\
         {credential}\n\n[[route]]\nname = \"r\"\nupstream = \"https://api.example.com\"\n\
         credential = \"x\"\n{identity}"
    )
}

const STORE: &str = "\n[token_store]\nkind = \"file\"\npath = \"/t\"\nkey = { file = \"/k\" }\n";

fn compiled(credential: &str) -> (CredentialConfig, OauthSpec) {
    let text = with(credential);
    let loaded = load(&text, &|_| None);
    let report = Report { name: "x", text: &text, loaded: &loaded }.to_string();
    let config = loaded.config.clone().unwrap_or_else(|| panic!("{report}"));
    assert_eq!(loaded.problems, [], "{report}");
    let [credential] = &config.credentials[..] else { panic!() };
    let SourceSpec::Oauth(spec) = &credential.source else { panic!() };
    (credential.clone(), spec.clone())
}

fn problems(credential: &str) -> Vec<String> {
    let loaded = load(&with(credential), &|_| None);
    loaded.problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
}

const URL: &str = "token_url = \"https://id.example.com/token\"\n";
const CLIENT: &str = "client_id = \"c\"\nclient_secret = { env = \"S\" }\n";

#[test]
fn a_client_with_a_secret_shows_it_in_the_field_unless_it_says_otherwise() {
    let (credential, spec) = compiled(&format!("{URL}{CLIENT}"));
    assert!(matches!(spec.grant, Grant::ClientCredentials));
    assert!(matches!(spec.client_auth, ClientAuth::Basic(_)));
    assert_eq!(credential.secrets(), [SecretRef::Env("S".to_owned())]);
    assert!(credential.source.is_fetched());
    let (_, spec) = compiled(&format!("{URL}{CLIENT}client_auth = \"post\""));
    assert!(matches!(spec.client_auth, ClientAuth::Post(_)));
    let key = "client_id = \"c\"\nclient_assertion = { key = { env = \"K\" } }\n";
    let (_, spec) = compiled(&format!("{URL}{key}"));
    let ClientAuth::PrivateKeyJwt(assertion) = &spec.client_auth else { panic!("{spec:?}") };
    assert_eq!((assertion.issuer.as_deref(), assertion.subject.as_deref()), (Some("c"), Some("c")));
    let (_, spec) = compiled(&format!("{URL}client_id = \"c\"\nclient_auth = \"none\""));
    assert!(matches!(spec.client_auth, ClientAuth::None));
    let tls = "tls = { client_certificate = \"c.pem\", client_key = \"c.key\" }\n";
    let (_, spec) = compiled(&format!("{URL}client_id = \"c\"\nclient_auth = \"tls\"\n{tls}"));
    assert!(matches!(spec.client_auth, ClientAuth::Tls));
}

#[test]
fn each_grant_is_compiled_with_what_belongs_to_it() {
    let grant = |more: &str| compiled(&format!("{URL}{more}")).1.grant;
    let password = "grant = \"password\"\nusername = \"u\"\npassword = { env = \"P\" }";
    assert!(matches!(grant(password), Grant::Password { .. }));
    let refresh = "grant = \"refresh_token\"\nrefresh_token = { file = \"/r\" }";
    assert!(matches!(grant(refresh), Grant::RefreshToken(Some(SecretRef::File(_)))));
    let given = "grant = \"jwt_bearer\"\nassertion = { file = \"/a\" }";
    assert!(matches!(grant(given), Grant::JwtBearer(Assertion::Given(_))));
    let signed = "grant = \"jwt_bearer\"\nsigned_assertion = { key = { file = \"/k\" }, \
                  issuer = \"i\", algorithm = \"EdDSA\", claims = { scope = \"a\", n = 1, list = [\"x\"] } }";
    let Grant::JwtBearer(Assertion::Signed(assertion)) = grant(signed) else { panic!() };
    assert_eq!((assertion.issuer.as_deref(), assertion.subject.as_deref()), (Some("i"), Some("i")));
    assert_eq!(assertion.claims.len(), 3);
    let exchange = "grant = \"token_exchange\"\nsubject_token = { file = \"/s\" }\n\
                    actor_token = { file = \"/a\" }\nactor_token_type = \"urn:x\"";
    let Grant::TokenExchange(exchange) = grant(exchange) else { panic!() };
    assert_eq!(exchange.subject_token_type, "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(exchange.actor_token.unwrap().1, "urn:x");
}

#[test]
fn a_login_begins_where_it_is_told_or_where_the_metadata_say() {
    let login = "grant = \"device_code\"\nclient_id = \"c\"\n";
    let begin = "device_authorization_url = \"https://id.example.com/device\"\n";
    let (credential, spec) = compiled(&format!("{URL}{begin}{login}{STORE}"));
    let Grant::DeviceCode { url: Some(url), plaintext: false } = spec.grant else { panic!() };
    assert_eq!(url, "https://id.example.com/device");
    assert!(matches!(spec.client_auth, ClientAuth::None));
    assert!(credential.source.needs_a_person() && credential.bound_secrets().is_empty());
    let issuer = "issuer = \"https://id.example.com\"\n";
    let secret = "client_secret = { env = \"S\" }\n";
    let (credential, spec) = compiled(&format!("{issuer}{login}{secret}{STORE}"));
    assert!(matches!(spec.grant, Grant::DeviceCode { url: None, .. }));
    assert!(matches!(spec.endpoint, Endpoint::Discovered { .. }));
    assert_eq!(credential.secrets().len(), 1);
    assert!(credential.bound_secrets().is_empty(), "it may be replaced");

    for (text, problem) in [
        (
            format!("{issuer}{login}"),
            "grant: the login of a person needs a [token_store] that outlives the process",
        ),
        (
            format!("{URL}{login}{STORE}"),
            "device_authorization_url: 'device_authorization_url' is missing",
        ),
        (format!("{issuer}grant = \"device_code\"\n{STORE}"), "client_id: 'client_id' is missing"),
        (
            format!("{URL}{login}{}{STORE}", begin.replace("https", "http")),
            "device_authorization_url: the login would go to http://id.example.com unencrypted",
        ),
        (
            format!("{issuer}{login}devices = \"d.csv\"\n{STORE}"),
            "devices: a person cannot log in for each device",
        ),
        (
            format!("{URL}{CLIENT}{begin}"),
            "device_authorization_url: 'device_authorization_url' belongs to the grant \
             \"device_code\"",
        ),
    ] {
        let (found, problem) = (problems(&text), format!("credential.x.{problem}"));
        assert!(found.contains(&problem), "{problem}\nnot among {found:#?}\nof\n{text}");
    }
    // What is wrong with the store is told once, and where it is.
    let misshapen = STORE.replace("\"file\"\n", "\"fiel\"\n");
    let found = problems(&format!("{issuer}{login}{misshapen}"));
    assert!(found.iter().all(|problem| problem.starts_with("token_store")), "{found:?}");
}

#[test]
fn each_device_has_what_the_configuration_leaves_out() {
    let devices = "devices = \"d.csv\"\n";
    let columns = |text: &str| {
        let (credential, spec) = compiled(&format!("{URL}{devices}{text}"));
        let columns = credential.devices.unwrap().columns;
        let columns = columns.into_iter().map(|column| {
            let form = if column.form == Form::Secret { "" } else { "'" };
            let optional = if column.required { "" } else { "?" };
            assert_eq!(column.name, column.value);
            format!("{form}{}{optional}", column.name)
        });
        (columns.collect::<Vec<_>>().join(" "), spec)
    };
    let (all, spec) = columns("");
    assert_eq!(all, "client_secret 'client_id 'scope? 'audience?");
    assert!(matches!(spec.client_auth, ClientAuth::Basic(None)) && spec.secrets().is_empty());
    let (all, _) = columns("client_id = \"c\"\nscope = \"a\"\naudience = \"x\"");
    assert_eq!(all, "client_secret");
    let (all, spec) = columns("client_secret = { env = \"S\" }\nextra = { audience = \"x\" }");
    assert_eq!(all, "'client_id 'scope?");
    assert!(matches!(spec.client_auth, ClientAuth::Basic(Some(_))));
    let (all, _) = columns("client_auth = \"post\"");
    assert!(all.starts_with("client_secret 'client_id "), "{all}");
    let (all, spec) = columns("client_auth = \"private_key_jwt\"");
    assert!(all.starts_with("client_assertion_key 'client_id "), "{all}");
    let ClientAuth::PrivateKeyJwt(assertion) = spec.client_auth else { panic!() };
    assert_eq!((assertion.key, assertion.issuer, assertion.subject), (None, None, None));
    let key = "client_assertion = { key = { env = \"K\" } }";
    assert!(columns(key).0.starts_with("'client_id "), "one key for all");

    let grant = |name: &str, more: &str| columns(&format!("grant = \"{name}\"\n{more}")).0;
    assert_eq!(
        grant("password", ""),
        "'username password 'client_id? 'scope? 'audience?",
        "public clients, unless it says otherwise"
    );
    let secret = "client_id = \"c\"\nclient_secret = { env = \"S\" }\nusername = \"u\"";
    assert_eq!(grant("password", secret), "password 'scope? 'audience?");
    assert!(grant("refresh_token", "").starts_with("refresh_token 'client_id? "));
    assert!(grant("jwt_bearer", "").starts_with("assertion 'client_id? "));
    assert!(grant("token_exchange", "").starts_with("subject_token 'client_id? "));
    let found = problems(&format!("{URL}{CLIENT}{devices}"));
    assert_eq!(found, ["credential.x.devices: nothing differs from device to device"]);
    let found = problems(&format!("{URL}{devices}client_id = \"c\"\nclient_secret = \"text\""));
    assert!(
        found.contains(
            &"credential.x.client_secret: a secret cannot stand in the file itself".to_owned()
        ),
        "{found:?}"
    );
    assert!(!found.iter().any(|problem| problem.contains("is missing")), "{found:?}");
}

#[test]
fn the_endpoint_is_given_or_found() {
    let (_, spec) = compiled(&format!("issuer = \"https://id.example.com/t\"\n{CLIENT}"));
    assert!(matches!(spec.endpoint, Endpoint::Discovered { .. }) && spec.may_be_secure());
    assert_eq!(spec.issuer.as_deref(), Some("https://id.example.com/t"));
    let (_, spec) = compiled(&format!("issuer = \"https://id.example.com\"\n{URL}{CLIENT}"));
    assert!(matches!(spec.endpoint, Endpoint::Url(_)), "there is nothing to be found");
    assert_eq!(spec.issuer.as_deref(), Some("https://id.example.com"), "for assertions");
    let (_, spec) = compiled(&format!("token_url = \"http://127.0.0.1:1/t\"\n{CLIENT}"));
    assert!(!spec.may_be_secure());
}

#[test]
fn what_others_send_in_the_field_of_the_token_is_removed() {
    let (credential, spec) = compiled(&format!(
        "{URL}{CLIENT}header = \"X-Token\"\nscope = [\"a\", \"b\"]\nremove = [\"X-Old-*\"]\n\
         audience = [\"x\", \"y\"]\nresource = \"z\"\n\
         extra = {{ a = \"{{b}}\", s = {{ env = \"E\" }} }}"
    ));
    for name in ["x-token", "authorization", "x-old-one"] {
        assert!(credential.owned.contains(&name.parse().unwrap()), "{name}");
    }
    assert_eq!(spec.scope.as_deref(), Some("a b"));
    let names: Vec<&str> = spec.parameters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["audience", "audience", "resource", "a", "s"]);
}

#[test]
fn mistakes_are_found() {
    let client = |more: &str| format!("{URL}{CLIENT}{more}");
    let signed = |more: &str| {
        format!(
            "{URL}grant = \"jwt_bearer\"\nsigned_assertion = {{ key = {{ env = \"K\" }}, {more} }}"
        )
    };
    let cases = [
        (CLIENT.to_owned(), "token_url: 'token_url' is missing"),
        (URL.to_owned(), "client_id: 'client_id' is missing"),
        (format!("{URL}client_id = \"c\""), "client_secret: 'client_secret' is missing"),
        (
            format!("{URL}client_id = \"c\"\nclient_secret = \"text\""),
            "client_secret: a secret cannot stand in the file itself",
        ),
        (client("grant = \"password\""), "username: 'username' is missing"),
        (client("grant = \"password\""), "password: 'password' is missing"),
        (client("grant = \"refresh_token\""), "refresh_token: 'refresh_token' is missing"),
        (client("grant = \"jwt_bearer\""), "signed_assertion: 'signed_assertion' is missing"),
        (client("grant = \"token_exchange\""), "subject_token: 'subject_token' is missing"),
        (client("grant = \"clientcredentials\""), "grant: \"clientcredentials\" is not known here"),
        (
            client("password = { env = \"P\" }"),
            "password: 'password' belongs to the grant \"password\"",
        ),
        (
            client("refresh_token = { env = \"P\" }"),
            "refresh_token: 'refresh_token' belongs to the grant \"refresh_token\"",
        ),
        (
            client("client_auth = \"tls\""),
            "client_secret: 'client_secret' is not used with this client_auth",
        ),
        (
            format!("{URL}client_id = \"c\"\nclient_auth = \"tls\""),
            "tls.client_certificate: 'client_certificate' is missing",
        ),
        (
            format!("{URL}client_id = \"c\"\nclient_auth = \"private_key_jwt\""),
            "client_assertion: 'client_assertion' is missing",
        ),
        (
            format!("token_url = \"http://id.example.com/token\"\n{CLIENT}"),
            "token_url: the login would go to http://id.example.com unencrypted",
        ),
        (
            format!("issuer = \"http://id.example.com\"\n{CLIENT}"),
            "issuer: the login would go to http://id.example.com unencrypted",
        ),
        (client("extra = { scope = \"x\" }"), "extra.scope: 'scope' is set already"),
        (client("extra = { grant_type = \"x\" }"), "extra.grant_type: 'grant_type' is set already"),
        (
            client("audience = \"a\"\nextra = { audience = \"x\" }"),
            "extra.audience: 'audience' is set already",
        ),
        (
            client("headers = { Authorization = \"x\" }"),
            "headers.Authorization: 'Authorization' is set already",
        ),
        (
            client("headers = { Content-Type = \"x\" }"),
            "headers.Content-Type: 'Content-Type' is set already",
        ),
        (client("headers = { Host = \"x\" }"), "headers.Host: the field 'Host' cannot be set"),
        (
            client("headers = { X-A = \"a\\nb\" }"),
            "headers.X-A: this has a character that a field cannot hold",
        ),
        (client("prefix = \"a\\nb\""), "prefix: this has a character that a field cannot hold"),
        (client("header = \"a b\""), "header: 'a b' is not a field name"),
        (signed(""), "signed_assertion.issuer: 'issuer' is missing"),
        (
            signed("issuer = \"i\", lifetime = \"6m\""),
            "signed_assertion.lifetime: an assertion does not live that long",
        ),
        (
            signed("issuer = \"i\", claims = { exp = 1 }"),
            "signed_assertion.claims.exp: 'exp' is claimed already",
        ),
        (
            signed("issuer = \"i\", algorithm = \"HS256\""),
            "signed_assertion.algorithm: \"HS256\" is not known here",
        ),
    ];
    for (text, problem) in cases {
        let text = text.replace(", }", " }");
        let found = problems(&text);
        let problem = format!("credential.x.{problem}");
        assert!(found.contains(&problem), "{problem}\nnot among {found:#?}\nof\n{text}");
    }
}

#[test]
fn a_report_shows_what_is_harmless_and_no_secret() {
    let text = with(
        "token_url = \"https://id.example.com/token\"\nclient_id = \"gateway\"\n\
         client_secret = \"canary-1\"\nextra = { key = \"canary-2\", scope = \"canary-3\" }\n\
         headers = { Host = \"canary-4\" }\nprefix = \"canary-5\\n\"\nscoope = \"canary-6\"\n\
         client_assertion = { key = \"canary-7\", claims = { exp = \"canary-8\" } }\n\
         grant = \"pasword\"",
    );
    let loaded = load(&text, &|_| None);
    let report = Report { name: "x", text: &text, loaded: &loaded }.to_string();
    assert!(!report.contains("canary"), "{report}");
    assert!(report.contains("grant = \"pasword\""), "{report}");
}

#[test]
fn check_print_shows_references_and_no_secret() {
    let text = with(&format!(
        "{URL}client_id = \"c\"\nclient_secret = {{ value = \"canary\" }}\nscope = \"a\"\n\
         extra = {{ key = {{ value = \"canary\" }}, tenant = \"7\" }}"
    ));
    let loaded = load(&text, &|_| None);
    let shown = toml::to_string(&loaded.expanded[0].1).unwrap();
    assert!(!shown.contains("canary"), "{shown}");
    for part in ["kind = \"oauth2\"", "client_id = \"c\"", "tenant = \"7\"", "value = \"***\""] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}
