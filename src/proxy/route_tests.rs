use super::*;
use crate::config::{Config, load};
use proptest::prelude::*;

fn routes(routes: &[(Option<&str>, &str, &[&str])]) -> Config {
    let mut text = "[[listen]]\naddress = \"127.0.0.1:8080\"\n".to_owned();
    for (index, (host, path, methods)) in routes.iter().enumerate() {
        text += &format!("[[route]]\nname = \"r{index}\"\npath = \"{path}\"\n");
        text += &format!("methods = {methods:?}\nupstream = \"https://api.example.com\"\n");
        if let Some(host) = host {
            text += &format!("host = \"{host}\"\n");
        }
    }
    let loaded = load(&text, &|_| None);
    assert_eq!(loaded.problems, []);
    loaded.config.unwrap()
}

fn find(config: &Config, host: &str, path: &str) -> Found {
    RouteTable::new(&config.routes).find(host, path, &Method::GET)
}

#[test]
fn the_longest_prefix_on_a_segment_boundary_wins() {
    let config = routes(&[(None, "/", &[]), (None, "/a", &[]), (None, "/a/b", &[])]);
    assert_eq!(find(&config, "h", "/a/b/c"), Found::Route(2));
    assert_eq!(find(&config, "h", "/a/b"), Found::Route(2));
    assert_eq!(find(&config, "h", "/a/bc"), Found::Route(1));
    assert_eq!(find(&config, "h", "/a/"), Found::Route(1));
    assert_eq!(find(&config, "h", "/ab"), Found::Route(0));
    assert_eq!(find(&config, "h", "/"), Found::Route(0));
}

#[test]
fn a_route_for_the_host_comes_before_one_for_any() {
    let config = routes(&[(None, "/a/b", &[]), (Some("x.test"), "/a", &[])]);
    assert_eq!(find(&config, "x.test", "/a/b"), Found::Route(1));
    assert_eq!(find(&config, "y.test", "/a/b"), Found::Route(0));
    assert_eq!(find(&config, "y.test", "/a"), Found::Nothing);
}

#[test]
fn a_route_for_other_methods_is_told_from_none() {
    let config = routes(&[(None, "/a", &["POST"]), (None, "/a/b", &["PUT"]), (None, "/c", &[])]);
    assert_eq!(find(&config, "h", "/a"), Found::OtherMethods(0));
    let table = RouteTable::new(&config.routes);
    assert_eq!(table.find("h", "/a/b", &Method::POST), Found::Route(0), "a shorter prefix");
    assert_eq!(find(&config, "h", "/d"), Found::Nothing);
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_linear_scan(
        prefixes in proptest::collection::btree_set("(/[ab]{1,2}){0,3}", 1..8),
        path in "(/[ab]{0,2}){1,6}",
    ) {
        let paths: Vec<String> = prefixes
            .iter()
            .map(|prefix| if prefix.is_empty() { "/".to_owned() } else { prefix.clone() })
            .collect();
        let rows: Vec<(Option<&str>, &str, &[&str])> =
            paths.iter().map(|path| (None, path.as_str(), [].as_slice())).collect();
        let config = routes(&rows);
        let expected = config
            .routes
            .iter()
            .enumerate()
            .filter(|(_, route)| crate::proxy::path::strip_prefix(&path, &route.prefix).is_some())
            .max_by_key(|(_, route)| route.prefix.len())
            .map_or(Found::Nothing, |(index, _)| Found::Route(index));
        prop_assert_eq!(find(&config, "h", &path), expected);
    }
}
