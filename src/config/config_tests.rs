use super::problem::{Report, Severity};
use super::*;
use crate::credential::secret_ref::SecretRef;
use crate::credential::store::StoreSpec;
use crate::credential::store::redis::{RedisSpec, Topology};
use crate::sign::BodyCoverage;

fn no_environment(_: &str) -> Option<String> {
    None
}

/// The report for `text`, as `countersign check` prints it.
fn report(text: &str) -> String {
    let loaded = load(text, &no_environment);
    Report { name: "countersign.toml", text, loaded: &loaded }.to_string()
}

fn valid(text: &str) -> Config {
    let loaded = load(text, &no_environment);
    loaded.config.unwrap_or_else(|| panic!("{}", report(text)))
}

/// A configuration with one credential, `x`, on one route.
fn with_credential(credential: &str) -> String {
    format!(
        "[[listen]]\naddress = \"127.0.0.1:8080\"\n\n[credential.x]\n{credential}\n\n\
         [[route]]\nname = \"r\"\nupstream = \"https://api.example.com\"\ncredential = \"x\"\n"
    )
}

fn with_route(route: &str) -> String {
    format!("[[listen]]\naddress = \"127.0.0.1:8080\"\n\n[[route]]\nname = \"r\"\n{route}\n")
}

/// The messages alone, each with its place.
fn problems(text: &str) -> Vec<String> {
    let loaded = load(text, &no_environment);
    loaded.problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
}

#[test]
fn every_mistake_is_reported_at_once_with_place_and_hint() {
    let text = include_str!("../../tests/vectors/ten-mistakes.toml");
    let errors = load(text, &no_environment).problems;
    let errors = errors.iter().filter(|problem| problem.severity == Severity::Error).count();
    assert!(errors >= 10, "{errors}");
    insta::assert_snapshot!(report(text));
}

#[test]
fn a_report_never_repeats_a_literal_secret() {
    let text = with_credential("kind = \"bearer\"\ntoken = { value = \"canary\", evn = \"X\" }");
    assert!(!report(&text).contains("canary"), "{}", report(&text));
    let text = with_credential("kind = \"bearer\"\ntoken = \"canary\"");
    assert!(!report(&text).contains("canary"), "{}", report(&text));
    let text = with_credential("kind = \"bearer\"\ntoken = \"canary");
    assert!(!report(&text).contains("canary"), "{}", report(&text));
}

#[test]
fn text_that_is_not_toml_is_reported_with_its_place() {
    insta::assert_snapshot!(report("[[listen]]\naddress = 127.0.0.1:8080\n[[route]\n"));
}

#[test]
fn a_token_store_is_in_memory_or_says_where_and_with_which_key() {
    let with_store = |store: &str| with_route("upstream = \"https://api.example.com\"") + store;
    let store = |text: &str| {
        let text = with_store(text);
        let loaded = load(&text, &no_environment);
        loaded.config.unwrap_or_else(|| panic!("{}", report(&text))).token_store
    };
    assert_eq!(store(""), StoreSpec::Memory);
    assert_eq!(store("[token_store]\nkind = \"memory\"\n"), StoreSpec::Memory);
    let file = "[token_store]\nkind = \"file\"\npath = \"/t\"\nkey = { env = \"KEY\" }\n";
    let key = SecretRef::Env("KEY".to_owned());
    assert_eq!(store(file), StoreSpec::File { path: "/t".into(), key: key.clone() });
    let config = load(&with_store(file), &no_environment).config.unwrap();
    assert!(config.secrets().contains(&key), "it is read like any other secret");
    for (text, expected) in [
        ("kind = \"file\"", &["'path' is missing", "'key' is missing", "openssl rand"][..]),
        ("kind = \"file\"\npath = \"/var/\"", &["this is not the path of a file"]),
        ("kind = \"fiel\"", &["did you mean \"file\"?"]),
        ("kind = \"memory\"\npath = \"/t\"", &["unknown key 'path'"]),
        ("path = \"/t\"", &["'kind' is missing", "one of: memory, file, redis"]),
        ("kind = \"file\"\nkey = \"canary\"", &["a secret cannot stand in the file itself", "***"]),
        ("kind = \"file\"\nkey = { value = \"canary\" }", &["key = { value = *** }"]),
    ] {
        let shown = report(&with_store(&format!("[token_store]\n{text}\n")));
        for expected in expected {
            assert!(shown.contains(expected), "{expected} is not in\n{shown}");
        }
        assert!(!shown.contains("canary"), "{shown}");
    }
}

/// What `[token_store]` with this text comes to, or the report.
fn redis_store(text: &str) -> Result<RedisSpec, String> {
    let route = with_route("upstream = \"https://api.example.com\"");
    let text = format!("{route}[token_store]\nkind = \"redis\"\n{text}\n");
    let loaded = load(&text, &no_environment);
    match loaded.config.map(|config| config.token_store) {
        Some(StoreSpec::Redis(spec)) => Ok(*spec),
        Some(other) => panic!("{other:?}"),
        None => Err(report(&text)),
    }
}

#[test]
fn a_store_in_redis_is_one_server_or_sentinels_or_a_cluster() {
    let key = "key = { env = \"KEY\" }\n";
    let spec = |text: &str| redis_store(&format!("{key}{text}")).unwrap_or_else(|e| panic!("{e}"));
    let plain = spec("url = \"redis://localhost\"");
    assert_eq!(plain.servers, [("localhost".to_owned(), 6379)]);
    assert_eq!((plain.topology, plain.tls, plain.database), (Topology::One, None, 0));
    assert_eq!((plain.prefix.as_str(), plain.timeout.as_millis()), ("countersign:", 1_000));
    assert_eq!((plain.username, plain.password), (None, None));
    let password = "password = { env = \"P\" }\n";
    let tls = "tls = { ca = \"ca.pem\" }\ntimeout = \"300ms\"\nprefix = \"{p}:\"";
    let full = spec(&format!("url = \"rediss://u@[::1]:7000/3\"\n{password}{tls}"));
    assert_eq!(full.servers, [("::1".to_owned(), 7000)]);
    assert_eq!(full.to_string(), "rediss://[::1]:7000");
    assert_eq!((full.username.as_deref(), full.database), (Some("u"), 3));
    assert_eq!(full.tls.unwrap().ca, Some("ca.pem".into()));
    assert_eq!((full.prefix.as_str(), full.timeout.as_millis()), ("{p}:", 300));
    let own = "sentinel = { master = \"main\", username = \"s\", password = { env = \"S\" } }\n";
    let text = format!("urls = [\"redis://a.example/2\", \"redis://b.example:9/2\"]\n{own}");
    let watched = spec(&format!("{text}allow_plaintext = true\nnode_ports = [6380]"));
    let env = |name: &str| SecretRef::Env(name.to_owned());
    assert_eq!(watched.servers, [("a.example".to_owned(), 26379), ("b.example".to_owned(), 9)]);
    assert_eq!(watched.secrets().cloned().collect::<Vec<_>>(), [env("KEY"), env("S")]);
    assert_eq!(watched.ports().collect::<Vec<_>>(), [26379, 9, 6379, 6380]);
    let cluster = spec("urls = [\"rediss://a.example\", \"rediss://b.example\"]\ncluster = true");
    assert_eq!(cluster.topology, Topology::Cluster);
    assert!(cluster.tls.is_some());
}

#[test]
fn what_is_wrong_with_a_store_in_redis_is_said_with_a_hint() {
    let local = "url = \"redis://127.0.0.1\"";
    let two = "urls = [\"redis://127.0.0.1\", \"redis://127.0.0.2\"]";
    for (text, expected) in [
        (
            String::new(),
            &["'url' is missing", "'key' is missing", "rediss://redis.example.com"][..],
        ),
        ("url = \"redis://u:canary@localhost\"".into(), &["a password cannot stand in the URL"]),
        ("url = \"redis://:canary@localhost\"".into(), &["password = { file = \"PATH\" }"]),
        ("url = \"redis://%75@localhost\"".into(), &["set username = \"NAME\" instead"]),
        ("url = \"redis://u@localhost\"".into(), &["'password' is missing"]),
        ("url = \"http://localhost\"".into(), &["does not begin with rediss:// or redis://"]),
        ("url = \"redis://localhost/x\"".into(), &["is not the number of a database"]),
        ("url = \"redis://localhost:0\"".into(), &["no host or port that can be connected to"]),
        ("url = \"redis://localhost?db=1\"".into(), &["a query ('?')"]),
        ("url = \"redis://a.example\"".into(), &["what is stored would go to a.example"]),
        (
            "url = \"redis://a.example\"\npassword = { env = \"P\" }".into(),
            &["the password would go to a.example unencrypted", "allow_plaintext = true"],
        ),
        (format!("{local}\nurls = []"), &["'url' and 'urls' exclude each other"]),
        ("urls = []".into(), &["there is no URL"]),
        (two.into(), &["one server has one URL", "cluster = true"]),
        (
            "urls = [\"redis://127.0.0.1\", \"rediss://127.0.0.1\"]\ncluster = true".into(),
            &["the URLs do not agree"],
        ),
        (
            "url = \"redis://127.0.0.1/1\"\ncluster = true".into(),
            &["a cluster has database 0 only"],
        ),
        (format!("{two}\nsentinel = {{}}"), &["'master' is missing"]),
        (format!("{two}\nsentinel = {{ master = \"\" }}"), &["this is no name"]),
        (
            format!("{two}\nsentinel = {{ master = \"m\" }}\ncluster = true"),
            &["'sentinel' and 'cluster' exclude each other"],
        ),
        (
            format!("{two}\nsentinel = {{ master = \"m\", username = \"u\" }}"),
            &["'password' is missing"],
        ),
        (format!("{local}\nnode_ports = [1]"), &["one server has no other ports"]),
        (format!("{local}\ntls = {{}}"), &["there is no TLS on a redis:// connection"]),
        (format!("{local}\nprefix = \"\""), &["visible characters of ASCII"]),
        (format!("{local}\nprefix = \"a b\""), &["visible characters of ASCII"]),
        (format!("{local}\ntimeout = \"5s\""), &["from 10 milliseconds to 4 seconds"]),
        (format!("{local}\npassword = \"canary\""), &["a secret cannot stand in the file itself"]),
        (format!("{local}\nusername = \"canary\""), &["'password' is missing"]),
        (
            "url = \"redis://u@localhost\"\nusername = \"v\"".into(),
            &["the URL names a user as well"],
        ),
        (format!("{local}\nmaster = \"m\""), &["unknown key 'master'"]),
    ] {
        let shown = redis_store(&text).expect_err(&text);
        for expected in expected {
            assert!(shown.contains(expected), "{expected} is not in\n{shown}");
        }
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn a_definition_changes_with_all_that_identifies_a_token_and_with_nothing_else() {
    let definition = |more: &str| {
        let text = with_credential(&format!(
            "kind = \"twinzo-device\"\nbase_url = \"https://api.example.com\"\n\
             login = \"a\"\npassword = {{ env = \"P\" }}\n{more}"
        ));
        load(&text, &no_environment).config.unwrap().credentials[0].definition
    };
    let plain = definition("");
    assert_eq!(definition("refresh = { eager = false, margin = \"5%\" }"), plain);
    assert_eq!(definition("tls = {}"), plain, "what says nothing");
    assert_ne!(definition("client = \"acme\""), plain);
    assert_ne!(definition("tls = { ca = \"ca.pem\" }"), plain);
}

#[test]
fn an_empty_file_says_what_is_missing() {
    insta::assert_snapshot!(report(""));
}

#[test]
fn every_kind_of_wrong_type_says_what_was_expected() {
    let text = "workers = \"four\"\nlisten = { address = 1 }\n[limits]\nfields = 0\n\
                [log]\nlevel = \"verbose\"\n[[route]]\nmethods = \"GET\"\nreplay = 3\n";
    insta::assert_snapshot!(report(text));
}

#[test]
fn the_environment_is_used_in_plain_strings_only() {
    let text = with_route("upstream = \"https://${HOST}/${BASE:-v1}\"\nset = { X = \"$${HOST}\" }");
    let environment = |name: &str| (name == "HOST").then(|| "api.example.com".to_owned());
    let config = load(&text, &environment).config.unwrap();
    let route = &config.routes[0];
    assert_eq!(route.upstream.origin.to_string(), "https://api.example.com");
    assert_eq!(route.upstream.base, "/v1");
    assert_eq!(route.set[0].1, "${HOST}", "an escaped one stays as it is");
    let secret = with_credential("kind = \"bearer\"\ntoken = { value = \"${HOST}\" }");
    let Some(config) = load(&secret, &environment).config else { panic!("{}", report(&secret)) };
    let secrets = config.secrets();
    let [SecretRef::Value(token)] = &secrets[..] else { panic!("{secrets:?}") };
    assert_eq!(token.expose(), "${HOST}", "a secret is not expanded");
}

#[test]
fn a_twinzo_device_expands_to_a_login() {
    let text = with_credential(
        "kind = \"twinzo-device\"\nbase_url = \"https://api.example.com/api/\"\nclient = \"a{b}\"\n\
         login = \"gateway-01\"\npassword = { env = \"TWINZO_PASSWORD\" }",
    );
    let loaded = load(&text, &no_environment);
    assert_eq!(loaded.problems, []);
    insta::assert_snapshot!(toml::to_string(&loaded.expanded[0].1).unwrap());
    let credential = &loaded.config.unwrap().credentials[0];
    for name in ["token", "client", "branch", "api-key", "mapi-key", "authorization", "cookie"] {
        assert!(credential.owned.contains(&name.parse().unwrap()), "{name}");
    }
    for (base, rest) in [("/a/b/c/d/e", "/v3/Authorization/token"), ("", "/v3.0/authorization")] {
        assert!(credential.deny.iter().any(|pattern| pattern.covers(base, rest)), "{base}{rest}");
    }
}

#[test]
fn configured_guids_take_the_place_of_those_in_the_reply() {
    let text = with_credential(
        "kind = \"twinzo-device\"\nbase_url = \"https://api.example.com\"\nlogin = \"l\"\n\
         password = { env = \"P\" }\nclient_guid = \"3f2b8c1e-5a4d-4e6f-9b7a-0c1d2e3f4a5b\"\n\
         api_key = { env = \"K\" }",
    );
    let loaded = load(&text, &no_environment);
    insta::assert_snapshot!(toml::to_string(&loaded.expanded[0].1).unwrap());
    assert!(loaded.config.is_some());
}

#[test]
fn a_devo_signature_expands_to_an_hmac() {
    let text = with_credential(
        "kind = \"devo-signature\"\nreseller_api_key = { env = \"R\" }\n\
         domain_api_key = { env = \"D\" }\napi_secret = { env = \"S\" }",
    );
    let loaded = load(&text, &no_environment);
    insta::assert_snapshot!(toml::to_string(&loaded.expanded[0].1).unwrap());
    let credential = &loaded.config.unwrap().credentials[0];
    assert_eq!(credential.scheme.body_coverage(), BodyCoverage::Whole);
    for name in ["x-logtrust-sign", "x-logtrust-anything", "standalonetoken", "authorization"] {
        assert!(credential.owned.contains(&name.parse().unwrap()), "{name}");
    }
}

#[test]
fn the_key_that_signs_is_chosen_as_documented() {
    let base = |extra: &str| {
        let text = with_credential(&format!(
            "kind = \"devo-signature\"\napi_secret = {{ env = \"S\" }}\n{extra}"
        ));
        let loaded = load(&text, &no_environment);
        let expanded = loaded.expanded.first().map(|(_, raw)| toml::to_string(raw).unwrap());
        let expanded = expanded.filter(|_| loaded.config.is_some());
        expanded.map(|text| text.lines().find(|line| line.starts_with("base")).unwrap().to_owned())
    };
    let domain = "domain_api_key = { env = \"D\" }\n";
    let both = format!("{domain}reseller_api_key = {{ env = \"R\" }}\n");
    assert!(base(domain).unwrap().contains("\"domain_api_key\""));
    assert!(base(&both).unwrap().contains("\"reseller_api_key\""));
    let chosen = format!("{both}sign_with = \"domain\"");
    assert!(base(&chosen).unwrap().contains("\"domain_api_key\""));
    assert_eq!(base("sign_with = \"reseller\""), None, "a key that is not there cannot sign");
    assert!(base("api = \"query\"\napi_key = { env = \"Q\" }").unwrap().contains("\"api_key\""));
}

#[test]
fn generic_kinds_are_compiled() {
    for kind in [
        "kind = \"bearer\"\ntoken = { env = \"T\" }",
        "kind = \"basic\"\nusername = \"u\"\npassword = { exec = [\"pass\", \"show\"] }",
        "kind = \"query\"\nset = { api_key = { systemd = \"key\" } }",
        "kind = \"fields\"\nset = { X-Key = { file = \"/k\" }, X-Mode = \"live\" }",
        "kind = \"fields\"\nvalues = { k = { env = \"K\" } }\nset = { X-Key = \"Key {k}\" }",
        "kind = \"hmac\"\nkey = { env = \"S\" }\nbase = [\"method\", { literal = \"\\n\" }, \
         \"path\", { header = \"date\" }, { body_hash = \"sha256\", encoding = \"base64\" }]\n\
         set = { Authorization = \"HMAC {signature}\" }",
        "kind = \"login\"\nrequest = { url = \"https://a.example.com/t\", form = { p = \"{p}\" } }\n\
         secrets = { p = { env = \"P\" } }\nvalues = { token = \"/t\" }\nlifetime = \"1h\"\n\
         set = { Authorization = \"Bearer {token}\" }",
    ] {
        let config = valid(&with_credential(kind));
        assert_eq!(config.credentials.len(), 1, "{kind}");
    }
}

#[test]
fn mistakes_in_credentials_are_found() {
    let cases = [
        ("kind = \"bearer\"", "credential.x.token: 'token' is missing"),
        ("token = { env = \"T\" }", "credential.x: 'kind' is missing"),
        (
            "kind = \"bearer\"\ntoken = {}",
            "credential.x.token: it does not say where the secret is",
        ),
        (
            "kind = \"fields\"\nset = { Host = \"x\" }",
            "credential.x.set.Host: the field 'Host' cannot be set",
        ),
        (
            "kind = \"fields\"\nset = { A = \"1\", a = \"2\" }",
            "credential.x.set.a: the field 'a' is set twice; case makes no difference",
        ),
        (
            "kind = \"fields\"\nvalues = { token = { env = \"T\" } }\nset = { A = \"{tokne}\" }",
            "credential.x.set.A: there is no value 'tokne'",
        ),
        (
            "kind = \"fields\"\nset = { A = \"{\" }",
            "credential.x.set.A: a '{' has no '}'; write '{{' for a brace itself",
        ),
        (
            "kind = \"hmac\"\nkey = { env = \"K\" }\nbase = [\"body\", { body_hash = \"sha1\" }]\n\
             set = { S = \"{signature}\" }",
            "credential.x.base: the content is in the base more than once",
        ),
        (
            "kind = \"hmac\"\nkey = { env = \"K\" }\nbase = [\"body\"]\nset = { S = \"x\" }",
            "credential.x.set: no field carries the signature",
        ),
        (
            "kind = \"login\"\nrequest = { url = \"http://a.example.com\" }\nlifetime = \"1h\"\n\
             values = { t = \"/t\" }\nset = { A = \"{t}\" }",
            "credential.x.request.url: the login would go to http://a.example.com unencrypted",
        ),
        (
            "kind = \"login\"\nrequest = { url = \"https://a.example.com\" }\nlifetime = \"1h\"\n\
             values = { t = \"t\" }\nset = { A = \"{t}\" }",
            "credential.x.values.t: this is not a JSON pointer",
        ),
        (
            "kind = \"twinzo-device\"\nbase_url = \"http://a.example.com\"\nlogin = \"l\"\n\
             password = { env = \"P\" }",
            "credential.x.base_url: the login would go to http://a.example.com unencrypted",
        ),
        (
            "kind = \"twinzo-api-key\"\napi_key = { env = \"K\" }\nclient_guid = \"acme\"\n\
             branch_guid = \"3f2b8c1e-5a4d-4e6f-9b7a-0c1d2e3f4a5b\"",
            "credential.x.client_guid: \"acme\" is not a GUID",
        ),
        (
            "kind = \"bearer\"\ntoken = { env = \"T\" }\nupstreams = [\"https://other.test\"]",
            "route[0].upstream: the credential 'x' must not be used for https://api.example.com",
        ),
    ];
    for (credential, expected) in cases {
        let found = problems(&with_credential(credential));
        assert!(found.iter().any(|problem| problem == expected), "{credential}\n{found:#?}");
        assert!(load(&with_credential(credential), &no_environment).config.is_none());
    }
}

#[test]
fn no_problem_hides_another() {
    let cases = [
        (
            "kind = \"fields\"\nvalues = { k = {} }\nset = { \"X Y\" = \"{k}\", B = \"{a}{b}\" }\n\
             remove = [\"*\"]\ndeny = [\"nope\"]\nupstreams = [\"foo\"]",
            7,
        ),
        ("kind = \"bearer\"\nupstreams = [\"foo\"]", 2),
        (
            "kind = \"login\"\nrequest = { url = \"x\", headers = { A = \"{n}\" } }\n\
             values = { t = \"t\" }\nexpires = { in_s = \"x\", at_s = \"/y\" }\n\
             success = [{ pointer = \"/a\" }, { equals = 1 }]\nset = { A = \"{u}\" }\n\
             refresh = { margin = \"x\" }",
            8,
        ),
        (
            "kind = \"twinzo-device\"\nbase_url = \"http://a.example.com\"\nlogin = \"l\"\n\
             refresh = { margin = \"x\" }\nupstreams = [\"bad\"]\ntls = { client_key = \"k\" }",
            6,
        ),
    ];
    for (credential, expected) in cases {
        let found = problems(&with_credential(credential));
        assert_eq!(found.len(), expected, "{credential}\n{found:#?}");
    }
    let route = "upstream = \"x\"\nhost = \"h:1\"\nmethods = [\"B D\"]\n\
                 set = { \"A B\" = \"1\", \"C D\" = \"2\" }\ntimeouts = { idle = \"x\" }";
    assert_eq!(problems(&with_route(route)).len(), 6);
}

#[test]
fn one_mistake_is_reported_once() {
    let cases = [
        "kind = \"query\"\nset = { apikey = \"C\" }",
        "kind = \"fields\"\nvalues = { key = \"x\" }\nset = { A = \"{key}\" }",
        "kind = \"bearer\"\ntokn = { env = \"T\" }",
        "kind = \"devo-token\"\ntoken = { vaule = \"x\" }",
        "kind = \"devo-token\"\ntoken = { env = \"T\" }\nprefix = \"a\\u0001\"",
        "kind = \"devo-signature\"\napi = \"qeury\"\napi_key = { env = \"A\" }\n\
         api_secret = { env = \"B\" }",
        "kind = \"devo-signature\"\nsign_with = \"x\"\ndomain_api_key = { env = \"A\" }\n\
         api_secret = { env = \"B\" }",
        "kind = \"login\"\nrequest = { url = \"https://a.example.com\" }\nlifetime = \"1h\"\n\
         values = { t = 5 }\nset = { A = \"{t}\" }",
        "kind = \"fields\"\nset = { A = \"x\" }\ndeny = [\"/a/**/b\"]",
        "kind = \"fields\"\nset = { A = \"x\" }\ndeny = [\"/x*y\"]",
        "kind = \"login\"\nrequest = { url = \"https://a.example.com\" }\n\
         values = { t = \"/t\" }\nexpires = { in_sec = \"/e\" }\nset = { A = \"{t}\" }",
        "kind = \"bearer\"\ntoken = { env = \"T\" }\nupstreams = [1, \"https://api.example.com\"]",
    ];
    for credential in cases {
        let found = problems(&with_credential(credential));
        assert_eq!(found.len(), 1, "{credential}\n{found:#?}");
    }
    let listen = "[[listen]]\naddress = \"0.0.0.0:80\"\ncaller_token = \"x\"\n\
                  [[route]]\nupstream = \"https://api.example.com\"\n";
    assert_eq!(problems(listen).len(), 1);
    assert_eq!(problems("{ \"listen\": [] }").len(), 1, "{:?}", problems("{ \"listen\": [] }"));
}

#[test]
fn any_line_end_is_read() {
    for text in ["drain = \"x\r\n[[listen]]\r\n", "\u{feff}drain = \"x\"\r\n", "a\r", "\r\n"] {
        assert!(report(text).contains("error: "), "{text:?}");
    }
}

#[test]
fn what_would_go_wrong_at_the_start_is_found_before() {
    for credential in [
        "kind = \"bearer\"\ntoken = { file = \"\" }",
        "kind = \"bearer\"\ntoken = { exec = [\"\"] }",
        "kind = \"fields\"\nset = { A = \"a\\nb\" }",
        "kind = \"devo-signature\"\nreseller_api_key = { env = \"R\" }\n\
         api_secret = { env = \"S\" }\nkey_header = \"x-logtrust-sign\"",
    ] {
        assert!(!problems(&with_credential(credential)).is_empty(), "{credential}");
    }
    for route in [
        "upstream = \"https://h.test:99999\"",
        "upstream = \"https://*.test\"",
        "upstream = \"https://h.test:\"",
        "upstream = \"https://h.test\"\npath = \"/a;b\"",
    ] {
        assert!(!problems(&with_route(route)).is_empty(), "{route}");
    }
}

#[test]
fn mistakes_in_routes_are_found() {
    let cases = [
        ("", "route[0].upstream: 'upstream' is missing"),
        (
            "upstream = \"https://u:p@h.test\"",
            "route[0].upstream: a URL must not hold a user or password",
        ),
        (
            "upstream = \"ftp://h.test\"",
            "route[0].upstream: 'ftp' is not a scheme that can be used here",
        ),
        ("upstream = \"https://h.test?x\"", "route[0].upstream: the URL has a query ('?')"),
        (
            "upstream = \"http://127.0.0.1:8080\"",
            "route[0].upstream: this route leads back to countersign itself",
        ),
        (
            "upstream = \"https://h.test\"\npath = \"/a//b\"",
            "route[0].path: the path has an empty or dot segment",
        ),
        (
            "upstream = \"https://h.test\"\nhost = \"h.test:80\"",
            "route[0].host: this is not a host",
        ),
        (
            "upstream = \"https://h.test\"\ntls = { client_key = \"k.pem\" }",
            "route[0].tls: 'client_certificate' and 'client_key' belong together",
        ),
        (
            "upstream = \"https://h.test\"\nreplay = { statuses = [500] }",
            "route[0].replay.statuses[0]: 500 cannot mean a refused token",
        ),
        (
            "upstream = \"https://h.test\"\n[[route]]\nupstream = \"https://i.test\"",
            "route[1]: the route 'r' matches the same requests",
        ),
    ];
    for (route, expected) in cases {
        let found = problems(&with_route(route));
        assert!(found.iter().any(|problem| problem == expected), "{route}\n{found:#?}");
    }
    let credential = "kind = \"bearer\"\ntoken = { env = \"T\" }";
    let text = with_credential(credential).replace("https://api", "http://api");
    let expected =
        "route[0].upstream: the credential would go to http://api.example.com unencrypted";
    assert_eq!(problems(&text), [expected]);
    let text = format!("{text}allow_plaintext = true\n");
    assert!(load(&text, &no_environment).config.is_some());
}

#[test]
fn routes_that_lead_back_to_a_listener_are_found() {
    let leads_back = |listen: &str, upstream: &str| {
        let text = with_route(&format!("upstream = \"{upstream}\""));
        let text = text.replace("\"127.0.0.1:8080\"", &format!("\"{listen}\"\nopen = true"));
        let found = problems(&text);
        let one = ["route[0].upstream: this route leads back to countersign itself"];
        assert!(found.is_empty() || found == one, "{found:?}");
        !found.is_empty()
    };
    for (listen, upstream) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://LOCALHOST:8080/base"),
        ("127.0.0.1:8080", "http://0.0.0.0:8080"),
        ("127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080"),
        ("127.0.0.1:80", "http://127.0.0.1"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("0.0.0.0:8080", "http://127.0.0.7:8080"),
        ("[::]:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::]:8080"),
        ("10.1.2.3:8080", "http://10.1.2.3:8080"),
    ] {
        assert!(leads_back(listen, upstream), "{listen} {upstream}");
    }
    for (listen, upstream) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8081"),
        ("127.0.0.1:8080", "http://127.0.0.2:8080"),
        ("127.0.0.1:8080", "https://127.0.0.1:8080"),
        ("127.0.0.1:0", "http://127.0.0.1"),
        ("10.1.2.3:8080", "http://127.0.0.1:8080"),
        ("10.1.2.3:8080", "http://0.0.0.0:8080"),
        ("0.0.0.0:8080", "http://10.1.2.3:8080"),
    ] {
        assert!(!leads_back(listen, upstream), "{listen} {upstream}");
    }
}

#[test]
fn settings_of_connections_that_make_no_sense_together_are_found() {
    let route = |more: &str| {
        problems(&with_route(&format!("upstream = \"https://api.example.com\"\n{more}")))
    };
    let once = |problems: &[String], part: &str| {
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems.concat().contains(part), "{problems:?}");
    };
    for (more, part) in [
        ("http2 = \"always\"\nwebsocket = true", "http2: a WebSocket begins with HTTP/1.1"),
        ("http2 = \"always\"\nheader_case = \"title\"", "header_case: HTTP/2 has lower case"),
        ("http2 = \"always\"\nlenient = true", "lenient: HTTP/2 has no odd syntax"),
        ("websocket = true\nmethods = [\"POST\"]", "methods: a WebSocket begins with GET"),
        ("timeouts = { websocket = \"1h\" }", "timeouts.websocket: this route forwards no"),
        ("proxy = \"http://me:word@proxy.test\"", "proxy: a login of the proxy belongs into"),
        ("proxy = \"https://proxy.test\"", "proxy: this is not the URL of a proxy"),
        ("proxy = \"http://proxy.test/path\"", "proxy: this is not the URL of a proxy"),
    ] {
        once(&route(more), part);
    }
    let local = "upstream = \"http://127.0.0.1:9000\"\nproxy = \"http://proxy.test:3128\"";
    once(&problems(&with_route(local)), "proxy: the upstream is on this machine");
    let listener = "[[listen]]\naddress = \"127.0.0.1:8080\"\nprotocol = \"http2\"\nlenient = true\n\
                    [[route]]\nupstream = \"https://api.example.com\"\n";
    once(&problems(listener), "lenient: this is for HTTP/1 only");
    assert!(route("proxy = \"none\"\nhttp2 = \"never\"\nwebsocket = true").is_empty());
}

#[test]
fn two_credentials_on_one_route_must_not_set_one_field() {
    let text = "[[listen]]\naddress = \"127.0.0.1:8080\"\n\
        [credential.a]\nkind = \"bearer\"\ntoken = { env = \"A\" }\n\
        [credential.b]\nkind = \"basic\"\nusername = \"u\"\npassword = { env = \"B\" }\n\
        [[route]]\nupstream = \"https://h.test\"\ncredential = [\"a\", \"b\"]\n";
    assert_eq!(problems(text), ["route[0].credential: 'a' and 'b' both set 'authorization'"]);
}

#[test]
fn how_it_ends_is_said_before_all_tables() {
    let of =
        |text: &str| format!("{text}\n{}", with_route("upstream = \"https://api.example.com\""));
    let config = valid(&of("linger = \"10s\"\ndrain = \"20s\""));
    assert_eq!((config.linger.as_secs(), config.drain.as_secs()), (10, 20));
    for none in ["", "linger = \"0s\""] {
        assert!(valid(&of(none)).linger.is_zero(), "{none}");
    }
    assert_eq!(problems(&of("linger = \"11m\"")), ["linger: this is more than 10 minutes"]);
    assert_eq!(problems(&of("linger = \"long\"")).len(), 1);
    let quit = of("") + "[admin]\naddress = \"127.0.0.1:8081\"\n";
    assert!(!valid(&quit).admin.unwrap().quit, "nobody ends it unless that is configured");
    assert!(valid(&(quit + "quit = true\n")).admin.unwrap().quit);
    if cfg!(target_os = "linux") {
        let config = valid(&of("upgrade_socket = \"/run/countersign/upgrade.sock\""));
        let path = std::path::Path::new("/run/countersign/upgrade.sock");
        assert_eq!(config.upgrade_socket.as_deref(), Some(path));
    }
    for wrong in ["", "unix:/run/x.sock"] {
        let problems = problems(&of(&format!("upgrade_socket = \"{wrong}\"")));
        assert_eq!(problems, ["upgrade_socket: this is not the path of a file"]);
    }
}

#[test]
fn listeners_beyond_this_machine_say_who_may_call() {
    let listen = |rest: &str| {
        problems(&format!(
            "[[listen]]\n{rest}\n[[route]]\nupstream = \"https://api.example.com\"\n"
        ))
    };
    let open = ["listen[0].address: this address can be reached from other machines"];
    assert_eq!(listen("address = \"0.0.0.0:80\""), open);
    assert_eq!(listen("address = \"[::]:80\""), open);
    let none: [&str; 0] = [];
    assert_eq!(listen("address = \"0.0.0.0:80\"\nallow = [\"10.0.0.0/8\"]"), none);
    assert_eq!(
        listen("address = \"0.0.0.0:80\"\nallow = []"),
        ["listen[0].allow: an empty list lets nobody connect"],
        "which would read as everybody"
    );
    assert_eq!(listen("address = \"0.0.0.0:80\"\nopen = true"), none);
    assert_eq!(listen("address = \"localhost:80\""), none);
    assert_eq!(listen("address = \"unix:/run/c.sock\"\nmode = \"0660\""), none);
    assert_eq!(
        listen("address = \"unix:/run/c.sock\"\nmode = \"rw\""),
        ["listen[0].mode: this is not a mode"]
    );
    assert_eq!(
        listen("address = \"127.0.0.1:80\"\nhosts = [\"*.test\"]\norigins = [\"http://a/b\"]"),
        [
            "listen[0].hosts[0]: '*.test' is not a host",
            "listen[0].origins[0]: an origin has no path"
        ]
    );
}

#[test]
fn devices_and_identity_belong_together() {
    let with = |credential: &str, route: &str| {
        problems(&format!(
            "[[listen]]\naddress = \"127.0.0.1:8080\"\n[credential.a]\n{credential}\n\
             [[route]]\nupstream = \"https://h.test\"\ncredential = \"a\"\n{route}\n"
        ))
    };
    let bearer = "kind = \"bearer\"\ndevices = \"d.csv\"";
    let by_header = "identity = { header = \"X-Device\" }";
    let none: [&str; 0] = [];
    assert_eq!(with(bearer, by_header), none);
    let twinzo = "kind = \"twinzo-device\"\nbase_url = \"https://h.test\"\ndevices = \"d.csv\"";
    assert_eq!(with(twinzo, by_header), none);
    let single = "kind = \"bearer\"\ntoken = { env = \"T\" }";
    for (credential, route, expected) in [
        (bearer, "", "route[0].credential: the credential 'a' has devices"),
        (single, by_header, "route[0].identity: no credential of this route has devices"),
        (bearer, "identity = {}", "route[0].identity: it does not say who the caller is"),
        (
            bearer,
            "identity = { header = \"X-A\", source_ip = true }",
            "route[0].identity: it does not say who the caller is",
        ),
        (
            bearer,
            "identity = { client_certificate = \"cn\" }",
            "route[0].identity: no listener asks for certificates, so no device could call",
        ),
        (
            bearer,
            "identity = { header = \"Host\" }",
            "route[0].identity.header: the field 'Host' cannot be set",
        ),
        (bearer, "identity = { query = \"\" }", "route[0].identity.query: a query parameter"),
        (
            "kind = \"bearer\"\ntoken = { env = \"T\" }\ndevices = \"d.csv\"",
            by_header,
            "credential.a.devices: nothing differs from device to device",
        ),
        ("kind = \"bearer\"\ndevices = \"\"", by_header, "credential.a.devices: 'devices' needs"),
    ] {
        let problems = with(credential, route);
        assert_eq!(problems.len(), 1, "{route}: {problems:?}");
        assert!(problems[0].starts_with(expected), "{problems:?}");
    }
    let hmac = "kind = \"hmac\"\ndevices = \"d.csv\"\nbase = [\"body\"]\n\
                set = { X-S = \"{signature}\", X-K = \"{key}\" }";
    assert_eq!(with(hmac, by_header), ["credential.a.set.X-K: there is no value 'key'"]);
    let eager = format!("{twinzo}\n[credential.a.refresh]\neager = true");
    let problems_of_eager = with(&eager, by_header);
    assert_eq!(problems_of_eager, ["credential.a.refresh.eager: devices are not fetched at start"]);
    let single = "kind = \"twinzo-device\"\nbase_url = \"https://h.test\"\nlogin = \"l\"\n\
                  password = { env = \"P\" }\n[credential.a.refresh]\nidle_after = \"1h\"";
    let expected = "credential.a.refresh.idle_after: this is for credentials with devices";
    assert_eq!(with(single, ""), [expected]);
}

#[test]
fn each_kind_has_the_columns_of_what_differs() {
    let columns = |credential: &str| {
        let text = format!(
            "[[listen]]\naddress = \"127.0.0.1:8080\"\n[credential.a]\ndevices = \"d.csv\"\n\
             {credential}\n[[route]]\nupstream = \"https://h.test\"\ncredential = \"a\"\n\
             identity = {{ source_ip = true }}\n"
        );
        let config = valid(&text);
        let spec = config.credentials[0].devices.clone().unwrap();
        let shown = |column: &crate::credential::devices::Column| {
            let required = if column.required { "" } else { "?" };
            format!("{}{required}", column.name)
        };
        spec.columns.iter().map(shown).collect::<Vec<_>>().join(" ")
    };
    let twinzo = "kind = \"twinzo-device\"\nbase_url = \"https://h.test\"\nclient = \"acme\"\n";
    assert_eq!(columns(twinzo), "login password branch_guid? client_guid?");
    let guid = "client_guid = \"0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10\"\n";
    let password = "password = { env = \"P\" }\n";
    assert_eq!(columns(&format!("{twinzo}{guid}{password}")), "login branch_guid?");
    assert_eq!(columns("kind = \"basic\""), "password username");
    assert_eq!(columns("kind = \"basic\"\nusername = \"u\""), "password");
    assert_eq!(
        columns(
            "kind = \"hmac\"\nbase = [{ value = \"id\" }, \"body\"]\n\
             set = { X-S = \"{signature}\", X-T = \"{timestamp}\", X-I = \"{id}{more}\" }"
        ),
        "key id more"
    );
    assert_eq!(
        columns(
            "kind = \"login\"\nlifetime = \"1h\"\nvalues = { token = \"/t\" }\n\
             request = { url = \"https://h.test/l\", json = { u = \"{user}\", p = \"{pass}\" } }\n\
             secrets = { pass = { env = \"P\" } }\nset = { A = \"{token}{zone}\" }"
        ),
        "user zone token?"
    );
}

/// Each example is complete: it loads without a single remark, and without the secrets.
#[test]
fn every_example_in_config_loads() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = load(&text, &no_environment);
        let name = path.display().to_string();
        let report = Report { name: &name, text: &text, loaded: &loaded };
        assert!(loaded.problems.is_empty(), "{report}");
        let config = loaded.config.unwrap();
        for spec in config.credentials.iter().filter_map(|credential| credential.devices.as_ref()) {
            let file = path.with_file_name(spec.file.file_name().unwrap());
            let spec = DevicesSpec { file, ..spec.clone() };
            let table = devices::read(&spec, Check::Strict).unwrap();
            assert!(table.len() >= 3, "{table:?}");
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn every_starter_loads() {
    for kind in starter::KINDS {
        let text = starter::starter(kind).unwrap();
        assert_eq!(load(text, &no_environment).problems, [], "{kind}");
    }
    assert_eq!(starter::starter("unknown"), None);
}

#[test]
fn the_schema_knows_every_key_of_the_contract() {
    let schema = shape::schema().to_string();
    for key in [
        "listen",
        "admin",
        "credential",
        "route",
        "limits",
        "drain",
        "workers",
        "caller_token",
        "keep_caller_authorization",
        "allow_plaintext",
        "min_interval",
        "sign_with",
        "base_url",
    ] {
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
    }
}

/// Every key of the schema has a place in the reference.
#[test]
fn every_key_is_documented() {
    fn keys(schema: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
        match schema {
            serde_json::Value::Object(object) => {
                if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| keys(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => {}
        }
    }
    let mut found = std::collections::BTreeSet::new();
    keys(&shape::schema(), &mut found);
    assert!(found.len() > 80, "{}", found.len());
    let reference = include_str!("../../docs/configuration.md");
    let known = |key: &&String| {
        [format!("`{key}`"), format!("[{key}]"), format!("{key} =")]
            .iter()
            .any(|form| reference.contains(form))
    };
    let missing: Vec<&String> = found.iter().filter(|key| !known(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not know {missing:?}");
}
